"""Percentiles in bounded memory. Knows no clock: durations are given.

Tested in ``tests/simulate/test_organisation.py``.
"""

from __future__ import annotations

import math
from collections import Counter

_PER_E = 50.0  # buckets per factor of e: neighbours are 2 % apart, hence the error of a percentile is 1 %


class Percentiles:
    """Durations in seconds, kept in buckets 2 % apart; percentiles are right to 1 %, the maximum exactly."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.max = 0.0

    def add(self, seconds: float) -> None:
        """One more. Below a microsecond counts as a microsecond."""
        self._buckets[round(math.log(max(seconds, 1e-6)) * _PER_E)] += 1
        self.count += 1
        self.max = max(self.max, seconds)

    def at(self, share: float) -> float | None:
        """The duration that this share (0…1) did not exceed; None when there is nothing."""
        if not self.count:
            return None
        wanted = max(1, math.ceil(share * self.count))
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return min(math.exp(bucket / _PER_E), self.max)
        return self.max

    def summary(self) -> dict[str, float | None]:
        """p50, p90, p99 and max in seconds."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
        found = {name: self.at(share) for name, share in shares.items()}
        return {
            **{name: round(value, 6) if value is not None else None for name, value in found.items()},
            "max": round(self.max, 6) if self.count else None,
        }
