"""The settings of ``docs/flags.md``, out of the table that the command line itself is made from."""

from __future__ import annotations

from docs.source.text import DOCS, between, replaced, wrapped
from exporter.settings.options import OPTIONS, Option


def entry(option: Option) -> str:
    """One setting: its flag, its variable, its default; what it does."""
    flag = f"`--{option.name}`" + (f", `--no-{option.name}`" if option.switch else "")
    parts = [flag, f"`{option.variable}`"]
    if option.default:
        parts.append(f"default `{option.default}`")
    if option.many:
        parts.append("repeatable")
    return f"* {' · '.join(parts)}\n{wrapped(option.help, '  ')}"


def text() -> str:
    """The whole document."""
    observed = [option for option in OPTIONS if option.name.startswith("source.")]
    served = [option for option in OPTIONS if option not in observed]
    document = between(DOCS / "flags.md", "settings", "\n".join(map(entry, served)))
    return replaced(document, "source settings", "\n".join(map(entry, observed)))
