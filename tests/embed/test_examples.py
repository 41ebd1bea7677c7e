"""The examples and the snippets of docs/embed.md, run against the real frameworks."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import importlib.util
import re
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
import socketio
import structlog
from prometheus_client import REGISTRY

from exporter import Live, LockedLive
from exporter.core.events import ClosedReason
from tests.embed.hosts import blocks, on_aiohttp, on_uvicorn
from tests.servers.exporter import figures_of, until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def load(path: Path, name: str) -> ModuleType:
    """A module of its own each time: examples keep state at their top."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # SQLModel looks there for the types of its annotations
    spec.loader.exec_module(module)
    return module


def test_the_origin_becomes_true_with_a_handful_of_lines() -> None:
    before, after = ((EXAMPLES / "fastapi_chat" / name).read_text().splitlines() for name in ("origin.py", "main.py"))
    changes = [line for line in difflib.ndiff(before, after) if line.startswith("+ ") and line[2:].strip()]
    assert len(changes) <= 14, "\n".join(changes)


def tables(database: Path) -> None:
    """What the origin's users did before: a counter that nothing kept right, an edit, a deleted message."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript("""
            INSERT INTO user (name, role, created_at) VALUES
                ('ann', 'user', datetime('now')), ('bob', 'user', datetime('now')), ('eve', 'admin', datetime('now'));
            INSERT INTO conversation (created_at, total_messages) VALUES (datetime('now'), 7), (datetime('now'), 0);
            INSERT INTO conversation_participant VALUES (1, 1), (1, 2);
            INSERT INTO message (conversation_id, sender_id, content, created_at, deleted_at) VALUES
                (1, 1, 'one', datetime('now'), NULL), (1, 1, 'two', datetime('now'), datetime('now'));
        """)


async def test_fastapi_chat_has_true_figures_and_complete_stats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()  # a host that never heard of it
    database = tmp_path / "chat.db"
    monkeypatch.setenv("CHAT_DATABASE", f"sqlite:///{database}")
    example = load(EXAMPLES / "fastapi_chat" / "main.py", "fastapi_chat_main")
    assert isinstance(example.manager.live, LockedLive)  # its /stats is a plain def, which FastAPI calls in a thread
    tables(database)
    async with on_uvicorn(example.app) as url, aiohttp.ClientSession() as http:
        stats = f"{url}/v1/messaging/stats"
        for token, status in ((None, 401), ("ann", 403), ("eve", 200)):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with http.get(stats, headers=headers) as response:
                assert response.status == status

        async def ask(websocket: aiohttp.ClientWebSocketResponse[bool], **frame: Any) -> None:
            await websocket.send_json(frame)
            while "done" not in await websocket.receive_json():
                pass

        ann, bob = [
            await http.ws_connect(f"{url}/v1/messaging/ws", headers={"Authorization": f"Bearer {name}"})
            for name in ("ann", "bob")
        ]
        second = await http.ws_connect(f"{url}/v1/messaging/ws", headers={"Authorization": "Bearer ann"})
        await ask(ann, type="join", conversation=1)
        await ask(bob, type="join", conversation=1)
        await ask(second, type="join", conversation=2)
        await ask(ann, type="typing", conversation=1)
        await ask(ann, type="send", conversation=1, content="three")
        await ask(bob, type="typing", conversation=1)

        async def complete() -> bool:
            async with http.get(f"{url}/messaging/metrics") as response:
                figures = figures_of(await response.text())
            return figures.get("messaging_stored_messages") == 2 and "messaging_inaccurate_conversations" in figures

        await until(complete, "the database was counted and its counter compared")
        async with http.get(f"{url}/messaging/metrics") as response:
            figures = figures_of(await response.text())
        assert figures["messaging_active_connections"] == 3  # a second tab is a connection
        assert figures["messaging_connected_users"] == 2  # and no second user
        assert figures["messaging_active_conversations"] == 2
        assert figures["messaging_participants"] == 3
        assert figures["messaging_typing_users"] == 1  # ann's ended with her message
        assert figures["messaging_messages_accepted_total"] == 1
        assert figures["messaging_messages_today"] == 2
        assert figures['messaging_active_users{window="1d"}'] == 1
        assert figures["messaging_inaccurate_conversations"] == 1  # conversation 1 claims 7 and has 2
        async with http.get(stats, headers={"Authorization": "Bearer eve"}) as response:
            document = await response.json()
        assert {
            name: document[name] for name in ("active_connections", "active_conversations", "total_participants")
        } == {
            "active_connections": 3,
            "active_conversations": 2,
            "total_participants": 3,
        }
        assert (document["total_messages"], document["registered_users"]) == (2, 3)
        for websocket in (ann, bob, second):
            await websocket.close()

        async def empty() -> bool:
            return bool(example.manager.live.stats().active_connections == 0)

        await until(empty, "everybody has gone")
        await example.manager.live.totals.close()
    assert "counted" not in capsys.readouterr().out  # nothing of ours is printed in a host's process


async def test_aiohttp_chat_announces_from_events() -> None:
    example = load(EXAMPLES / "aiohttp_chat" / "main.py", "aiohttp_chat_main")
    async with on_aiohttp(example.application()) as url, aiohttp.ClientSession() as http:
        bob = await http.ws_connect(f"{url}/ws?user=bob")
        await bob.send_json({"type": "join", "room": "one"})
        assert (await bob.receive_json())["user"] == "bob"
        tabs = [await http.ws_connect(f"{url}/ws?user=ann") for _ in range(2)]
        for tab in tabs:
            await tab.send_json({"type": "join", "room": "one"})
        assert await bob.receive_json() == {"type": "joined", "user": "ann"}  # once, for both tabs
        await tabs[1].send_json({"type": "message", "room": "one", "text": "hello"})
        assert await bob.receive_json() == {"type": "message", "user": "ann", "text": "hello"}
        async with http.get(f"{url}/messaging/metrics") as response:
            figures = figures_of(await response.text())
        assert figures["messaging_participants"] == 2
        assert figures["messaging_deliveries_total"] == 3


class Reset:
    """A WebSocket whose peer was killed a moment ago: aiohttp has not told its handler yet."""

    closed = False

    async def send_json(self, frame: object) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")


async def test_aiohttp_chat_goes_on_for_everybody_else_when_somebody_is_killed() -> None:
    example = load(EXAMPLES / "aiohttp_chat" / "main.py", "aiohttp_chat_killed")
    async with on_aiohttp(example.application()) as url, aiohttp.ClientSession() as http:
        ann, bob = [await http.ws_connect(f"{url}/ws?user={name}") for name in ("ann", "bob")]
        for websocket in (ann, bob):
            await websocket.send_json({"type": "join", "room": "one"})
            assert (await websocket.receive_json())["type"] == "joined"
        [killed] = [connection for connection in example.sockets if connection.user == "ann"]
        example.sockets[killed] = Reset()
        for text in ("one", "two"):
            await bob.send_json({"type": "message", "room": "one", "text": text})
            assert await bob.receive_json() == {"type": "message", "user": "bob", "text": text}


async def test_socketio_chat_is_under_fifty_lines_and_right() -> None:
    path = EXAMPLES / "socketio_chat" / "main.py"
    assert path.read_text().count("\n") < 50
    example = load(path, "socketio_chat_main")
    async with on_uvicorn(example.app) as url:
        clients = [socketio.AsyncClient() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.connect(url, auth={"user": f"user{number % 2}"})
            await client.call("join", "room")
        stats = example.live.stats()
        assert (stats.active_connections, stats.connected_users, stats.participants) == (3, 2, 2)
        for client in clients:
            await client.disconnect()

        async def empty() -> bool:
            return bool(example.live.stats().active_connections == 0)

        await until(empty, "everybody has gone")


def test_the_document_names_every_reason_of_an_end() -> None:
    [named] = re.findall(r"Reasons are those of the metrics: ([^.]*)\.", (ROOT / "docs" / "embed.md").read_text())
    assert set(re.findall(r"`(\w+)`", named)) == {*ClosedReason}


async def test_the_snippets_of_the_document_run() -> None:
    names: dict[str, Any] = {}
    [first] = blocks("True gauges in your own server")
    [middleware] = blocks("Without a change of your handlers")
    [workers] = blocks("Several workers")
    exec(compile(first, "embed.md", "exec"), names)  # noqa: S102  # our own document
    async with on_uvicorn(names["app"]) as url, aiohttp.ClientSession() as http:
        websocket = await http.ws_connect(f"{url}/ws/ann")
        await websocket.send_json({"type": "join", "room": "one"})

        async def joined() -> bool:
            async with http.get(f"{url}/messaging/metrics") as response:
                return figures_of(await response.text()).get("messaging_participants") == 1

        await until(joined, "the snippet counts")
        await websocket.close()
    from fastapi import FastAPI

    names["app"] = FastAPI()
    exec(compile(middleware, "embed.md", "exec"), names)  # noqa: S102  # as above
    names["live"] = live = Live()
    collector = live.collector()
    live.collector = lambda: collector
    try:
        await asyncio.to_thread(exec, compile(workers, "embed.md", "exec"), names)
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{names['port']}/metrics") as response:
            assert "messaging_active_connections 0.0" in await response.text()
    finally:
        REGISTRY.unregister(collector)
