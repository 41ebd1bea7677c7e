"""``demo``: a server, three months of history, and people on it, until Ctrl-C. Knows the server by what it says.

The server is a process of its own: simulated people must not slow down the event loop that serves them, and
neither takes the other down. Ctrl-C reaches the demo alone, which then stops its server; neither outlives the other.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Coroutine
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import aiohttp

from exporter.auth.tokens import Authenticator
from exporter.demo.sample_data import NoHistory, backfill
from exporter.demo.server_process import ServerProcess, ServerUrls
from exporter.event_loop import run
from exporter.settings.model import Settings
from exporter.simulate import SimulateOptions, Summary, on_signals, simulate
from exporter.simulate.console import live_console, view_for
from exporter.simulate.people.organisation import Organisation
from exporter.simulate.summary import INTERRUPTED

T = TypeVar("T")
ADMIN: Final = "demo-admin"
SIGN_IN_TTL: Final = 12 * 3600.0  # seconds: a working day in front of the page
GRACE: Final = 5.0  # seconds above the drain time until the server is killed


def defaults() -> SimulateOptions:
    """A moderate load that moves every gauge within seconds and leaves the machine to its owner."""
    return SimulateOptions(users=60, conversations=20, rate=5.0, duration=None, settle=0.5, verify=False)


def main(settings: Settings, options: SimulateOptions | None = None) -> int:
    """The command. Returns the exit status: 0 after Ctrl-C, 1 when the server ended by itself or broke a promise.

    Raises Misconfigured for what cannot work. What the server has to say before it listens is on standard error.
    """
    try:
        return run(_demo(settings, options or defaults()))
    except asyncio.CancelledError:  # Ctrl-C once more: not even the goodbyes were waited for
        return INTERRUPTED


async def _demo(settings: Settings, options: SimulateOptions) -> int:
    stop = asyncio.Event()
    on_signals(stop)
    if settings.log_level == "info":  # the people are the log here; warnings are shown all the same
        settings = replace(settings, log_level="warn")
    authenticator = Authenticator.from_settings(settings)
    link = authenticator.sign(ADMIN, role="admin", ttl=SIGN_IN_TTL)
    server = await ServerProcess.start(settings)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        where = await _unless(_prepare(server, settings, options), stopping, server.exited)
        if where is not None:
            _welcome(where, settings, link)
            people = replace(options, urls=(where.urls[0],), token_for=authenticator.sign, insecure=True)
            summary = await _unless(_watch(server, people, stop), _vanished(server, stop))
            if summary is not None:
                _say("\n" + "\n".join(summary.lines()))
                return 1 if summary.wrong else 0
    finally:
        stopping.cancel()
        stopped = stop.is_set()
        await server.stop(settings.drain_timeout + GRACE)
    if stopped:
        return 0
    server.tell()
    if where is not None:
        print("messaging-exporter: the server has ended by itself", file=sys.stderr, flush=True)
    return 1


async def _unless(work: Coroutine[Any, Any, T], *ends: Awaitable[Any]) -> T | None:
    """The result of ``work``; None when one of ``ends`` came first, and the work was given up."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, *map(asyncio.ensure_future, ends)), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _vanished(server: ServerProcess, stop: asyncio.Event) -> None:
    """Returns when the server ends though nobody asked for it. A signal to the whole group may end it first."""
    await server.exited
    if stop.is_set():
        await asyncio.Event().wait()


async def _prepare(server: ServerProcess, settings: Settings, options: SimulateOptions) -> ServerUrls:
    """The server listens, its database is there, and it has a past."""
    where = await server.urls()
    await _ready(where)
    begun = time.monotonic()
    with _status("three months of history…"):
        try:
            organisation = Organisation(options.users, options.conversations, options.seed)
            written = await backfill(settings.effective_database_url, organisation, schema=settings.database_schema)
        except NoHistory as error:
            written = 0
            _say(f"no history was added: {error}")
    if written:
        _say(f"added three months of history: {written:,} messages in {time.monotonic() - begun:.1f} s")
    return where


async def _ready(where: ServerUrls) -> None:
    """Returns when the server says that it is ready; with the database down that may be never."""
    told, begun = False, time.monotonic()
    connector = aiohttp.TCPConnector(ssl=False)  # our own child on our own machine
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as http:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{where.metrics_urls[0]}/-/ready") as response:
                    if response.status == 200:
                        return
            if not told and time.monotonic() - begun > 3:
                told = True
                _say("waiting for the database…")
            await asyncio.sleep(0.05)


async def _watch(server: ServerProcess, people: SimulateOptions, stop: asyncio.Event) -> Summary:
    view = view_for(title="messaging-exporter demo")
    server.note = view.note
    try:
        return await simulate(people, stop=stop, view=view)
    finally:
        view.close()


def _status(text: str) -> Any:
    """Something that moves while the user waits, on a terminal; nothing elsewhere."""
    console = live_console(sys.stdout)
    return nullcontext() if console is None else console.status(text)


def _welcome(where: ServerUrls, settings: Settings, link: str) -> None:
    metrics, public = where.metrics_urls[0], where.urls[0]
    sign_in = f"{metrics}/admin#token={link}"
    if live_console(sys.stdout) is not None:  # a link that can be clicked though it is two lines long
        sign_in = f"\x1b]8;;{sign_in}\x1b\\{sign_in}\x1b]8;;\x1b\\"
    _say(
        "messaging-exporter is running, with simulated people on it. Ctrl-C stops it.\n\n"
        f"  Metrics     {metrics}{settings.telemetry_path}\n"
        f"  Admin page  {sign_in}\n"
        f"  WebSocket   {public.replace('http', 'ws', 1)}/v1/messaging/ws\n"
    )


def _say(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(text, flush=True)
