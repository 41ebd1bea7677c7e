"""``GET /v1/messaging/stats``: the figures of ``/metrics`` as JSON, for admins. Knows records and names, no state.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from exporter import __version__
from exporter.auth.tokens import Authenticator
from exporter.core.records import WINDOWS, ClusterStats, Snapshot
from exporter.metrics.counters import Metrics
from exporter.metrics.negotiation import SHARE
from exporter.metrics.quality import Quality, quality
from exporter.node.history import Sample
from exporter.node.snapshot import SnapshotBuilder
from exporter.web.access import require_admin


def _of_node(snapshot: Snapshot) -> dict[str, int | None]:
    live = snapshot.live
    return {
        "active_connections": live.active_connections,
        "connected_users": live.connected_users,
        "active_conversations": live.active_conversations,
        "total_participants": live.participants,
        "typing_users": live.typing_users,
    }


def _of_cluster(cluster: ClusterStats | None) -> dict[str, int | None]:
    return {
        "active_connections": cluster.connections if cluster else None,
        "connected_users": cluster.users if cluster else None,
        "active_conversations": cluster.conversations if cluster else None,
        "total_participants": cluster.participants if cluster else None,
        "typing_users": cluster.typing_users if cluster else None,
    }


def payload(snapshot: Snapshot) -> dict[str, Any]:
    """The document of the contract; what is not known is null, with the reason in an ``error``."""
    cluster, totals, broker = snapshot.cluster, snapshot.database.totals, snapshot.broker
    document: dict[str, Any] = {
        **(_of_node(snapshot) if snapshot.alone else _of_cluster(cluster)),
        "total_messages": totals.stored_messages if totals else None,
        "total_conversations": totals.stored_conversations if totals else None,
        "messages_today": totals.messages_today if totals else None,
        "registered_users": totals.registered_users if totals else None,
        "active_users": {f"{days}d": totals.active_users[days] if totals else None for days in WINDOWS},
        "scope": "node" if snapshot.alone else "cluster",
        "nodes": cluster.nodes if cluster else None,
        "as_of": _utc(snapshot.as_of),
        "database": {
            "up": snapshot.database.up,
            "as_of": _utc(snapshot.database.last_success),
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
            "as_of": _utc(broker.last_seen),
            "settling": cluster.settling if cluster else None,
            "error": broker.error,
        }
        document["node"] = _of_node(snapshot)
    return document


def node_payload(quality: Quality, started_at: float) -> dict[str, Any]:
    """What this node alone knows of itself, since its start (Unix seconds)."""
    return {
        "version": __version__,
        "started_at": _utc(started_at),
        "refused": {"connections": quality.refused_connections, "commands": quality.refused_commands},
        "sends_failed": quality.sends_failed,
        "delivered_in_time": quality.share_in_time,
    }


def sample(snapshot: Snapshot, metrics: Metrics) -> Sample:
    """One point of the page's last hour."""
    document, seen = payload(snapshot), quality(metrics)
    shown = (
        "active_connections",
        "connected_users",
        "active_conversations",
        "total_participants",
        "typing_users",
        "total_messages",
        "total_conversations",
        "messages_today",
        "registered_users",
    )
    return Sample(
        **{name: document[name] for name in shown},
        messages_accepted=metrics.messages_accepted.value,
        deliveries=metrics.deliveries.value,
        joins=metrics.joins.value,
        connections_opened=metrics.connections_opened.value,
        sends_failed=seen.sends_failed,
        delivered=seen.delivered,
        delivered_in_time=seen.delivered_in_time,
        connections_closed={str(reason): cell.value for reason, cell in metrics.connections_closed.cells.items()},
        connections_refused=seen.refused_connections,
        commands_refused=seen.refused_commands,
    )


class Stats:
    """The handler. ``timeout`` in seconds is the database's."""

    def __init__(
        self, snapshots: SnapshotBuilder, metrics: Metrics, authenticator: Authenticator, *, timeout: float
    ) -> None:
        self._snapshots = snapshots
        self._metrics = metrics
        self._started_at = time.time()
        self._authenticator = authenticator
        self._timeout = timeout

    async def handle(self, request: web.Request) -> web.Response:
        """200 for admins, 401 without a token, 403 for another role."""
        require_admin(request, self._authenticator)
        snapshot = await self._snapshots.snapshot(self._timeout * SHARE, saturation=False)
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        document = payload(snapshot) | node_payload(quality(self._metrics), self._started_at)
        return web.Response(body=msgspec.json.encode(document), headers=headers)


def _utc(moment: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC, to the second."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
