"""What is shown of a ``Live``: families, the JSON document, a collector. What the host does not report is absent.

Tested in ``tests/embed/test_live.py``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from exporter import __version__
from exporter.core.recount import Recount
from exporter.core.source_records import SourceView
from exporter.embed.observations import REPORTS
from exporter.embed.totals import UNREAD
from exporter.metrics.families import build_family, drift_family, live_families
from exporter.metrics.quality import quality
from exporter.metrics.source_families import every_source_family, source_families
from exporter.node.document import LIVE, totals_figures, utc

if TYPE_CHECKING:
    from exporter.embed.connection import Connection
    from exporter.embed.live import Live

NO_DATABASE = "no database is observed: give Live(totals=Source(url, mapping))"
ANONYMOUS = "some connections' users are not known"
UNREPORTED = "the host does not report it"
_REPORTED: Final = tuple(name for names in REPORTS.values() for name in names)


def unknown(live: Live) -> dict[str, str]:
    """The live figures that are not known now, with the reason.

    Without connections every figure is 0 and known. Whoever opens connections by hand tells of the rest by hand, too; a
    middleware cannot.
    """
    reasons: dict[str, str] = {}
    if live.by_middleware and (live.anonymous or live.hub.connections):
        if "joins" not in live.reported:
            reasons |= dict.fromkeys(("active_conversations", "participants"), UNREPORTED)
        if "typing_started" not in live.reported:
            reasons["typing_users"] = UNREPORTED
    if live.anonymous:
        reasons["connected_users"] = ANONYMOUS
        if any(connection.joined for connection in live.anonymous):
            reasons |= dict.fromkeys(("active_conversations", "participants", "typing_users"), ANONYMOUS)
    return reasons


class Drift:
    """Each live figure minus an independent recount from the host's open sockets. Exhaust ``count``, read ``found``.

    ``found`` is None when the host does not tell its sockets, or fails at it.
    """

    def __init__(self, live: Live) -> None:
        """Copy the material, in one turn of the loop."""
        self.found: dict[str, int] | None = None
        self._recount: _Recount | None = None
        if live.open_sockets is not None:
            try:
                sockets: list[Any] = list(live.open_sockets())  # without the lock: it may wait for one of the host's
            except Exception:  # the host's: it costs the drift, not the figures
                _log_failure()
                return
            with live.lock:
                self._anonymous = len(live.anonymous)
                self._recount = _Recount(live.hub, sockets)
                self._recount.by_handle = live.by_handle.copy()

    def count(self) -> Iterator[None]:
        """Count on; each step is a slice, after which others may run."""
        recount = self._recount
        if recount is None:
            return
        try:
            yield from recount.count()
        except TypeError:  # a socket that is not hashable; as above
            _log_failure()
            return
        assert recount.drift is not None  # noqa: S101  # it was exhausted
        self.found = asdict(recount.drift)
        self.found["active_connections"] += self._anonymous


def _log_failure() -> None:
    logging.getLogger("exporter.embed").exception("open_sockets failed: there is no drift")


class _Recount(Recount):
    """One whose sockets may be handles; what no connection is known by counts as a socket and nothing else."""

    by_handle: dict[Any, Connection]

    def _each(self) -> Iterator[Any]:
        return (self.by_handle.get(socket, socket) for socket in self._sockets)


def families(live: Live, drift: dict[str, int] | None) -> list[Metric]:
    """Everything that is known of the live side, the counters, and the drift that was counted before."""
    live.expire()  # whoever is told of it is told without the lock
    with live.lock:
        return list(_families(live, drift))


def _families(live: Live, drift: dict[str, int] | None) -> Iterator[Metric]:
    missing = unknown(live)
    for name, family in live_families(live.stats()).items():
        if name not in missing:
            yield family
    if drift is not None:
        yield drift_family({name: value for name, value in drift.items() if name not in missing})
    shown = (
        set(live.reported) if live.by_middleware else {*live.reported, *REPORTS["conversations"], *REPORTS["typing"]}
    )
    yield from _counters(live, [name for name in _REPORTED if name in shown])
    yield build_family()


def _counters(live: Live, reported: Iterable[str]) -> Iterator[Metric]:
    for name in ("connections_opened", "connections_closed", "connection_duration", *reported):
        family = getattr(live.metrics, name).family()
        # A host has no other broker than its own.
        family.samples = [sample for sample in family.samples if sample.labels.get("path") != "cluster"]
        yield family


def totals_of(view: SourceView) -> Iterator[Metric]:
    """The families of the host's database."""
    # The version is the live side's: the same program's.
    return (family for family in source_families([view], labelled=False) if family.name != "messaging_build")


class LiveCollector(Collector):
    """For a host's own registry: the live side, and the totals that were read last."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def describe(self) -> Iterator[Metric]:
        """Every family that may come, so that a registry finds those by name that are not there yet. Asks nobody."""
        yield from live_families(self._live.hub.stats()).values()
        yield drift_family({})
        yield from _counters(self._live, _REPORTED)
        yield build_family()
        if self._live.totals is not None:
            yield from every_source_family()

    def collect(self) -> Iterator[Metric]:
        """The families now."""
        drift = Drift(self._live)
        for _ in drift.count():
            pass
        yield from families(self._live, drift.found)
        if self._live.totals is not None:
            self._live.totals.start_soon()
            view = self._live.totals.latest()
            if view.error != UNREAD:  # before the first look nothing is known, not even that it is down
                yield from totals_of(view)


def document(live: Live, database: SourceView | None = None) -> dict[str, Any]:
    """What ``/v1/messaging/stats`` answers; what is not known is null, with the reason.

    ``database`` is the view of this request; without one it is what was read last.
    """
    if database is None and live.totals is not None:
        database = live.totals.latest()
    with live.lock:
        stats, missing = live.stats(), unknown(live)
    if not live.is_alone():
        missing = dict.fromkeys(asdict(stats), live.worker_group.explanation())
    known = (None if name in missing else value for name, value in asdict(stats).items())
    return {
        **dict(zip(LIVE, known, strict=True)),
        **totals_figures(database.totals if database else None),
        **_of_this_process(live),
        "since": _since(live),
        "scope": "node",
        "nodes": 1 if live.is_alone() else None,
        "as_of": utc(time.time()),
        "error": "; ".join(
            f"{', '.join(name for name in missing if missing[name] == reason)}: {reason}"
            for reason in dict.fromkeys(missing.values())
        )
        or None,
        **({"sources": [_source(database)]} if database is not None else {}),
        "database": {
            # Null and not false: whether the host can write is not known here.
            "up": True if database is not None and database.up else None,
            "as_of": utc(database.last_success if database else None),
            "error": database.error if database is not None else NO_DATABASE,
        },
    }


def _of_this_process(live: Live) -> dict[str, Any]:
    """What the product's own server says of its node, as far as the host reports it; absent is not reported."""
    seen, reported = quality(live.metrics), live.reported
    known: dict[str, Any] = {"version": __version__, "started_at": utc(live.started_at), "refused": {}}
    if "connections_rejected" in reported:
        known["refused"]["connections"] = seen.refused_connections
    if "commands_rejected" in reported:
        known["refused"]["commands"] = seen.refused_commands
        known["sends_failed"] = seen.sends_failed
    if "message_delivery_duration" in reported:
        known["delivered_in_time"] = seen.share_in_time
    return known


def _since(live: Live) -> dict[str, str | None]:
    """Since when something is wrong, as far as the host's reports tell; null while it is not."""
    live.conditions.count(time.time(), quality(live.metrics))
    told = {"at_capacity": "connections_rejected", "sends_failing": "commands_rejected"}
    since = live.conditions.since
    return {
        "internal_errors": utc(since["internal_errors"]),
        **{name: utc(since[name]) for name, counter in told.items() if counter in live.reported},
    }


def _source(view: SourceView) -> dict[str, Any]:
    """For the page's first line: is the host's database seen? Null before the first look."""
    return {
        "name": "this server",
        "up": None if view.error == UNREAD else view.up,
        "as_of": utc(view.last_success),
        "error": view.error,
        "since": utc(view.down_since),
    }
