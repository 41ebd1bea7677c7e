"""What all clients of a simulation share: the books, the clock, the conversations' audiences, background work.

Knows how a connection is opened and how a gap is caught up; knows no person's behaviour.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import aiohttp
from yarl import URL

from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.client.api import FAILURES, Api
from exporter.simulate.client.connection import ClientConnection
from exporter.simulate.meter import Meter
from exporter.simulate.options import SimulateOptions, socket_url
from exporter.simulate.people.organisation import Organisation
from exporter.simulate.people.picker import Picker

C = TypeVar("C", bound=Hashable)

SIMULTANEOUS_CONNECTS = 64
OPEN_TIMEOUT = 15.0


@dataclass(eq=False)
class SimulationContext(Generic[C]):
    """One per simulation; ``C`` is a client. A mistake in background work ends the simulation: see ``failure``."""

    options: SimulateOptions
    organisation: Organisation
    ledger: Ledger
    meter: Meter
    http: aiohttp.ClientSession
    api: Api
    token_for: Callable[[str], str]
    clock: Callable[[], float] = time.monotonic
    closing: bool = False  # no new messages
    calmed: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SIMULTANEOUS_CONNECTS))
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    processes: dict[C, str] = field(default_factory=dict)  # who of those who are connected is served by which

    def __post_init__(self) -> None:
        self.calm = self.options.steady  # no misfortunes (any more): what is on its way shall arrive
        self.audiences = [Picker[C]() for _ in self.organisation.conversations]
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._urls = itertools.cycle([socket_url(url) for url in self.options.urls])
        self._numbers = itertools.count(1)
        self._index = {id: number for number, id in enumerate(self.organisation.conversations)}

    async def open(self, person: int, left: URL | None = None) -> ClientConnection:
        """A new connection for somebody; several nodes take turns. Whoever ``left`` one goes to another."""
        token = self.token_for(self.organisation.people[person].name)
        url = next(self._urls)
        if url == left:
            url = next(self._urls)
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await ClientConnection.open(self.http, url, token, next(self._numbers), self.spawn)

    def welcomed(self, client: C, connection: str) -> None:
        """The server has told this client what it calls the connection, beginning with a name of the process.

        Behind one URL there may be several: workers, or the nodes behind a load balancer. They promise less of order.
        """
        process = self.processes[client] = connection.rpartition("-")[0]
        if process != next(iter(self.processes.values())):
            self.ledger.several_nodes = True

    def disconnected(self, client: C, person: int) -> None:
        """This client's connection is over."""
        self.processes.pop(client, None)
        self.meter.disconnected(person)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Does this beside everything else; a mistake in it ends the simulation instead of vanishing."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def later(self, seconds: float, act: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """Does this in some seconds; a mistake in it ends the simulation, too."""

        def run() -> None:
            try:
                act(*args)
            except Exception as error:  # a timer has no caller; the loop would only log it
                if not self.failure.done():
                    self.failure.set_exception(error)

        return asyncio.get_running_loop().call_later(max(0.0, seconds), run)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.failure.done():
            self.failure.set_exception(error)

    def number_of(self, conversation: str) -> int | None:
        """The number of one of our conversations."""
        return self._index.get(conversation)

    def enter(self, client: C, conversation: int) -> None:
        """This client can write there now."""
        self.audiences[conversation].add(client)
        self.meter.joined += 1

    def quit(self, client: C, conversation: int) -> None:
        """This client can no longer write there."""
        self.audiences[conversation].discard(client)
        self.meter.joined -= 1

    def audience_size(self, conversation: int) -> int:
        """Connections that have joined."""
        return len(self.audiences[conversation])

    async def catch_up(self, person: int, conversation: int, after: int) -> None:
        """What a client does after a gap: fetch what it missed. What is wrong there the audit will find."""
        name, member = self.organisation.conversations[conversation], self.organisation.people[person].name
        try:
            page = await self.api.messages(name, member, after, limit=100)
        except FAILURES:
            self.meter.errors["catch_up"] += 1
        else:
            self.meter.caught_up += len(page.messages)
