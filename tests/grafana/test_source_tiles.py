"""What the tiles about observed databases say, asked of a real Prometheus as Grafana asks, while databases go away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.grafana.boards import OBSERVED, panels
from tests.grafana.test_tiles import shown, words
from tests.servers.observer import Observer
from tests.servers.prometheus import Prometheus, hurried, until

pytestmark = pytest.mark.needs("prometheus")

ACTIVE = {"Active within a day", "Active within 7 days", "Active within 30 days"}
OF_THE_DATABASE = {"Messages", "Conversations", "Registered", "Sent today", "Wrong counters"} | ACTIVE
LATER = {"What the last recount corrected"}  # a first count has nothing to correct
TILES = {panel["title"]: panel for panel in panels(OBSERVED) if panel["type"] in ("stat", "bargauge")}


async def test_one_scrape_after_a_source_has_gone_no_tile_states_what_was(tmp_path: Path) -> None:
    observer = Observer(tmp_path / "observer", {"chat": 3, "forum": 5})
    alone = Observer(tmp_path / "alone", {"shop": 2})
    prometheus = Prometheus(
        tmp_path / "prometheus",
        {"messaging": [observer.address], "shop": [alone.address]},
        rules=hurried(tmp_path / "rules"),
    )
    chat, forum, shop = (
        f"messaging {observer.address} chat",
        f"messaging {observer.address} forum",
        f"shop {alone.address}",
    )
    try:
        for process in (observer, alone, prometheus):
            await process.start()
        await everything_is_known(prometheus, chat, forum, shop)
        await a_database_goes(prometheus, observer, chat, forum, shop)
        await processes_go(prometheus, observer, alone, shop)
    finally:
        await prometheus.stop()
        for process in (observer, alone):
            await process.kill()


async def everything_is_known(prometheus: Prometheus, *names: str) -> None:
    missing: set[str] = set()

    async def known() -> bool:
        missing.clear()
        for title, panel in TILES.items():
            found = await shown(prometheus, panel)
            if title not in LATER and not all(any(key.startswith(name) for key in found) for name in names):
                missing.add(title)
        return not missing

    try:
        await until(known, "every tile has a number of every source", within=60)
    except AssertionError:
        raise AssertionError(f"no number, and nothing is wrong: {missing}") from None
    assert await shown(prometheus, TILES["Messages"]) == dict(zip(names, (3, 5, 2), strict=True))
    assert await shown(prometheus, TILES["Messages"], job="shop") == {names[-1]: 2}
    assert await shown(prometheus, TILES["Under way"]) == dict.fromkeys(names, 1)
    assert await shown(prometheus, TILES["Wrong counters"]) == dict.fromkeys(names, 0)


async def a_database_goes(prometheus: Prometheus, observer: Observer, chat: str, forum: str, shop: str) -> None:
    database = observer.database("chat")
    database.rename(elsewhere := database.with_suffix(".moved"))

    async def seen() -> bool:
        return len(await prometheus.query("messaging_source_up == 0")) == 1

    await until(seen, "it has been scraped without that database")
    for title in OF_THE_DATABASE:
        found = await shown(prometheus, TILES[title])
        assert found != words(TILES[title])
        assert not any(name.startswith(chat) for name in found), title
        for other in (forum, shop):
            assert any(name.startswith(other) for name in found), title
        reaching_back = await shown(prometheus, TILES[title], as_range=True)
        assert any(name.startswith(chat) for name in reaching_back), "the trap itself: what was, as if it were"
    elsewhere.rename(database)

    async def known_again() -> bool:
        return chat in await shown(prometheus, TILES["Messages"])

    await until(known_again, "the figures are known again", within=60)


async def processes_go(prometheus: Prometheus, observer: Observer, alone: Observer, shop: str) -> None:
    async def down(number: int) -> None:
        async def seen() -> bool:
            return len(await prometheus.query("up == 0")) == number

        await until(seen, f"{number} of the exporters did not answer a scrape")

    await observer.kill()
    await down(1)
    for title, panel in TILES.items():
        found: Any = await shown(prometheus, panel)
        if title in LATER:
            assert found == "not known"
            continue
        assert found != words(panel), title
        assert all(name.startswith(shop) for name in found), title
    await alone.kill()
    await down(2)
    for title, panel in TILES.items():
        assert await shown(prometheus, panel) == words(panel), title
