"""``python -m grafana.source``: writes the generated files of this folder, and removes what is no longer made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grafana.source import dashboards, proofs

GRAFANA = Path(__file__).parent.parent


def generated() -> Iterator[tuple[Path, str]]:
    """Path and text of every generated file."""
    for name, text in dashboards.files():
        yield GRAFANA / "dashboards" / name, text
    for name, text in dashboards.files_v2():
        yield GRAFANA / "dashboards-v2" / name, text
    for name, text in proofs.files():
        yield GRAFANA / "rules" / "tests" / name, text


def main() -> None:
    """Write what is generated; files that nothing generates any more go."""
    files = dict(generated())
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder, pattern in (("dashboards", "*.json"), ("dashboards-v2", "*.json"), ("rules/tests", "*.yml")):
        for path in (GRAFANA / folder).glob(pattern):
            if path not in files:
                path.unlink()


if __name__ == "__main__":
    main()
