"""Totals that are wrong are shown as such: in the metrics, the JSON and the log, until they have been recounted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.exporter import Exporter, running

FOUND = ("messaging_inaccurate_conversations", "messaging_inaccurate_days", "messaging_missing_triggers")


def spoil(exporter: Exporter, *statements: str) -> None:
    """Another program, while the server is away."""
    with closing(sqlite3.connect(exporter.database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def begun(folder: Path) -> None:
    async with running(folder) as exporter:
        await exporter.conversation("room", "ann")
        ann = await exporter.connect("ann")
        await ann.join("room")
        await ann.say("room", "hello", "m1")
        await ann.close()
        assert await exporter.stop() == 0


async def test_what_a_start_finds_is_published_logged_and_gone_after_a_repair(tmp_path: Path) -> None:
    await begun(tmp_path)
    exporter = Exporter(tmp_path, "--no-database.migrate")
    spoil(exporter, "UPDATE daily_totals SET messages = messages + 1000000", "DROP TRIGGER messages_deleted")
    try:
        await exporter.start()
        figures = await exporter.scraped(lambda now: now.get("messaging_inaccurate_days") == 1, "a wrong day")
        assert figures["messaging_stored_messages"] == 1_000_001, "found wrong, and shown"
        figures = await exporter.scraped(
            lambda now: now.get("messaging_verified_timestamp_seconds", 0) > 0, "recounted"
        )
        assert [figures[name] for name in FOUND] == [0, 1, 1]
        assert (await exporter.stats())["inaccurate"] == {"conversations": 0, "days": 1, "triggers": 1}
        warnings = [line["event"] for line in exporter.lines() if line.get("level") == "warning"]
        assert any("verify --repair" in event for event in warnings), warnings
        assert await exporter.command("verify", "--repair") == 0
        figures = await exporter.scrape()
        assert [figures[name] for name in FOUND] == [0, 0, 0]
        assert figures["messaging_stored_messages"] == 1
    finally:
        await exporter.kill()


@pytest.mark.parametrize("figure", ["messages", "conversations", "users"])
async def test_a_total_below_0_is_not_known_and_the_reason_is_said(tmp_path: Path, figure: str) -> None:
    name = {"messages": "stored_messages", "conversations": "stored_conversations", "users": "registered_users"}[figure]
    key = {"messages": "total_messages", "conversations": "total_conversations", "users": "registered_users"}[figure]
    await begun(tmp_path)
    async with running(tmp_path) as exporter:
        spoil(exporter, f"UPDATE daily_totals SET {figure} = -1000")
        figures = await exporter.scrape()
        assert f"messaging_{name}" not in figures
        assert figures["messaging_database_up"] == 1
        stats = await exporter.stats()
        assert stats[key] is None
        assert "verify --repair" in stats["database"]["error"]
        assert stats["database"]["up"]


async def test_what_another_process_finds_is_logged_by_the_server_that_runs(tmp_path: Path) -> None:
    await begun(tmp_path)
    async with running(tmp_path, "--verify.interval=0") as exporter:
        await exporter.scrape()
        spoil(exporter, "UPDATE conversations SET total_messages = 7")
        assert await exporter.command("verify") == 1
        await exporter.scrape()
        warnings = [line for line in exporter.lines() if "verify --repair" in line.get("event", "")]
        assert (warnings[-1]["conversations"], warnings[-1]["days"]) == (1, 0)
        assert await exporter.command("verify", "--repair") == 0
        await exporter.scrape()
        assert exporter.lines()[-1]["event"] == "figures agree with a recount again"


async def test_lists_say_why_something_in_them_is_not_known(tmp_path: Path) -> None:
    await begun(tmp_path)
    async with running(tmp_path, "--verify.interval=0") as exporter:
        headers = {"Authorization": f"Bearer {exporter.token('root', role='admin')}"}
        top, days = "/v1/messaging/conversations/top", "/v1/messaging/stats/days?days=2"
        _, body, _ = await exporter.request("GET", days, headers=headers)
        assert body["error"] is None
        mine = {"Authorization": f"Bearer {exporter.token('ann')}"}
        _, body, _ = await exporter.request("GET", "/v1/messaging/conversations", headers=mine)
        assert "error" not in body["conversations"][0]
        spoil(
            exporter,
            "UPDATE conversations SET total_messages = -3",
            "INSERT INTO daily_totals (day, shard, messages)"
            " VALUES (date('now', '-1 day'), 0, -2), (date('now'), 7, 9)",
        )
        _, body, _ = await exporter.request("GET", top, headers=headers)
        assert body["largest"] == [{"id": "room", "total_messages": None, "members": 1}]
        assert "verify --repair" in body["error"]
        _, body, _ = await exporter.request("GET", "/v1/messaging/conversations", headers=mine)
        (listed,) = body["conversations"]
        assert listed["total_messages"] is None
        assert "verify --repair" in listed["error"]
        _, body, _ = await exporter.request("GET", days, headers=headers)
        assert [day["messages"] for day in body["days"]] == [None, 10]
        assert "verify --repair" in body["error"]
        spoil(exporter, "UPDATE conversations SET total_messages = 8")  # the sums agree, and a day is below 0
        assert await exporter.stop() == 0
    async with running(tmp_path, "--verify.interval=0") as exporter:
        figures = await exporter.scraped(lambda now: now.get("messaging_inaccurate_days") == 1, "a wrong day")
        assert figures["messaging_stored_messages"] == 8
