"""The runbooks' own commands and numbers: what is typed finds what it is to find."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from exporter.settings.model import LOG_FORMATS
from tests.grafana.boards import BOARDS, GRAFANA
from tests.servers.exporter import ROOT

JOURNAL = re.compile(r"journalctl [^|;\n]*")
LOGGING = """
import sys, structlog
from exporter.logs import configure
configure("info", sys.argv[1])
log = structlog.get_logger()
log.info("listening")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a command failed")
"""
RUNBOOKS = {path.stem: path.read_text() for path in sorted((GRAFANA / "runbooks").glob("*.md"))}


def test_the_journal_is_not_asked_for_priorities_that_no_line_has() -> None:
    # A service's stderr is of priority "info" for journald, each line of it.
    asked = [command for text in RUNBOOKS.values() for command in JOURNAL.findall(text)]
    assert len(asked) >= 4
    assert [command for command in asked if re.search(r" (-p|--priority)\b", command)] == []


@pytest.mark.parametrize("form", LOG_FORMATS)
def test_the_trace_of_an_internal_error_is_found_among_other_lines(form: str) -> None:
    logged = subprocess.run([sys.executable, "-c", LOGGING, form], capture_output=True, text=True, check=True).stderr
    asked = JOURNAL.search(RUNBOOKS["MessagingInternalErrors"])
    assert asked is not None
    search = RUNBOOKS["MessagingInternalErrors"][asked.end() :].partition("\n")[0].removeprefix("| ")
    found = subprocess.run(["sh", "-c", search], input=logged, capture_output=True, text=True, check=True).stdout
    assert "ZeroDivisionError" in found
    assert "listening" not in found


def test_a_connection_takes_as_much_memory_everywhere() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    measured = re.search(r"and ([\d.]+ KiB) for each connection[^|]*; ([\d.]+ KiB) more .* TLS", operations)
    assert measured is not None
    (memory,) = (panel for panel in BOARDS["messaging-health"]["panels"] if panel["title"] == "Memory")
    for text in (RUNBOOKS["MessagingConnectionLimitNear"], memory["description"]):
        assert re.findall(r"[\d.]+ KiB", text) == [*measured.groups()]
    for path in (ROOT / "README.md", ROOT / "docs" / "architecture.md"):
        told = re.search(
            r"([\d.]+ KiB).{0,70}?\b([\d.]+ KiB) more with the server's own TLS", " ".join(path.read_text().split())
        )
        assert told is not None
        assert told.groups() == measured.groups()


@pytest.mark.parametrize(
    "name", [name for name, text in RUNBOOKS.items() if re.search(r"^messaging-exporter ", text, re.M)]
)
def test_a_command_on_a_node_is_given_the_node_s_settings(name: str) -> None:
    # Without them it looks at the SQLite file of --data.dir, and finds it well.
    assert "node's own settings" in RUNBOOKS[name]
