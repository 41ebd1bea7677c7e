"""``GET /v1/messaging/stats``: the figures of ``/metrics`` as JSON, for admins. Knows records and names, no state.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from exporter import __version__
from exporter.auth.tokens import Authenticator
from exporter.core.records import Snapshot
from exporter.metrics.counters import Metrics
from exporter.metrics.negotiation import SHARE
from exporter.metrics.quality import Quality, quality
from exporter.node.conditions import Conditions
from exporter.node.document import live_figures, totals_figures, utc
from exporter.node.history import FIGURES, Sample
from exporter.node.snapshot import SnapshotBuilder
from exporter.web.access import require_admin
from exporter.web.routes.answers import answer


def payload(snapshot: Snapshot) -> dict[str, Any]:
    """The document of the contract; what is not known is null, with the reason in an ``error``."""
    cluster, totals, broker = snapshot.cluster, snapshot.database.totals, snapshot.broker
    document: dict[str, Any] = {
        **live_figures(snapshot.live if snapshot.alone else cluster),
        **totals_figures(totals),
        "scope": "node" if snapshot.alone else "cluster",
        "nodes": cluster.nodes if cluster else None,
        "as_of": utc(snapshot.as_of),
        "database": {
            "up": snapshot.database.up,
            "as_of": utc(snapshot.database.last_success),
            "error": snapshot.database.error,
            "writable": snapshot.database.writable,
        },
        "inaccurate": {
            "conversations": totals.inaccurate_conversations if totals else None,
            "days": totals.inaccurate_days if totals else None,
            "triggers": totals.missing_triggers if totals else None,
        },
    }
    if broker is not None:
        document["cluster"] = {
            "up": snapshot.broker_up,
            "as_of": utc(broker.last_seen),
            "settling": cluster.settling if cluster else None,
            "error": broker.error,
        }
        document["node"] = live_figures(snapshot.live)
    return document


def node_payload(quality: Quality, started_at: float) -> dict[str, Any]:
    """What this node alone knows of itself, since its start (Unix seconds)."""
    return {
        "version": __version__,
        "started_at": utc(started_at),
        "refused": {"connections": quality.refused_connections, "commands": quality.refused_commands},
        "sends_failed": quality.sends_failed,
        "delivered_in_time": quality.share_in_time,
    }


def sample(snapshot: Snapshot, metrics: Metrics) -> Sample:
    """One point of the page's last hour."""
    document, seen = payload(snapshot), quality(metrics)
    return Sample(
        **{name: document[name] for name in FIGURES},
        messages_accepted=metrics.messages_accepted.value,
        deliveries=metrics.deliveries.value,
        joins=metrics.joins.value,
        connections_opened=metrics.connections_opened.value,
        sends_failed=seen.sends_failed,
        delivered=seen.delivered,
        delivered_in_time=seen.delivered_in_time,
        connections_closed=seen.closed_connections,
        connections_refused=seen.refused_connections,
        commands_refused=seen.refused_commands,
    )


class Stats:
    """The handler. ``timeout`` in seconds is the database's."""

    def __init__(
        self,
        snapshots: SnapshotBuilder,
        metrics: Metrics,
        authenticator: Authenticator,
        conditions: Conditions,
        *,
        timeout: float,
    ) -> None:
        self._conditions = conditions
        self._snapshots = snapshots
        self._metrics = metrics
        self._started_at = time.time()
        self._authenticator = authenticator
        self._timeout = timeout

    async def handle(self, request: web.Request) -> web.Response:
        """200 for admins, 401 without a token, 403 for another role."""
        require_admin(request, self._authenticator)
        snapshot = await self._snapshots.snapshot(self._timeout * SHARE, saturation=False)
        seen = quality(self._metrics)
        self._conditions.look(snapshot, seen)
        since = {name: utc(at) for name, at in self._conditions.since.items()}
        return answer(payload(snapshot) | node_payload(seen, self._started_at) | {"since": since})
