"""What the tiles say, asked of a real Prometheus exactly as Grafana asks, while a database and nodes go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import Live
from exporter.simulate import SimulateOptions, simulate
from tests.embed.hosts import on_uvicorn
from tests.grafana.boards import BOARDS, OBSERVED, panels, targets
from tests.servers.exporter import WS, Exporter, running
from tests.servers.ports import free_port
from tests.servers.prometheus import Prometheus, hurried, until

pytestmark = pytest.mark.needs("prometheus")

RANGE, STEP = 600.0, 1.0
"""What a tile that asked for its range would be given, in seconds; the test is younger than any dashboard's range."""
OF_PROMETHEUS = {"Nodes up", "Down", "Alerts"}
"""Tiles about what Prometheus itself knows, also when nobody answers it."""
DISTINCT = {
    "People online": "messaging_connected_users",
    "Conversations": "messaging_active_conversations",
    "Typing": "messaging_typing_users",
}
"""Tiles of what is distinct over all nodes, and what one node alone says of it."""
SEEN = {"Nodes", "Sent today", "Connections"}
"""Panels that must have an answer for a proof with answers to mean something."""
CALCULATIONS = {"lastNotNull": lambda values: values[-1], "max": max, "mean": lambda values: sum(values) / len(values)}

Shown = dict[str, float] | str
"""A tile's numbers by what they are called, or its word for not having any."""


def tiles() -> dict[str, dict[str, Any]]:
    """Every number of every dashboard of the server, by board and title."""
    return {
        f"{board.removeprefix('messaging-')}: {panel['title']}": panel
        for board in BOARDS
        for panel in panels(board)
        if panel["type"] in ("stat", "bargauge") and board != OBSERVED
    }


def called(legend: str, labels: Mapping[str, str]) -> str:
    for name in ("cluster", "namespace", "job", "instance", "nodes", "window", "figure", "source"):
        legend = legend.replace(f"{{{{{name}}}}}", labels.get(name, ""))
    return " ".join(legend.split())


async def shown(prometheus: Prometheus, panel: Mapping[str, Any], *, as_range: bool = False, job: str = ".+") -> Shown:
    """What Grafana shows: each query as it asks it, each series reduced by the panel's own calculation."""
    (calculation,) = panel["options"]["reduceOptions"]["calcs"]
    numbers: dict[str, float] = {}
    for target in panel["targets"]:
        expr = plain(target["expr"], job)
        if target.get("instant") and not as_range:
            found = await prometheus.query(expr)
        else:
            found = await prometheus.query_range(expr, RANGE, STEP)
        for labels, values in found:
            name = called(target["legendFormat"], labels)
            assert name not in numbers, f"two series are called {name}: {expr}"
            numbers[name] = CALCULATIONS[calculation](values)
    word: str = panel["fieldConfig"]["defaults"]["noValue"]
    return numbers or word


def plain(expr: str, job: str = ".+") -> str:
    """As Grafana sends it, with everything chosen."""
    return expr.replace("$__rate_interval", "60s").replace("$job", job).replace("$instance", ".+")


def words(panel: Mapping[str, Any]) -> str:
    """What it says when nothing is known."""
    found: str = panel["fieldConfig"]["defaults"]["noValue"]
    return found


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[tuple[Exporter, Exporter]]:
    """Two nodes on one database that do not know each other, with people on both."""
    nodes = (Exporter(folder / "nodes"), Exporter(folder / "nodes"))
    people: asyncio.Task[Any] | None = None
    try:
        for node in nodes:
            await node.start()
        options = SimulateOptions(
            urls=tuple(node.url.replace("http", "ws", 1) + WS for node in nodes),
            users=20, conversations=5, rate=30, duration=None, day=30, verify=False, token_for=nodes[0].token,
        )  # fmt: skip
        people = asyncio.create_task(simulate(options))
        assert await nodes[0].command("verify") == 0
        yield nodes
    finally:
        if people is not None:
            people.cancel()
            await asyncio.gather(people, return_exceptions=True)
        for node in nodes:
            if node.process is not None:
                await node.kill()


async def table_of_nodes(prometheus: Prometheus) -> dict[str, str]:
    """By instance, what its row says: Grafana makes one of the answers whose labels are equal."""
    panel = next(panel for panel in panels("messaging-overview") if panel["title"] == "Nodes")
    rows: dict[str, str] = {}
    seen: set[tuple[tuple[str, str], ...]] = set()
    for target in panel["targets"]:
        for labels, values in await prometheus.query(plain(target["expr"])):
            seen.add(tuple(sorted((name, label) for name, label in labels.items() if name != "__name__")))
            if target is panel["targets"][0]:
                rows[labels["instance"]] = "down" if values == [-1.0] else "up" if values[0] > 0 else f"{values[0]}"
    assert len(seen) == len(rows), "one row for each"
    (override,) = (one for one in panel["fieldConfig"]["overrides"] if one["matcher"]["options"] == "Uptime")
    (mappings,) = (change["value"] for change in override["properties"] if change["id"] == "mappings")
    assert mappings[0]["options"]["-1"] == {"text": "down", "color": "red", "index": 0}
    return rows


async def test_one_scrape_after_a_database_or_a_node_has_gone_no_tile_states_what_was(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        addresses = [node.url.removeprefix("http://") for node in (one, two)]
        prometheus = Prometheus(tmp_path / "prometheus", {"messaging": addresses}, rules=hurried(tmp_path / "rules"))
        await prometheus.start()
        try:
            unknown: set[str] = set()

            async def all_known() -> bool:
                unknown.clear()
                for name, panel in tiles().items():
                    if await shown(prometheus, panel) == words(panel):
                        unknown.add(name)
                return not unknown

            try:
                await until(all_known, "every tile has a number", within=60)
            except AssertionError:
                raise AssertionError(f"no number, and nothing is wrong: {unknown}") from None
            await alive(prometheus)
            await the_database_goes(prometheus, one)
            await nodes_go(prometheus, one, two)
        finally:
            await prometheus.stop()


async def alive(prometheus: Prometheus) -> None:
    nodes = await shown(prometheus, tiles()["overview: Nodes up"])
    assert nodes == {"2 / 2 messaging": 0, "messaging: separate": 0.5}, (
        "the number is the dead ones, by which it has its colour"
    )
    assert await shown(prometheus, tiles()["overview: Down"]) == {"none": 0}
    assert list((await table_of_nodes(prometheus)).values()) == ["up", "up"]
    # A tile of names would be empty without a series: it is told what it is then.
    for title, word, number in (("Nodes up", "no nodes", 1), ("Down", "not known", -1)):
        assert await shown(prometheus, tiles()[f"overview: {title}"], job="nobody") == {word: number}
    for title, metric in DISTINCT.items():
        tile = tiles()[f"overview: {title}"]
        known, summed = tile["targets"]
        assert await prometheus.query(plain(known["expr"])) == [], "the nodes do not know each other"
        ((_, difference),) = await prometheus.query(f"({plain(summed['expr'])}) - on () sum({metric})")
        assert difference == [0]
        (override,) = tile["fieldConfig"]["overrides"]
        assert override["matcher"] == {"id": "byFrameRefID", "options": summed["refId"]}
        assert override["properties"] == [{"id": "unit", "value": "prefix:at most "}]
    assert await prometheus.query("job:messaging_cluster_users:max") == [], "nor will it be known a week later"
    (course,) = (panel for panel in panels("messaging-health") if panel["title"] == "Distinct over all nodes")
    told = {target["legendFormat"]: await prometheus.query(plain(target["expr"])) for target in course["targets"]}
    assert [legend.rpartition(": ")[2] for legend, found in told.items() if found] == ["not final"]


async def the_database_goes(prometheus: Prometheus, node: Exporter) -> None:
    database = tiles()["overview: Database"]
    elsewhere = node.database.with_name("elsewhere.db")
    node.database.rename(elsewhere)

    async def seen() -> bool:
        found = await prometheus.query("messaging_database_up")
        return [values for _, values in found] == [[0.0], [0.0]]

    await until(seen, "both nodes have been scraped without a database")
    of_database = {
        name: panel
        for name, panel in tiles().items()
        if any("messaging_database_last_success_timestamp_seconds" in target["expr"] for target in panel["targets"])
    }
    assert len(of_database) >= 8
    for name, panel in of_database.items():
        assert await shown(prometheus, panel) == words(panel), name
        reaching_back = await shown(prometheus, panel, as_range=True)
        assert reaching_back != words(panel), "a range with its last value shows what was: the trap itself"
    state = await shown(prometheus, database)
    assert state == {"messaging": 0.0}
    assert database["fieldConfig"]["defaults"]["mappings"][0]["options"]["0"]["text"] == "DOWN"
    elsewhere.rename(node.database)

    async def known_again() -> bool:
        return await shown(prometheus, tiles()["overview: Sent today"]) != "not known"

    await until(known_again, "the totals are known again")


async def nodes_go(prometheus: Prometheus, one: Exporter, two: Exporter) -> None:
    addresses = [node.url.removeprefix("http://") for node in (one, two)]
    nodes = tiles()["overview: Nodes up"]
    red = nodes["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]
    assert (red["value"], red["color"]) == (1, "red")

    async def down(number: int) -> None:
        async def seen() -> bool:
            return len(await prometheus.query("up == 0")) == number

        await until(seen, f"{number} of the nodes did not answer a scrape")

    await two.kill()
    await down(1)
    assert await shown(prometheus, nodes) == {"1 / 2 messaging": 1}
    assert await shown(prometheus, tiles()["overview: Down"]) == {addresses[1]: 1}
    assert await table_of_nodes(prometheus) == {addresses[0]: "up", addresses[1]: "down"}
    people = await shown(prometheus, tiles()["overview: People online"])
    assert isinstance(people, dict)
    assert list(people) == ["messaging"], "the one that is left knows all there are"

    await one.kill()
    await down(2)
    for name, panel in tiles().items():
        if panel["title"] not in OF_PROMETHEUS:
            assert await shown(prometheus, panel) == words(panel), name
    assert await shown(prometheus, nodes) == {"0 / 2 messaging": 2}
    assert await shown(prometheus, tiles()["overview: Down"]) == dict.fromkeys(addresses, 1)
    assert await table_of_nodes(prometheus) == dict.fromkeys(addresses, "down")

    async def fires() -> bool:
        alerts = await shown(prometheus, tiles()["overview: Alerts"])
        return isinstance(alerts, dict) and sum(alerts.values()) >= 2

    await until(fires, "both nodes' alerts are counted, also when nobody answers")


async def test_two_installations_with_equal_jobs_and_instances_stay_apart_everywhere(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        prometheus = Prometheus(tmp_path / "prometheus", {"messaging": []}, rules=hurried(tmp_path / "rules"))
        config = yaml.safe_load(prometheus.config.read_text())
        config["scrape_configs"][0]["static_configs"] = [
            {
                "targets": [node.url.removeprefix("http://")],
                "labels": {"cluster": cluster, "instance": "messaging-0:8765"},
            }
            for node, cluster in zip(nodes, ("eu", "us"), strict=True)
        ]
        prometheus.config.write_text(yaml.safe_dump(config))
        await prometheus.start()
        try:
            missing: set[str] = set()

            async def both_everywhere() -> bool:
                missing.clear()
                for target in targets():
                    found = await prometheus.query(plain(target.expr))
                    clusters = {labels.get("cluster") for labels, _ in found}
                    together = target.panel["title"] == "Alerts" or target.panel["type"] == "heatmap"
                    if found and not together and clusters != {"eu", "us"}:
                        missing.add(f"{target}: {clusters}")
                    if not found and target.board != OBSERVED and target.panel["title"] in SEEN:
                        missing.add(f"{target}: nothing")
                return not missing

            try:
                await until(both_everywhere, "every query tells both", within=60)
            except AssertionError:
                raise AssertionError(f"these do not: {missing}") from None
            status, answer = await prometheus.get("/api/v1/rules")
            assert status == 200
            rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
            assert len(rules) > 40
            assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}
        finally:
            await prometheus.stop()


async def test_a_host_that_embeds_tells_who_is_there_and_nothing_that_it_does_not_know(tmp_path: Path) -> None:
    lone, one, two, beside, mute, telling = (Live(typing_timeout=3600) for _ in range(6))
    async with AsyncExitStack() as hosts:
        server = await hosts.enter_async_context(running(tmp_path / "server", "--typing.timeout", "1h"))
        jobs: dict[str, list[str]] = {"beside": [server.url.removeprefix("http://")]}
        everybody = ((lone, "lone"), (one, "app"), (two, "app"), (beside, "beside"), (mute, "mute"), (telling, "mute"))
        for live, job in everybody:
            for handle in ("a", "b"):
                hosts.enter_context(live.open("ann", handle=handle)).join("room")
            bob = hosts.enter_context(live.open("bob"))
            bob.join("room")
            bob.typing("room")
            url = await hosts.enter_async_context(on_uvicorn(live.asgi()))
            jobs.setdefault(job, []).append(url.removeprefix("http://"))
        hosts.enter_context(mute.open_anonymous()).join("room")
        for name in ("ann", "bob"):
            client = await server.connect(name)
            hosts.push_async_callback(client.close)
            if name == "ann":
                await server.conversation("room", "ann", "bob")
            await client.join("room")
        await client.send("typing", conversation="room", active=True)
        await client.barrier()
        prometheus = Prometheus(tmp_path / "prometheus", jobs, rules=hurried(tmp_path / "rules"))
        await prometheus.start()
        hosts.push_async_callback(prometheus.stop)

        async def scraped() -> bool:
            return len(await prometheus.query("messaging_build_info")) == 7

        await until(scraped, "all hosts are scraped")
        for title, there in (("People online", 2), ("Conversations", 1), ("Typing", 1)):
            exact, added = tiles()[f"overview: {title}"]["targets"]
            # A sum with a host in it that does not tell would be no bound. A host beside a server doubles people, too.
            assert await by_job(prometheus, exact["expr"]) == {"lone": there}, title
            assert await by_job(prometheus, added["expr"]) == {"app": 2 * there, "beside": 2 * there}, title
        (course,) = (panel for panel in panels("messaging-overview") if panel["title"] == "People and connections")
        told = {target["legendFormat"].rpartition(": ")[2]: target["expr"] for target in course["targets"]}
        for legend, past, people in (
            ("people", "people a week ago", {"lone": 2.0}),
            ("people, at most", "people, at most, a week ago", {"app": 4.0, "beside": 4.0}),
        ):
            assert await by_job(prometheus, told[legend]) == people
            recorded = told[past].removesuffix(" offset 1w")
            assert recorded != told[past]

            async def is_recorded(recorded: str = recorded, people: dict[str, float] = people) -> bool:
                return await by_job(prometheus, recorded) == people

            await until(is_recorded, f"{legend} will be known a week later")
        for name in ("overview: Sends fail", "delivery: Within 250 ms"):
            assert await shown(prometheus, tiles()[name], job="lone|app") == "not known"

        async def delivers() -> bool:
            one.delivered(1, 0.01)
            return await shown(prometheus, tiles()["delivery: Within 250 ms"], job="lone|app") == {"app": 1}

        await until(delivers, "the share of what is delivered is known")


async def by_job(prometheus: Prometheus, expr: str) -> dict[str, float]:
    """The answer's numbers by the job that they are of."""
    return {labels["job"]: values[-1] for labels, values in await prometheus.query(plain(expr))}


async def test_nodes_that_are_down_are_named_as_long_as_their_names_can_be_read(tmp_path: Path) -> None:
    few, many = ([f"127.0.0.1:{free_port()}" for _ in range(number)] for number in (3, 4))
    prometheus = Prometheus(tmp_path / "prometheus", {"messaging": few, "messaging-exporter": many})
    await prometheus.start()
    try:

        async def seen() -> bool:
            return len(await prometheus.query("up == 0")) == len(few + many)

        await until(seen, "nobody answered a scrape")
        tile = tiles()["overview: Down"]
        assert await shown(prometheus, tile, job="messaging") == dict.fromkeys(few, 1)
        assert await shown(prometheus, tile, job="messaging-exporter") == {"4 nodes": 1}
        assert await shown(prometheus, tile) == {**dict.fromkeys(few, 1), "4 nodes": 1}
    finally:
        await prometheus.stop()
