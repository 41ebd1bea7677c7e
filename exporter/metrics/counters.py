"""The counters and histograms of one process, each name once. Knows events, no objects: no hub, no store, no socket.

They are counted where things happen: ``Metrics.count`` for events, a few cells for bytes and durations. State is
measured at the scrape instead (``families``). Each HELP says its scope: node figures are summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, Metric

from exporter.core.errors import ErrorCode
from exporter.core.events import (
    COMMANDS,
    ClosedReason,
    ConnectionClosed,
    ConnectionOpened,
    HubEvent,
    LeftReason,
    ParticipantJoined,
    ParticipantLeft,
    RejectedReason,
    TypingStarted,
    TypingStopped,
    TypingStoppedReason,
)
from exporter.metrics.instruments import Cell, Counter, Histogram, LabelledCounter, LabelledHistogram

COMMAND_NAMES: Final = tuple(COMMANDS.values())

# A frame is handled in 10 µs, a durable send in a few ms, a time-out comes after 5 s.
_FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SIZES: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_SPANS: Final = (1, 10, 60, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 86_400, 7 * 86_400)
_READING: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 1_800, 3_600, 6 * 3_600, 86_400, 7 * 86_400)

_NODE_EVENTS: Final = "Scope: this node since it started; aggregate with sum of rates."


class BackgroundTask(StrEnum):
    """What goes on beside the requests; ``callback`` is whatever else the loop runs."""

    WRITER = "writer"
    MEMBERSHIPS = "memberships"
    HISTORY = "history"
    VERIFY = "verify"
    TIDY = "tidy"
    PROBE = "probe"
    SCHEMA = "schema"
    CALLBACK = "callback"


class _RejectedCommands(dict[tuple[str, ErrorCode], Cell]):
    """The one counter with two labels."""

    name = "messaging_commands_rejected"
    help = "Commands refused; command is unknown where it could not be read."

    def family(self) -> CounterMetricFamily:
        """The values now."""
        family = CounterMetricFamily(self.name, self.help, labels=["command", "code"])
        for (command, code), cell in self.items():
            family.add_metric([command, code], cell.value)
        return family


class Metrics:
    """The instruments of one process, in the order of the exposition. Counters never go back, cells are bound once."""

    def __init__(self, commands: Sequence[str] = COMMAND_NAMES) -> None:
        self.connections_opened = Counter("messaging_connections_opened", "Connections accepted.")
        self.connections_closed = LabelledCounter(
            "messaging_connections_closed",
            "Connections that ended, by the server's reason.",
            "reason",
            ClosedReason,
        )
        self.connections_rejected = LabelledCounter(
            "messaging_connections_rejected", "Connections refused before the upgrade.", "reason", RejectedReason
        )
        self.joins = Counter("messaging_joins", "Participants that came: (user, conversation) pairs joined.")
        self.leaves = LabelledCounter(
            "messaging_leaves",
            "Participants that went; joins minus leaves is participants.",
            "reason",
            LeftReason,
        )
        self.typing_started = Counter("messaging_typing_started", "Users that began to type.")
        self.typing_stopped = LabelledCounter(
            "messaging_typing_stopped",
            "Users that stopped typing; started minus stopped is typing users.",
            "reason",
            TypingStoppedReason,
        )
        self.messages_accepted = Counter(
            "messaging_messages_accepted", "Messages stored through this node, repetitions not counted."
        )
        self.deliveries = Counter("messaging_deliveries", "Message frames handed to the send buffers of connections.")
        self.deliveries_dropped = Counter(
            "messaging_deliveries_dropped", "Message frames for joined connections that were being cut off."
        )
        self.read_receipts = Counter("messaging_read_receipts", "Read marks that moved forward.")
        self.commands_rejected = _RejectedCommands(
            {(command, code): Cell() for command in (*commands, "unknown") for code in ErrorCode}
        )
        self.received_bytes = Counter("messaging_received_bytes", "Bytes read from WebSockets after the upgrade.")
        self.sent_bytes = Counter("messaging_sent_bytes", "Bytes written to WebSockets after the upgrade.")
        self.command_duration = LabelledHistogram(
            "messaging_command_duration_seconds",
            "From a command's receipt to its answer, or to its refusal.",
            "command",
            commands,
            _FAST,
        )
        self.message_persist_duration = Histogram(
            "messaging_message_persist_duration_seconds", "From a message's receipt to durable.", _FAST
        )
        self.message_delivery_duration = LabelledHistogram(
            "messaging_message_delivery_duration_seconds",
            "From a message's receipt to its being handed to the socket buffers of the recipients on this node, "
            "however late they read it; messages that nobody here receives are not in it.",
            "path",
            ("local", "cluster"),
            _FAST,
        )
        self.fanout_recipients = Histogram(
            "messaging_fanout_recipients", "Connections on this node that a message went to.", _SIZES
        )
        self.connection_duration = Histogram(
            "messaging_connection_duration_seconds", "How long connections that ended had lasted.", _SPANS
        )
        self.read_lag = Histogram("messaging_read_lag_seconds", "From a message's sending to its being read.", _READING)
        self.event_loop_lag = Histogram(
            "messaging_event_loop_lag_seconds",
            "How much later than due the event loop ran a timer that is due every 0.1 s; each beat that a stall "
            "swallowed counts with the lateness it had, so the share above a bound is the share of time "
            "in which whatever came waited longer.",
            _LAG,
        )
        self.background_failures = LabelledCounter(
            "messaging_background_failures",
            "Background tasks that ended with a defect of the server and were started again; the log has the trace.",
            "task",
            BackgroundTask,
        )
        self.broker_frames_sent = Counter("messaging_broker_frames_sent", "Frames published to other nodes.")
        self.broker_frames_received = Counter("messaging_broker_frames_received", "Frames received from other nodes.")
        self.broker_frames_dropped = Counter(
            "messaging_broker_frames_dropped",
            "Frames that did not leave because the broker was out of reach, or that came and are of an unknown kind, "
            "or of a node that uses another database.",
        )
        self.broker_lag = Histogram(
            "messaging_broker_lag_seconds",
            "From publishing a frame to receiving it back from the broker, measured ten times a second at most.",
            _FAST,
        )
        self.worker_restarts = Counter(
            "messaging_worker_restarts",
            "Times that a worker died and this one was started in its place, since the server started. "
            "Scope: this node; aggregate with sum of rates.",
        )
        self._instruments: tuple[Any, ...] = tuple(vars(self).values())
        for instrument in self._instruments:
            if "Scope: " not in instrument.help:
                instrument.help = f"{instrument.help} {_NODE_EVENTS}"
        self._cells: dict[type[HubEvent], Cell] = {
            ConnectionOpened: self.connections_opened,
            ParticipantJoined: self.joins,
            TypingStarted: self.typing_started,
        }
        # By the reasons' texts: hashing a member of an enumeration is a call into Python, 0.15 µs.
        self._by_reason: dict[type[HubEvent], dict[str, Cell]] = {
            ConnectionClosed: _by_text(self.connections_closed),
            ParticipantLeft: _by_text(self.leaves),
            TypingStopped: _by_text(self.typing_stopped),
        }

    @property
    def cells(self) -> Mapping[type[HubEvent], Cell]:
        """What ``count`` adds to, for events that have no reason."""
        return self._cells

    def count(self, event: HubEvent) -> None:
        """Count what happened: with ``cells``, the only place where hub events become counters."""
        cell: Cell | None = self._cells.get(type(event))
        if cell is None:
            cell = self._by_reason[type(event)][event.reason._value_]  # type: ignore[union-attr]  # the rest have one
        cell.value += 1

    def families(self) -> Iterator[Metric]:
        """The instruments' families, one at a time."""
        return (instrument.family() for instrument in self._instruments)


def _by_text(counter: LabelledCounter[Any]) -> dict[str, Cell]:
    return {str(value): cell for value, cell in counter.cells.items()}
