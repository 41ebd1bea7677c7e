"""``Live``: who is connected to a server that somebody else wrote, what they joined, where they type.

The hub of the product under another hand: five dictionaries whose lengths are the gauges. A host tells what happens;
nothing is ever stepped up or down, so no path can leak. Use it from one event loop; ``LockedLive`` is for threads.

A host's handler must not fail because of its figures: what cannot be (a join after the end, a leave without a join)
changes nothing and returns no events. Wherever a connection is asked for, its handle will do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from exporter.core.errors import ErrorCode, Refusal
from exporter.core.events import ClosedReason, ConnectionOpened, HubEvent, RejectedReason, TypingStoppedReason
from exporter.core.hub import Hub
from exporter.core.records import HubStats
from exporter.metrics.counters import COMMAND_NAMES, Metrics

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from exporter.embed.asgi import Asgi, Principal
    from exporter.embed.totals import Source

REPORTS: Final = frozenset(
    ("conversations", "typing", "rejections", "messages", "deliveries", "reads", "commands", "bytes")
)
# What the frameworks raise when the peer has gone; by name, because none of them is imported here.
_DISCONNECTS: Final = frozenset(
    ("WebSocketDisconnect", "ConnectionClosed", "ConnectionClosedOK", "ConnectionClosedError", "ClientDisconnected")
)
UNBOUNDED: Final = 1 << 60


class Connection:
    """One connection of one user. A context manager: leaving it closes the connection, whatever happened inside.

    ``user`` is None while nobody has said who it is. Every method returns the events that happened, in order, for a
    caller that broadcasts from them.
    """

    __slots__ = ("_live", "handle", "opened_at", "reason", "user")

    def __init__(self, live: Live, user: str | None, handle: Hashable | None, opened_at: float) -> None:
        self._live = live
        self.user = user
        self.handle = handle
        self.opened_at = opened_at
        self.reason: ClosedReason | None = None
        """Set it before leaving the context to say why the connection ends."""

    @property
    def is_open(self) -> bool:
        """Is it still counted?"""
        return self._live.is_open(self)

    def identify(self, user: str) -> None:
        """Say whose connection this is, once; for connections that a middleware opened."""
        self._live.identify(self, user)

    def join(self, conversation: str) -> list[HubEvent]:
        """Take part. ``ParticipantJoined`` for the user's first connection only."""
        return self._live._join(self, conversation)

    def leave(self, conversation: str) -> list[HubEvent]:
        """Stop taking part. ``ParticipantLeft`` for the user's last connection only."""
        return self._live._leave(self, conversation)

    def typing(self, conversation: str, active: bool = True) -> list[HubEvent]:
        """Start, refresh (no event) or stop typing; it ends by itself after the time-out."""
        return self._live._typing(self, conversation, active)

    def message(self, conversation: str) -> list[HubEvent]:
        """A message of this user is durable: counted, and their typing there ends."""
        return self._live._message(self, conversation)

    def close(self, reason: ClosedReason | str = ClosedReason.CLIENT) -> list[HubEvent]:
        """It ended; closing twice is closing once."""
        return self._live._close(self, ClosedReason(reason))

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live._close(self, self.reason or reason_of(error))


def reason_of(error: BaseException | None) -> ClosedReason:
    """Why a connection ended whose handler ended with ``error``."""
    if error is None or isinstance(error, OSError | EOFError) or type(error).__name__ in _DISCONNECTS:
        return ClosedReason.CLIENT
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit | GeneratorExit):
        return ClosedReason.SHUTDOWN
    return ClosedReason.INTERNAL_ERROR


class Live:
    """The live figures of one process of a host. Times in seconds.

    Args:
        typing_timeout: how long typing lasts without a refresh.
        reports: what the host will report, so that it stands at 0 from the start: ``conversations``, ``typing``,
            ``rejections``, ``messages``, ``deliveries``, ``reads``, ``commands``, ``bytes``. What is neither named
            here nor reported yet is absent where 0 would be a guess.
        commands: the host's names of commands, where they are not the product's.
        open_sockets: the handles (or ``Connection`` objects) of the sockets that are really open, for
            ``messaging_live_drift``, which is absent without it.
        on_timeout: called with the events of typing that ended by itself. Needs a running event loop.
        totals: the host's database; see ``Source``.
        workers: 1 says that this process is the only worker; None finds out (see ``exporter.embed.workers``).
        now: seconds of a clock that does not go back.
    """

    def __init__(
        self,
        *,
        typing_timeout: float = 6.0,
        reports: Iterable[str] = (),
        commands: Sequence[str] = COMMAND_NAMES,
        open_sockets: Callable[[], Iterable[Hashable]] | None = None,
        on_timeout: Callable[[list[HubEvent]], object] | None = None,
        totals: Source | None = None,
        workers: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reported = set(reports)
        if unknown := self.reported - REPORTS:
            raise ValueError(f"reports: {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(REPORTS))}")
        self.hub: Hub[Connection] = Hub(typing_timeout=typing_timeout, max_joined=UNBOUNDED)
        self.metrics = Metrics(commands)
        self._count_one = self.metrics.count
        self.anonymous: dict[Connection, None] = {}
        self.open_sockets = open_sockets
        self.totals = totals
        self.workers = workers
        self.by_middleware = False  # a middleware opened connections: what it cannot know is then unknown
        self.by_handle: dict[Hashable, Connection] = {}
        self._on_timeout = on_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._now = now

    # --- connections --------------------------------------------------------------------------------------

    def open(self, user: str, *, handle: Hashable | None = None) -> Connection:
        """A connection of ``user`` was accepted. Leave no way out without ``close``: ``with live.open(user):``.

        ``handle`` is whatever the host knows it by, its WebSocket say: ``find`` and ``open_sockets`` speak of it. A
        handle that is open already is closed first: the host has replaced it.
        """
        connection = self._made(user, handle)
        self._count(self.hub.open(connection, user))
        return connection

    def open_anonymous(self, *, handle: Hashable | None = None) -> Connection:
        """A connection was accepted and nobody knows yet whose it is; see ``Connection.identify``."""
        connection = self._made(None, handle)
        self.anonymous[connection] = None
        self.metrics.connections_opened.value += 1
        return connection

    def identify(self, connection: Connection | Hashable, user: str) -> None:
        """Say whose connection this is; once, and only while it is open."""
        found = self._of(connection)
        if found in self.anonymous:
            del self.anonymous[found]
            found.user = user
            self._count([event for event in self.hub.open(found, user) if type(event) is not ConnectionOpened])

    def close(
        self, connection: Connection | Hashable, reason: ClosedReason | str = ClosedReason.CLIENT
    ) -> list[HubEvent]:
        """It ended, for one of the reasons of ``ClosedReason``; everything it joined is left. Twice is once."""
        return self._close(self._of(connection), ClosedReason(reason))

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

    def reject(self, reason: RejectedReason | str = RejectedReason.HANDSHAKE) -> None:
        """A connection was refused before it was accepted: counted, and nothing else."""
        self.reported.add("rejections")
        self.metrics.connections_rejected[RejectedReason(reason)].value += 1

    def find(self, handle: Hashable) -> Connection | None:
        """The open connection with this handle."""
        return self.by_handle.get(handle)

    def is_open(self, connection: Connection | Hashable) -> bool:
        """Is it counted?"""
        found = self._of(connection)
        return found in self.hub.connections or found in self.anonymous

    def _of(self, connection: Connection | Hashable) -> Connection:
        """The connection itself, or the one with this handle; one that is not open where there is none."""
        if type(connection) is Connection:
            return connection
        return self.by_handle.get(connection) or Connection(self, None, None, 0.0)

    def _made(self, user: str | None, handle: Hashable | None) -> Connection:
        connection = Connection(self, user, handle, self._now())
        if handle is not None:
            if (replaced := self.by_handle.get(handle)) is not None:
                self.close(replaced)
            self.by_handle[handle] = connection
        return connection

    # --- conversations and typing -------------------------------------------------------------------------

    def join(self, connection: Connection | Hashable, conversation: str) -> list[HubEvent]:
        """See ``Connection.join``."""
        return self._join(self._of(connection), conversation)

    def _join(self, connection: Connection, conversation: str) -> list[HubEvent]:
        self.reported.add("conversations")
        if connection not in self.hub.connections:
            return []
        return self._count(self.hub.join(connection, conversation))

    def leave(self, connection: Connection | Hashable, conversation: str) -> list[HubEvent]:
        """See ``Connection.leave``."""
        return self._leave(self._of(connection), conversation)

    def _leave(self, connection: Connection, conversation: str) -> list[HubEvent]:
        try:
            return self._count(self.hub.leave(connection, conversation))
        except Refusal:
            return []

    def remove(self, conversation: str, user: str) -> list[HubEvent]:
        """A user may no longer take part: all their connections leave."""
        events, _ = self.hub.remove(conversation, user)
        return self._count(events)

    def typing(self, connection: Connection | Hashable, conversation: str, active: bool = True) -> list[HubEvent]:
        """See ``Connection.typing``."""
        return self._typing(self._of(connection), conversation, active)

    def _typing(self, connection: Connection, conversation: str, active: bool) -> list[HubEvent]:
        self.reported.add("typing")
        try:
            events = self.hub.set_typing(connection, conversation, active, self._now())
        except Refusal:
            return []
        if self._on_timeout is not None and active and self._timer is None:
            self._arm()
        return self._count(events) if events else events

    def message(self, connection: Connection | Hashable, conversation: str) -> list[HubEvent]:
        """See ``Connection.message``."""
        return self._message(self._of(connection), conversation)

    def _message(self, connection: Connection, conversation: str) -> list[HubEvent]:
        self.reported.add("messages")
        self.metrics.messages_accepted.value += 1
        if connection.user is None:
            return []
        return self._count(self.hub.stop_typing(conversation, connection.user, TypingStoppedReason.MESSAGE))

    def audience(self, conversation: str) -> list[Connection]:
        """The connections that joined: whom a frame is for. A copy, so the host may await between them."""
        return list(self.hub.audience(conversation))

    def expire(self) -> list[HubEvent]:
        """End the typing whose time is over. Every look at the figures does so by itself."""
        return self._count(self.hub.expire_typing(self._now()))

    def _arm(self) -> None:
        deadline = self.hub.next_deadline()
        self._timer = None
        if deadline is not None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # without a loop nobody is told; the figures are right all the same
                return
            self._timer = loop.call_later(max(0.001, deadline - self._now()), self._due)

    def _due(self) -> None:
        try:
            events = self.expire()
            if events and self._on_timeout is not None:
                self._on_timeout(events)
        finally:
            self._arm()

    # --- what the host may report besides -----------------------------------------------------------------

    def persisted(self, seconds: float) -> None:
        """A message became durable this long after its receipt."""
        self.reported.add("messages")
        self.metrics.message_persist_duration.observe(seconds)

    def delivered(self, recipients: int, seconds: float | None = None) -> None:
        """A message was handed to so many connections, the last of them this long after its receipt."""
        self.reported.add("deliveries")
        self.metrics.deliveries.value += recipients
        self.metrics.fanout_recipients.observe(recipients)
        if seconds is not None and recipients:
            self.metrics.message_delivery_duration["local"].observe(seconds)

    def dropped(self, deliveries: int = 1) -> None:
        """Deliveries that were given up."""
        self.reported.add("deliveries")
        self.metrics.deliveries_dropped.value += deliveries

    def read(self, lag: float | None = None) -> None:
        """A read mark moved forward, ``lag`` seconds after the message was sent."""
        self.reported.add("reads")
        self.metrics.read_receipts.value += 1
        if lag is not None:
            self.metrics.read_lag.observe(max(0.0, lag))

    @contextmanager
    def command(self, name: str) -> Iterator[None]:
        """Time a command of the host; its name is one of ``commands``. What it raises is counted as ``internal``."""
        begun = self._now()
        try:
            yield
        except Exception:
            self.command_rejected(name, ErrorCode.INTERNAL)
            raise
        finally:
            self.commanded(name, self._now() - begun)

    def commanded(self, name: str, seconds: float) -> None:
        """A command of the host took this long, whatever became of it."""
        self.reported.add("commands")
        self.metrics.command_duration[name].observe(seconds)

    def command_rejected(self, name: str, code: ErrorCode | str) -> None:
        """A command was refused with one of the codes of ``ErrorCode``."""
        self.reported.add("commands")
        self.metrics.commands_rejected[name, ErrorCode(code)].value += 1

    def transferred(self, *, received: int = 0, sent: int = 0) -> None:
        """Bytes read from and written to WebSockets."""
        self.reported.add("bytes")
        self.metrics.received_bytes.value += received
        self.metrics.sent_bytes.value += sent

    # --- figures ------------------------------------------------------------------------------------------

    def stats(self) -> HubStats:
        """The live figures now; connections of unknown users are among the connections only. O(1)."""
        self.expire()
        stats = self.hub.stats()
        if not self.anonymous:
            return stats
        return HubStats(
            stats.active_connections + len(self.anonymous),
            stats.connected_users,
            stats.active_conversations,
            stats.participants,
            stats.typing_users,
        )

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
