"""A name of ours in /tmp is nothing to trust in: somebody cleans up, and somebody else makes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import pytest

from exporter.broker.addresses import Addresses
from exporter.broker.connection import Connection, connect
from exporter.broker.location import Location
from exporter.cli.process import make_folder
from exporter.core.errors import Misconfigured
from exporter.node.cluster import ClusterNode
from exporter.ownership import NotOurs
from exporter.settings import secret_file
from exporter.settings.model import Settings
from exporter.web.server import Server
from exporter.workers import own_broker
from exporter.workers.own_broker import OwnBroker
from tests.logged import logged
from tests.servers.exporter import until

pytestmark = [pytest.mark.needs("valkey")]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else, too")
NOBODY = 65_534
IMPOSTOR = """
import os, socket, sys
os.mkdir(sys.argv[1], 0o755)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1] + "/valkey.sock")
os.chmod(sys.argv[1] + "/valkey.sock", 0o777)
server.listen()
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    if heard := connection.recv(1000):
        print(heard, flush=True)
        connection.sendall(b"+PONG\\r\\n")
    connection.close()
"""


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As /tmp: anybody may make a name, and nobody removes another's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o1777)  # noqa: S103 - the matter of these tests
        for name, value in (("TMPDIR", folder), ("RUNTIME_DIRECTORY", ""), ("XDG_RUNTIME_DIR", "")):
            monkeypatch.setenv(name, value)
        yield Path(folder)


@pytest.fixture
async def broker(base: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OwnBroker]:
    monkeypatch.setattr(own_broker, "PING_INTERVAL", 0.05)
    found, loop = OwnBroker(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, found.reap)
    await found.start()
    assert found._folder.parent == base
    yield found
    await found.stop()
    loop.remove_signal_handler(signal.SIGCHLD)


def location_of(broker: OwnBroker, cluster: int | None, folder: Path) -> Location:
    """Where a server looks for it."""
    node = Server(Settings(data_dir=folder, redis_url=broker.url), cluster).node
    assert isinstance(node, ClusterNode)
    return node.redis._reconnecting._location


async def connected(location: Location) -> Connection:
    return await connect(location, Addresses(), ("", 0), print, print, time.monotonic, float("inf"), "worker")


@contextlib.contextmanager
def impostor(folder: Path) -> Iterator[IO[str]]:
    """Another user who listens where the Valkey did; what he hears."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    words = [*become, sys.executable, "-c", IMPOSTOR, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listening\n"
            yield process.stdout
        finally:
            process.kill()


@root_only
async def test_whoever_takes_the_name_after_a_cleaner_hears_nothing_and_is_told_of(
    broker: OwnBroker, tmp_path: Path
) -> None:
    first = broker._process
    assert first is not None
    shutil.rmtree(broker._folder)
    with logged(own_broker) as lines, impostor(broker._folder) as heard:
        with pytest.raises(NotOurs, match="another user listens on the socket"):
            await connected(location_of(broker, broker.cluster, tmp_path))

        async def told() -> bool:
            return any("another user's now" in line.get("reason", "") for line in lines)

        await until(told, "it cannot be started there")
        assert first.returncode == -signal.SIGKILL, "no worker would find it"
        assert not await broker._pinged()
        assert (broker._folder / "valkey.sock").stat().st_uid == NOBODY, "nothing of ours is put there"
        os.set_blocking(heard.fileno(), False)
        with pytest.raises(BlockingIOError):
            os.read(heard.fileno(), 1)  # nothing was said to him
    shutil.rmtree(broker._folder)
    await until(broker._pinged, "it is ours again")


async def test_only_of_a_broker_of_its_own_a_server_asks_whose_it_is(
    broker: OwnBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, users = (location_of(broker, cluster, tmp_path) for cluster in (broker.cluster, None))
    (await connected(own)).abort("the end")
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)  # Valkey runs as another user, as a machine's service does
    (await connected(users)).abort("the end")
    with pytest.raises(NotOurs):
        await connected(own)


async def test_a_link_is_not_followed(broker: OwnBroker, base: Path) -> None:
    """It may lead to a folder of this user's where other things are."""
    elsewhere = base / "elsewhere"
    broker._folder.rename(elsewhere)
    broker._folder.symlink_to(elsewhere)
    with pytest.raises(Misconfigured, match="is another user's now"):
        broker._take_folder()
    broker._folder.unlink()
    elsewhere.rename(broker._folder)


@pytest.mark.parametrize(
    ("mode", "owner", "taken"),
    [
        pytest.param(0o755, 0, True, id="private"),
        pytest.param(0o1777, 0, True, id="sticky"),
        pytest.param(0o777, 0, False, id="everybody may move what is there"),
        pytest.param(0o775, 0, False, id="a group may"),
        pytest.param(0o700, NOBODY, False, id="of the user before su", marks=root_only),
        pytest.param(0o1777, NOBODY, False, id="likewise, and sticky", marks=root_only),
    ],
)
@pytest.mark.parametrize("variable", ["TMPDIR", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"])
def test_no_folder_is_made_where_another_user_could_put_one_in_its_place(
    variable: str, mode: int, owner: int, taken: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = base / "given"
    given.mkdir()
    given.chmod(mode)
    if owner:
        os.chown(given, owner, owner)
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setenv(variable, str(given))
    assert own_broker._bases() == [*([str(given)] if taken else []), "/tmp", "/dev/shm"]


@root_only
def test_a_data_folder_that_another_user_laid_there_first_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cd /tmp`` and ``serve``: he would know the secret, and be anybody."""
    data = base / "data"
    data.mkdir(mode=0o700)
    secret = data / "auth.secret"
    secret.write_bytes(b"k" * 48)
    secret.chmod(0o600)
    for own in (data / "below", data):
        make_folder(own)
    assert secret_file.load(secret)
    for name in (data, secret):
        os.chown(name, NOBODY, NOBODY)
    link = base / "link"
    link.symlink_to(Path("/root"))
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    for folder, trap in ((data / "below", data), (data, data), (link, link)):
        with pytest.raises(Misconfigured, match=f"^{trap} was made by another user"):
            make_folder(folder)
    with pytest.raises(Misconfigured, match=f"who made {data} where everybody may make one"):
        secret_file.load(secret)
    for mode in (0o755, 0o1770):
        base.chmod(mode)
        assert secret_file.load(secret), "root has chosen whose it is, as of a service's, and who is in a group"
    base.chmod(0o1777)
    monkeypatch.setattr(os.path, "ismount", data.__eq__)
    make_folder(data / "below")  # of a container, whose user's folder the host has mounted there
