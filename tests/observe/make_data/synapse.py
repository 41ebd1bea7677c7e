"""Synapse on free loopback ports, and people on its HTTP client API."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sqlite3
import subprocess
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from tests.observe.make_data.install import VENV
from tests.servers.ports import free_port
from tests.servers.xmpp_servers import Service

BRIDGE_TOKEN = "bridge-token"
_SERVER_TOKEN = "server-token"
_OFTEN = {"per_second": 100000, "burst_count": 100000}


_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class Synapse(Service):
    """One homeserver. ``database`` is None for an SQLite file, or ``(port, name)``; ``federates``: it has TLS, too."""

    name = "synapse"

    def __init__(
        self,
        database: tuple[int, str] | None = None,
        *,
        server_name: str | None = None,
        federates: bool = False,
        statistics: bool = True,
    ) -> None:
        super().__init__()
        self.file = self.folder / "homeserver.db"
        self.database = database
        self.statistics = statistics
        tls_port = free_port()
        self.server_name = server_name or f"localhost:{tls_port}"
        if database is None:
            store: dict[str, Any] = {"name": "sqlite3", "args": {"database": str(self.file)}}
        else:
            store = {
                "name": "psycopg2",
                "args": {
                    "user": "postgres", "database": database[1], "host": "127.0.0.1", "port": database[0],
                    "cp_min": 1, "cp_max": 5,
                },
            }  # fmt: skip
        bridge = {
            "id": "bridge", "url": None, "as_token": BRIDGE_TOKEN, "hs_token": _SERVER_TOKEN,
            "sender_localpart": "_bridge", "rate_limited": False,
            "namespaces": {"users": [{"exclusive": True, "regex": "@_bridge_.*"}], "rooms": [], "aliases": []},
        }  # fmt: skip
        (self.folder / "bridge.yaml").write_text(json.dumps(bridge))
        client = {
            "port": self.port,
            "type": "http",
            "bind_addresses": ["127.0.0.1"],
            "resources": [{"names": ["client"]}],
        }
        listeners: list[dict[str, Any]] = [client]
        tls: dict[str, Any] = {}
        if federates:
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "tls.key", "-out", "tls.crt",
                 "-days", "3650", "-subj", "/CN=localhost"],
                cwd=self.folder, check=True, capture_output=True,
            )  # fmt: skip
            listeners.append({**client, "port": tls_port, "tls": True, "resources": [{"names": ["federation"]}]})
            tls = {"tls_certificate_path": f"{self.folder}/tls.crt", "tls_private_key_path": f"{self.folder}/tls.key"}
        settings = {
            "server_name": self.server_name,
            "pid_file": f"{self.folder}/pid",
            "listeners": listeners,
            "database": store,
            "log_config": f"{self.folder}/log.yaml",
            "media_store_path": f"{self.folder}/media",
            "signing_key_path": f"{self.folder}/signing.key",
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "allow_guest_access": True,
            "registration_shared_secret": "shared",
            "macaroon_secret_key": "macaroon",
            "form_secret": "form",
            "bcrypt_rounds": 4,
            "app_service_config_files": [f"{self.folder}/bridge.yaml"],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "report_stats": False,
            "presence": {"enabled": False},
            "stats": {"enabled": statistics},
            "user_directory": {"enabled": False},
            "federation_verify_certificates": False,
            "federation_ip_range_blacklist": [],
            "ip_range_blacklist": [],
            "rc_message": _OFTEN, "rc_registration": _OFTEN, "rc_joins": {"local": _OFTEN, "remote": _OFTEN},
            "rc_login": {"address": _OFTEN, "account": _OFTEN, "failed_attempts": _OFTEN},
            "rc_joins_per_room": _OFTEN, "rc_invites": {"per_room": _OFTEN, "per_user": _OFTEN, "per_issuer": _OFTEN},
            "rc_room_creation": _OFTEN, "rc_admin_redaction": _OFTEN,
            **tls,
        }  # fmt: skip
        (self.folder / "homeserver.yaml").write_text(json.dumps(settings, indent=1))
        log = {
            "version": 1,
            "handlers": {"out": {"class": "logging.StreamHandler"}},
            "root": {"level": "WARNING", "handlers": ["out"]},
        }
        (self.folder / "log.yaml").write_text(json.dumps(log))

    def command(self) -> Sequence[str]:
        return (
            str(VENV / "bin/python"), "-m", "synapse.app.homeserver", "-c", str(self.folder / "homeserver.yaml"),
        )  # fmt: skip

    def at(self, when: datetime | None) -> dict[str, str]:
        """Python's own clock is set: with libfaketime, Twisted spins."""
        if when is None:
            return {"PYTHONPATH": ""}
        (self.folder / "shift").mkdir(exist_ok=True)
        (self.folder / "shift/sitecustomize.py").write_text(
            "import time\n"
            f"seconds, nanoseconds, shift = time.time, time.time_ns, {when.timestamp()} - time.time()\n"
            "time.time = lambda: seconds() + shift\n"
            "time.time_ns = lambda: nanoseconds() + int(shift * 1e9)\n"
        )
        return {"PYTHONPATH": f"{self.folder}/shift"}

    def prepare(self) -> None:
        """Make the signing key."""
        done = subprocess.run(
            [*self.command(), "--generate-keys"], capture_output=True, text=True, check=False, env=_ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr

    def retain(self, age: str) -> None:
        """From the next start on, messages are purged at this age, by a job that comes every few seconds."""
        path = self.folder / "homeserver.yaml"
        settings = json.loads(path.read_text())
        settings["retention"] = {
            "enabled": True,
            "default_policy": {"min_lifetime": "1d", "max_lifetime": age},
            "purge_jobs": [{"interval": "5s"}],
        }
        path.write_text(json.dumps(settings, indent=1))

    def promote(self, user: str) -> None:
        """Make an administrator of somebody."""
        statement = "UPDATE users SET admin = 1 WHERE name = ?"
        if self.database is None:
            with contextlib.closing(sqlite3.connect(self.file, timeout=20)) as connection, connection:
                connection.execute(statement, (user,))
        else:
            port, name = self.database
            url = f"postgresql://postgres@127.0.0.1:{port}/{name}"
            subprocess.run(
                ["psql", "-q", "-d", url, "-c", statement.replace("?", f"'{user}'")], check=True, capture_output=True
            )

    def api(self) -> Api:
        """A client of it."""
        return Api(f"http://127.0.0.1:{self.port}")


class Answer(Exception):
    """The server refused: its status and error code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


class Api:
    """The HTTP API; use as ``async with``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Any = None, token: str | None = None, **query: str | int
    ) -> dict[str, Any]:
        """One request; raises Answer unless it is a success."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self._session.request(
            method, f"{self.url}{path}", json=body, headers=headers, params=query or None
        ) as answer:
            found = await answer.json()
            if answer.status >= 400:
                raise Answer(answer.status, f"{found.get('errcode')} {found.get('error')}")
            return dict(found)

    async def register(self, name: str) -> Person:
        """An account with a password."""
        body = {"username": name, "password": f"{name}'s password", "auth": {"type": "m.login.dummy"}}
        return self._person(await self.call("POST", "/_matrix/client/v3/register", body))

    async def sign_in(self, name: str) -> Person:
        """The same account on another day."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": f"{name}'s password",
        }
        return self._person(await self.call("POST", "/_matrix/client/v3/login", body))

    async def guest(self) -> Person:
        """Somebody without an account."""
        return self._person(await self.call("POST", "/_matrix/client/v3/register", {}, kind="guest"))

    async def ghost(self, name: str) -> Person:
        """A user of the bridge."""
        body = {"type": "m.login.application_service", "username": name, "inhibit_login": True}
        made = await self.call("POST", "/_matrix/client/v3/register", body, token=BRIDGE_TOKEN)
        return Person(self, made["user_id"], BRIDGE_TOKEN, {"user_id": made["user_id"]})

    def _person(self, found: dict[str, Any]) -> Person:
        return Person(self, found["user_id"], found["access_token"])


_numbers = itertools.count(1)


class Person:
    """Somebody who is signed in."""

    def __init__(self, api: Api, id: str, token: str, query: dict[str, str] | None = None) -> None:
        self.api, self.id, self.token = api, id, token
        self._query = query or {}

    async def call(self, method: str, path: str, body: Any = None, **query: str | int) -> dict[str, Any]:
        """A request of theirs under ``/_matrix/client/v3``."""
        return await self.api.call(method, f"/_matrix/client/v3{path}", body, self.token, **self._query, **query)

    async def admin(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A request under ``/_synapse/admin``."""
        return await self.api.call(method, f"/_synapse/admin{path}", body, self.token)

    async def create(self, **body: Any) -> str:
        """A room; its id."""
        return str((await self.call("POST", "/createRoom", body))["room_id"])

    async def join(self, room: str, **query: str) -> None:
        await self.call("POST", f"/join/{quote(room)}", {}, **query)

    async def leave(self, room: str) -> None:
        await self.call("POST", f"/rooms/{quote(room)}/leave", {})

    async def send(self, room: str, content: Any, type: str = "m.room.message", **query: str | int) -> str:
        """An event; its id."""
        path = f"/rooms/{quote(room)}/send/{type}/t{next(_numbers)}"
        return str((await self.call("PUT", path, content, **query))["event_id"])

    async def state(self, room: str, type: str, content: Any, key: str = "") -> str:
        """A state event; its id."""
        return str((await self.call("PUT", f"/rooms/{quote(room)}/state/{type}/{quote(key)}", content))["event_id"])

    async def redact(self, room: str, event: str) -> str:
        path = f"/rooms/{quote(room)}/redact/{quote(event)}/t{next(_numbers)}"
        return str((await self.call("PUT", path, {"reason": 'it\'s "gone"'}))["event_id"])

    async def settle(self) -> None:
        """Wait until the server's statistics know everything that happened so far: they follow the order of events."""
        last = await self.create(preset="private_chat")
        await self.leave(last)
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await self.admin("GET", f"/v1/rooms/{quote(last)}"))["state_events"]:
                        details = await self.admin("GET", f"/v1/rooms/{quote(last)}")
                        if details["joined_members"] == 0:
                            return
                except Answer as answer:
                    if answer.status != 404:
                        raise
                await asyncio.sleep(0.1)
