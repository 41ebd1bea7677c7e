"""What is shown several times of different metrics: parts by a label, how long things take, how many there are."""

from __future__ import annotations

from collections.abc import Mapping

from grafana.source import promql as q
from grafana.source.panels import AnyPanel, Link, Query, lines, named


def parted(
    title: str,
    unit: str,
    counter: str,
    label: str,
    description: str,
    colors: Mapping[str, str],
    link: Link | None = None,
) -> AnyPanel:
    """How fast a counter grows, by ``label``: the parts upon each other, the largest named first.

    Whether that is per second or per minute is what ``unit`` says ("cps", "cpm").
    """
    growth = q.per_minute if unit.endswith("pm") else q.speed
    query = Query(growth(counter, label), named(f"{{{{{label}}}}}"))
    return lines(title, unit, query, description, stacked=True, colors=colors, ranked=True, link=link)


def halves(histogram: str, *keep: str, words: str = "within") -> list[Query]:
    """What half of a histogram's observations have at most, and what 99 %; for each of the labels ``keep``."""
    each = "".join(f"{{{{{label}}}}}, " for label in keep)
    return [
        Query(q.quantile(share, histogram, *keep), named(f"{each}{name} {words}"))
        for share, name in ((0.5, "half"), (0.99, "99 %"))
    ]


def distinct(metric: str, live: str) -> list[Query]:
    """For a tile: how many there are over all nodes, or at most where these do not know each other."""
    return [Query(q.together(metric, live)), Query(q.at_most(live), prefix="at most")]
