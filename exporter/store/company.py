"""When work that can be shared is worth waiting for. Knows nothing of the work.

A transaction or a look-up costs something whatever is in it, above all two threads that wake each other. While people
come one by one that is nobody's loss. When they come in a storm, each waited for the one before and took a dozen along;
with the pause it is two dozen and more, and a new connection costs a quarter less CPU (docs/benchmarks.md).
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
