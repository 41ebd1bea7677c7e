"""Processes that stand still: what they owe is late, not lost. Knows no frame but a question whether one is there.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from exporter.core.events import Ping
from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.client.connection import ClientConnection
from exporter.simulate.meter import Meter

ASK_AFTER: Final = 3.0
"""Seconds in which nobody hears anything of a process: is it there?"""
STILL_AFTER: Final = 6.0
"""Seconds: it is not."""
_PING: Final = msgspec.json.encode(Ping("are-you-there"))


def mind(served: Sequence[tuple[ClientConnection, str]], ledger: Ledger, meter: Meter, now: float) -> None:
    """Look at the connections that are read, each with the process that serves it: a few times a second.

    A connection that is silent beside others of its process that are not is a fault, and is told as one.
    """
    heard: dict[str, float] = {}
    for connection, process in served:
        heard[process] = max(connection.heard_at, heard.get(process, 0.0))
    for process, at in heard.items():
        if now - at > STILL_AFTER + meter.lately:  # whoever was asleep itself has heard nobody
            meter.stood_still[process] = max(now - at, meter.stood_still.get(process, 0.0))
    for connection, process in served:
        silent = now - heard[process]
        if silent > ASK_AFTER and connection.asked_at < heard[process]:
            connection.asked_at = now
            connection.put(_PING)
        if connection.stands_still is not (silent > STILL_AFTER):
            connection.stands_still = not connection.stands_still
            if connection.stands_still:
                ledger.paused(connection.number, heard[process])
            else:
                ledger.resumed(connection.number, now)
