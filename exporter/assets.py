"""Dashboards, rules, runbooks and provisioning, written out of the installed package. Knows no server and no metric.

One source: the folder ``grafana/`` at the top of the repository. In the package it is ``exporter/grafana``, a link in
a clone and a folder of copies in a wheel, so that ``importlib.resources`` finds it in either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Final

from exporter.core.errors import Misconfigured

FOLDERS: Final = ("dashboards", "dashboards-v2", "provisioning", "rules", "runbooks")
ALONE: Final = ("README.md", "alertmanager.yml", "prometheus.yml")
# The panel for other people's pages, as the admin page has it.
COMPONENT: Final = ("messaging-stats.js", "messaging-stats.d.ts", "messaging-stats-react.tsx")
KINDS: Final = (".json", ".md", ".yml")

# The one file that names a folder of the machine it is used on.
PROVIDER: Final = PurePosixPath("provisioning/dashboards/messaging.yml")
DEFAULT_PATH: Final = "/etc/messaging-exporter/dashboards"

# Where the alerts' links lead to, in the rules and in their proofs.
RUNBOOKS: Final = "https://github.com/messaging-exporter/messaging-exporter/blob/main/grafana/runbooks"
# No quotes, blanks, braces or fragments: it stands in YAML as it is, and Prometheus expands templates.
_URL: Final = re.compile(r"(https?|file)://[!$%&()*+,\-./0-9:;=?@A-Z_a-z~]+")


def write(output: Path, runbooks: str = RUNBOOKS) -> list[Path]:
    """Write all assets below ``output``, which is created; existing files of the same names are replaced.

    Grafana's provisioning points to the dashboards in ``output`` afterwards, and the alerts' links to what is below the
    URL ``runbooks``. Returns the files in order. Raises Misconfigured when that is no URL, and OSError when something
    cannot be written.
    """
    if not _URL.fullmatch(runbooks):
        raise Misconfigured(f"--runbooks: expected a URL such as https://wiki.example/runbooks, got {runbooks!r}")
    root = output.resolve()
    written: list[Path] = []
    for name, source in sorted(_assets()):
        text = source.read_text(encoding="utf-8")
        if name == PROVIDER:
            text = text.replace(DEFAULT_PATH, _scalar(root / "dashboards"))
        text = text.replace(f"{RUNBOOKS}/", f"{runbooks.rstrip('/')}/")
        target = output.joinpath(*name.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return written


def _scalar(path: Path) -> str:
    """A path as YAML in which Grafana replaces variables: quoted, because a folder may be called anything."""
    return json.dumps(str(path)).replace("$", "$$")


def _assets() -> Iterator[tuple[PurePosixPath, Traversable]]:
    package = files("exporter").joinpath("grafana")
    for name in ALONE:
        yield PurePosixPath(name), package.joinpath(name)
    for folder in FOLDERS:
        yield from _below(package.joinpath(folder), PurePosixPath(folder))
    static = files("exporter.web").joinpath("static")
    for name in COMPONENT:
        yield PurePosixPath("component") / name, static.joinpath(name)


def _below(folder: Traversable, name: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, name / entry.name)
        elif entry.name.endswith(KINDS):
            yield name / entry.name, entry
