"""When work that can be shared is worth waiting for. Knows nothing of the work.

A transaction or a look-up costs the process some 0.3 to 0.7 ms whatever is in it, most of it for two threads that wake
each other. While people come one by one that is nobody's loss. When they come in a storm, each waits for the one before
and takes a dozen along, and the fixed part is a fifth of what a new connection costs.
"""

from __future__ import annotations

from typing import Final

FEW: Final = 4
"""So many at once are no storm: whoever comes next is not made to wait."""
PAUSE: Final = 0.006
"""Seconds: what a storm of 4,000 connections a second needs to bring another two dozen."""


def pause_after(count: int, enough: int) -> float:
    """Seconds to wait before the next round, after one that served ``count``: who had company will have it again.

    ``enough``: shared by so many, the fixed part is small beside each one's own.
    """
    return PAUSE if FEW <= count < enough else 0.0
