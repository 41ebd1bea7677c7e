"""Debian's ejabberd and Prosody as their users run them: on free loopback ports, in a temporary folder, on SQL.

Both can be started on another day (``libfaketime``), so that a database has a history that real servers wrote.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.servers.children import ends_with_the_tests
from tests.servers.ports import free_port

FAKETIME = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]


class Service:
    """A process with a folder of its own. Stop it, also when something failed."""

    name = "service"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """What is run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What the process needs in its environment."""
        return {}

    def start(self, when: datetime | None = None) -> None:
        """Start it, and wait until its port answers."""
        with (self.folder / "output").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command()],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=ends_with_the_tests(signal.SIGTERM),
                env={**os.environ, "HOME": str(self.folder), **self.environment(), **self.at(when)},
            )
        deadline = time.monotonic() + 60
        while not self.answers():
            assert self._process.poll() is None, f"{self.name} ended:\n{self.output()[-3000:]}"
            assert time.monotonic() < deadline, f"{self.name} did not start:\n{self.output()[-3000:]}"
            time.sleep(0.05)

    def at(self, when: datetime | None) -> dict[str, str]:
        """The environment of a process for which it is ``when``, with a clock that goes on from there."""
        if when is None:
            return {}
        assert FAKETIME, "libfaketime is not installed"
        return {
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME": when.astimezone(UTC).strftime("@%Y-%m-%d %H:%M:%S"),
            "FAKETIME_DONT_RESET": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "TZ": "UTC",
        }

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def output(self) -> str:
        """What it wrote."""
        return "\n".join(
            path.read_text(errors="replace") for path in (self.folder / "output", *self.folder.glob("*.log"))
        )

    def stop(self) -> None:
        """Stop it as its supervisor would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(timeout=30)
            self._process = None

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


_ACCOUNTS = """
import pathlib, struct, sys
folder = pathlib.Path(__file__).with_name("accounts")
folder.mkdir(exist_ok=True)
while head := sys.stdin.buffer.read(2):
    what, user, host, *rest = sys.stdin.buffer.read(struct.unpack(">H", head)[0]).decode().split(":", 3)
    account = folder / f"{user}@{host}"
    if what in ("tryregister", "setpass"):
        account.write_text(rest[0])
    known = account.exists()
    good = known and (what in ("isuser", "tryregister", "setpass", "removeuser") or account.read_text() == rest[0])
    if good and what.startswith("removeuser"):
        account.unlink()
    sys.stdout.buffer.write(struct.pack(">HH", 2, good))
    sys.stdout.buffer.flush()
"""
"""Accounts that are kept elsewhere, by ejabberd's protocol for such programs."""


class Ejabberd(Service):
    """ejabberd with mod_mam, everything in SQL. ``database`` is None for an SQLite file, or ``(port, name)``."""

    name = "ejabberd"
    HOSTS = ("example.org", "example.net")

    def __init__(
        self,
        database: tuple[int, str] | None = None,
        *,
        new_schema: bool = False,
        compress_xml: bool = False,
        hosts: Sequence[str] = HOSTS,
        anonymous: str | None = None,
        external: bool = False,
    ) -> None:
        super().__init__()
        self.api_port = free_port()
        self.hosts = hosts
        self.file = self.folder / "ejabberd.db"
        self.database = database
        self.new_schema = new_schema
        self.compress_xml = compress_xml
        self.external = external
        settings: dict[str, Any] = {
            "hosts": [*hosts],
            "loglevel": "warning",
            "default_db": "sql",
            "auth_method": ["sql"],
            "auth_password_format": "scram",
            "new_sql_schema": new_schema,
            "registration_timeout": "infinity",
            "certfiles": [],
            "listen": [
                {"port": self.port, "ip": "127.0.0.1", "module": "ejabberd_c2s", "max_stanza_size": 262144},
                {
                    "port": self.api_port,
                    "ip": "127.0.0.1",
                    "module": "ejabberd_http",
                    "request_handlers": {"/api": "mod_http_api"},
                },
            ],
            "acl": {"local": {"user_regexp": ""}, "loopback": {"ip": ["127.0.0.0/8"]}},
            "access_rules": {"local": {"allow": "all"}, "register": {"allow": "all"}},
            "api_permissions": {"all": {"who": [{"ip": "127.0.0.1/8"}], "what": ["*"]}},
            "shaper_rules": {"c2s_shaper": "none", "max_user_sessions": 20, "max_user_offline_messages": 1000},
            "modules": {
                "mod_mam": {"db_type": "sql", "default": "always", "compress_xml": compress_xml},
                "mod_muc": {
                    "host": "conference.@HOST@",
                    "db_type": "sql",
                    "access_create": "all",
                    "access_persistent": "all",
                    "max_user_conferences": 100,
                    "min_message_interval": 0,
                    "min_presence_interval": 0,
                    "default_room_options": {"mam": True, "allow_subscription": True},
                },
                "mod_muc_admin": {},
                "mod_admin_extra": {},
                "mod_offline": {"db_type": "sql"},
                "mod_last": {"db_type": "sql"},
                "mod_roster": {"db_type": "sql"},
                "mod_carboncopy": {},
                "mod_ping": {},
                "mod_register": {"ip_access": "all", "access": "all", "welcome_message": {}},
                "mod_disco": {},
            },
        }
        if anonymous:
            settings["hosts"].append(anonymous)
            settings["host_config"] = {anonymous: {"auth_method": ["anonymous"], "anonymous_protocol": "sasl_anon"}}
        if external:
            program = self.folder / "accounts.py"
            program.write_text(_ACCOUNTS)
            settings |= {"auth_method": ["external"], "extauth_program": f"{sys.executable} {program}"}
        if database is None:
            settings |= {"sql_type": "sqlite", "sql_database": str(self.file)}
        else:
            settings |= {
                "sql_type": "pgsql", "sql_server": "127.0.0.1", "sql_port": database[0],
                "sql_database": database[1], "sql_username": "postgres", "sql_password": "", "sql_pool_size": 5,
            }  # fmt: skip
        # JSON is YAML.
        (self.folder / "ejabberd.yml").write_text(json.dumps(settings, indent=1))

    def schema_sql(self) -> str:
        """The tables, which ejabberd makes by itself in an SQLite file only."""
        name = f"pg{'.new' if self.new_schema else ''}.sql"
        path = next(path for path in Path("/usr").glob(f"share/**/{name}*") if "ejabberd" in str(path))
        return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()

    def command(self) -> Sequence[str]:
        return (
            "erl", "-noinput", "+S", "2", "-mnesia", "dir", f'"{self.folder}/mnesia"',
            "-ejabberd", "config", f'"{self.folder}/ejabberd.yml"', "log_path", f'"{self.folder}/ejabberd.log"',
            "-s", "ejabberd",
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {
            "ERL_LIBS": str(next(Path("/usr/lib").glob("*/ejabberd-*")).parent),
            "EJABBERD_CONFIG_PATH": str(self.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.folder / "ejabberd.log"),
            "SPOOL_DIR": str(self.folder / "mnesia"),
        }

    def admin(self, command: str, **arguments: Any) -> Any:
        """Run an administrator's command, as ``ejabberdctl`` does; its answer."""
        request = Request(
            f"http://127.0.0.1:{self.api_port}/api/{command}",
            data=json.dumps(arguments).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=20) as answer:  # noqa: S310 - the URL is ours
            return json.load(answer)


class Prosody(Service):
    """Prosody with archives of chats and rooms, everything in SQL. ``database`` as for ejabberd."""

    name = "prosody"
    HOSTS = ("example.org", "example.net")

    def __init__(
        self,
        database: tuple[int, str] | None = None,
        *,
        hashed: bool = True,
        expires_after: str | None = "never",
        archives_only: bool = False,
        anonymous: str | None = None,
    ) -> None:
        super().__init__()
        self.file = self.folder / "prosody.sqlite"
        self.archives_only = archives_only
        self.database = database
        self._config = self.folder / "prosody.cfg.lua"
        if database is None:
            sql = '{ driver = "SQLite3", database = "prosody.sqlite" }'
        else:
            sql = (
                f'{{ driver = "PostgreSQL", database = "{database[1]}", host = "127.0.0.1", port = {database[0]}, '
                'username = "postgres", password = "" }'
            )
        names = ["saslauth", "disco", "roster", "carbons", "mam", "ping", "register", "register_ibr", "offline",
                 "pep", "presence", "message", "iq", "admin_shell"]  # fmt: skip
        storage = '{ archive = "sql", muc_log = "sql" }' if archives_only else '"sql"'
        expiry = f'archive_expires_after = "{expires_after}"\nmuc_log_expires_after = "{expires_after}"\n'
        hosts = "".join(
            f'VirtualHost "{host}"\n'
            f'Component "conference.{host}" "muc"\n  modules_enabled = {{ "muc_mam" }}\n  muc_log_by_default = true\n'
            for host in self.HOSTS
        )
        if anonymous:
            hosts += f'VirtualHost "{anonymous}"\n  authentication = "anonymous"\n  allow_anonymous_s2s = false\n'
        self._config.write_text(
            "run_as_root = true\n"
            f'data_path = "{self.folder}"\npidfile = "{self.folder}/prosody.pid"\n'
            f'admin_socket = "{self.folder}/prosody.sock"\n'
            'interfaces = { "127.0.0.1" }\nlocal_interfaces = { "127.0.0.1" }\n'
            f"c2s_ports = {{ {self.port} }}\ns2s_ports = {{ }}\nhttp_ports = {{ }}\nhttps_ports = {{ }}\n"
            "c2s_require_encryption = false\nallow_unencrypted_plain_auth = true\nallow_registration = true\n"
            "c2s_direct_tls_ports = { }\nlimits = { }\n"
            f'authentication = "{"internal_hashed" if hashed else "internal_plain"}"\n'
            f"storage = {storage}\nsql = {sql}\n{expiry if expires_after else ''}"
            "default_archive_policy = true\n"
            f"modules_enabled = {{ {', '.join(json.dumps(name) for name in names)} }}\n"
            'modules_disabled = { "tls", "s2s" }\n'
            f'log = {{ warn = "{self.folder}/prosody.log" }}\n{hosts}'
        )

    def command(self) -> Sequence[str]:
        return ("/usr/bin/prosody", "-F", "--config", str(self._config))

    def expire_after(self, age: str) -> None:
        """From the next start on, archives expire."""
        text = self._config.read_text()
        self._config.write_text(text.replace('expires_after = "never"', f'expires_after = "{age}"'))

    def control(self, *arguments: str) -> str:
        """Run ``prosodyctl``; its output."""
        done = subprocess.run(
            ["/usr/bin/prosodyctl", "--config", str(self._config), *arguments],
            capture_output=True, text=True, timeout=400, cwd=self.folder, check=False,
            env={**os.environ, "HOME": str(self.folder)},
        )  # fmt: skip
        assert done.returncode == 0, f"prosodyctl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout
