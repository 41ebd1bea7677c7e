"""Users come in turn, not questions; who gave up takes nobody's place."""

from __future__ import annotations

import asyncio
import math
import random

from exporter.store.lanes import Turns


class People:
    """Users who take turns, each as a task that waits for its end to be told."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, whose: str | None) -> asyncio.Task[None]:
        self.ends[name] = asyncio.Event()
        task = asyncio.create_task(self._take(name, whose))
        await asyncio.sleep(0)
        return task

    async def _take(self, name: str, whose: str | None) -> None:
        await self.turns.take(whose)
        self.begun.append(name)
        await self.ends[name].wait()
        self.turns.give_back(whose)

    async def end(self, name: str) -> None:
        self.ends[name].set()
        for _ in range(3):  # until it has ended, and whoever follows has begun
            await asyncio.sleep(0)


async def test_another_users_question_comes_before_the_second_of_one_who_asks_much() -> None:
    people = People(Turns(1))
    tasks = [await people.ask(f"ann {i}", "ann") for i in range(3)]
    tasks.append(await people.ask("bob", "bob"))
    for name in ("ann 0", "ann 1", "bob", "ann 2"):
        assert people.begun[-1] == name
        await people.end(name)
    await asyncio.gather(*tasks)


async def test_of_one_user_only_so_many_are_at_work_though_there_is_room() -> None:
    people = People(Turns(3, each=2))
    tasks = [await people.ask(f"ann {i}", "ann") for i in range(3)]
    tasks.append(await people.ask("bob", "bob"))
    assert people.begun == ["ann 0", "ann 1", "bob"]
    await people.end("bob")
    assert people.begun == ["ann 0", "ann 1", "bob"]
    await people.end("ann 1")
    assert people.begun[-1] == "ann 2"
    for name in ("ann 0", "ann 2"):
        await people.end(name)
    await asyncio.gather(*tasks)


async def test_the_servers_own_work_takes_every_place_and_waits_for_its_turn() -> None:
    people = People(Turns(2))
    tasks = [await people.ask(f"server {i}", None) for i in range(3)]
    tasks.append(await people.ask("ann", "ann"))
    assert people.begun == ["server 0", "server 1"]
    await people.end("server 0")
    await people.end("server 1")
    assert people.begun[2:] == ["server 2", "ann"]
    for name in ("server 2", "ann"):
        await people.end(name)
    await asyncio.gather(*tasks)


async def test_without_a_width_only_the_users_own_hold_up() -> None:
    people = People(Turns(None, each=1))
    tasks = [await people.ask(f"{user} {i}", user) for i in range(2) for user in ("ann", "bob")]
    assert people.begun == ["ann 0", "bob 0"]
    await people.end("bob 0")
    assert people.begun == ["ann 0", "bob 0", "bob 1"]
    for name in ("ann 0", "ann 1", "bob 1"):
        await people.end(name)
    await asyncio.gather(*tasks)


async def test_whoever_gives_up_is_passed_over_whenever_that_is() -> None:
    people = People(Turns(1))
    first = await people.ask("ann", "ann")
    gone = [await people.ask(f"bob {i}", "bob") for i in range(3)]
    last = await people.ask("cid", "cid")
    gone[0].cancel()
    await asyncio.wait({gone[0]})  # long before
    gone[1].cancel()  # in the turn in which a place gets free: it has not learned of it yet
    people.turns.give_back("ann")
    gone[2].cancel()  # when it has been given the place already, or is the next
    await asyncio.wait(gone)
    assert people.begun == ["ann", "cid"]
    await people.end("cid")
    await asyncio.wait_for(people.turns.take("dan"), 1)
    assert not people.turns._waiting
    first.cancel()
    await asyncio.gather(first, last, return_exceptions=True)


async def test_a_question_that_was_given_up_costs_its_user_no_turn() -> None:
    people = People(Turns(1))
    tasks = [await people.ask(name, name.split()[0]) for name in ("ann", "bob 0", "bob 1", "cid")]
    people.ends["ann"].set()
    tasks[1].cancel()  # it has not learned of it when the place gets free
    await people.end("ann")
    for name in ("bob 1", "cid"):
        assert people.begun[-1] == name
        await people.end(name)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not people.turns._waiting


async def test_whoever_asks_ends_and_gives_up_no_place_is_lost_and_none_is_given_twice() -> None:
    chance = random.Random(3)
    for width, each in ((1, 1), (2, 1), (3, 2), (None, 2)):
        turns = Turns(width, each)
        at_work: list[str | None] = []
        tasks: list[asyncio.Task[None]] = []

        async def work(whose: str | None, turns: Turns = turns, at_work: list[str | None] = at_work) -> None:
            await turns.take(whose)
            at_work.append(whose)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                at_work.remove(whose)
                turns.give_back(whose)

        for _ in range(3_000):
            if chance.random() < 0.6:
                tasks.append(asyncio.create_task(work(chance.choice(("ann", "ann", "ann", "bob", "cid", None)))))
            if tasks and chance.random() < 0.3:
                chance.choice(tasks[-20:]).cancel()
            if chance.random() < 0.6:
                await asyncio.sleep(0)
            assert width is None or len(at_work) <= width
            assert all(at_work.count(user) <= each for user in ("ann", "bob", "cid"))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (at_work, dict(turns._at_work), dict(turns._waiting)) == ([], {}, {})
        assert turns._free == (math.inf if width is None else width)
