"""The instruments, held against prometheus_client's own: what comes out is the same, to the byte."""

from __future__ import annotations

import math
from enum import StrEnum

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as text
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from exporter.metrics.instruments import Buckets, Cell, Counter, Histogram, LabelledCounter, LabelledHistogram

BOUNDS = (0.001, 0.25, 1.0, 2.5, 10.0)
values = st.one_of(
    st.sampled_from([*BOUNDS, 0.0, -0.0, -1.0, 1e9, 0.1 + 0.2, math.inf]),
    st.floats(-100, 100),
    st.integers(-5, 20),
)


class Reason(StrEnum):
    CLIENT = "client"
    SHUTDOWN = "shutdown"


class One:
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


@pytest.fixture(autouse=True)
def _no_created_series() -> None:
    prometheus_client.disable_created_metrics()


def same(family: Metric, theirs: CollectorRegistry) -> None:
    """In both formats, to the byte."""
    assert text(One(family)) == text(theirs)
    assert openmetrics(One(family)) == openmetrics(theirs)


@given(st.lists(st.integers(0, 10**12), max_size=10))
def test_a_counter_renders_as_prometheus_clients(steps: list[int]) -> None:
    registry = CollectorRegistry()
    theirs, ours = (
        prometheus_client.Counter("a_thing", "What it is.", registry=registry),
        Counter("a_thing", "What it is."),
    )
    for step in steps:
        theirs.inc(step)
        ours.value += step
    same(ours.family(), registry)


@given(st.lists(st.tuples(st.sampled_from(Reason), st.integers(0, 9))))
def test_a_labelled_counter_renders_as_prometheus_clients_with_every_value_from_the_start(
    steps: list[tuple[Reason, int]],
) -> None:
    registry = CollectorRegistry()
    theirs = prometheus_client.Counter("a_thing", "What it is.", ["reason"], registry=registry)
    ours = LabelledCounter("a_thing", "What it is.", "reason", Reason)
    for reason in Reason:
        theirs.labels(reason.value)
    same(ours.family(), registry)
    for reason, step in steps:
        theirs.labels(reason.value).inc(step)
        ours[reason].value += step
    same(ours.family(), registry)


@given(st.lists(values, max_size=40))
def test_a_histogram_renders_as_prometheus_clients(observed: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = prometheus_client.Histogram("a_size", "What it is.", buckets=BOUNDS, registry=registry)
    ours = Histogram("a_size", "What it is.", BOUNDS)
    for value in observed:
        theirs.observe(value)
        ours.observe(value)
    same(ours.family(), registry)


@given(st.lists(st.tuples(st.sampled_from(["local", "cluster"]), values), max_size=40))
def test_a_labelled_histogram_renders_as_prometheus_clients(observed: list[tuple[str, float]]) -> None:
    registry = CollectorRegistry()
    theirs = prometheus_client.Histogram("a_size", "What it is.", ["path"], buckets=BOUNDS, registry=registry)
    ours = LabelledHistogram("a_size", "What it is.", "path", ("local", "cluster"), BOUNDS)
    for path in ("local", "cluster"):
        theirs.labels(path)
    for path, value in observed:
        theirs.labels(path).observe(value)
        ours[path].observe(value)
    same(ours.family(), registry)


@pytest.mark.parametrize("value", BOUNDS)
def test_a_bucket_holds_its_upper_bound(value: float) -> None:
    buckets = Buckets(BOUNDS)
    buckets.observe(value)
    buckets.observe(math.nextafter(value, math.inf))
    assert buckets.counts[BOUNDS.index(value)] == 1
    assert buckets.counts[BOUNDS.index(value) + 1] == 1


def test_the_last_bucket_is_everything_and_no_bucket_falls() -> None:
    buckets = Buckets(BOUNDS)
    for value in (0.0, 0.5, 3.0, 1e6):
        buckets.observe(value)
    rows = buckets.cumulative()
    assert rows[-1] == ("+Inf", 4)
    assert [count for _, count in rows] == sorted(count for _, count in rows)
    assert buckets.sum == pytest.approx(1_000_003.5)


def test_a_family_is_a_copy_of_the_moment() -> None:
    """A scrape renders in pieces; what happens meanwhile is the next one's."""
    counter, histogram = Counter("a_thing", "What."), Histogram("a_size", "What.", BOUNDS)
    counted, sized = counter.family(), histogram.family()
    counter.value += 1
    histogram.observe(1.0)
    assert [sample.value for sample in counted.samples] == [0]
    assert {sample.value for sample in sized.samples} == {0}
    assert [sample.value for sample in counter.family().samples] == [1]


def test_a_label_value_that_was_not_known_beforehand_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        LabelledCounter("a", "A.", "reason", Reason)["unheard of"]
    with pytest.raises(KeyError):
        LabelledHistogram("a", "A.", "path", ("local",), BOUNDS)["unheard of"]


def test_a_cell_is_the_one_that_is_counted() -> None:
    counter = LabelledCounter("a", "A.", "reason", Reason)
    cell: Cell = counter[Reason.CLIENT]
    cell.value += 3
    assert {sample.labels["reason"]: sample.value for sample in counter.family().samples} == {
        "client": 3,
        "shutdown": 0,
    }


def test_observations_of_one_value_may_be_added_together() -> None:
    one_by_one, together = Buckets((0.5, 1.0)), Buckets((0.5, 1.0))
    for _ in range(3):
        one_by_one.observe(0.75)
    together.observe_many(0.75, 3)
    assert together.counts == one_by_one.counts == [0, 3, 0]
    assert together.sum == one_by_one.sum
