"""The workers: a place for each, filled, kept filled, and filled anew. Knows no signal and no setting's meaning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from exporter.core.errors import Misconfigured, os_reason
from exporter.settings.model import Settings
from exporter.workers.channel import ChannelMessage
from exporter.workers.plan import Sockets
from exporter.workers.process import BEAT_TIMEOUT, Backoff, WorkerProcess, exit_fields

log = structlog.get_logger(__name__)

GRACE: Final = 5.0  # seconds beyond the drain time until a worker is killed: it closes the database meanwhile
PREPARING: Final = 60.0  # seconds that a replacement may take until its database is open


class Slot:
    """A worker's place: its number stays, whoever fills it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.successor: WorkerProcess | None = None
        self.predecessor = ""  # the name that the last one who died had at the broker
        self.restarts = 0
        self.backoff = Backoff()


class Pool:
    """``settings`` are what the next worker is started with. ``on_last`` hears that none serves, and a status.
    ``cluster`` is for the ``Server`` of each worker.

    That is when one ended by itself, with an error: whoever started the server decides what to do about it, as with a
    server of one process. So it is after a defect here: a server whose workers nobody starts again ends in order.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        sockets: Sockets,
        on_last: Callable[[int], None],
        cluster: int | None = None,
    ) -> None:
        self.settings = settings
        self.stopping = False
        self._sockets = sockets
        self._on_last = on_last
        self._cluster = cluster
        self._slots = [Slot(number) for number in range(count)]
        self._replaced: list[WorkerProcess] = []  # not yet ended
        self._keeping: list[asyncio.Task[None]] = []
        self._ticked = time.monotonic()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def workers(self) -> list[WorkerProcess]:
        """All that were started and have not been forgotten; some may have ended."""
        found = [worker for slot in self._slots for worker in (slot.worker, slot.successor)]
        return [*(worker for worker in found if worker is not None), *self._replaced]

    # --- starting -------------------------------------------------------------------------------------------

    async def start(self) -> list[ChannelMessage]:
        """Start all; what each says when it listens.

        The first one alone: what is wrong with the settings is said once, and one process makes schema and secret. When
        it ends before it listens ``on_last`` is told, and this never returns. Raises Misconfigured.
        """
        try:
            worker = await self._fill(self._slots[0])
        except OSError as error:
            raise Misconfigured(f"a worker cannot be started: {os_reason(error)}") from error
        await asyncio.wait((worker.listening, worker.exited), return_when=asyncio.FIRST_COMPLETED)
        if worker.exited.done():
            status = worker.exited.result()
            if status <= 0:
                log.error("the first worker ended before it listened", **exit_fields(status))
            self._on_last(status if status > 0 else 1)
            await asyncio.Event().wait()
        for slot in self._slots[1:]:
            await self._fill_again(slot, 0.0)
        self._keeping = [self.begin(self._keep(slot), f"worker-{slot.number}") for slot in self._slots]
        return [await self._listening(slot) for slot in self._slots]

    async def _listening(self, slot: Slot) -> ChannelMessage:
        """What the worker of this place says when it listens; or its next one, if it dies before."""
        while True:
            worker = slot.worker
            if worker is not None:
                await asyncio.wait((worker.listening, worker.exited), return_when=asyncio.FIRST_COMPLETED)
                if worker.listening.done():
                    return worker.listening.result()
            await asyncio.sleep(0.02)  # until the next one is started

    async def _fill(self, slot: Slot, *, standby: bool = False) -> WorkerProcess:
        worker = await WorkerProcess.start(
            slot.number,
            self.settings,
            self._sockets.shared,
            self._sockets.own[slot.number],
            restarts=slot.restarts,
            predecessor="" if standby else slot.predecessor,
            standby=standby,
            cluster=self._cluster,
            changed=self._balance,
        )
        if standby:
            slot.successor = worker
        elif slot.worker is not None:  # while this one was started a replacement has taken the place
            self._replaced.append(worker)
            worker.kill()
        else:
            slot.worker = worker
            slot.backoff.begun()
        worker.reap()  # it may have ended before it was known here, and nobody is told of that twice
        if self.stopping:
            worker.tell("drain")
        return worker

    # --- keeping --------------------------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that nobody waits for: a defect in it ends the server."""
        return self.supervise(asyncio.create_task(work, name=name))

    def supervise(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """As ``begin``, of a task that somebody else has begun."""
        task.add_done_callback(self._ended_by_a_defect)
        return task

    def _ended_by_a_defect(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a defect in the supervisor: the server ends", task=task.get_name(), exc_info=error)
            self._on_last(1)

    async def _keep(self, slot: Slot) -> None:
        """Whoever dies is started again."""
        while not self.stopping:
            worker = slot.worker
            assert worker is not None  # noqa: S101 - it was filled
            status = await asyncio.shield(worker.exited)
            if self.stopping:
                return
            if slot.worker is not worker:
                continue  # it was replaced
            slot.restarts += 1
            slot.predecessor = worker.incarnation or slot.predecessor
            slot.worker = None
            about = {"worker": slot.number, "pid": worker.pid, **exit_fields(status), "restarts": slot.restarts}
            if slot.successor is not None:
                log.error("a worker died; its successor takes its place", **about)
                self._take_over(slot, slot.successor)
            elif status > 0 and not any(other.serves for other in self.workers):
                log.error("a worker ended by itself and no other serves, so the server ends", **about)
                self._on_last(status)
                return
            else:
                pause = slot.backoff.next()
                log.error("a worker died; starting it again", **about, pause=pause)
                await self._fill_again(slot, pause)

    async def _fill_again(self, slot: Slot, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            if slot.worker is not None:  # a replacement has taken the place meanwhile
                return
            try:
                await self._fill(slot)
                return
            except OSError as error:  # no memory, no process, no file to be had
                pause = slot.backoff.next()
                log.error(
                    "a worker cannot be started; trying on", worker=slot.number, reason=os_reason(error), pause=pause
                )

    def reap(self) -> None:
        """Children have ended."""
        for worker in self.workers:
            worker.reap()
        self._replaced = [worker for worker in self._replaced if not worker.exited.done()]
        self._balance()

    def _balance(self) -> None:
        """A worker without room or database leaves who comes to the others, unless all are so: then all refuse them."""
        running = [w for w in self.workers if w.listening.done() and not (w.leaving or w.silent or w.exited.done())]
        room = any(not worker.full for worker in running)
        for worker in running:
            wanted = not (worker.full and room)
            if wanted != worker.accepting:
                worker.tell("accept" if wanted else "pause")

    def watch(self) -> asyncio.Task[None]:
        """Notice who does not answer any more. It is not killed: whoever stopped it may want to look at it."""
        return self.begin(self._watch(), "watch")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now, before = time.monotonic(), self._ticked
            self._ticked = now
            for worker in self.workers:
                if now - before > BEAT_TIMEOUT:  # this process itself was asleep
                    worker.last_beat = now
                if not worker.serves or worker.leaving:  # who closes its database does not beat
                    continue
                silent = now - worker.last_beat > BEAT_TIMEOUT
                if silent != worker.silent:
                    worker.silent = silent
                    words = "a worker does not answer; the others serve" if silent else "the worker answers again"
                    log.warning(words, worker=worker.number, pid=worker.pid)
            self._balance()

    # --- replacing ------------------------------------------------------------------------------------------

    async def replace(self) -> bool:
        """One after the other: the new one is ready before the old one stops to accept, and drains.

        False: one did not get ready, and from there on the old ones go on.
        """
        for slot in self._slots:
            if not await self._replace(slot):
                log.error("the replacement did not get ready; the workers that serve go on", worker=slot.number)
                return False
        return True

    async def _replace(self, slot: Slot) -> bool:
        try:
            new = await self._fill(slot, standby=True)
        except OSError as error:
            log.error("a worker cannot be started", worker=slot.number, reason=os_reason(error))
            return False
        await asyncio.wait((new.prepared, new.exited), timeout=PREPARING, return_when=asyncio.FIRST_COMPLETED)
        if slot.worker is new:  # the old one died meanwhile
            return True
        if not new.prepared.done() or new.exited.done():
            slot.successor = None
            self._replaced.append(new)
            new.kill()
            return False
        old = slot.worker
        self._take_over(slot, new)
        if old is not None:
            self._replaced.append(old)
        await asyncio.wait((new.listening, new.exited), timeout=PREPARING, return_when=asyncio.FIRST_COMPLETED)
        if old is not None:  # it has accepted until now: the others may have no room
            old.tell("retire")
            await self.ended([old])
        return True

    def _take_over(self, slot: Slot, new: WorkerProcess) -> None:
        slot.worker, slot.successor = new, None
        new.tell("listen")

    # --- ending --------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """All together; returns when they have ended."""
        self.stopping = True
        for task in self._keeping:
            task.cancel()
        for worker in self.workers:
            worker.tell("drain")
        await self.ended(self.workers)

    async def ended(self, workers: list[WorkerProcess]) -> None:
        """Wait for those who were told to go, for as long as they may take, and kill who does not."""
        waiting = {worker.exited: worker.drain_timeout for worker in workers if not worker.exited.done()}
        if waiting:
            await asyncio.wait(waiting, timeout=max(waiting.values()) + GRACE)
        for worker in workers:
            if not worker.exited.done():
                log.warning("a worker did not end in time, and is killed", worker=worker.number, pid=worker.pid)
                worker.kill()
                await worker.exited

    def kill(self) -> None:
        """All, at once."""
        for worker in self.workers:
            worker.kill()
