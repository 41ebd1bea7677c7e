"""The Valkey of the server's own: private, started again when it dies, gone with the server."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest

from exporter.core.errors import Misconfigured
from exporter.workers import own_broker
from exporter.workers.own_broker import OwnBroker
from tests.servers.exporter import until
from tests.servers.postgres import Postgres
from tests.servers.workers import alive, listens_on_a_port, running

pytestmark = [pytest.mark.needs("postgres", "valkey")]


async def test_it_is_private_comes_back_when_killed_and_goes_with_the_server(
    postgres: Postgres, tmp_path: Path
) -> None:
    environment = {"TMPDIR": str(tmp_path), "RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": ""}
    short = tmp_path if len(str(tmp_path)) < 60 else None
    async with running(
        tmp_path / "server", postgres.url(postgres.create_database()), environment=environment
    ) as server:
        pid = server.broker
        folder = server.broker_folder()
        assert short is None or folder.parent == tmp_path
        for path in (folder, folder / own_broker._SOCKET):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        clients = [await server.connect(f"u-{number}") for number in range(4)]
        for worker in server.workers:
            await worker.scraped(lambda f: f.get("messaging_cluster_users") == 4, "four are known")
        os.kill(pid, signal.SIGKILL)
        died = await server.hears("the Valkey of the workers died; starting it again")
        assert died["signal"] == "SIGKILL"
        for worker in server.workers:
            await worker.scraped(
                lambda f: f.get("messaging_cluster_users") == 4 and f["messaging_cluster_settling"] == 0, "exact again"
            )
        for client in clients:
            await client.barrier()
        again = server.broker
        assert again != pid
        assert await server.stop() == 0
        assert not alive(again)
        assert not folder.exists()


def freeze(broker: OwnBroker) -> None:
    assert broker._process is not None
    broker._process.send_signal(signal.SIGSTOP)


def clean_up(broker: OwnBroker) -> None:
    shutil.rmtree(broker._folder)


@pytest.mark.parametrize("disaster", [freeze, clean_up])
async def test_one_that_answers_nobody_is_started_again(
    disaster: Callable[[OwnBroker], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is frozen, or its socket was taken away, as by who cleans up the folder of temporary files."""
    monkeypatch.setattr(own_broker, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(own_broker, "PING_TIMEOUT", 0.2)
    broker, loop = OwnBroker(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, broker.reap)
    await broker.start()
    try:
        first = broker._process
        assert first is not None
        disaster(broker)

        async def answers_again() -> bool:
            return broker._process is not first and await broker._pinged()

        await until(answers_again, "another one")
        assert first.returncode == -signal.SIGKILL
        last = broker._process
        assert last is not None
        again = os.open(broker._folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):  # others know that its owner lives
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)
    finally:
        await broker.stop()
        loop.remove_signal_handler(signal.SIGCHLD)
    assert last.returncode == 0, "it was told to go, and had the time"


async def test_one_that_is_frozen_at_the_end_ends_in_order() -> None:
    broker, loop = OwnBroker(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, broker.reap)
    await broker.start()
    freeze(broker)
    await broker.stop()
    loop.remove_signal_handler(signal.SIGCHLD)
    assert broker._process is not None
    assert broker._process.returncode == 0


async def test_one_that_answers_now_and_then_is_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_broker, "PING_INTERVAL", 0.0)
    broker, process = OwnBroker(), Mock()
    gone = asyncio.get_running_loop().create_future()
    broker._process, broker._gone = process, gone
    silent = [True] * (own_broker.UNANSWERED - 1)
    answers = iter([*silent, False, *silent])

    async def is_silent() -> bool:
        answer = next(answers, None)
        if answer is None:
            gone.set_result(0)
        return bool(answer)

    monkeypatch.setattr(broker, "_is_silent", is_silent)
    assert await broker._ended() == 0
    process.kill.assert_not_called()


async def test_a_word_to_it_by_name_reaches_nobody_else(postgres: Postgres, tmp_path: Path) -> None:
    """It listens on no port, and two servers have one each."""
    database = postgres.url(postgres.create_database())
    async with running(tmp_path / "a", database) as a, running(tmp_path / "b", database) as b:
        assert a.broker != b.broker
        for server in (a, b):
            await server.workers[0].scraped(lambda f: f.get("messaging_cluster_nodes") == 2, "two nodes")
            assert not listens_on_a_port(server.broker)


async def test_why_it_does_not_start_is_told_however_soon_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\necho '1:M 01 Jan 2026 # the reason'\nexit 1\n")
    program.chmod(0o700)
    broker = OwnBroker()
    broker._program = program

    async def pinged() -> bool:
        assert broker._process is not None
        broker._process.wait()  # without a turn of the loop, in which its words would be read
        return False

    monkeypatch.setattr(broker, "_pinged", pinged)
    with pytest.raises(Misconfigured, match=r"does not start: the reason$"):
        await broker.start()


async def test_one_that_starts_and_never_answers_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_broker, "START", 0.0)
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o700)
    broker, loop = OwnBroker(), asyncio.get_running_loop()
    broker._program = program
    loop.add_signal_handler(signal.SIGCHLD, broker.reap)
    with pytest.raises(Misconfigured, match=r"does not start: no word from it$"):
        await broker.start()
    loop.remove_signal_handler(signal.SIGCHLD)
    assert broker._process is not None
    assert broker._process.returncode is not None


@pytest.mark.parametrize(
    ("error", "silent"),
    [(TimeoutError(), True), (FileNotFoundError(), True), (OSError(errno.EMFILE, "no more files"), False)],
)
async def test_one_that_could_not_be_asked_is_not_silent(
    error: OSError, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = OwnBroker()
    monkeypatch.setattr(broker, "_reply", AsyncMock(side_effect=error))
    assert await broker._is_silent() is silent


async def test_of_its_words_the_last_are_kept() -> None:
    broker = OwnBroker()
    reader, writer = os.pipe()
    os.write(writer, b"x" * own_broker._KEPT + b"the last")
    broker._read(reader)
    for descriptor in (reader, writer):
        os.close(descriptor)
    assert len(broker._output) == own_broker._KEPT
    assert broker._output.endswith(b"xthe last")


def test_the_folder_of_a_killed_server_is_taken_away_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base, socket.socket(socket.AF_UNIX) as listening:
        for name, value in (("TMPDIR", base), ("RUNTIME_DIRECTORY", ""), ("XDG_RUNTIME_DIR", "")):
            monkeypatch.setenv(name, value)
        owned, lock = own_broker._make_folder()  # its Valkey has died, and will be started again
        dead, lives, other, new = (Path(tempfile.mkdtemp(prefix="messaging-", dir=base)) for _ in range(4))
        for folder in (owned, dead, other):
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(f"{folder}/valkey.sock")
        (other / "notes").touch()
        listening.bind(f"{lives}/valkey.sock")  # of a release that locks nothing
        listening.listen()
        mine, another = own_broker._make_folder()
        assert set(Path(base).iterdir()) == {owned, lives, other, new, mine}
        assert {path.name for path in other.iterdir()} == {"notes", "valkey.sock"}
        for descriptor in (lock, another):
            os.close(descriptor)
