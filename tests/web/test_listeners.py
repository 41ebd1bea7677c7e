"""Where a server listens, as it tells people; and the limit of open files, as far as the system lets it be raised."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from exporter.settings.model import Address
from exporter.web import listeners
from exporter.web.listeners import MACOS_OPEN_MAX, SPARE_FILES, Listeners, OpenFiles, allow_open_files
from exporter.web.sockets import bind, shown_url
from exporter.web.toolkit.reload import WebConfig
from tests.logged import logged

UNLIMITED = resource.RLIM_INFINITY


class System:
    """A system's limits: soft, hard, and what it takes for a soft one."""

    def __init__(self, soft: int, hard: int, takes: Callable[[int], bool]) -> None:
        self.soft, self.hard, self._takes = soft, hard, takes

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.soft, self.hard

    def set(self, which: int, limits: tuple[int, int]) -> None:
        soft, hard = limits
        assert (which, hard) == (resource.RLIMIT_NOFILE, self.hard)
        if not self._takes(soft) or (self.hard != UNLIMITED and soft > self.hard):
            raise ValueError("current limit exceeds maximum limit")
        self.soft = soft


def linux(number: int) -> bool:
    return True


def macos(number: int) -> bool:
    """It says "unlimited" and takes no more than ``kern.maxfilesperproc``."""
    return number != UNLIMITED and number <= 61_440


def old_macos(number: int) -> bool:
    return number != UNLIMITED and number <= MACOS_OPEN_MAX


def frozen(number: int) -> bool:
    return False


@pytest.mark.parametrize(
    ("system", "connections", "soft", "warned"),
    [
        (System(1_024, 524_288, linux), 20_000, 524_288, False),
        (System(1_024, 4_096, linux), 20_000, 4_096, True),
        (System(256, UNLIMITED, macos), 20_000, 20_000 + SPARE_FILES, False),
        (System(256, UNLIMITED, old_macos), 20_000, MACOS_OPEN_MAX, True),
        (System(256, UNLIMITED, old_macos), 1_000, 1_000 + SPARE_FILES, False),
        (System(30_000, UNLIMITED, old_macos), 20_000, 30_000, False),
        (System(UNLIMITED, UNLIMITED, frozen), 20_000, UNLIMITED, False),
        (System(256, 1_024, frozen), 20_000, 256, True),
    ],
)
def test_the_soft_limit_is_what_the_system_takes_and_too_little_is_said(
    system: System, connections: int, soft: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners.resource, "getrlimit", system.get)
    monkeypatch.setattr(listeners.resource, "setrlimit", system.set)
    with logged(listeners) as logged_lines:
        allow_open_files(connections)
    assert system.soft == soft
    assert bool(logged_lines) is warned


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1"])  # noqa: S104  # closed again at once
def test_all_interfaces_are_shown_as_an_address_that_every_machine_has(host: str) -> None:
    """Where IPv6 is switched off, as in most containers, nobody gets to ::1, and a socket for both can be had."""
    with bind(Address(host, 0)) as listening:
        assert shown_url(listening, "http") == f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_who_listens_on_ipv6_alone_is_shown_there() -> None:
    with bind(Address("::", 0)) as listening:
        assert shown_url(listening, "http") == f"http://[::1]:{listening.getsockname()[1]}"


def test_of_a_name_with_addresses_of_both_kinds_it_is_the_ipv4_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most proxies and scripts write 127.0.0.1."""
    found = [(family, socket.SOCK_STREAM, 0, "", ("", 0)) for family in (socket.AF_INET6, socket.AF_INET)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bind(Address("localhost", 0)) as listening:
        assert listening.family == socket.AF_INET


async def test_who_was_told_to_stop_for_good_takes_nobody_more() -> None:
    config = WebConfig(None)
    served = Listeners(config)
    with bind(Address("127.0.0.1", 0)) as listening:
        await served.serve(web.Application(), [listening], shared=True)
        await served.set_accepting(True)
        await served.stop_accepting()
        await served.set_accepting(True)
        assert listening.fileno() == -1
    await served.close()
    config.close()


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """In this block the process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < highest:
        taken.append(os.dup(taken[0]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_that_nothing_more_can_be_opened_is_said_once_and_so_is_that_it_can() -> None:
    files = OpenFiles()
    with logged(listeners) as lines:
        files.look()
        with no_more_files():
            files.look()
            files.look()
        files.look()
        files.look()
    assert [line["event"] for line in lines] == [
        "no more files may be opened: whoever connects is cut off",
        "files may be opened again",
    ]


@pytest.mark.parametrize(("number", "limit"), [(errno.EMFILE, 1), (errno.ENFILE, 1), (errno.EACCES, 0)])
def test_a_socket_that_is_refused_for_another_reason_is_no_limit(
    monkeypatch: pytest.MonkeyPatch, number: int, limit: int
) -> None:
    """The limit may be the process's or the machine's; a sandbox's ban is none."""

    def refuse() -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", refuse)
    with logged(listeners) as lines:
        OpenFiles().look()
    assert len(lines) == limit


def test_at_the_limit_of_open_files_others_are_served_and_the_log_is_not_flooded() -> None:
    """On asyncio's own loop, which says each attempt; with uvloop, libuv accepts and closes what is too much."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_serve_at_the_limit_of_open_files())


async def _serve_at_the_limit_of_open_files() -> None:
    loop, refused, failures = asyncio.get_running_loop(), asyncio.Event(), list[dict[str, Any]]()

    def failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failures.append(context)
        refused.set()

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def ask(client: socket.socket) -> None:
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"hello"):
            more = await loop.sock_recv(client, 1_000)
            assert more
            answer += more

    app, open_here, config = web.Application(), contextlib.ExitStack(), WebConfig(None)
    app.router.add_get("/", hello)
    served = Listeners(config)
    loop.set_exception_handler(failed)
    try:
        port = int((await served.open(app, [Address("127.0.0.1", 0)]))[0].rpartition(":")[2])
        early, *late = [open_here.enter_context(socket.socket()) for _ in range(5)]
        for client in (early, *late):
            client.setblocking(False)
        await loop.sock_connect(early, ("127.0.0.1", port))
        await ask(early)
        with no_more_files():
            for client in late:
                await loop.sock_connect(client, ("127.0.0.1", port))
            await refused.wait()
            await ask(early)
        assert len(failures) < 100  # one a second; it was 4,096 at once
        assert all(context["message"] == "socket.accept() out of system resource" for context in failures)
        for client in late:
            await ask(client)
    finally:
        loop.set_exception_handler(None)
        open_here.close()
        await served.close()
        config.close()
