"""One simulation from beginning to end: set up, live, wait, go home, compare. Knows the outward contract only.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import aiohttp
import msgspec

from exporter.core.errors import Misconfigured, os_reason, tls_reason
from exporter.simulate.checker.audit import Audit
from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.client.api import FAILURES, Api, Refused, passing, persist
from exporter.simulate.console import Moment, View
from exporter.simulate.meter import Meter
from exporter.simulate.options import SimulateOptions, http_base
from exporter.simulate.people.context import SimulationContext
from exporter.simulate.people.crowd import Crowd
from exporter.simulate.people.organisation import Organisation
from exporter.simulate.summary import Summary, summarise

REACH_TIMEOUT = 5.0  # seconds that the server may take to be there at the start
SET_UP_TIMEOUT = 60.0  # seconds for all conversations together
GRACE = 2.0  # seconds after an acknowledgement in which a connection may end without having got the message
DELIVERY_TIMEOUT = 15.0  # seconds after it until a connection that goes on has the message, whatever is out of reach
HURRIED = 5.0  # seconds that a step of the end may take once somebody has asked to stop
NOTHING = "no message was acknowledged, so no promise was put to the test"
TOKEN_KEPT = 600.0  # seconds that a signed token is used again


class Simulation:
    """One run: set up, live, drain, disperse, audit."""

    def __init__(self, options: SimulateOptions, stop: asyncio.Event, view: View) -> None:
        self._options = options
        self._stop = stop
        self._view = view
        names = tuple(sorted(options.tokens))[: options.users] if options.tokens else ()
        users = len(names) or options.users
        self._organisation = Organisation(users, options.conversations, options.seed, names)
        # The seed makes decisions the same; the ids must not be, or the server would take them for repetitions.
        run, several = secrets.token_hex(5), len(options.urls) > 1
        self._ledger = Ledger(run, grace=GRACE, delivery_timeout=DELIVERY_TIMEOUT, several_nodes=several)
        self._meter = Meter()
        self._tokens: dict[str, tuple[str, float]] = {}
        self._phase, self._progress = "setting up", 0.0
        self._started = time.monotonic()
        self._crowd: Crowd | None = None

    def http(self) -> aiohttp.ClientSession:
        """The session for everything."""
        context: ssl.SSLContext | bool = True
        if self._options.insecure:
            context = False
        elif self._options.ca_file is not None:
            try:
                context = ssl.create_default_context(cafile=str(self._options.ca_file))
            except OSError as error:
                reason = tls_reason(error) if isinstance(error, ssl.SSLError) else os_reason(error)
                raise Misconfigured(f"cannot read {self._options.ca_file}: {reason}") from None
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._http = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        self._api = Api(self._http, [http_base(url) for url in self._options.urls], self._token_for)
        return self._http

    def _token_for(self, user: str) -> str:
        if self._options.tokens:
            return self._options.tokens[user]
        token, signed = self._tokens.get(user, ("", 0.0))
        now = time.time()  # as tokens expire: a laptop that slept has another age by the monotonic clock
        if not token or not 0 <= now - signed <= TOKEN_KEPT:
            assert self._options.token_for is not None  # noqa: S101 - checked() has asked
            token = self._options.token_for(user)
            self._tokens[user] = (token, now)
        return token

    async def whole(self) -> Summary:
        """All of it; what is under way is shown throughout."""
        showing = asyncio.ensure_future(self._show())
        try:
            return await self._whole()
        finally:
            showing.cancel()

    async def _whole(self) -> Summary:
        starts = await self._set_up()
        crowd = self._crowd = Crowd(
            SimulationContext(
                self._options, self._organisation, self._ledger, self._meter, self._http, self._api, self._token_for
            )
        )
        self._phase, self._started = "running", time.monotonic()
        try:
            await crowd.run(self._stop)
            seconds = time.monotonic() - crowd.started
            self._phase = "waiting for answers"
            unjudged = await crowd.drain(self._patience())
            self._phase = "going home"
        finally:
            await crowd.disperse()
        verified, because = await self._verify(starts)
        if unjudged and because is None:
            because = f"a process stands still, so nobody knows whether {unjudged} messages reach whom it serves"
        return summarise(
            self._ledger,
            self._meter,
            seconds=round(seconds, 3),
            seed=self._options.seed,
            people=len(self._organisation.people),
            conversations=self._options.conversations,
            rate=self._options.rate,
            verified=verified,
            unverified_because=because,
            stopped=self._stop.is_set(),
        )

    def _patience(self) -> float:
        """Seconds that a step of the end may take: few once somebody has asked to stop."""
        return min(HURRIED, self._options.settle) if self._stop.is_set() else self._options.settle

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(self._view.every)
            self._view.show(self._moment())

    def _moment(self) -> Moment:
        now, progress = time.monotonic(), None
        hour = self._crowd.hour() if self._crowd is not None else None
        if self._phase == "running" and self._crowd is not None and self._options.duration is not None:
            progress = max(0.0, min(1.0, (now - self._crowd.started) / self._options.duration))
        elif self._phase in ("verifying", "setting up"):
            progress = self._progress
        return Moment(self._meter, self._ledger, self._phase, now - self._started, progress, hour)

    # --- the beginning --------------------------------------------------------------------------------------

    async def _set_up(self) -> list[int]:
        """The conversations are there; returns their last seqs. Raises Misconfigured."""
        deadline = time.monotonic() + REACH_TIMEOUT
        names, people = self._organisation.conversations, self._organisation.people

        async def make(conversation: int) -> int:
            members = [people[person].name for person in self._organisation.members[conversation]]
            last_seq = await persist(partial(self._api.make, names[conversation], members), deadline, time.monotonic)
            self._progress += 1 / len(names)
            return last_seq

        try:
            first = await make(0)  # what is wrong is wrong with each of them
            await self._ask_each_node()
            deadline = time.monotonic() + SET_UP_TIMEOUT
            return [first, *await gather([partial(make, number) for number in range(1, len(names))])]
        except FAILURES as error:
            raise Misconfigured(self._why_not(error)) from None

    async def _ask_each_node(self) -> None:
        """Is what one node was told known to all that answer? Raises Misconfigured."""
        name = self._organisation.conversations[0]
        member = self._organisation.people[self._organisation.members[0][0]].name
        for base in map(http_base, self._options.urls if len(self._options.urls) > 1 else ()):
            try:
                await Api(self._http, [base], self._token_for).messages(name, member, 0, 1)
            except FAILURES as error:
                if isinstance(error, Refused) and not passing(error):
                    raise Misconfigured(
                        f"the server at {base} does not know what the others were told ({error}): "
                        "several --url are the nodes of one cluster, with one database and one secret"
                    ) from None

    def _why_not(self, error: Exception) -> str:
        base = self._api.asked
        if isinstance(error, Refused):
            if error.status == 401:
                return f"the server at {base} refuses the tokens: are they signed with its secret?"
            return str(error)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            problem = tls_reason(error.certificate_error)
            return f"the server at {base} has a certificate that is not trusted here: {problem}"
        if isinstance(error, aiohttp.ClientSSLError):
            return f"the server at {base} does not speak TLS as it is spoken here: is it ws:// or http://?"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"cannot reach the server at {base}: this name is unknown here"
        if isinstance(error, msgspec.DecodeError):
            return f"the server at {base} answers something else than this kind of server would"
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number).lower() if number else "no answer"
        return f"cannot reach the server at {base}: {reason}"

    # --- the end --------------------------------------------------------------------------------------------

    async def _verify(self, starts: list[int]) -> tuple[int | None, str | None]:
        """Compares all that was acknowledged with what is stored: how many, or why not."""
        nothing = NOTHING if self._options.rate and not self._ledger.acknowledged else None
        if not self._options.verify:
            return None, nothing
        self._phase, self._progress = "verifying", 0.0
        if self._stop.is_set():
            self._api.timeout = HURRIED
        audits = [partial(self._audit, number, after) for number, after in enumerate(starts)]
        try:
            compared = sum(await gather(audits))
        except FAILURES as error:
            return None, self._why_not(error)
        return (compared, None) if nothing is None else (None, nothing)

    async def _audit(self, conversation: int, after: int) -> int:
        organisation = self._organisation
        name = organisation.conversations[conversation]
        member = organisation.people[organisation.members[conversation][0]].name
        audit = Audit(self._ledger, conversation, after, self._content)
        latest, step = after, 1 / self._options.conversations
        while True:
            attempt = partial(self._api.messages, name, member, latest)
            page = await persist(attempt, time.monotonic() + self._patience(), time.monotonic)
            audit.feed((message.seq, message.id, message.sender, message.body) for message in page.messages)
            highest = max((message.seq for message in page.messages), default=latest)
            if highest <= latest:  # nothing new; a server that repeats itself does not keep us here
                break
            latest = highest
            if latest >= page.last_seq:
                break
        self._progress += step
        return audit.finish(page.last_seq)

    def _content(self, n: int) -> tuple[str, str]:
        return self._organisation.people[self._ledger.author_of(n)].name, self._organisation.body(n)


async def gather(works: Sequence[Callable[[], Awaitable[int]]]) -> list[int]:
    """All results in order; when one fails the others are given up."""
    tasks = [asyncio.ensure_future(work()) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
