"""``docs/modules.md``: every module in a line, out of the first paragraph of its docstring."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

from docs.source.text import DOCS, between, wrapped

ROOT = DOCS.parent
PACKAGE = ROOT / "exporter"


def packages() -> list[str]:
    """The folders of ``exporter/``, from the top of the import rules down."""
    rules = configparser.ConfigParser()
    rules.read(ROOT / "setup.cfg", encoding="utf-8")
    names = re.findall(r"exporter\.(\w+)", rules["importlinter:contract:layers"]["layers"])
    return [name for name in names if (PACKAGE / name).is_dir()]


def purpose(module: Path) -> str:
    """The first paragraph of a module's docstring, on one line and in Markdown."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("``", "`")


def modules(folder: Path) -> list[Path]:
    """The modules below a folder; of its folders, the package itself stands before what is in it."""
    return sorted(folder.rglob("*.py"), key=lambda path: [*path.parts[:-1], path.stem.replace("__init__", "")])


def entry(module: Path) -> str:
    """One module, as an item of a list."""
    name = module.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
    return wrapped(f"* `{name}`: {purpose(module)}")


def section(name: str) -> str:
    """One folder: what it is, and its modules."""
    package, *others = modules(PACKAGE / name)
    return "\n".join([f"## {name}", "", wrapped(purpose(package)), "", *map(entry, others)])


def text() -> str:
    """The whole document."""
    single = [path for path in modules(PACKAGE) if path.parent == PACKAGE and path.stem[0] != "_"]
    parts = [*map(section, packages()), "\n".join(["## Beside them", "", *map(entry, single)])]
    return between(DOCS / "modules.md", "modules", "\n\n".join(parts))
