"""Queries in PromQL, each aggregated as its metric's scope asks. Knows no panels.

Node figures are summed; cluster and database figures are the same on every node, so their maximum is taken,
and only over nodes whose view is fresh: one that lost Redis or the database must not outvote the others.
Everything is ``by (job)``: two installations in one Prometheus are two lines, never one sum or maximum of both.
"""

from __future__ import annotations

CHOSEN = 'job=~"$job", instance=~"$instance"'
# Two scrape intervals of a minute, the longest in common use: younger is fresh.
FRESH_SECONDS = 120


def of(metric: str, matchers: str = "") -> str:
    """A metric's series on the chosen nodes."""
    return f"{metric}{{{CHOSEN}{', ' if matchers else ''}{matchers}}}"


def rate(metric: str, matchers: str = "") -> str:
    """A counter's speed per second on the chosen nodes."""
    return f"rate({of(metric, matchers)}[$__rate_interval])"


def total(metric: str, *by: str, matchers: str = "") -> str:
    """A node figure over all nodes."""
    return f"sum by ({', '.join(by or ('job',))}) ({of(metric, matchers)})"


def speed(metric: str, *by: str, matchers: str = "") -> str:
    """A counter's speed over all nodes."""
    return f"sum by ({', '.join(by or ('job',))}) ({rate(metric, matchers)})"


def worst(metric: str, *by: str, matchers: str = "") -> str:
    """The highest of all nodes."""
    return f"max by ({', '.join(by or ('job',))}) ({of(metric, matchers)})"


def least(metric: str, *by: str, matchers: str = "") -> str:
    """The lowest of all nodes: for figures of which 1 is good."""
    return f"min by ({', '.join(by or ('job',))}) ({of(metric, matchers)})"


def _fresh(series: str, stamp: str, by: str) -> str:
    return f"max by ({by}) ({series} and on (job, instance) (time() - {of(stamp)} < {FRESH_SECONDS}))"


def cluster(metric: str) -> str:
    """A distinct figure over all nodes, as the nodes with a fresh view say."""
    return _fresh(of(metric), "messaging_cluster_snapshot_timestamp_seconds", "job")


def database(metric: str, *by: str, matchers: str = "") -> str:
    """A figure from the database, as the nodes that read it just now say."""
    stamp = "messaging_database_last_success_timestamp_seconds"
    return _fresh(of(metric, matchers), stamp, ", ".join(("job", *by)))


def quantile(q: float, histogram: str, *by: str, matchers: str = "") -> str:
    """A quantile over all nodes; the comparison takes out NaN, which is what a histogram without observations gives."""
    labels = ", ".join((*(by or ("job",)), "le"))
    return f"histogram_quantile({q:g}, sum by ({labels}) ({rate(f'{histogram}_bucket', matchers)})) >= 0"


def share(part: str, whole: str) -> str:
    """Part of a whole, both over the same labels; no data, rather than NaN, when the whole is nothing."""
    return f"{part} / ({whole} > 0)"


def age(stamp: str) -> str:
    """Seconds since a time stamp, per node."""
    return f"time() - {of(stamp)}"


def excess(part: str, whole: str) -> str:
    """By how much a part is more than its whole, per node: 0 unless something leaks."""
    return f"clamp_min({of(part)} - {of(whole)}, 0)"


# --- what other programs export too: only that of our targets ------------------------------------------------


def ours(series: str) -> str:
    """Series that every process or every target has, of messaging nodes only: $job may be all jobs of a Prometheus."""
    return f"{series} and on (job, instance) {of('messaging_build_info')}"


def up() -> str:
    """1 or 0 for each of our targets.

    One that is down exposes nothing that tells it is ours: it is known by another node of its job, or, where the rules
    are loaded, by having been ours within a day.
    """
    target = of("up")
    known = of("instance:messaging_alerts_firing:count")
    return f"({target} and on (job) {of('messaging_build_info')} or {target} and on (job, instance) {known})"
