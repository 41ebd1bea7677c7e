"""YAML as configuration: strict, and silent about what is in it. Knows no setting.

Errors name the file and the line, never the text: the line that cannot be read may be the one with the password.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from exporter.core.errors import Misconfigured, os_reason

MAX_BYTES: Final = 1_048_576
_PROBLEMS: Final = {
    "'\\t'": "a tab; blanks indent",
    "undefined alias": "an alias (*) whose anchor (&) does not stand before it",
    "could not determine a constructor": "a tag (!) that is not known here",
    "but found another document": "a second document begins",
    "mapping values are not allowed": "a colon within a value; put the value in quotes",
}
_INT: Final = "tag:yaml.org,2002:int"
_AS_TEXT: Final = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_WHOLE: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")


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


def key_line(section: Mapping[Any, Any], name: str) -> str:
    """`` (line 7)`` of the key of that name in a mapping out of a document."""
    return next((line_of(key) for key in section if key == name), "")


def load(path: Path) -> Any:
    """The document in ``path``: see ``parse``. Raises Misconfigured, also when it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"cannot read {path}: {os_reason(error)}") from error
    if len(content) > MAX_BYTES:
        raise Misconfigured(f"{path} is longer than {MAX_BYTES} bytes")
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Any:
    """The document in ``content``, called ``name`` in errors; raises Misconfigured.

    Keys are ``Key``, whatever they look like, and values are texts but for ``true``, ``null`` and plain whole numbers:
    a name 1.10, a time 1:30 and a number 010 are not what YAML 1.1 makes of them.
    """
    import yaml  # here, because most starts have no file, and it costs 15 ms

    class Ours(yaml.constructor.ConstructorError):
        """In our words."""

    class Loader(yaml.SafeLoader):
        """Refuses what SafeLoader silently lets the last of win."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - the base class has it so
            first: [(tag, _WHOLE if tag == _INT else pattern) for tag, pattern in found if tag not in _AS_TEXT]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise Ours(None, None, "a key is a mapping or a list; keys are texts", key.start_mark)
                if key.value in seen:
                    raise Ours(None, None, f"{_shown(key.value)} stands twice", key.start_mark)
                seen.add(key.value)
            self.flatten_mapping(node)
            return {
                Key.at(key.value, key.start_mark.line + 1): self.construct_object(value, deep=deep)
                for key, value in node.value
            }

    try:
        return yaml.load(content, Loader)  # noqa: S506 - a SafeLoader with more checks
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Misconfigured(f"{name}{line}: {_problem(error.problem or '', ours=isinstance(error, Ours))}") from error
    except yaml.reader.ReaderError as error:
        line = f", line {content.count(bytes((10,)), 0, error.position) + 1}"
        raise Misconfigured(f"{name}{line}: not valid YAML in UTF-8: a character that no text has") from error
    except RecursionError as error:
        raise Misconfigured(f"{name}: nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise Misconfigured(f"{name}: not valid YAML in UTF-8") from error


def _problem(said: str, *, ours: bool) -> str:
    """Our words for what PyYAML says, which may quote the document."""
    if ours:
        return said
    return next((f"not valid YAML: {words}" for part, words in _PROBLEMS.items() if part in said), "not valid YAML")


def _shown(key: str) -> str:
    """A key inside an error, when it is made of plain words: what stands in the wrong place may be a password."""
    return f'the key "{key}"' if re.fullmatch(r"[A-Za-z_-]{1,40}(?:\.[A-Za-z_-]{1,40}){0,3}", key) else "a key"
