"""From a fault to the person who is woken, through a real Prometheus and Alertmanager; and every panel's queries."""

from __future__ import annotations

import asyncio
import math
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from exporter.simulate import SimulateOptions, simulate
from tests.grafana.boards import BOARDS, GRAFANA, OBSERVED, panels
from tests.servers.exporter import WS, Exporter, in_process, running
from tests.servers.exporter import until as soon
from tests.servers.prometheus import Prometheus, Sample, hurried, until, watched

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.needs("alertmanager")]

JOB = "messaging"


def address(url: str) -> str:
    return url.removeprefix("http://")


async def scraped(prometheus: Prometheus, targets: int) -> None:
    """Every target has been scraped and nothing fires any more: Prometheus takes 5 s to discover its first target."""

    async def all_up() -> bool:
        found = await prometheus.query("up == 1 and on (instance) messaging_build_info")
        return len(found) == targets and not await prometheus.firing()

    await until(all_up, "all targets are scraped")


# --- from a fault to a notice ---------------------------------------------------------------------------------


async def test_a_database_that_is_moved_away_wakes_somebody_who_is_told_when_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path / "server") as server, watched(tmp_path, address(server.url)) as (prometheus, receiver):
        await scraped(prometheus, 1)
        elsewhere = server.database.with_name("elsewhere.db")
        server.database.rename(elsewhere)

        told = await receiver.alert("MessagingDatabaseDown", "firing")
        instance = address(server.url)
        assert told["labels"] == {
            "alertname": "MessagingDatabaseDown",
            "instance": instance,
            "job": JOB,
            "severity": "critical",
        }
        assert told["annotations"]["summary"] == "A messaging node cannot reach its database."
        assert told["annotations"]["description"].startswith(f"{instance} (job {JOB}) has not read its database")
        assert told["annotations"]["runbook_url"].endswith("/runbooks/MessagingDatabaseDown.md")
        assert await prometheus.query("messaging_stored_messages") == [], "a figure that is not known is absent"
        assert await prometheus.query("messaging_active_connections") != [], "the others are there"

        elsewhere.rename(server.database)
        await receiver.alert("MessagingDatabaseDown", "resolved")


async def test_a_killed_node_wakes_somebody_whatever_its_job_is_called_and_the_others_are_silent(
    tmp_path: Path,
) -> None:
    async with (
        running(tmp_path / "one") as one,
        running(tmp_path / "two") as two,
        watched(tmp_path, address(one.url), address(two.url), job="chat-production") as (prometheus, receiver),
    ):
        await scraped(prometheus, 2)
        killed = datetime.now(UTC)
        await one.kill()
        told = await receiver.alert("MessagingDown", "firing")
        assert told["labels"] == {
            "alertname": "MessagingDown",
            "instance": address(one.url),
            "job": "chat-production",
            "severity": "critical",
        }
        # Before that all is absent until Prometheus has its first target, which may outlast what the rules wait here.
        since = [notice for notice in receiver.told if datetime.fromisoformat(notice["startsAt"]) >= killed]
        assert {notice["labels"].get("instance") for notice in since} == {address(one.url)}
        assert "MessagingAbsent" not in await prometheus.firing()
        runbook = (GRAFANA / "runbooks" / "MessagingDown.md").read_text()
        asked = re.findall(r"```promql\n(.*?)```", runbook, re.DOTALL)
        for query in asked:  # of a node that answers nothing any more
            found = await prometheus.query(query.replace("[1d:1m]", "[1d:1s]"))
            assert address(one.url) in {labels["instance"] for labels, _ in found}, query


async def test_a_leak_is_noticed_by_recount_and_by_contradiction_and_taken_back_when_mended(tmp_path: Path) -> None:
    async with in_process(tmp_path / "server") as server:
        await server.conversation("room", "ann", "bob")
        ann = await server.connect("ann")
        await ann.join("room")
        async with watched(tmp_path, address(server.url)) as (prometheus, receiver):
            await scraped(prometheus, 1)
            # What a forgotten leave would leave behind.
            participants = server.server.node.hub.participants
            participants["room", "ghost"] = set()

            told = await receiver.alert("MessagingGaugeDrift", "firing")
            assert told["labels"]["figure"] == "participants"
            assert "differs from an independent recount by 1." in told["annotations"]["description"]
            told = await receiver.alert("MessagingInvariantBroken", "firing")
            assert told["labels"]["invariant"] == "joins - leaves = participants"

            del participants["room", "ghost"]
            await receiver.alert("MessagingGaugeDrift", "resolved")
            await receiver.alert("MessagingInvariantBroken", "resolved")
        await ann.close()


# --- every panel ----------------------------------------------------------------------------------------------


def queries() -> list[tuple[str, str]]:
    """Board and panel, and the query, of every target of every dashboard."""
    return [
        (f"{board} / {panel['title']} {target['refId']}", target["expr"])
        for board in BOARDS
        if board != OBSERVED  # its tests are those of observe
        for panel in panels(board)
        for target in panel["targets"]
    ]


def chosen(expr: str, job: str, instance: str) -> str:
    """As Grafana sends it: variables interpolated, several values as alternatives."""
    return expr.replace("$__rate_interval", "20s").replace("$job", job).replace("$instance", instance)


async def misbehave(server: Exporter) -> None:
    """One of everything that goes wrong in a day, so that no panel is empty because nothing happened."""
    await server.refused("no token")
    await server.refused(server.token("eve"), headers={"Origin": "https://elsewhere.example"})
    await server.refused(server.token("eve"), subprotocols=("something.else",))
    eve = await server.connect("eve")
    await eve.raw("this is no JSON")
    await eve.frame("error", code="bad_frame")
    await eve.ask("send", "error", conversation="nowhere", body="hello", id="1")
    await eve.ask("join", "error", conversation="nowhere")
    with suppress(ConnectionClosed):
        for number in range(200):
            await eve.send("ping", id=str(number))
    await eve.closed()
    large = await server.connect("eve")
    with suppress(ConnectionClosed):
        await large.raw("x" * 100_000)
    await large.closed()
    lost = await server.connect("eve")
    await lost.reset()


@asynccontextmanager
async def busy(folder: Path) -> AsyncIterator[Exporter]:
    """A verified server with simulated people and everything going wrong, until the end of the block."""
    async with running(folder) as server:
        options = SimulateOptions(
            urls=(server.url.replace("http", "ws", 1) + WS,),
            users=30,
            conversations=10,
            rate=50,
            duration=None,
            day=30,
            verify=False,
            token_for=server.token,
        )
        stop = asyncio.Event()
        people = asyncio.create_task(simulate(options, stop=stop))

        async def make_trouble() -> None:
            while not stop.is_set():
                await misbehave(server)
                await asyncio.sleep(1)

        troubling = asyncio.create_task(make_trouble())
        try:
            await soon(lambda: _talking(server), "people talk")
            status = await verified(server)
            assert status == 0
            yield server
        finally:
            stop.set()
            outcome: list[Any] = await asyncio.gather(people, troubling, return_exceptions=True)
        for problem in outcome:
            if isinstance(problem, BaseException):
                raise problem


async def _talking(server: Exporter) -> bool:
    figures = await server.scrape()
    return figures["messaging_deliveries_total"] > 0 and figures["messaging_read_receipts_total"] > 0


async def verified(server: Exporter) -> int:
    """``messaging-exporter verify`` on the server's database, as a person would run it; the exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "exporter", "verify", "--data.dir", str(server.data),
        cwd=server.folder, env={**os.environ, "PYTHONPATH": str(GRAFANA.parent)}, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return await process.wait()


EMPTY = {
    "messaging-health / Broker lag A": "between nodes only",
    "messaging-health / Broker lag B": "between nodes only",
    "messaging-overview / Conversations B": "the one node knows all nodes",
    "messaging-overview / Nodes up B": "the one node knows all nodes",
    "messaging-overview / What fires A": "nothing fires",
    "messaging-overview / People online B": "the one node knows all nodes",
    "messaging-overview / People and connections B": "the one node knows all nodes",
    "messaging-overview / People and connections D": "Prometheus was not there a week ago",
    "messaging-overview / People and connections E": "Prometheus was not there a week ago",
    "messaging-overview / Typing B": "the one node knows all nodes",
}
"""Queries without an answer at a single node that is well, and why."""


async def test_every_query_of_every_panel_gives_finite_figures_for_every_choice(tmp_path: Path) -> None:
    async with busy(tmp_path / "server") as server:
        instance = address(server.url)
        prometheus = Prometheus(
            tmp_path / "prometheus", {JOB: [instance]}, rules=hurried(tmp_path / "rules"), itself=True
        )
        await prometheus.start()
        try:
            # All, one, and several with their special characters escaped within the string, as Grafana does.
            escaped = re.escape(instance).replace("\\", "\\\\")
            choices = [(".+", ".+"), (JOB, instance), (f"({JOB}|other)", f"({escaped}|other)")]
            todo = {
                (where, chosen(expr, job, node))
                for where, expr in queries()
                for job, node in choices
                if where not in EMPTY
            }
            empty: list[str] = []

            async def all_answered() -> bool:
                empty.clear()
                for where, expr in sorted(todo):
                    why = unfit(await prometheus.query(expr), foreign=prometheus.address)
                    if why:
                        empty.append(f"{where}: {why}: {expr}")
                    else:
                        todo.discard((where, expr))
                return not empty

            with suppress(AssertionError):
                await until(all_answered, "every query is answered", within=60)
            assert not todo, "panels without figures:\n" + "\n".join(empty)
            for where, expr in queries():
                if where not in EMPTY:
                    course = await prometheus.query_range(chosen(expr, ".+", ".+"), 5, 1)
                    assert not unfit(course), f"{where}: {unfit(course)}: {expr}"
            for _, expr in queries():
                await prometheus.query(chosen(expr, "nobody", "nowhere"))  # answered, not refused
        finally:
            await prometheus.stop()


def unfit(answer: list[Sample], foreign: str = "") -> str:
    """Why a panel could not show this; empty when it can. ``foreign`` is a target that is no messaging node."""
    if not answer:
        return "no data"
    strangers = [
        labels for labels, _ in answer if labels.get("job") == "prometheus" or labels.get("instance") == foreign
    ]
    if strangers:
        return f"shows what is not ours: {strangers}"
    bad = [(labels, values) for labels, values in answer if not all(map(math.isfinite, values))]
    return f"not finite: {bad}" if bad else ""
