"""Counters and histograms for one event loop. Knows no metric by name and nothing of messaging.

prometheus_client's own are made for threads: a lock around every step, 1.1 µs for ``inc`` and 2.3 µs for
``observe``, against some 5 µs that handling a whole frame takes here. One process with one loop needs no
lock: ``cell.value += 1`` is 0.04 µs, ``observe`` 0.25 µs. What comes out is prometheus_client's families,
rendered by prometheus_client.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

K = TypeVar("K", bound=StrEnum | str)


def _bound(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # the library's own form of a bound


class Cell:
    """One number that only grows; ``value`` may be added to directly."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Counter(Cell):
    """A counter without labels. The name is given without ``_total``."""

    __slots__ = ("help", "name")

    def __init__(self, name: str, help: str) -> None:
        super().__init__()
        self.name, self.help = name, help

    def family(self) -> CounterMetricFamily:
        """The value now."""
        return CounterMetricFamily(self.name, self.help, value=self.value)


class LabelledCounter(Generic[K]):
    """A counter with one label whose values are all known beforehand: each stands at 0 from the start."""

    __slots__ = ("cells", "help", "label", "name")

    def __init__(self, name: str, help: str, label: str, values: Iterable[K]) -> None:
        self.name, self.help, self.label = name, help, label
        self.cells: dict[K, Cell] = {value: Cell() for value in values}

    def __getitem__(self, value: K) -> Cell:
        return self.cells[value]

    def family(self) -> CounterMetricFamily:
        """The values now."""
        family = CounterMetricFamily(self.name, self.help, labels=[self.label])
        for value, cell in self.cells.items():
            family.add_metric([str(value)], cell.value)
        return family


class Buckets:
    """One distribution: counts per bucket, the upper bound included, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_many(self, value: float, count: int) -> None:
        """Add that many observations of one value."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' form: each bucket counts what is at most its bound, the last is +Inf."""
        total = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            rows.append((_bound(bound), total))
        return rows


class Histogram(Buckets):
    """A histogram without labels."""

    __slots__ = ("help", "name")

    def __init__(self, name: str, help: str, bounds: tuple[float, ...]) -> None:
        super().__init__(bounds)
        self.name, self.help = name, help

    def family(self) -> HistogramMetricFamily:
        """The distribution now."""
        return HistogramMetricFamily(self.name, self.help, buckets=self.cumulative(), sum_value=self.sum)


class LabelledHistogram:
    """A histogram with one label whose values are all known beforehand."""

    __slots__ = ("children", "help", "label", "name")

    def __init__(self, name: str, help: str, label: str, values: Sequence[str], bounds: tuple[float, ...]) -> None:
        self.name, self.help, self.label = name, help, label
        self.children = {value: Buckets(bounds) for value in values}

    def __getitem__(self, value: str) -> Buckets:
        return self.children[value]

    def family(self) -> HistogramMetricFamily:
        """The distributions now."""
        family = HistogramMetricFamily(self.name, self.help, labels=[self.label])
        for value, buckets in self.children.items():
            family.add_metric([value], buckets=buckets.cumulative(), sum_value=buckets.sum)
        return family
