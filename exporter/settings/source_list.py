"""``sources:`` of the configuration file: several databases to observe. Repeats no URL in an error.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from exporter.core.errors import Misconfigured
from exporter.core.redaction import mask
from exporter.settings import parsers, strict_yaml
from exporter.settings.model import SOURCE_KINDS, SourceSettings

_KEYS: Final[dict[str, Callable[[str], Any]]] = {
    "url": parsers.source_url,
    "kind": parsers.one_of(SOURCE_KINDS),
    "config-file": parsers.path,
}


def read(document: Any, where: str) -> tuple[SourceSettings, ...]:
    """A list of mappings with ``name``, ``url``, ``kind``, ``config-file`` and ``host``. Raises Misconfigured."""
    if not isinstance(document, list) or not document:
        raise Misconfigured(f"{where}: expected a list of sources")
    found = tuple(_source(entry, f"{where}, entry {number}") for number, entry in enumerate(document, start=1))
    names = [source.name for source in found]
    for name in names:
        if names.count(name) > 1:
            raise Misconfigured(f"{where}: the name {name} stands twice")
    return found


def _source(entry: Any, where: str) -> SourceSettings:
    if not isinstance(entry, dict):
        raise Misconfigured(f"{where}: expected name, url and kind")
    for key in entry:
        if key not in {"name", "host", *_KEYS}:
            raise Misconfigured(f"{where}: there is no setting called {mask(key)[:80]}{strict_yaml.line_of(key)}")
    for key in ("name", "url", "kind"):
        if key not in entry:
            raise Misconfigured(f"{where}: {key} is missing")
    if not isinstance(entry["name"], str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", entry["name"]):
        line = strict_yaml.key_line(entry, "name")
        raise Misconfigured(f"{where}: name{line}: expected letters, digits, dots, dashes and underscores")
    hosts = entry.get("host", [])
    keys = {key: f"{where}: {key}{strict_yaml.key_line(entry, key)}" for key in ("host", *_KEYS)}
    values = {key: _parsed(entry[key], parse, keys[key]) for key, parse in _KEYS.items() if key in entry}
    return SourceSettings(
        url=values["url"],
        kind=values["kind"],
        name=entry["name"],
        config_file=values.get("config-file"),
        hosts=tuple(
            _parsed(host, parsers.host, keys["host"]) for host in (hosts if isinstance(hosts, list) else [hosts])
        ),
    )


def _parsed(value: Any, parse: Callable[[str], Any], where: str) -> Any:
    if not isinstance(value, str):
        raise Misconfigured(f"{where}: expected text")
    try:
        return parse(value.strip())
    except ValueError as error:
        raise Misconfigured(f"{where}: {error}") from error
