"""``Live``: who is connected to a server that somebody else wrote, what they joined, where they type.

The hub of the product under another hand: five dictionaries whose lengths are the gauges. A host tells what happens;
nothing is ever stepped up or down, so no path can leak. Use it from one event loop; ``LockedLive`` is for threads.

A host's handler must not fail because of its figures: what cannot be (a join after the end, a leave without a join)
changes nothing and returns no events. Wherever a connection is asked for, its handle will do.

Every change returns its events to whoever made the call. Those of which nobody made a call go to ``on_events``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from exporter.core.errors import Refusal
from exporter.core.events import ClosedReason, ConnectionOpened, HubEvent, RejectedReason, TypingStoppedReason
from exporter.core.hub import Hub
from exporter.core.records import HubStats
from exporter.embed.connection import Connection, explicit_reason
from exporter.embed.identifiers import Handle, User, identifier, is_hashable
from exporter.embed.observations import REPORTS, Observations
from exporter.embed.workers import WorkerGroup
from exporter.metrics.counters import COMMAND_NAMES
from exporter.node.conditions import Conditions

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from exporter.embed.asgi import Asgi, Principal
    from exporter.embed.totals import Source

UNBOUNDED: Final = 1 << 60


class Live(Observations):
    """The live figures of one process of a host. Times in seconds.

    Args:
        typing_timeout: how long typing lasts without a refresh.
        reports: what the host will report (see ``REPORTS``), so that it stands at 0 from the start. What is neither
            named here nor reported yet is absent where 0 would be a guess.
        commands: the host's names of commands, where they are not the product's.
        open_sockets: the handles (or ``Connection`` objects) of the sockets that are really open, for
            ``messaging_live_drift``, which is absent without it.
        on_events: called with the events that no call returns: typing that timed out (needs a running event loop), and
            what a connection left that a ``with`` block or a middleware closed, or whose handle was opened again.
            What it raises is logged, and nothing else comes of it.
        totals: the host's database; see ``Source``.
        cancels_on_disconnect: the server cancels the handler of a client that has gone (Quart, Sanic, Daphne, aiohttp
            with ``handler_cancellation``). A cancelled handler has then ended for ``client`` and not for ``shutdown``.
        workers: 1 says that this process is the only worker; None finds out (see ``exporter.embed.workers``).
        now: seconds of a clock that does not go back.
    """

    def __init__(
        self,
        *,
        typing_timeout: float = 6.0,
        reports: Iterable[str] = (),
        commands: Sequence[str] = COMMAND_NAMES,
        open_sockets: Callable[[], Iterable[Handle]] | None = None,
        on_events: Callable[[list[HubEvent]], object] | None = None,
        totals: Source | None = None,
        cancels_on_disconnect: bool = False,
        workers: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(reports, commands, now)
        if inspect.iscoroutinefunction(on_events):
            raise TypeError("on_events is called and not awaited: give it a function that makes a task of its work")
        self.hub: Hub[Connection] = Hub(typing_timeout=typing_timeout, max_joined=UNBOUNDED)
        self._count_one = self.metrics.count
        self.anonymous: dict[Connection, None] = {}
        self.open_sockets = open_sockets
        self.totals = totals
        self.cancelled = ClosedReason.CLIENT if cancels_on_disconnect else ClosedReason.SHUTDOWN
        self.workers = workers
        self.by_middleware = False  # a middleware opened connections: what it cannot know is then unknown
        self.by_handle: dict[Handle, Connection] = {}
        self.worker_group = WorkerGroup()
        self.conditions = Conditions()
        self.started_at = time.time()  # what is counted since the start is counted since then
        self._on_events = on_events
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop  # the timer's, where there is one

    # --- connections --------------------------------------------------------------------------------------

    def open(self, user: User, *, handle: Handle | None = None) -> Connection:
        """A connection of ``user`` was accepted. Leave no way out without ``close``: ``with live.open(user):``.

        ``user`` is an identifier; a number or a UUID is kept as its text. TypeError for anything else, None included.
        ``handle`` is whatever the host knows it by, its WebSocket say: ``find`` and ``open_sockets`` speak of it. A
        handle that is open already is closed first: the host has replaced it.
        """
        user = identifier(user)
        self._begin()
        connection = self._made(user, handle)
        self._count(self.hub.open(connection, user))
        return connection

    def open_anonymous(self, *, handle: Handle | None = None) -> Connection:
        """A connection was accepted and nobody knows yet whose it is; see ``Connection.identify``."""
        self._begin()
        connection = self._made(None, handle)
        self.anonymous[connection] = None
        self.metrics.connections_opened.value += 1
        return connection

    def identify(self, connection: Connection | Handle, user: User) -> list[HubEvent]:
        """Say whose it is (``user`` as in ``open``), once, while it is open. Returns the events of its joins."""
        user = identifier(user)
        found = self._of(connection)
        if found not in self.anonymous:
            return []
        del self.anonymous[found]
        found.user = user
        joined, found.joined = found.joined or {}, None
        self._count([event for event in self.hub.open(found, user) if type(event) is not ConnectionOpened])
        return [event for conversation in joined for event in self._join(found, conversation)]

    def close(
        self, connection: Connection | Handle, reason: ClosedReason | str = ClosedReason.CLIENT
    ) -> list[HubEvent]:
        """It ended, for one of the reasons of ``ClosedReason``; everything it joined is left. Twice is once."""
        return self._close(self._of(connection), explicit_reason(reason) or ClosedReason.CLIENT)

    def _close(self, connection: Connection, reason: ClosedReason) -> list[HubEvent]:
        if connection.handle is not None and self.by_handle.get(connection.handle) is connection:
            del self.by_handle[connection.handle]
        if connection in self.anonymous:
            del self.anonymous[connection]
            self.metrics.connections_closed[reason].value += 1
            events: list[HubEvent] = []
        elif connection in self.hub.connections:
            events = self._count(self.hub.close(connection, reason))
        else:
            return []
        self.metrics.connection_duration.observe(self._now() - connection.opened_at)
        return events

    def close_without_caller(self, connection: Connection, reason: ClosedReason) -> None:
        """Close it where no caller gets the events; ``on_events`` does."""
        events = self._close(connection, reason)
        if events and self._on_events is not None:
            self._tell(events)

    def _tell(self, events: list[HubEvent]) -> None:
        try:
            if self._on_events is not None:
                self._on_events(events)
        except Exception:  # the host's: neither a scrape nor the end of a connection may fail for it
            logging.getLogger("exporter.embed").exception("on_events failed")

    def reject(self, reason: RejectedReason | str = RejectedReason.HANDSHAKE) -> None:
        """A connection was refused before it was accepted: counted, and nothing else."""
        self._begin()
        self.reported.add("connections_rejected")
        known = reason if reason in list(RejectedReason) else RejectedReason.HANDSHAKE  # a refusal must not fail for it
        self.metrics.connections_rejected[RejectedReason(known)].value += 1

    def find(self, handle: Handle) -> Connection | None:
        """The open connection with this handle."""
        return self.by_handle.get(handle)

    def is_open(self, connection: Connection | Handle) -> bool:
        """Is it counted?"""
        found = self._of(connection)
        return found in self.hub.connections or found in self.anonymous

    def _begin(self) -> None:
        """Be counted among the workers, begin to read the database: with each connection, refusal and question, because
        it may be the first one after a fork, a close, or in another event loop."""
        if self.workers is None:
            self.worker_group.enter()
        if self.totals is not None:
            self.totals.start_soon()

    def is_alone(self) -> bool:
        """Is this process the whole server? False: it is one of several workers behind one port."""
        self._begin()
        return self.workers == 1 if self.workers is not None else self.worker_group.count() == 1

    def _of(self, connection: Connection | Handle) -> Connection:
        """The connection itself, or the one with this handle; one that is not open where there is none."""
        if type(connection) is Connection:
            return connection
        return self.by_handle.get(connection) or Connection(self, None, None, 0.0)

    def _made(self, user: str | None, handle: Handle | None) -> Connection:
        connection = Connection(self, user, handle, self._now())
        if handle is not None:
            try:
                replaced = self.by_handle.get(handle)
            except TypeError:
                kind = type(handle).__name__
                raise TypeError(f"a handle has to be hashable, and {kind} is not: give id(…) of it, say") from None
            if replaced is not None:
                self.close_without_caller(replaced, ClosedReason.CLIENT)
            self.by_handle[handle] = connection
        return connection

    # --- conversations and typing -------------------------------------------------------------------------

    def join(self, connection: Connection | Handle, conversation: str) -> list[HubEvent]:
        """See ``Connection.join``."""
        return self._join(self._of(connection), conversation)

    def _join(self, connection: Connection, conversation: str) -> list[HubEvent]:
        self.reported.update(REPORTS["conversations"])
        try:
            if connection in self.hub.connections:
                return self._count(self.hub.join(connection, conversation))
            if connection in self.anonymous:
                connection.joined = {**(connection.joined or {}), conversation: None}
        except TypeError:
            if is_hashable(conversation):
                raise
        return []

    def leave(self, connection: Connection | Handle, conversation: str) -> list[HubEvent]:
        """See ``Connection.leave``."""
        return self._leave(self._of(connection), conversation)

    def _leave(self, connection: Connection, conversation: str) -> list[HubEvent]:
        try:
            if connection.joined:
                connection.joined.pop(conversation, None)
            return self._count(self.hub.leave(connection, conversation))
        except Refusal:
            return []
        except TypeError:
            if is_hashable(conversation):
                raise
            return []

    def remove(self, conversation: str, user: User) -> list[HubEvent]:
        """A user may no longer take part: all their connections leave. ``user`` as in ``open``."""
        user = identifier(user)
        return self._count(self.hub.remove(conversation, user)[0]) if is_hashable(conversation) else []

    def typing(self, connection: Connection | Handle, conversation: str, active: bool = True) -> list[HubEvent]:
        """See ``Connection.typing``."""
        return self._typing(self._of(connection), conversation, active)

    def _typing(self, connection: Connection, conversation: str, active: bool) -> list[HubEvent]:
        self.reported.update(REPORTS["typing"])
        try:
            events = self.hub.set_typing(connection, conversation, active, self._now())
        except Refusal:
            return []
        except TypeError:
            if is_hashable(conversation):
                raise
            return []
        if self._on_events is not None and active and (self._timer is None or self._loop.is_closed()):
            self._arm()
        return self._count(events) if events else events

    def message(self, connection: Connection | Handle, conversation: str) -> list[HubEvent]:
        """See ``Connection.message``."""
        return self._message(self._of(connection), conversation)

    def _message(self, connection: Connection, conversation: str) -> list[HubEvent]:
        self.reported.add("messages_accepted")
        self.metrics.messages_accepted.value += 1
        if connection.user is None:
            return []
        try:
            return self._count(self.hub.stop_typing(conversation, connection.user, TypingStoppedReason.MESSAGE))
        except TypeError:
            if is_hashable(conversation):
                raise
            return []

    def audience(self, conversation: str) -> list[Connection]:
        """The connections that joined: whom a frame is for. A copy, so the host may await between them."""
        return list(self.hub.audience(conversation)) if is_hashable(conversation) else []

    def expire(self) -> list[HubEvent]:
        """End the typing whose time is over; ``on_events`` is told, too. Every look at the figures does so."""
        events = self._count(self.hub.expire_typing(self._now()))
        if events and self._on_events is not None:
            self._tell(events)
        return events

    def _arm(self) -> None:
        deadline = self.hub.next_deadline()
        self._timer = None
        if deadline is not None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # without a loop nobody is told; the figures are right all the same
                return
            self._loop = loop
            self._timer = loop.call_later(max(0.001, deadline - self._now()), self._due)

    def _due(self) -> None:
        try:
            self.expire()
        finally:
            self._arm()

    # --- figures ------------------------------------------------------------------------------------------

    def stats(self) -> HubStats:
        """The live figures now; connections of unknown users are among the connections only. O(1)."""
        self.expire()
        stats = self.hub.stats()
        return replace(stats, active_connections=stats.active_connections + len(self.anonymous))

    def get_stats(self) -> dict[str, Any]:
        """The origin's four names, and beside them everything that ``/v1/messaging/stats`` has; null is not known."""
        from exporter.embed.figures import document

        return document(self)

    def collector(self) -> Collector:
        """For a ``prometheus_client`` registry: ``REGISTRY.register(live.collector())``."""
        from exporter.embed.figures import LiveCollector

        return LiveCollector(self)

    def asgi(self, *, admin: Callable[[Principal], Any] | None = None) -> Asgi:
        """An ASGI application to mount; ``admin`` decides who may see JSON and page (see ``exporter.embed.asgi``)."""
        from exporter.embed.asgi import Asgi

        return Asgi(self, admin)

    def aiohttp(self, *, admin: Callable[[Any], Any] | None = None) -> Any:
        """An aiohttp application for ``add_subapp``; ``admin`` gets the request. See ``exporter.embed.aiohttp_app``."""
        from exporter.embed.aiohttp_app import application

        return application(self, admin)

    def _count(self, events: list[HubEvent]) -> list[HubEvent]:
        for event in events:
            self._count_one(event)
        return events
