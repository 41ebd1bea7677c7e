"""Four nodes over a real server, and what may happen to them, in random order; ``make soak`` goes on for longer.

What the soak has: at least 100 disasters on each server, with 2,000 connections. What the defects show: the test finds
what it is there to find.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.conftest import BOTH
from tests.broker.disasters import Disasters
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.needs("postgres")

SEED = int(os.environ.get("DISASTERS_SEED", "0")) or random.randrange(10**6)
KINDS = ("hang_up", "kill", "drain", "empty", "failover", "partition", "freeze", "stall")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres(max_connections="100").start()
    try:
        yield server
    finally:
        server.close()


async def endure(disasters: Disasters, names: list[str]) -> None:
    """All of them, one after the other; no finding."""
    await disasters.gather()
    for name in names:
        await disasters.round(name)
        report = f"seed {SEED}, {dict(disasters.happened)}: {dict(disasters.findings)}\n" + "\n".join(
            disasters.examples
        )
        assert not disasters.findings, report
    await disasters.durable()
    assert not disasters.findings, disasters.examples


@pytest.mark.parametrize("kind", BOTH)
async def test_whatever_happens_every_promise_is_kept(kind: str, postgres: Postgres, tmp_path: Path) -> None:
    names = list(KINDS)
    random.Random(SEED).shuffle(names)
    async with Disasters(tmp_path, postgres, kind, seed=SEED, people=200, rate=300) as disasters:
        await endure(disasters, names)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", BOTH)
async def test_a_hundred_disasters(kind: str, postgres: Postgres, tmp_path: Path) -> None:
    count = int(os.environ.get("DISASTERS", "104"))
    people = int(os.environ.get("DISASTERS_PEOPLE", "2000"))
    dice = random.Random(SEED)
    names = [name for _ in range(-(-count // len(KINDS))) for name in dice.sample(KINDS, len(KINDS))][:count]
    async with Disasters(tmp_path, postgres, kind, seed=SEED, people=people, rate=400, lease=3.0) as disasters:
        await endure(disasters, names)
        assert disasters.lost_writes, "no failover lost a write: it showed nothing"


# What is broken on purpose in the nodes' program, and the disaster that shows it.
_HEAD = "from exporter.cli import main\n"
DEFECTS = {
    "no order, no check of the numbers": (
        "from exporter.broker.ordering import Ordering\n"
        "Ordering.message = lambda self, held, envelope: self._local.deliver(envelope)\n",
        ("partition", "hang_up", "empty"),
    ),
    "gaps are not healed": (
        "from exporter.node.healing import Healing\nHealing.examine = Healing.heal = lambda *_: None\n",
        ("empty", "partition", "stall"),
    ),
    "told is not compared": (
        "from exporter.broker.announcements import Announcements\nAnnouncements._compared = lambda *_: None\n",
        ("empty", "partition", "stall"),
    ),
    "a batch without an answer is not sent again": (
        "from exporter.broker.presence import Presence\n"
        "connected = Presence.connected\n"
        "def deaf(self, connection):\n"
        "    self._unanswered.clear()\n"
        "    connected(self, connection)\n"
        "Presence.connected = deaf\n"
        "Presence._unknown = lambda *_: None\n",
        ("partition", "stall", "empty"),
    ),
}


@pytest.mark.soak
@pytest.mark.needs("valkey")
@pytest.mark.parametrize("defect", DEFECTS)
async def test_a_planted_defect_shows(defect: str, postgres: Postgres, tmp_path: Path) -> None:
    import sys

    text, names = DEFECTS[defect]
    async with Disasters(tmp_path, postgres, "valkey", seed=SEED, people=200, rate=300) as disasters:
        disasters.program = (sys.executable, "-c", f"{_HEAD}{text}main()\n")
        for number in range(len(disasters.nodes)):
            await disasters.nodes[number].kill()
            disasters.nodes[number] = await disasters.start_node(number)
        await disasters.gather()
        for name in names:
            await disasters.round(name)
            if disasters.findings:
                break
        print(f"{defect}: {sum(disasters.findings.values())} differences after {dict(disasters.happened)}")
        assert disasters.findings
