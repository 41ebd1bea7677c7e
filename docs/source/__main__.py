"""``python -m docs.source``: writes the generated documents and manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from docs.source import alerts, commands, flags, http, metrics, modules, prometheus_rule, protocol

ROOT = Path(__file__).parents[2]


def generated() -> Iterator[tuple[Path, str]]:
    """Path and text of every generated file."""
    docs = ROOT / "docs"
    yield docs / "flags.md", flags.text()
    yield docs / "commands.md", commands.text()
    yield docs / "messaging-exporter.1", commands.manual()
    yield docs / "http.md", http.text()
    yield docs / "alerts.md", alerts.text()
    yield docs / "metrics.md", metrics.text()
    yield docs / "protocol.md", protocol.text()
    yield docs / "modules.md", modules.text()
    yield docs / "asyncapi.json", protocol.asyncapi()
    yield ROOT / "deploy" / "kubernetes" / "prometheusrule.yaml", prometheus_rule.text()


def main() -> None:
    """Write what is generated."""
    for path, text in generated():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
