"""Since when something is wrong: from the look that finds it, or from the record, until the look that does not."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason, RejectedReason
from exporter.core.records import BrokerView, DatabaseView, HubStats, PoolStats, Saturation, Snapshot, Totals
from exporter.metrics.counters import Metrics
from exporter.metrics.quality import quality
from exporter.node.conditions import QUIET, Conditions

TOTALS = Totals(1, 1, 1, 1, {1: 1, 7: 1, 30: 1}, 0.0, 0, 0, 0)
WELL = DatabaseView(True, TOTALS, None, 99.0, 0.0, PoolStats(0, 0), writable=True)


class World:
    def __init__(self) -> None:
        self.conditions, self.metrics = Conditions(), Metrics()

    def look(
        self, at: float, database: DatabaseView = WELL, *, broker_up: bool = True, broker: BrokerView | None = None
    ) -> dict[str, float]:
        """What is wrong after a look at this moment, and since when."""
        saturation = Saturation(send_buffer_max=0, slow_consumers=0, connection_limit=1, typing_oldest_age=0.0)
        snapshot = Snapshot(at, HubStats(), None, True, broker_up, database, saturation, {}, 0.0, broker)
        self.conditions.look(snapshot, quality(self.metrics))
        return {name: since for name, since in self.conditions.since.items() if since is not None}


def wrong(**totals: Any) -> DatabaseView:
    return replace(WELL, totals=replace(TOTALS, **totals))


def test_while_all_is_well_nothing_has_begun() -> None:
    assert World().look(100.0) == {}


def test_what_is_wrong_began_with_the_first_look_that_saw_it_and_ends_with_the_one_that_does_not() -> None:
    for database, name in (
        (replace(WELL, writable=False), "database_read_only"),
        (wrong(inaccurate_days=1), "totals_wrong"),
        (wrong(missing_triggers=2), "totals_wrong"),
    ):
        world = World()
        assert world.look(100.0) == {}
        assert world.look(110.0, database) == {name: 110.0}
        assert world.look(120.0, database) == {name: 110.0}
        assert world.look(130.0) == {}
        assert world.look(140.0, database) == {name: 140.0}


def test_a_database_is_down_since_it_was_last_seen_and_what_is_not_known_meanwhile_goes_on() -> None:
    world = World()
    down = replace(WELL, up=False, totals=None, writable=False)
    assert world.look(110.0, wrong(inaccurate_conversations=3)) == {"totals_wrong": 110.0}
    assert world.look(120.0, down) == {"database_down": 99.0, "totals_wrong": 110.0}
    assert world.look(130.0, wrong(inaccurate_conversations=3)) == {"totals_wrong": 110.0}
    assert World().look(120.0, replace(down, last_success=None)) == {"database_down": 120.0}


def test_the_other_nodes_are_lost_since_they_were_last_seen() -> None:
    lost = BrokerView("it cannot be reached", 90.0)
    assert World().look(100.0, broker_up=False, broker=lost) == {"cluster_down": 90.0}
    assert World().look(80.0, broker_up=False, broker=lost) == {"cluster_down": 80.0}, "not by another clock's future"


def test_what_a_counter_tells_of_is_over_after_a_minute_without_more() -> None:
    world = World()
    refused = world.metrics.connections_rejected[RejectedReason.CAPACITY]
    assert world.look(100.0) == {}
    refused.value += 1
    assert world.look(110.0) == {"at_capacity": 110.0}
    refused.value += 5
    assert world.look(150.0) == {"at_capacity": 110.0}
    assert world.look(150.0 + QUIET - 1) == {"at_capacity": 110.0}
    assert world.look(150.0 + QUIET) == {}
    refused.value += 1
    assert world.look(300.0) == {"at_capacity": 300.0}


def test_a_connection_that_ended_with_a_defect_and_a_send_that_failed_are_told_and_a_clients_own_end_is_not() -> None:
    world = World()
    world.metrics.connections_closed[ClosedReason.CLIENT].value += 1
    world.metrics.commands_rejected["send", ErrorCode.TOO_LARGE].value += 1
    assert world.look(100.0) == {}
    world.metrics.connections_closed[ClosedReason.INTERNAL_ERROR].value += 1
    assert world.look(110.0) == {"internal_errors": 110.0}
    world.metrics.commands_rejected["send", ErrorCode.UNAVAILABLE].value += 1
    assert world.look(120.0) == {"internal_errors": 110.0, "sends_failing": 120.0}


def test_a_clock_that_was_set_back_makes_nothing_last() -> None:
    world = World()
    world.metrics.connections_rejected[RejectedReason.CAPACITY].value += 1
    assert world.look(10_000.0) == {"at_capacity": 10_000.0}
    assert world.look(6_400.0) == {}
