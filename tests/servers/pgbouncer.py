"""A pgbouncer of the tests' own in front of their PostgreSQL: Debian's binary, a free port, a temporary folder.

pgbouncer refuses to run as root, so it is started as another user then.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers.children import ends_with_the_tests
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
min_pool_size = 0
max_client_conn = 500
server_idle_timeout = 5
logfile = {folder}/log
pidfile = {folder}/pid
admin_users = postgres
{more}
"""


def _program() -> str:
    found = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    assert found is not None, "no pgbouncer here"
    return found


class Pgbouncer:
    """A running pooler; ``url`` is that of a database behind it. Stop it, also when something failed."""

    def __init__(self, server: Postgres, mode: str, *, size: int = 4, more: str = "") -> None:
        """``mode``: session or transaction; ``size``: server connections of a pool; ``more``: settings."""
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self.port = free_port()
        file = self._folder / "pgbouncer.ini"
        file.write_text(
            SETTINGS.format(server=server.port, port=self.port, mode=mode, size=size, folder=self._folder, more=more)
        )
        become: dict[str, object] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            become = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process = subprocess.Popen(
            [_program(), "-q", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            preexec_fn=ends_with_the_tests(),
            **become,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, "pgbouncer did not start"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What it has written."""
        file = self._folder / "log"
        return file.read_text() if file.exists() else ""

    def url(self, behind: str) -> str:
        """For a client: the database of a URL of the server's own."""
        return urlsplit(behind)._replace(netloc=f"postgres@127.0.0.1:{self.port}").geturl()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self._process.kill()  # it holds nothing, and its own way of ending waits for clients
        self._process.wait(timeout=10)
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres) -> Iterator[Pgbouncer]:
    """In transaction mode, for all tests of one module's session."""
    server = Pgbouncer(postgres, "transaction")
    try:
        yield server
    finally:
        server.close()
