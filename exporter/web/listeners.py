"""Sockets and aiohttp's runners. Knows addresses and TLS; knows no route."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterable, Sequence
from ssl import SSLContext

import structlog
from aiohttp import web

from exporter.settings.model import Address
from exporter.web.aiohttp_seams import ProblemRunner, Site
from exporter.web.sockets import BACKLOG, LISTEN, bind, shown_url
from exporter.web.toolkit.reload import WebConfig

log = structlog.get_logger(__name__)

# Seconds that a connection may take from its start, or from its last answer, to the end of a request's headers: long
# enough for a scrape every 15 s to keep its connection, short enough that half requests pile up nowhere.
IDLE = 30.0

SPARE_FILES = 200  # besides the connections: database, listeners, scrapes, logs
_MORE_FILES = "raise the hard limit (LimitNOFILE= in the unit, ulimit -n), or lower --limits.connections"
MACOS_OPEN_MAX = 10_240  # what setrlimit(2) of macOS takes in any case

# Bytes that the kernel takes for one connection without being able to send them. By itself it takes up to 4 MB
# (net.ipv4.tcp_wmem; measured for a peer that does not read: 3.0 MB, with this 0.13 MB), several times the limit of
# the send buffer, and in memory that no limit of ours counts. What is on its way to the peer does not count.
UNSENT = 131_072


class Listeners:
    """Opens applications on addresses and closes them again."""

    def __init__(self, web_config: WebConfig) -> None:
        self._web_config = web_config
        self._runners: list[web.AppRunner] = []
        self._sites: list[_Site] = []

    async def open(self, app: web.Application, addresses: Sequence[Address], flag: str = LISTEN) -> list[str]:
        """Serve ``app`` on every address: the URLs. Raises Misconfigured when one is taken or does not exist.

        ``flag`` is what chooses the addresses, for the words of that.
        """
        return await self.serve(app, (bind(address, flag) for address in addresses))

    async def serve(self, app: web.Application, sockets: Iterable[socket.socket], *, shared: bool = False) -> list[str]:
        """Serve ``app`` on sockets that are bound; the URLs, ``unix:PATH`` for a Unix socket.

        ``shared``: other processes accept on these sockets, too, and this one from when ``set_accepting`` is told to.
        """
        context = self._web_config.ssl_context()
        runner = ProblemRunner(
            app,
            access_log=None,  # it would write addresses and paths, and costs more than a small request
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=IDLE,
            auto_decompress=False,  # no body of ours is worth a decompression bomb; see problems.py
        )
        self._runners.append(runner)
        await runner.setup()
        urls = []
        for listening in sockets:
            if listening.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)  # connections inherit it
            url = shown_url(listening, "http" if context is None else "https")
            site = _Site(runner, listening, context, shared)
            self._sites.append(site)
            if not shared:
                await site.start()
            urls.append(url)
        return urls

    async def set_accepting(self, wanted: bool) -> None:
        """Take new connections on the shared sockets, or leave them to the other processes. What is open stays."""
        for site in self._sites:
            if site.shared:
                await (site.start() if wanted else site.stop())

    async def stop_accepting(self) -> None:
        """No new connections on any socket; what is open stays until ``close``."""
        for site in self._sites:
            await site.stop(for_good=True)

    async def close(self) -> None:
        """Stop listening; requests under way get a second."""
        await self.stop_accepting()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()


class _Site:
    """One listening socket. Where it is shared a duplicate is kept while nothing is accepted on it here."""

    def __init__(self, runner: web.AppRunner, listening: socket.socket, tls: SSLContext | None, shared: bool) -> None:
        self.shared = shared
        self._runner, self._listening, self._tls = runner, listening, tls
        self._site: Site | None = None
        self._closed = False

    async def start(self) -> None:
        """Accept, unless it does so already or was closed for good."""
        if self._site is None and not self._closed:
            taken = self._listening.dup() if self.shared else self._listening
            self._site = Site(self._runner, taken, ssl_context=self._tls, backlog=BACKLOG)
            await self._site.start()

    async def stop(self, *, for_good: bool = False) -> None:
        """Accept nothing more."""
        site, self._site = self._site, None
        if site is not None:
            await site.stop()
        if for_good and not self._closed:
            self._closed = True
            self._listening.close()


class OpenFiles:
    """Whether one more file may be opened. At the limit libuv cuts off whoever connects, and says nothing."""

    def __init__(self) -> None:
        self._exhausted = False

    def look(self) -> None:
        """Say it in the log when it is no longer so, or is so again."""
        before, self._exhausted = self._exhausted, False
        try:
            socket.socket().close()
        except OSError as error:
            self._exhausted = error.errno in (errno.EMFILE, errno.ENFILE)
        if self._exhausted and not before:
            log.warning("no more files may be opened: whoever connects is cut off", hint=_MORE_FILES)
        elif before and not self._exhausted:
            log.info("files may be opened again")


def allow_open_files(connections: int) -> None:
    """Raise the soft limit of open files to the hard one: each connection is one; say so when it is not enough.

    It never ends a start. macOS has "unlimited" for a hard limit and refuses it as a soft one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    for wanted in (hard, connections + SPARE_FILES, MACOS_OPEN_MAX):
        if soft == unlimited or (wanted != unlimited and wanted <= soft):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        soft = wanted
        break
    if soft != unlimited and soft < connections + SPARE_FILES:
        log.warning(
            "fewer files may be opened than connections are allowed",
            files=soft,
            needed=connections + SPARE_FILES,
            connections=connections,
            hint=_MORE_FILES,
        )
