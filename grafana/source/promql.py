"""Queries in PromQL, each aggregated as its metric's scope asks. Knows no panels.

Node figures are summed; cluster and database figures are the same on every node, so their maximum is taken,
and only over nodes whose view is fresh: one that lost Redis or the database must not outvote the others.

Every label that Prometheus adds to a target stays, but for those that tell the nodes of one installation apart: two
installations in one Prometheus are two lines, whether ``job``, ``cluster``, ``namespace`` or another label tells them
apart, and never one sum or maximum of both. Hence ``without`` and ``ignoring``, and nowhere ``by`` and ``on``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CHOSEN: Final = 'job=~"$job", instance=~"$instance"'
# What is recorded or alerted for a whole installation has no instance, and MessagingAbsent not even a job.
CHOSEN_IF_ANY: Final = 'job=~"$job|", instance=~"$instance|"'
NODE: Final = ("instance", "pod", "node", "host")
"""Labels of a target that tell the nodes of one installation apart, as Prometheus' discoveries are commonly set up."""
# Two scrape intervals of a minute, the longest in common use: younger is fresh.
FRESH_SECONDS: Final = 120

NAMED: Final = 3
"""How many names one below the other can be read in a tile."""

LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "messaging_active_users": ("window",),
    "messaging_background_failures_total": ("task",),
    "messaging_build_info": ("version",),
    "messaging_command_duration_seconds": ("command",),
    "messaging_commands_rejected_total": ("code", "command"),
    "messaging_connections_closed_total": ("reason",),
    "messaging_connections_rejected_total": ("reason",),
    "messaging_database_pool_connections": ("state",),
    "messaging_leaves_total": ("reason",),
    "messaging_live_drift": ("figure",),
    "messaging_message_delivery_duration_seconds": ("path",),
    "messaging_scrape_collector_duration_seconds": ("collector",),
    "messaging_scrape_collector_success": ("collector",),
    "messaging_source_as_of_timestamp_seconds": ("source",),
    "messaging_source_collector_duration_seconds": ("source",),
    "messaging_source_count_progress_ratio": ("source",),
    "messaging_source_info": ("kind", "schema", "source"),
    "messaging_source_recount_difference": ("figure", "source"),
    "messaging_source_recount_interval_seconds": ("source",),
    "messaging_source_recount_timestamp_seconds": ("source",),
    "messaging_source_rows_read_total": ("source",),
    "messaging_source_up": ("source",),
    "messaging_typing_stopped_total": ("reason",),
    "python_gc_collections_total": ("generation",),
    "python_gc_objects_collected_total": ("generation",),
    "python_gc_objects_uncollectable_total": ("generation",),
    "python_info": ("implementation", "major", "minor", "patchlevel", "version"),
}
"""The labels that a metric has of its own; metrics without any are not here. A test holds it to what is exposed."""


def own(metric: str) -> tuple[str, ...]:
    """A metric's own labels, a histogram's ``le`` among them."""
    for suffix in ("_bucket", "_count", "_sum"):
        if metric.endswith(suffix) and metric not in LABELS:
            return (*LABELS.get(metric.removesuffix(suffix), ()), *(("le",) if suffix == "_bucket" else ()))
    return LABELS.get(metric, ())


def without(metric: str, *keep: str) -> str:
    """What an aggregation leaves out: the metric's own labels and the nodes' but for those to keep.

    ``instance`` keeps whatever tells a node apart.
    """
    dropped = [label for label in own(metric) if label not in keep]
    return ", ".join([*(() if "instance" in keep else NODE), *dropped])


def _over(operation: str, dropped: str, series: str) -> str:
    """An aggregation, unless there is nothing to aggregate over."""
    return f"{operation} without ({dropped}) ({series})" if dropped else series


def of(metric: str, matchers: str = "") -> str:
    """A metric's series on the chosen nodes."""
    return f"{metric}{{{CHOSEN}{', ' if matchers else ''}{matchers}}}"


def nameless(series: str) -> str:
    """Without the metric's name: series of several metrics make one row only when all their labels are equal."""
    return f"max without () ({series})"


def recorded(series: str) -> str:
    """A recorded series or an alert of the chosen installations and nodes; installations' ones have no instance."""
    return f"{series}{{{CHOSEN_IF_ANY}}}"


def rate(metric: str, matchers: str = "") -> str:
    """A counter's speed per second on the chosen nodes."""
    return f"rate({of(metric, matchers)}[$__rate_interval])"


def total(metric: str, *keep: str) -> str:
    """A node figure over all nodes."""
    return _over("sum", without(metric, *keep), of(metric))


def speed(metric: str, *keep: str, matchers: str = "", now: bool = False) -> str:
    """A counter's speed over all nodes; ``now`` of those only that answered the latest scrape.

    A rate reaches back over its range, so it outlives its node: a tile that says what is now must not.
    """
    rated = rate(metric, matchers)
    if now:
        rated = f"{rated} and {of(metric, matchers)}"
    return _over("sum", without(metric, *keep), rated)


def per_minute(metric: str, *keep: str, matchers: str = "") -> str:
    """The same per minute, for what is rare."""
    return f"60 * {speed(metric, *keep, matchers=matchers)}"


def worst(metric: str, *keep: str) -> str:
    """The highest of all nodes."""
    return _over("max", without(metric, *keep), of(metric))


def least(metric: str, *keep: str) -> str:
    """The lowest of all nodes: for figures of which 1 is good."""
    return _over("min", without(metric, *keep), of(metric))


def _fresh(metric: str, matchers: str, stamp: str, keep: tuple[str, ...]) -> str:
    named = own(metric)
    on = f" ignoring ({', '.join(named)})" if named else ""
    fresh = f"(time() - {of(stamp)} < {FRESH_SECONDS})"
    return f"max without ({without(metric, *keep)}) ({of(metric, matchers)} and{on} {fresh})"


def cluster(metric: str) -> str:
    """A distinct figure over all nodes, as the nodes with a fresh view say."""
    return _fresh(metric, "", "messaging_cluster_snapshot_timestamp_seconds", ())


def database(metric: str, *keep: str, matchers: str = "") -> str:
    """A figure from the database, as the nodes that read it just now say."""
    return _fresh(metric, matchers, "messaging_database_last_success_timestamp_seconds", keep)


def quantile(q: float, histogram: str, *keep: str, matchers: str = "") -> str:
    """A quantile over all nodes; the comparison takes out NaN, which is what a histogram without observations gives."""
    return f"histogram_quantile({q:g}, {speed(f'{histogram}_bucket', 'le', *keep, matchers=matchers)}) >= 0"


def share(part: str, whole: str) -> str:
    """Part of a whole, both over the same labels; no data, rather than NaN, when the whole is nothing."""
    return f"{part} / ({whole} > 0)"


def age(stamp: str) -> str:
    """Seconds since a time stamp, per node."""
    return f"time() - {of(stamp)}"


def excess(part: str, whole: str) -> str:
    """By how much a part is more than its whole, per node: 0 unless something leaks."""
    return f"clamp_min({of(part)} - {of(whole)}, 0)"


def present(series: str) -> str:
    """An installation's series, as long as one of its nodes answers: what was recorded outlives them."""
    return f"{series} and group without ({without('messaging_build_info')}) ({of('messaging_build_info')})"


def or_idle(share: str, counter: str) -> str:
    """A share, or -1 for an installation that counts and has nothing to share: no data is left to mean not known."""
    return f"{share} or 0 * {total(counter)} - 1"


# --- nodes that do not know each other ----------------------------------------------------------------------


def apart() -> str:
    """The number of nodes of each installation whose several nodes each see themselves only; no data otherwise."""
    return f"(count without ({', '.join(NODE)}) ({of('messaging_cluster_nodes')} == 1) > 1)"


def known(metric: str) -> str:
    """A distinct figure over all nodes of a cluster; no data where the nodes do not know each other."""
    return f"{cluster(metric)} unless {apart()}"


def together(metric: str, live: str) -> str:
    """The same, or ``live`` of the one host that embeds: where nobody else is, that is distinct."""
    alone = f"{total(live)} unless {least('messaging_broker_up')}"
    return f"({cluster(metric)} or {alone}) unless {_several()}"


def at_most(live: str) -> str:
    """The nodes' figures added up where they do not know each other: somebody on two nodes counts twice.

    No data where a host that embeds does not report the figure: what the others have is no bound then.
    """
    reporting = _over("count", without(live), of(live))
    return f"{total(live)} and {_several()} unless {_over('count', without(live), of(_EVERY))} > {reporting}"


_EVERY: Final = "messaging_active_connections"
"""What every node and every host that embeds reports."""


def _several() -> str:
    """As ``apart``, and hosts that embed, who know nobody: several of them, or one beside a server of ours.

    A server has ``messaging_broker_up``, also where it is alone; no host and no process of observe has it.
    """
    drop = ", ".join(NODE)
    server = of("messaging_broker_up")
    hosts = f"count without ({drop}) ({of(_EVERY)} unless {server})"
    return f"({apart()} or {hosts} > 1 or {hosts} and group without ({drop}) ({server}))"


# --- what other programs export too: only that of our targets ------------------------------------------------


def ours(series: str, *labels: str) -> str:
    """Series that every process or every target has, of messaging nodes only: $job may be all jobs of a Prometheus.

    ``labels`` are those that the series have beside their target's.
    """
    ignored = ", ".join(dict.fromkeys((*labels, *own("messaging_build_info"))))
    return f"{series} and ignoring ({ignored}) {of('messaging_build_info')}"


def uptime() -> str:
    """Seconds since the start of each node that answers."""
    return ours(f"(time() - {of('process_start_time_seconds')})")


def up() -> str:
    """1 or 0 for each of our targets, as the alert MessagingDown knows them.

    One that is down exposes nothing that tells it is ours: it is known by having been so within a day, or by its job.
    """
    known = f"last_over_time({of('messaging_build_info')}[1d])"
    named = of("up", 'job=~"messaging(-exporter)?"')
    return f"({of('up')} and ignoring ({', '.join(own('messaging_build_info'))}) ({known} or {named}))"


def up_of_all() -> str:
    """How many of an installation's nodes are down, with ``nodes="1 / 2"`` as a label: a text that is always true."""
    drop = ", ".join(NODE)
    answering = f'count_values without ({drop}) ("up", sum without ({drop}) ({up()}))'
    known = f'count_values without ({drop}) ("all", count without ({drop}) ({up()}))'
    text = f'label_join(0 * {answering} * ignoring (up, all) group_left (all) {known}, "nodes", " / ", "up", "all")'
    down = f"{text} + ignoring (up, all, nodes) group_left () sum without ({drop}) (1 - {up()})"
    return f"{down} or {_told(f'absent({up()})', 'nodes', 'no nodes')}"


def down() -> str:
    """1 for each node that is down, or for "4 nodes" where they are more than a tile has room for.

    0 called ``none`` for an installation without such a node.
    """
    drop = ", ".join(NODE)
    dead = f"sum without ({drop}) (1 - {up()})"
    few = f"1 - ({up()} == 0) unless ignoring ({drop}) ({dead} > {NAMED})"
    number = _told(f'count_values without ({drop}) ("down", {dead} > {NAMED})', "of", "nodes")
    many = f'label_join({number}, "instance", " ", "down", "of")'
    well = f"group without ({drop}) ({up()}) unless group without ({drop}) ({up()} == 0)"
    none = _told(f"0 * ({well})", "instance", "none")
    return f"{few} or {many} or {none} or {_told(f'-1 * absent({up()})', 'instance', 'not known')}"


def _told(series: str, label: str, text: str) -> str:
    """A tile that shows names shows nothing where there is no series: one with the word for it as its name."""
    return f'label_replace({series}, "{label}", "{text}", "", "")'
