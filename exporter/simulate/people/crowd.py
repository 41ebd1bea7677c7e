"""Everybody together: who is wanted online when, which messages are due, and the end in good order.

The rate is an open loop: messages are due at times that do not depend on how fast the server answers.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

import asyncio
import itertools
from random import Random

from exporter.simulate.people import standstill
from exporter.simulate.people.client import FIRST_CLIENT_OPENS, OTHER_CLIENTS_OPEN, Client
from exporter.simulate.people.context import SimulationContext
from exporter.simulate.people.organisation import Plan, hour_of

LOOK_AHEAD = 4.5  # seconds; more than the longest typing
MOMENT = 10.0  # seconds that "lately" means
ARRIVAL_TIMEOUT = 3.0
GOODBYE = 3.0  # seconds; a server that answers no close frame is not waited for


class Crowd:
    """The people of an organisation on a server."""

    def __init__(self, context: SimulationContext[Client]) -> None:
        self.context = context
        self.organisation, self.ledger, self.meter = context.organisation, context.ledger, context.meter
        self.clock = context.clock
        self.started = self.clock()
        self._options = context.options
        self.clients = list(self._make_clients())

    def _make_clients(self) -> list[Client]:
        organisation, clients = self.organisation, []
        ramp = min(5.0, len(organisation.people) / 100)
        for index, person in enumerate(organisation.people):
            for number in range(person.tabs):
                random = Random(f"{organisation.seed}/tab/{index}/{number}")
                opens = organisation.memberships[index][:FIRST_CLIENT_OPENS]
                if number:
                    opens = sorted(random.sample(opens, min(OTHER_CLIENTS_OPEN, len(opens))))
                starts_at = random.uniform(0, ramp) if index > 1 else 0.0
                clients.append(Client(self.context, index, opens, random, starts_at))
        return clients

    # --- the day --------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """People come, go and write, until the duration is over or ``stop`` is set. Raises what went wrong inside."""
        self.started = self.clock()
        for client in self.clients:
            self.context.spawn(client.live())
        self.context.spawn(self._keep_hours())
        self.context.spawn(self._look_after())
        await self._first_arrivals(stop)
        self.started = self.clock()
        writing = asyncio.ensure_future(self._write_messages())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((writing, stopping, self.context.failure), return_when=asyncio.FIRST_COMPLETED)
        finally:
            writing.cancel()
            stopping.cancel()
        self.context.closing = self.context.closing or stop.is_set()
        self._raise_failure()
        if writing.done() and not writing.cancelled():
            writing.result()

    async def _first_arrivals(self, stop: asyncio.Event) -> None:
        """Nobody can write before they are there; but a server that takes nobody in shall show as such."""
        arrived = max(client.starts_at for client in self.clients) + 0.3
        deadline = self.started + arrived + ARRIVAL_TIMEOUT
        while self.clock() < deadline and not stop.is_set():
            missing = sum(client.wanted.is_set() and not client.joined for client in self.clients)
            if self.clock() > self.started + arrived and missing * 10 <= len(self.clients):
                break
            await asyncio.wait((self.context.failure,), timeout=0.02)
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self.context.failure.done():
            self.context.failure.result()

    def hour(self) -> float:
        """The hour of the simulated day."""
        return hour_of((self.clock() - self.started) / self._options.day)

    async def _keep_hours(self) -> None:
        opened = self.clock()
        while not self.context.closing:
            hour, since = self.hour(), self.clock() - opened
            for client in self.clients:
                here = self._options.steady or self.organisation.people[client.person].present(hour)
                present = here and client.starts_at <= since
                if present and not client.wanted.is_set():
                    client.wanted.set()
                elif not present and client.wanted.is_set() and not client.drafts:
                    client.log_off()
            await asyncio.sleep(0.25)

    async def _look_after(self) -> None:
        """Four times a second: send again what needs it, settle the books, forget old latencies."""
        moment = self.clock()
        while True:
            due = self.clock() + 0.25
            await asyncio.sleep(0.25)
            now = self.clock()
            self.meter.late(now - due)
            for client in self.clients:
                if client.drafts:
                    client.look_after_drafts(now)
            served = [
                (client.connection, process)
                for client, process in self.context.processes.items()
                if client.connection is not None and client.looking
            ]
            standstill.mind(served, self.ledger, self.meter, now)
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
            self.context.later(due - plan.typing - self.clock(), self._begin, plan, due)
        if duration is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(max(0.0, self.started + duration - self.clock()))

    def _begin(self, plan: Plan, due: float) -> None:
        """Somebody starts to type; at times somebody else does too, and thinks better of it, or just walks away."""
        if self.context.closing:
            return
        client = self._author(plan.conversation, plan.author)
        if client is not None:
            client.types(plan.conversation, True)
        draw = plan.abandoned
        other = self._author(plan.conversation, (draw, draw)) if draw is not None else None
        if other is not None and other is not client:
            other.types(plan.conversation, True)
            if plan.typing < 1.2:
                self.context.later(plan.typing, other.types, plan.conversation, False)
        self.context.later(due - self.clock(), self._say, plan, client, due)

    def _say(self, plan: Plan, client: Client | None, due: float) -> None:
        """The message is due: who typed sends it, or somebody else when they are gone, so that the rate is kept."""
        if self.context.closing:
            return
        self.meter.late(self.clock() - due)
        conversation = plan.conversation
        if client is None or not client.can_write(conversation):
            client, conversation = self._substitute(plan)
        if client is None:
            self.meter.missed += 1
            return
        n = self.ledger.write(client.person, conversation)
        client.write(n, conversation, self.organisation.body(n))

    def _substitute(self, plan: Plan) -> tuple[Client | None, int]:
        """Somebody else who can write, in this conversation or in the next where there is somebody."""
        count = len(self.context.audiences)
        for step in range(count):
            conversation = (plan.conversation + step) % count
            if (client := self._author(conversation, plan.author)) is not None:
                return client, conversation
        return None, plan.conversation

    def _author(self, conversation: int, draws: tuple[float, float]) -> Client | None:
        """The more talkative of two, of those who can write there now; else the next who can."""
        audience = self.context.audiences[conversation]
        if not audience:
            return None
        people = self.organisation.people
        first, second = audience.at(draws[0]), audience.at(draws[1])
        best = first if people[first.person].talk >= people[second.person].talk else second
        if best.can_write(conversation):
            return best
        candidates = (audience.at(draws[0], steps) for steps in range(min(len(audience), 50)))
        return next((client for client in candidates if client.can_write(conversation)), None)

    # --- the end --------------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> int:
        """No more misfortunes and no new messages; waits until what was sent is answered and has arrived.

        Returns how many messages nobody can judge, since a process that stands still may owe them.
        """
        self.context.calm = self.context.closing = True
        self.context.calmed.set()
        for client in self.clients:
            if client.drafts:
                client.wanted.set()
        deadline = self.clock() + seconds
        while (self.ledger.unanswered or self.ledger.unsettled) and self.clock() < deadline:
            await asyncio.wait((self.context.failure,), timeout=0.1)
            self._raise_failure()
        self.ledger.settle(self.clock(), self.meter.lately, final=True)
        still = any(client.connection is not None and client.connection.stands_still for client in self.clients)
        return self.ledger.unsettled if still else 0

    async def disperse(self) -> None:
        """Everybody closes their windows; who has not after this time is cut off."""
        for client in self.clients:
            client.log_off()
        deadline = self.clock() + GOODBYE
        while self.meter.online and self.clock() < deadline:
            await asyncio.wait((self.context.failure,), timeout=0.02)
        for task in list(self.context.tasks):
            task.cancel()
        await asyncio.gather(*self.context.tasks, return_exceptions=True)
        self._raise_failure()
