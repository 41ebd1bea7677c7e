"""What a case of an alert's proof is: one fault over healthy series, and what must come of it. Knows no alerts.

Each case puts one fault over the healthy series at minute 60 and takes it away at minute 120, and says when
the condition is first true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grafana.source.series import BOUNDS, LENGTH, NODES, growing, histogram, levels, name, ramps

A, B = NODES
Fault = tuple[str, str | None]


@dataclass(frozen=True)
class Case:
    """One fault and what must come of it; times are minutes."""

    alert: str
    fault: tuple[Fault, ...]
    labels: Mapping[str, str]
    description: str
    pending: int = 60
    gone: int = 130
    severity: str = "warning"
    what: str = ""
    read: int | None = None  # when the texts are read; None: 10 minutes after it fired
    length: int = LENGTH
    observing: bool = False  # beside a process of observe under the nodes' job
    silent: tuple[str, ...] = ()  # alerts that are none of this fault's
    alone: bool = False  # only where Prometheus knows no other installation


def step(series: str, before: float | str, during: float | str) -> Fault:
    """A gauge that is wrong from minute 60 to 120."""
    return series, levels((60, before), (60, during), (61, before))


def burst(series: str, before: float, during: float) -> Fault:
    """A counter that grows at another speed from minute 60 to 120; the first higher sample is that of minute 61."""
    return series, ramps((60, before), (60, during), (61, before))


def slow(metric: str, node: str, above: str, start: int = 60, **labels: str) -> list[Fault]:
    """A histogram whose observations all lie above a bound for an hour."""
    fast = ramps((start, 600), (60, 0), (61, 600))
    all_of_them = growing(600, start + 121)
    bounds = (*BOUNDS[metric], "+Inf")
    split = bounds.index(above) + 1
    counts = {bound: fast if index < split else all_of_them for index, bound in enumerate(bounds)}
    return list(histogram(metric, node, counts, **labels))


def both(metric: str, values: str) -> list[Fault]:
    """The same on both nodes."""
    return [(name(metric, node), values) for node in NODES]


NODE_A = {"job": "messaging", "instance": A}
JOB = {"job": "messaging"}


def rejected(command: str, code: str) -> str:
    """The series of one kind of refusal on node a."""
    return name("messaging_commands_rejected_total", A, command=command, code=code)
