"""What a host may report besides connections, conversations and typing. What it does not report is absent.

A host subtracts: one of the audience, two readings of a wall clock. A difference below 0 is told as 0, because a
counter that falls looks like a restart.

Tested in ``tests/embed/test_live.py``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Self

from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason
from exporter.embed.connection import reason_of
from exporter.embed.identifiers import is_hashable
from exporter.metrics.counters import COMMAND_NAMES, Metrics

REPORTS: Final = {
    "conversations": ("joins", "leaves"),
    "typing": ("typing_started", "typing_stopped"),
    "rejections": ("connections_rejected",),
    "messages": ("messages_accepted", "message_persist_duration"),
    "deliveries": ("deliveries", "deliveries_dropped", "fanout_recipients", "message_delivery_duration"),
    "reads": ("read_receipts", "read_lag"),
    "commands": ("command_duration", "commands_rejected"),
    "bytes": ("received_bytes", "sent_bytes"),
}
"""What a host may announce, with the instruments that then stand at 0 from the start."""


class Observations:
    """Counters and histograms; ``reported`` names what is shown of them."""

    lock: AbstractContextManager[Any] = nullcontext()
    """Held while several things are read that belong together; ``LockedLive`` has one."""

    def __init__(
        self,
        reports: Iterable[str] = (),
        commands: Sequence[str] = COMMAND_NAMES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_lock()
        announced = set(reports)
        self.reported = announced.union(*(REPORTS.get(name, ()) for name in announced))
        """Groups and instruments of which something was announced or told."""
        if unknown := announced - REPORTS.keys():
            raise ValueError(f"reports: {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(REPORTS))}")
        self.metrics = Metrics(commands)
        self._now = now

    def _make_lock(self) -> None:
        """For ``LockedLive``, so that it takes, and shows, the same options as ``Live``."""

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: Litestar copies what is in its ``State`` and in a router, and what is told to a copy nobody sees."""
        return self

    def persisted(self, seconds: float) -> None:
        """A message became durable this long after its receipt."""
        self.reported.add("message_persist_duration")
        self.metrics.message_persist_duration.observe(max(0.0, seconds))

    def delivered(self, recipients: int, seconds: float | None = None) -> None:
        """A message was handed to so many connections, the last of them this long after its receipt."""
        recipients = max(0, recipients)
        self.reported.update(("deliveries", "fanout_recipients"))
        self.metrics.deliveries.value += recipients
        self.metrics.fanout_recipients.observe(recipients)
        if seconds is not None and recipients:
            self.reported.add("message_delivery_duration")
            self.metrics.message_delivery_duration["local"].observe(max(0.0, seconds))

    def dropped(self, deliveries: int = 1) -> None:
        """Deliveries that were given up."""
        self.reported.add("deliveries_dropped")
        self.metrics.deliveries_dropped.value += max(0, deliveries)

    def read(self, lag: float | None = None) -> None:
        """A read mark moved forward, ``lag`` seconds after the message was sent."""
        self.reported.add("read_receipts")
        self.metrics.read_receipts.value += 1
        if lag is not None:
            self.reported.add("read_lag")
            self.metrics.read_lag.observe(max(0.0, lag))

    @contextmanager
    def command(self, name: str) -> Iterator[None]:
        """Time a command: one of ``commands``, others are not timed. A defect that it raises counts as ``internal``."""
        begun = self._now()
        try:
            yield
        except Exception as error:  # counted and raised again: it is the host's
            if reason_of(error, ClosedReason.SHUTDOWN) is ClosedReason.INTERNAL_ERROR:  # not a peer that has gone
                self.command_rejected(name, ErrorCode.INTERNAL)
            raise
        finally:
            self.commanded(name, self._now() - begun)

    def commanded(self, name: str, seconds: float) -> None:
        """A command of the host took this long, whatever became of it."""
        buckets = self.metrics.command_duration.children.get(name) if is_hashable(name) else None
        if buckets is not None:
            self.reported.add("command_duration")
            buckets.observe(max(0.0, seconds))

    def command_rejected(self, name: str, code: ErrorCode | str) -> None:
        """A command was refused with one of the codes of ``ErrorCode``; what is none is logged and not counted."""
        if code in list(ErrorCode):
            self._command_rejected(name, ErrorCode(code))
        else:  # at the first refusal of its kind, and the handler is to answer its client
            logging.getLogger("exporter.embed").error("command_rejected: expected one of %s", ", ".join(ErrorCode))

    def _command_rejected(self, name: str, code: ErrorCode) -> None:
        self.reported.add("commands_rejected")
        known = name if is_hashable(name) and name in self.metrics.command_duration.children else "unknown"
        self.metrics.commands_rejected[known, code].value += 1

    def transferred(self, *, received: int = 0, sent: int = 0) -> None:
        """Bytes read from and written to WebSockets."""
        if received > 0:
            self.reported.add("received_bytes")
            self.metrics.received_bytes.value += received
        if sent > 0:
            self.reported.add("sent_bytes")
            self.metrics.sent_bytes.value += sent
