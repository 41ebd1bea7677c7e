"""Sockets that systemd hands over: a process of the server gets one as descriptor 3, the way that systemd does it."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.core.errors import Misconfigured
from exporter.web import systemd
from tests.servers.exporter import ROOT, Exporter

# The descriptor is 3 and LISTEN_PID is the process itself: a shell becomes it, as systemd's child does.
ACTIVATED = 'exec 3<&"$1"; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; shift; exec "$@"'
SERVE = (sys.executable, "-m", "exporter", "serve", "--web.systemd-socket")


class Activated(Exporter):
    """The exporter on a socket that is open already."""

    def __init__(self, folder: Path, listening: socket.socket, *flags: str) -> None:
        # bash, because dash knows one digit: the test's descriptor may have more
        words = ("bash", "-c", ACTIVATED, "bash", str(listening.fileno()), sys.executable, "-m", "exporter")
        super().__init__(folder, "--web.systemd-socket", *flags, program=words, inherit=(listening.fileno(),))


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


async def test_it_serves_on_the_socket_that_it_was_given(listening: socket.socket, tmp_path: Path) -> None:
    exporter = Activated(tmp_path, listening)
    try:
        await exporter.start()
        assert exporter.url == f"http://127.0.0.1:{listening.getsockname()[1]}"
        person = await exporter.connect("ann")
        assert (await exporter.scrape())["messaging_active_connections"] == 1
        await person.close()
        assert await exporter.stop() == 0
        # The socket is systemd's: who comes now waits for the next process instead of being refused.
        with socket.create_connection(listening.getsockname()):
            await exporter.start()
        assert await exporter.stop() == 0
    finally:
        await exporter.kill()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "has handed over no socket"),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, "has handed over no socket"),
        ({"LISTEN_FDS": "x"}, "has handed over no socket"),
    ],
)
def test_without_a_socket_it_says_so(environment: dict[str, str], reason: str, tmp_path: Path) -> None:
    done = subprocess.run(
        SERVE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 1
    assert reason in done.stderr.splitlines()[-1]


def test_a_socket_is_not_handed_on_to_children(listening: socket.socket) -> None:
    handed = os.dup(listening.fileno())
    os.set_inheritable(handed, True)  # as those of systemd are
    with systemd._listening(handed) as found:
        assert (found.get_inheritable(), found.getblocking()) == (False, False)


def test_all_sockets_are_taken_and_children_are_not_told_of_them(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fcntl.fcntl(listening.fileno(), fcntl.F_DUPFD, 500)
    os.dup2(listening.fileno(), first + 1)
    monkeypatch.setattr(systemd, "FIRST", first)
    for name, value in {"PID": str(os.getpid()), "FDS": "2", "FDNAMES": "one:other"}.items():
        monkeypatch.setenv(f"LISTEN_{name}", value)
    found = systemd.sockets()
    try:
        assert [one.fileno() for one in found] == [first, first + 1]
        assert not [name for name in os.environ if name.startswith("LISTEN_")]
    finally:
        for one in found:
            one.close()
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    for _ in range(2):  # the second time nothing is said of any
        with pytest.raises(Misconfigured, match="no socket"):
            systemd.sockets()


def test_a_socket_of_packets_is_no_stream_although_it_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        with pytest.raises(Misconfigured, match="no listening stream socket"):
            systemd._listening(os.dup(listening.fileno()))


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_socket_that_does_not_listen_is_refused(kind: int, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, kind) as wrong:
        words = ("bash", "-c", ACTIVATED, "bash", str(wrong.fileno()), *SERVE)
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=(wrong.fileno(),),
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert done.returncode == 1
    assert re.search("descriptor 3 is no listening stream socket", done.stderr.splitlines()[-1])
