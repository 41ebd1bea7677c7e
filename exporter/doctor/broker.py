"""The broker between nodes: reachable, fit, allowed, and what time is it there?

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

import time

from exporter.core.errors import Misconfigured
from exporter.doctor.findings import Finding, Outcome
from exporter.doctor.machine import clock
from exporter.doctor.reaching import unreached
from exporter.settings.model import Settings
from exporter.settings.options import require_broker

WAIT = 3.0
"""Seconds for the connection and its checks."""


async def examine(settings: Settings) -> list[Finding]:
    """Connects as a node does, takes part in nothing, and goes."""
    try:
        return await _examine(settings)
    except Misconfigured as error:
        return [Finding("broker", Outcome.FAILED, str(error))]


async def _examine(settings: Settings) -> list[Finding]:
    if not settings.redis_url:
        require_broker(settings)
        own = "none: the workers get a Valkey of their own" if settings.workers > 1 else "none: this node is alone"
        return [Finding("broker", Outcome.NONE, own)]
    from exporter.broker.functions import Functions  # needs the extra redis
    from exporter.broker.location import locate
    from exporter.broker.reconnecting import ReconnectingConnection

    location = locate(settings.redis_url, settings.redis_password_file)
    reconnecting = ReconnectingConnection(
        location,
        Functions(settings.cluster_name),
        settings.cluster_lease,
        on_open=lambda connection: None,
        on_closed=lambda: None,
        on_push=lambda push: None,
        beat=lambda connection: None,
        now=time.monotonic,
        name="messaging-exporter-doctor",
    )
    try:
        await reconnecting.start(WAIT)
        if reconnecting.connection is None:
            return [await _unreached(location.hosts, reconnecting.error or "it cannot be reached")]
        begun = time.time()
        seconds, micros = await reconnecting.connection.call("TIME")
        now = time.time()
        text = f"answers in {1000 * (now - begun):.1f} ms, evicts nothing, gives every right that is needed"
        ahead = int(seconds) + int(micros) / 1e6 - (begun + now) / 2
        return [Finding("broker", Outcome.OK, text), clock("the broker", ahead)]
    finally:
        await reconnecting.close()


async def _unreached(hosts: tuple[tuple[str, int], ...], text: str) -> Finding:
    if where := await unreached(hosts):
        advice = "check host and port of --redis.url, and that server's bind and protected-mode"
        return Finding("broker", Outcome.FAILED, f"it cannot be reached: {where}", advice)
    named = ", ".join(f"{host}:{port}" for host, port in hosts)
    advice = "its port is open: is it Redis or Valkey, and does it speak TLS where the URL says so (rediss, valkeys)?"
    return Finding("broker", Outcome.FAILED, f"{named}: {text}" if named else text, advice if named else "")
