"""The way to the server: found, opened, checked, watched, and opened again when it breaks. Knows no frame.

Between two connections there are 50 ms at first and 2 s at most, with full jitter, so that the nodes of a cluster do
not all come back in one moment; less where the lease is short, so that all are back within one lease of the first. A
server that does not answer a beat for two seconds is not there.

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from typing import Final

import structlog

from exporter.broker import sentinels, tls_errors
from exporter.broker.addresses import Addresses
from exporter.broker.connection import Connection, Push, Refused, connect
from exporter.broker.functions import Functions
from exporter.broker.location import Location
from exporter.broker.ports import Turn
from exporter.core.errors import Misconfigured

log = structlog.get_logger(__name__)

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
SILENCE: Final = 2.0
"""Seconds without an answer until the connection is given up."""

_WRONG: Final = {
    "WRONGPASS": "the broker refuses the user or the password of --redis.url, or of --redis.password-file",
    "NOAUTH": "the broker wants a password; give it with --redis.url in the environment, or with --redis.password-file",
    "NOPERM": "the broker's user lacks rights; docs/cluster.md has the list",
    "NOPROTO": "the broker speaks no RESP3: Redis 7.0 or Valkey 7.2 at least",
}

_UNKNOWN: Final = re.compile(r"unknown command ['`]?(\w+)", re.IGNORECASE)
_NEEDED: Final = "Redis 7.0 or Valkey 7.2 at least is needed, and no rename-command of what is used"
_COMMAND: Final = re.compile(r"run the '([a-z_|]+)' command")  # that the user may not run, in the server's words


class ReconnectingConnection:
    """Keeps a connection open. ``lease`` in seconds.

    ``on_open`` is called with each connection that is fit for use, ``on_closed`` when it is gone, ``beat`` regularly
    while it is there.
    """

    def __init__(
        self,
        location: Location,
        functions: Functions,
        lease: float,
        *,
        on_open: Callable[[Connection], None],
        on_closed: Callable[[], None],
        on_push: Push,
        beat: Callable[[Connection], None],
        now: Callable[[], float],
        name: str,
        turn: Turn | None = None,
    ) -> None:
        self._location, self._addresses = location, Addresses()
        self._functions = functions
        self._lease = lease
        self._on_open, self._on_closed, self.on_push, self._beat = on_open, on_closed, on_push, beat
        self._now = now
        self._name = name
        self._turn = turn
        self._interval = min(1.0, lease / 5)
        self._silence = min(SILENCE, max(0.5, lease / 2))
        self._longest_pause = min(LONGEST_PAUSE, lease / 4)
        self._redirected: tuple[str, int] | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._silent_since: float | None = None
        self._waited_longer = False
        self._due = float("inf")  # the next beat
        self._told: set[str] = set()  # reasons that have been logged since it was there
        self.connection: Connection | None = None
        self.error: str | None = "not connected yet"

    async def start(self, timeout: float) -> None:
        """Begin. Waits ``timeout`` seconds for the first connection; raises Misconfigured if a setting prevents it."""
        self._task = asyncio.create_task(self._run(), name="broker-connection")
        await asyncio.wait({self._first}, timeout=timeout)
        if self._first.done():
            self._first.result()
        else:
            self._first.cancel()  # nobody will ask what came of it

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        connection, self.connection = self.connection, None
        if self._timer is not None:
            self._timer.cancel()
        if connection is not None:
            connection.abort("closed")

    def answered(self) -> None:
        """A beat was answered."""
        self._silent_since = None

    # --- opening ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            opened = self._now()
            try:
                await self._open()
            except Misconfigured as error:
                self._failed(str(error), error)
            except Refused as error:
                wrong = error.word in _WRONG or _UNKNOWN.search(str(error)) is not None
                self._failed(_words(error), Misconfigured(_words(error)) if wrong else None)
            except Exception as error:  # a defect costs one try, with its trace; the node goes on without the broker
                self._failed(_reason(error), None)
                if not isinstance(error, OSError | TimeoutError | ConnectionError | ImportError):
                    log.exception("the broker's connection failed")
            else:
                await self._gone.wait()
                if self._now() - opened > self._longest_pause:
                    pause = FIRST_PAUSE
            await asyncio.sleep(random.uniform(0, pause))  # full jitter: nodes do not come back in one moment
            pause = min(self._longest_pause, pause * 2)

    def _failed(self, reason: str, wrong: Misconfigured | None) -> None:
        self.error = reason
        if wrong is not None and not self._first.done():
            self._first.set_exception(wrong)  # the start ends with it, and says so
            return
        if reason not in self._told:  # each once: of a host that is down several take turns
            log.warning("the broker cannot be reached; trying on", reason=reason)
            self._told.add(reason)

    async def _open(self) -> None:
        stale_after = self._now() + self._lease
        async with asyncio.timeout(self._silence):
            host = self._redirected or await self._find()
            self._redirected = None
            connection = await connect(
                self._location, self._addresses, host, self.on_push, self._lost, self._now, stale_after, self._name
            )
        try:
            async with asyncio.timeout(self._silence):
                await self._check(connection)
        except Refused as error:
            connection.abort("refused")
            if error.word == "MOVED":
                self._redirect(str(error))
            raise
        except BaseException:  # a start that is cancelled leaves no connection behind either
            connection.abort("not fit for use")
            raise
        if not connection.open:
            raise ConnectionError(connection.reason)
        self._gone.clear()
        self.connection, self.error = connection, None
        self._silent_since, self._due = None, float("inf")
        connection.stale_after, connection.turn = self._now() + self._lease, self._turn
        connection.faultless = True  # what it may do has been asked
        if not self._first.done():
            self._first.set_result(None)
        log.info("the broker is there")
        self._told.clear()
        try:
            self._on_open(connection)
        except BaseException:  # a defect: it would be heard beside the next one
            connection.abort("a defect of this node")
            raise
        connection.flush()
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    async def _find(self) -> tuple[str, int]:
        location = self._location
        if location.master is not None:
            return await sentinels.master(location, self._addresses)
        return location.hosts[0] if location.hosts else ("", 0)

    async def _check(self, connection: Connection) -> None:
        """Is it what this needs? Raises Misconfigured, Refused, ConnectionError."""
        info = _parsed(await connection.call("INFO"))
        version = info.get("valkey_version") or info.get("redis_version", "0")
        if int(version.partition(".")[0]) < 7:
            raise Misconfigured(f"the broker is version {version}: Redis 7.0 or Valkey 7.2 at least is needed")
        if info.get("role") != "master":
            raise ConnectionError("the server is a replica")
        policy = info.get("maxmemory_policy", "noeviction")
        try:
            await self._load(connection)
            if policy != "noeviction":  # what it drops from now on is known later, by whoever finds it put right
                await connection.call(*self._functions.look(self._lease))
        except Refused:
            if policy == "noeviction":
                raise
        if policy != "noeviction":
            raise Misconfigured(
                f"the broker's maxmemory-policy is {policy}: it would drop parts of the figures; set it to noeviction"
            )
        missing = await connection.call(*self._functions.check())
        names = dict.fromkeys(name.decode() for name in missing)
        if unknown := [name[1:] for name in names if name.startswith("?")]:
            raise Misconfigured(f"the broker does not know {' '.join(unknown)}: {_NEEDED}")
        if names:
            rights = " ".join(f"+{name}" for name in names)
            raise Misconfigured(
                f"the broker's user lacks rights: {rights} on the cluster's keys and channels; "
                "docs/cluster.md has the list"
            )

    async def _load(self, connection: Connection) -> None:
        try:
            await connection.call("FUNCTION", "LOAD", self._functions.text)
        except Refused as error:
            if "already exists" not in str(error):
                raise

    def _redirect(self, text: str) -> None:
        """``MOVED 1234 host:port``: another server of a Cluster owns the slot."""
        host, _, port = text.split(" ")[-1].rpartition(":")
        if port.isdecimal() and host:
            self._redirected = (host.strip("[]"), int(port))

    # --- watching -----------------------------------------------------------------------------------------

    def _tick(self) -> None:
        connection, now = self.connection, self._now()
        if connection is None:
            return
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)
        late, self._due = now - self._due, now + self._interval
        if now > connection.stale_after:  # a lease without a tick: what waits in the socket is too old
            connection.abort("this process had been asleep")
            return
        connection.stale_after = now + self._lease
        if self._silent_since is None:
            self._silent_since, self._waited_longer = now, False
        elif late > self._interval and not self._waited_longer:  # asleep or busy: what has come is not read yet
            self._silent_since, self._waited_longer = now, True  # once: who is always late would wait for ever
        elif now - self._silent_since > self._silence:
            connection.abort(f"no answer for {self._silence:g} s")
            return
        self._beat(connection)
        connection.flush()

    def _lost(self, reason: str) -> None:
        if self.connection is None:
            return
        if reason.startswith("MOVED"):
            self._redirect(reason)
        self.connection = None
        self.error = reason
        if self._timer is not None:
            self._timer.cancel()
        log.warning("the broker is out of reach; this node goes on by itself", reason=reason)
        self._on_closed()
        self._gone.set()


def _parsed(info: bytes) -> dict[str, str]:
    found = {}
    for line in info.decode(errors="replace").splitlines():
        name, mark, value = line.partition(":")
        if mark:
            found[name] = value
    return found


def _words(error: Refused) -> str:
    command = _COMMAND.search(str(error)) if error.word == "NOPERM" else None
    if command is not None:
        return f"the broker's user lacks rights: +{command[1]}; docs/cluster.md has the list"
    if unknown := _UNKNOWN.search(str(error)):
        return f"the broker does not know {unknown[1].lower()}: {_NEEDED}"
    return _WRONG.get(error.word, f"the broker refuses: {error}")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ImportError):
        return "a Sentinel URL needs the extra: pip install 'messaging-exporter[redis]'"
    if isinstance(error, OSError) and error.strerror:
        return tls_errors.words(error, "the broker") or str(error.strerror).lower()
    return str(error) or type(error).__name__
