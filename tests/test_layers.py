"""The layers hold: a module imports only from rows above its own, and the core knows no clock, no loop and no library.

The imports are read from the source, not from what happens to be loaded, so that one within a function counts, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter

PACKAGE = Path(exporter.__file__).parent

# Each row may import from the rows above it, and a package within itself. As in docs/architecture.md.
ROWS = [
    {"errors", "events"},
    {"records"},
    {"protocol", "frames", "hub", "instruments"},
    {"census", "store", "broker", "metrics", "outbox"},
    {"collector", "joining"},
    {"node"},
    {"web"},
    {"simulate", "assets"},
    {"demo"},
    {"cli"},
]
# Settings, texts and logs know nothing of the product; whoever starts it reads them.
BESIDE = {"config", "values", "options", "secret", "logs", "documents", "shown"}
PURE = ("events", "protocol", "frames", "hub", "errors", "records", "census")
IMPURE = {
    "asyncio",
    "aiohttp",
    "sqlalchemy",
    "prometheus_client",
    "time",
    "uvloop",
    "socket",
    "threading",
    "random",
    "os",
}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") or "__init__": path
        for path in sorted(PACKAGE.rglob("*.py"))
        if "static" not in path.parts
    }


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Every name that a module imports, with the names that it takes out of it: ``a.b`` for ``from a import b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names):
                for alias in names:
                    yield alias.name
            case ast.ImportFrom(module, names, 0) if module is not None:
                for alias in names:
                    yield f"{module}.{alias.name}"
            case ast.ImportFrom():
                raise AssertionError(f"{path}: imports are absolute")


def part_of(name: str) -> str:
    """The entry in ROWS: the first segment below the package."""
    return name.split(".")[0]


def row_of(part: str) -> int | None:
    return next((number for number, row in enumerate(ROWS) if part in row), None)


def own(path: Path) -> set[str]:
    """The parts of the product that a module imports."""
    names = {name for name in imports(path) if name.split(".")[0] == "exporter"}
    below = {name.split(".")[1] for name in names if "." in name}
    return below - {"__version__"}


def test_every_module_has_its_place() -> None:
    placed = set().union(*ROWS) | BESIDE | {"__init__", "__main__"}
    assert {part_of(name) for name in MODULES} <= placed, "a new module: say in docs/architecture.md which row it is in"


@pytest.mark.parametrize("name", [name for name in MODULES if row_of(part_of(name)) is not None])
def test_a_module_imports_only_from_the_rows_above(name: str) -> None:
    here = row_of(part_of(name))
    assert here is not None
    for imported in own(MODULES[name]):
        there = row_of(imported)
        if there is not None and imported != part_of(name):
            assert there < here, f"{name} imports {imported}, which stands {'beside' if there == here else 'below'} it"


@pytest.mark.parametrize("name", [name for name in MODULES if part_of(name) in BESIDE])
def test_what_stands_beside_knows_nothing_of_the_product(name: str) -> None:
    assert own(MODULES[name]) <= BESIDE | {"errors"}


@pytest.mark.parametrize("name", PURE)
def test_the_core_knows_no_loop_no_library_of_the_outside_and_no_clock(name: str) -> None:
    for imported in imports(MODULES[name]):
        assert imported.split(".")[0] not in IMPURE, f"{name} imports {imported}"
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today"), f"{name} asks a clock in line {node.lineno}"
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{name} waits"


def test_the_protocol_does_not_know_the_hub_nor_the_hub_the_protocol() -> None:
    for name in ("protocol", "frames", "hub", "instruments"):
        assert not own(MODULES[name]) & ({"protocol", "frames", "hub", "instruments"} - {name})


def test_only_the_store_knows_a_database() -> None:
    """The demo makes up a past, as any other program may: with plain SQL."""
    libraries = {"sqlalchemy", "alembic", "asyncpg", "aiosqlite", "sqlite3", "psycopg"}
    for name, path in MODULES.items():
        if part_of(name) not in ("store", "demo"):
            found = {imported.split(".")[0] for imported in imports(path)} & libraries
            assert not found, f"{name} imports {found}"


def test_only_the_web_and_the_simulated_people_know_aiohttp() -> None:
    for name, path in MODULES.items():
        if part_of(name) not in ("web", "simulate", "demo"):
            assert "aiohttp" not in {imported.split(".")[0] for imported in imports(path)}, name


def test_only_instruments_metrics_and_the_scrape_know_prometheus_client() -> None:
    allowed = {"instruments", "metrics", "web.scrape", "web.process"}
    users = {n for n, p in MODULES.items() if "prometheus_client" in {i.split(".")[0] for i in imports(p)}}
    assert users <= allowed


def test_the_reader_of_imports_sees_every_form(tmp_path: Path) -> None:
    """This file's own tool: what it cannot see, it cannot forbid."""
    source = tmp_path / "module.py"
    source.write_text(
        "import a.b\nfrom c import d\nif True:\n    from e.f import g as h\ndef late():\n    import i as j\n"
    )
    assert set(imports(source)) == {"a.b", "c.d", "e.f.g", "i"}
    source.write_text("from . import sibling")
    with pytest.raises(AssertionError, match="absolute"):
        list(imports(source))
