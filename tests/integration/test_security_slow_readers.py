"""Who does not read costs only themselves. The 60 s experiment with 1,000 receivers is tests/bench/slow_readers.py."""

from __future__ import annotations

from pathlib import Path

from tests.bench.slow_readers import experiment
from tests.servers.exporter import running

HEALTHY, SLOW, LIMIT = 80, 20, 1_048_576


async def test_slow_readers_are_cut_off_and_the_others_get_everything(tmp_path: Path) -> None:
    flags = ("--limits.connections", "1000", "--limits.send-buffer-bytes", str(LIMIT))
    async with running(tmp_path, *flags) as exporter:
        outcome = await experiment(
            exporter, healthy=HEALTHY, slow=SLOW, rate=40, size=60_000, seconds=60, until_cut=True
        )
        assert outcome.complete
        assert outcome.cut == SLOW
        assert outcome.slow_seen > 0
        assert outcome.growth < SLOW * LIMIT + 16 * 2**20, "more than their send buffers and what one message takes"
        # They read on at the end: most see why they were cut off, some have been given up by then.
        assert set(outcome.codes) <= {4008, 0}
        assert 4008 in outcome.codes
        figures = await exporter.deserted()
        assert figures['messaging_connections_closed_total{reason="slow_consumer"}'] == SLOW
        assert figures["messaging_slow_consumers"] == 0
        for name, value in figures.items():
            assert not name.startswith("messaging_live_drift") or value == 0
