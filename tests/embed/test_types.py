"""What a type checker tells a host: no fault of a sound one, and each that would show at run time only."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOST = """
from collections.abc import Mapping
from typing import Any
from uuid import UUID
from aiohttp import web
from starlette.applications import Starlette
from starlette.types import Scope
from starlette.websockets import WebSocket
from exporter import HubEvent, Live, LiveMiddleware, LockedLive, ParticipantJoined, Source, live_connection
from exporter.embed.aiohttp_app import watch

def told(events: list[HubEvent]) -> None:
    for event in events:
        match event:
            case ParticipantJoined(conversation, user):
                print(conversation.upper(), user.upper())
            case _:
                print(event.user)

def number(scope: Scope) -> int | None:
    return 5

def uuid(scope: Scope) -> UUID:
    return UUID(int=5)

def account(request: web.Request) -> int:
    return 5

async def admin(scope: Scope) -> bool:
    return True

sockets: set[WebSocket] = set()
live = LockedLive(open_sockets=lambda: sockets, on_events=told, totals=Source("sqlite:///chat.db"))
app = Starlette()
app.mount("/messaging", live.asgi(admin=admin))
app.add_middleware(LiveMiddleware, live=live, user=number)
app.add_middleware(LiveMiddleware, live=Live(), user=uuid)
app.add_middleware(LiveMiddleware, live=Live(), user=lambda scope: scope.get("user_id"))
watch(web.Application(), live, user=account)

async def chat(websocket: WebSocket, user: int) -> None:
    with live.open(user, handle=websocket) as connection:
        connection.reason = "client"
        live.join(websocket, "room")
        if (current := live_connection.get()) is not None:
            current.typing("room")

def as_pyright_sees_it(websocket: Mapping[str, Any]) -> None:
    live.close(live.open("ann", handle=websocket))
    live.join(websocket, "room")

async def broadcast(room: str) -> None:
    for connection in live.audience(room):
        await connection.handle.send_text("hello")

LockedLive(typing_timout=3)  # error
Live().open("ann", handle=[])  # error
Live().open(b"ann")  # error
"""


def test_mypy_passes_a_sound_host_and_tells_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(HOST)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path), "host.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True, timeout=400
    )
    found = {int(line) for line in re.findall(r"^host\.py:(\d+): error", done.stdout, flags=re.MULTILINE)}
    wrong = {line for line, text in enumerate(HOST.splitlines(), 1) if text.endswith("# error")}
    assert found == wrong, done.stdout + done.stderr
