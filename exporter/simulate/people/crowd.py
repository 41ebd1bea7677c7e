"""Everybody together: who is wanted online when, which messages are due, and the end in good order.

The rate is an open loop: messages are due at times that do not depend on how fast the server answers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import aiohttp
import msgspec

from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.client.api import Api, Refused
from exporter.simulate.client.connection import Link
from exporter.simulate.meter import Meter
from exporter.simulate.options import SimulateOptions, socket_url
from exporter.simulate.people.organisation import Organisation, Plan, hour_of
from exporter.simulate.people.picker import Picker
from exporter.simulate.people.tab import FIRST_TAB_OPENS, OTHER_TABS_OPEN, Tab

LOOK_AHEAD = 4.5  # seconds; more than the longest typing
MOMENT = 10.0  # seconds that "lately" means
SIMULTANEOUS_CONNECTS = 64
OPEN_TIMEOUT = 15.0
ARRIVAL_TIMEOUT = 3.0


class Crowd:
    """The people of an organisation on a server, through ``open`` and ``api``."""

    def __init__(
        self,
        options: SimulateOptions,
        organisation: Organisation,
        ledger: Ledger,
        meter: Meter,
        http: aiohttp.ClientSession,
        api: Api,
        token_for: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.organisation = organisation
        self.ledger = ledger
        self.meter = meter
        self.clock = clock
        self.calm = options.steady  # no misfortunes (any more): what is on its way shall arrive
        self.closing = False  # no new messages
        self.calmed = asyncio.Event()
        self.gate = asyncio.Semaphore(SIMULTANEOUS_CONNECTS)
        self.started = clock()
        self._options = options
        self._http = http
        self._api = api
        self._token_for = token_for
        self._urls = itertools.cycle([socket_url(url) for url in options.urls])
        self._numbers = itertools.count(1)
        self._audiences = [Picker[Tab]() for _ in organisation.conversations]
        self._index = {id: number for number, id in enumerate(organisation.conversations)}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tabs = list(self._make_tabs())

    def _make_tabs(self) -> list[Tab]:
        organisation, tabs = self.organisation, []
        ramp = min(5.0, len(organisation.people) / 100)
        for index, person in enumerate(organisation.people):
            for number in range(person.tabs):
                random = Random(f"{organisation.seed}/tab/{index}/{number}")
                opens = organisation.memberships[index][:FIRST_TAB_OPENS]
                if number:
                    opens = sorted(random.sample(opens, min(OTHER_TABS_OPEN, len(opens))))
                starts_at = random.uniform(0, ramp) if index > 1 else 0.0
                tabs.append(Tab(self, index, opens, random, starts_at))
        return tabs

    # --- what tabs need -------------------------------------------------------------------------------------

    async def open(self, person: int) -> Link:
        """A new connection for somebody; several nodes take turns."""
        token = self._token_for(self.organisation.people[person].name)
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await Link.open(self._http, next(self._urls), token, next(self._numbers), self.spawn)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Does this beside everything else; a mistake in it ends the simulation instead of vanishing."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def later(self, seconds: float, act: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """Does this in some seconds; a mistake in it ends the simulation, too."""

        def run() -> None:
            try:
                act(*args)
            except Exception as error:  # a timer has no caller; the loop would only log it
                if not self._failure.done():
                    self._failure.set_exception(error)

        return asyncio.get_running_loop().call_later(max(0.0, seconds), run)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failure.done():
            self._failure.set_exception(error)

    def number_of(self, conversation: str) -> int | None:
        """The number of one of our conversations."""
        return self._index.get(conversation)

    def enter(self, tab: Tab, conversation: int) -> None:
        """This tab can write there now."""
        self._audiences[conversation].add(tab)
        self.meter.joined += 1

    def quit(self, tab: Tab, conversation: int) -> None:
        """This tab can no longer write there."""
        self._audiences[conversation].discard(tab)
        self.meter.joined -= 1

    def audience_size(self, conversation: int) -> int:
        """Connections that have joined."""
        return len(self._audiences[conversation])

    async def catch_up(self, person: int, conversation: int, after: int) -> None:
        """What a client does after a gap: fetch what it missed. What is wrong there the audit will find."""
        name, member = self.organisation.conversations[conversation], self.organisation.people[person].name
        try:
            page = await self._api.messages(name, member, after, limit=100)
        except (Refused, aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
            self.meter.errors["catch_up"] += 1
        else:
            self.meter.caught_up += len(page.messages)

    # --- the day --------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """People come, go and write, until the duration is over or ``stop`` is set. Raises what went wrong inside."""
        self.started = self.clock()
        for tab in self.tabs:
            self.spawn(tab.live())
        self.spawn(self._keep_hours())
        self.spawn(self._look_after())
        await self._first_arrivals(stop)
        self.started = self.clock()
        writing = asyncio.ensure_future(self._write_messages())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((writing, stopping, self._failure), return_when=asyncio.FIRST_COMPLETED)
        finally:
            writing.cancel()
            stopping.cancel()
        self.closing = self.closing or stop.is_set()
        self._raise_failure()
        if writing.done() and not writing.cancelled():
            writing.result()

    async def _first_arrivals(self, stop: asyncio.Event) -> None:
        """Nobody can write before they are there; but a server that takes nobody in shall show as such."""
        arrived = max(tab.starts_at for tab in self.tabs) + 0.3
        deadline = self.started + arrived + ARRIVAL_TIMEOUT
        while self.clock() < deadline and not stop.is_set():
            missing = sum(tab.wanted.is_set() and not tab.joined for tab in self.tabs)
            if self.clock() > self.started + arrived and missing * 10 <= len(self.tabs):
                break
            await asyncio.wait((self._failure,), timeout=0.02)
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure.done():
            self._failure.result()

    def hour(self) -> float:
        """The hour of the simulated day."""
        return hour_of((self.clock() - self.started) / self._options.day)

    async def _keep_hours(self) -> None:
        opened = self.clock()
        while not self.closing:
            hour, since = self.hour(), self.clock() - opened
            for tab in self.tabs:
                here = self._options.steady or self.organisation.people[tab.person].present(hour)
                present = here and tab.starts_at <= since
                if present and not tab.wanted.is_set():
                    tab.wanted.set()
                elif not present and tab.wanted.is_set() and not tab.drafts:
                    tab.log_off()
            await asyncio.sleep(0.25)

    async def _look_after(self) -> None:
        """Four times a second: send again what needs it, settle the books, forget old latencies."""
        moment = self.clock()
        while True:
            due = self.clock() + 0.25
            await asyncio.sleep(0.25)
            now = self.clock()
            self.meter.late(now - due)
            for tab in self.tabs:
                if tab.drafts:
                    tab.look_after_drafts(now)
            self.ledger.settle(now, self.meter.lately)
            if now - moment >= MOMENT:
                moment = now
                self.meter.next_moment()

    # --- messages -------------------------------------------------------------------------------------------

    async def _write_messages(self) -> None:
        rate, duration = self._options.rate, self._options.duration
        for n in itertools.count() if rate else ():
            plan = self.organisation.plan(n)
            seconds = plan.due / rate
            if duration is not None and seconds >= duration:
                break
            ahead = self.started + seconds - LOOK_AHEAD - self.clock()
            if ahead > 0:
                await asyncio.sleep(ahead)
            due = self.started + seconds
            self.later(due - plan.typing - self.clock(), self._begin, plan, due)
        if duration is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(max(0.0, self.started + duration - self.clock()))

    def _begin(self, plan: Plan, due: float) -> None:
        """Somebody starts to type; at times somebody else does too, and thinks better of it, or just walks away."""
        if self.closing:
            return
        tab = self._author(plan.conversation, plan.author)
        if tab is not None:
            tab.types(plan.conversation, True)
        draw = plan.abandoned
        other = self._author(plan.conversation, (draw, draw)) if draw is not None else None
        if other is not None and other is not tab:
            other.types(plan.conversation, True)
            if plan.typing < 1.2:
                self.later(plan.typing, other.types, plan.conversation, False)
        self.later(due - self.clock(), self._say, plan, tab, due)

    def _say(self, plan: Plan, tab: Tab | None, due: float) -> None:
        """The message is due: who typed sends it, or somebody else when they are gone, so that the rate is kept."""
        if self.closing:
            return
        self.meter.late(self.clock() - due)
        conversation = plan.conversation
        if tab is None or not tab.can_write(conversation):
            tab, conversation = self._substitute(plan)
        if tab is None:
            self.meter.missed += 1
            return
        n = self.ledger.write(tab.person, conversation)
        tab.write(n, conversation, self.organisation.body(n))

    def _substitute(self, plan: Plan) -> tuple[Tab | None, int]:
        """Somebody else who can write, in this conversation or in the next where there is somebody."""
        count = len(self._audiences)
        for step in range(count):
            conversation = (plan.conversation + step) % count
            if (tab := self._author(conversation, plan.author)) is not None:
                return tab, conversation
        return None, plan.conversation

    def _author(self, conversation: int, draws: tuple[float, float]) -> Tab | None:
        """The more talkative of two, of those who can write there now; else the next who can."""
        audience = self._audiences[conversation]
        if not audience:
            return None
        people = self.organisation.people
        first, second = audience.at(draws[0]), audience.at(draws[1])
        best = first if people[first.person].talk >= people[second.person].talk else second
        if best.can_write(conversation):
            return best
        candidates = (audience.at(draws[0], steps) for steps in range(min(len(audience), 50)))
        return next((tab for tab in candidates if tab.can_write(conversation)), None)

    # --- the end --------------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """No more misfortunes and no new messages; waits until what was sent is answered and has arrived."""
        self.calm = self.closing = True
        self.calmed.set()
        for tab in self.tabs:
            if tab.drafts:
                tab.wanted.set()
        deadline = self.clock() + seconds
        while (self.ledger.unanswered or self.ledger.unsettled) and self.clock() < deadline:
            await asyncio.wait((self._failure,), timeout=0.1)
            self._raise_failure()
        self.ledger.settle(self.clock(), self.meter.lately, final=True)

    async def disperse(self, seconds: float = 3.0) -> None:
        """Everybody closes their windows; who has not after this time is cut off."""
        for tab in self.tabs:
            tab.log_off()
        deadline = self.clock() + seconds
        while self.meter.online and self.clock() < deadline:
            await asyncio.wait((self._failure,), timeout=0.02)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._raise_failure()
