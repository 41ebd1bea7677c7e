"""The counters and histograms of one process, each name once. Knows events, no objects: no hub, no store, no socket.

They are counted where things happen: ``Metrics.count`` for events, a few cells for bytes and durations. State is
measured at the scrape instead (``families``). Each HELP says its scope: node figures are summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, Metric

from exporter.core.errors import ErrorCode
from exporter.core.events import (
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

COMMAND_NAMES: Final = ("join", "leave", "typing", "send", "read", "ping")

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


class Metrics:
    """The instruments of one process. Counters never go back, cells are bound once."""

    def __init__(self, commands: Sequence[str] = COMMAND_NAMES) -> None:
        self.connections_opened = Counter("messaging_connections_opened", f"Connections accepted. {_NODE_EVENTS}")
        self.connections_closed = LabelledCounter(
            "messaging_connections_closed",
            f"Connections that ended, by the server's reason. {_NODE_EVENTS}",
            "reason",
            ClosedReason,
        )
        self.connections_rejected = LabelledCounter(
            "messaging_connections_rejected",
            f"Connections refused before the upgrade. {_NODE_EVENTS}",
            "reason",
            RejectedReason,
        )
        self.joins = Counter(
            "messaging_joins", f"Participants that came: (user, conversation) pairs joined. {_NODE_EVENTS}"
        )
        self.leaves = LabelledCounter(
            "messaging_leaves",
            f"Participants that went; joins minus leaves is participants. {_NODE_EVENTS}",
            "reason",
            LeftReason,
        )
        self.typing_started = Counter("messaging_typing_started", f"Users that began to type. {_NODE_EVENTS}")
        self.typing_stopped = LabelledCounter(
            "messaging_typing_stopped",
            f"Users that stopped typing; started minus stopped is typing users. {_NODE_EVENTS}",
            "reason",
            TypingStoppedReason,
        )
        self.messages_accepted = Counter(
            "messaging_messages_accepted", f"Messages stored through this node, repetitions not counted. {_NODE_EVENTS}"
        )
        self.deliveries = Counter(
            "messaging_deliveries", f"Message frames handed to the send buffers of connections. {_NODE_EVENTS}"
        )
        self.deliveries_dropped = Counter(
            "messaging_deliveries_dropped",
            f"Message frames for joined connections that were being cut off. {_NODE_EVENTS}",
        )
        self.read_receipts = Counter("messaging_read_receipts", f"Read marks that moved forward. {_NODE_EVENTS}")
        self.commands_rejected: dict[tuple[str, ErrorCode], Cell] = {
            (command, code): Cell() for command in (*commands, "unknown") for code in ErrorCode
        }
        self.received_bytes = Counter(
            "messaging_received_bytes", f"Bytes read from WebSockets after the upgrade. {_NODE_EVENTS}"
        )
        self.sent_bytes = Counter(
            "messaging_sent_bytes", f"Bytes written to WebSockets after the upgrade. {_NODE_EVENTS}"
        )
        self.broker_frames_sent = Counter(
            "messaging_broker_frames_sent", f"Frames published to other nodes. {_NODE_EVENTS}"
        )
        self.broker_frames_received = Counter(
            "messaging_broker_frames_received", f"Frames received from other nodes. {_NODE_EVENTS}"
        )
        self.broker_frames_dropped = Counter(
            "messaging_broker_frames_dropped",
            "Frames that did not leave because the broker was out of reach, or that came and are of an unknown kind. "
            + _NODE_EVENTS,
        )
        self.command_duration = LabelledHistogram(
            "messaging_command_duration_seconds",
            f"From a command's receipt to its answer, or to its refusal. {_NODE_EVENTS}",
            "command",
            commands,
            _FAST,
        )
        self.message_persist_duration = Histogram(
            "messaging_message_persist_duration_seconds",
            f"From a message's receipt to durable. {_NODE_EVENTS}",
            _FAST,
        )
        self.message_delivery_duration = LabelledHistogram(
            "messaging_message_delivery_duration_seconds",
            "From a message's receipt to its being handed to the socket buffers of the recipients on this node, "
            f"however late they read it; messages that nobody here receives are not in it. {_NODE_EVENTS}",
            "path",
            ("local", "cluster"),
            _FAST,
        )
        self.fanout_recipients = Histogram(
            "messaging_fanout_recipients", f"Connections on this node that a message went to. {_NODE_EVENTS}", _SIZES
        )
        self.connection_duration = Histogram(
            "messaging_connection_duration_seconds",
            f"How long connections that ended had lasted. {_NODE_EVENTS}",
            _SPANS,
        )
        self.read_lag = Histogram(
            "messaging_read_lag_seconds", f"From a message's sending to its being read. {_NODE_EVENTS}", _READING
        )
        self.event_loop_lag = Histogram(
            "messaging_event_loop_lag_seconds",
            "How much later than due the event loop ran a timer that is due every 0.1 s; each beat that a stall "
            "swallowed counts with the lateness it had, so the share above a bound is the share of time "
            f"in which whatever came waited longer. {_NODE_EVENTS}",
            _LAG,
        )
        self.broker_lag = Histogram(
            "messaging_broker_lag_seconds",
            f"From publishing a frame to receiving it back from the broker. {_NODE_EVENTS}",
            _FAST,
        )
        self.background_failures = LabelledCounter(
            "messaging_background_failures",
            "Background tasks that ended with a defect of the server and were started again; the log has the trace. "
            + _NODE_EVENTS,
            "task",
            BackgroundTask,
        )
        self.worker_restarts = Counter(
            "messaging_worker_restarts",
            "Times that a worker died and this one was started in its place, since the server started. "
            "Scope: this node; aggregate with sum of rates.",
        )
        self._simple = {
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

    def count(self, event: HubEvent) -> None:
        """Count what happened; the only place where hub events become counters."""
        cell: Cell | None = self._simple.get(type(event))
        if cell is None:
            cell = self._by_reason[type(event)][event.reason._value_]  # type: ignore[union-attr]  # the rest have one
        cell.value += 1

    def families(self) -> Iterator[Metric]:
        """The instruments' families, one at a time."""
        yield self.connections_opened.family()
        yield self.connections_closed.family()
        yield self.connections_rejected.family()
        yield self.joins.family()
        yield self.leaves.family()
        yield self.typing_started.family()
        yield self.typing_stopped.family()
        yield self.messages_accepted.family()
        yield self.deliveries.family()
        yield self.deliveries_dropped.family()
        yield self.read_receipts.family()
        yield self.rejected_commands()
        yield self.received_bytes.family()
        yield self.sent_bytes.family()
        yield self.command_duration.family()
        yield self.message_persist_duration.family()
        yield self.message_delivery_duration.family()
        yield self.fanout_recipients.family()
        yield self.connection_duration.family()
        yield self.read_lag.family()
        yield self.event_loop_lag.family()
        yield self.background_failures.family()
        yield self.broker_frames_sent.family()
        yield self.broker_frames_received.family()
        yield self.broker_frames_dropped.family()
        yield self.broker_lag.family()
        yield self.worker_restarts.family()

    def rejected_commands(self) -> Metric:
        """The one counter with two labels."""
        family = CounterMetricFamily(
            "messaging_commands_rejected",
            f"Commands refused; command is unknown where it could not be read. {_NODE_EVENTS}",
            labels=["command", "code"],
        )
        for (command, code), cell in self.commands_rejected.items():
            family.add_metric([command, code], cell.value)
        return family


# --- families made from records ---------------------------------------------------------------------------


def _by_text(counter: LabelledCounter[Any]) -> dict[str, Cell]:
    return {str(value): cell for value, cell in counter.cells.items()}
