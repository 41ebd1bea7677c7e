"""YAML as configuration: strict, and silent about what is in it. Knows no setting.

Errors name the file and the line, never the text: the line that cannot be read may be the one with the password.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from exporter.core.errors import Misconfigured

MAX_BYTES: Final = 1_048_576
_TWICE: Final = "a key stands twice"


class Key(str):
    """A key of a mapping, with the line that it stands in."""

    line: int

    @classmethod
    def at(cls, text: str, line: int) -> Key:
        """``line`` counts from 1."""
        key = cls(text)
        key.line = line
        return key


def line_of(key: object) -> str:
    """`` (line 7)`` for a key out of a document, nothing for other values."""
    return f" (line {key.line})" if isinstance(key, Key) else ""


def load(path: Path) -> Any:
    """The document in ``path``: mappings, lists and scalars; raises Misconfigured, also for a key that stands twice."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"cannot read {path}: {(error.strerror or 'no reason given').lower()}") from error
    if len(content) > MAX_BYTES:
        raise Misconfigured(f"{path} is longer than {MAX_BYTES} bytes")
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Any:
    """The document in ``content``, called ``name`` in errors; raises Misconfigured. Texts that are keys are ``Key``."""
    import yaml  # here, because most starts have no file, and it costs 15 ms

    class Loader(yaml.SafeLoader):
        """Refuses what SafeLoader silently lets the last of win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, _TWICE, key.start_mark)
                seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
            made = super().construct_mapping(node, deep)
            lines = {key.value: key.start_mark.line + 1 for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
            return {Key.at(k, lines[k]) if type(k) is str and k in lines else k: v for k, v in made.items()}

    try:
        return yaml.load(content, Loader)  # noqa: S506 - a SafeLoader with one more check
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Misconfigured(f"{name}{line}: {_TWICE if error.problem == _TWICE else 'not valid YAML'}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise Misconfigured(f"{name}: not valid YAML in UTF-8") from error
