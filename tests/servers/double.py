"""A test double of the server: the contract's WebSocket and routes in memory, with faults that can be planted.

It shares no code with the server. A token is the user's name. Each planted fault is written down under the kind
that ``simulate`` is expected to report, with the message it was planted on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import WSMsgType, web

SPARED = 25  # the first messages, while people arrive


@dataclass(eq=False)
class Peer:
    """One connection of the double."""

    ws: web.WebSocketResponse
    user: str
    request: web.Request
    process: int = 0
    queue: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    joined: set[str] = field(default_factory=set)
    reads: list[dict[str, Any]] = field(default_factory=list)


@dataclass(eq=False)
class Room:
    """One conversation; ``stored`` is what the catch-up route gives back."""

    id: str
    members: set[str]
    seq: int = 0
    stored: list[dict[str, Any]] = field(default_factory=list)
    peers: set[Peer] = field(default_factory=set)


class Double:
    """``async with Double(...) as double``: listens on a free port. ``faults`` are planted in turn, on every n-th."""

    def __init__(self, faults: Iterable[str] = (), every: int = 5) -> None:
        self.faults = itertools.cycle(tuple(faults)) if faults else None
        self.every = every
        self.pongs: dict[Peer, list[bytes]] = defaultdict(list)
        """What came back of the pings sent with ``ping``, also from those that are gone by now."""
        self.planted: dict[str, set[str]] = defaultdict(set)
        self.rooms: dict[str, Room] = {}
        self.peers: set[Peer] = set()
        self.frames: list[dict[str, Any]] = []
        self.accepted = 0
        self.welcomed = 0
        self.processes = 1
        """That accept connections in turn, as their names tell."""
        self.still: Callable[[Peer], bool] = lambda peer: False
        """Those to whom nothing is said, and who are not heard, until it is ``thaw``."""
        self._thawed = asyncio.Event()
        self.held: dict[Peer, tuple[Room, dict[str, Any]]] = {}
        """By sender: a message whose delivery waits for a later one to overtake it."""
        self.refuse_tokens = False
        self.refusals: dict[str, list[str]] = {}
        """Codes to refuse the next commands of a name with."""
        self.port = 0
        self._answers: dict[tuple[str, str, str], int] = {}

    async def __aenter__(self) -> Double:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application()
        base = "/v1/messaging"
        app.router.add_get(f"{base}/ws", self.socket)
        app.router.add_post(f"{base}/conversations", self.create)
        app.router.add_get(f"{base}/conversations", self.mine)
        app.router.add_post(f"{base}/conversations/{{id}}/participants", self.add)
        app.router.add_get(f"{base}/conversations/{{id}}/messages", self.messages)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for peer in list(self.peers):
            self._reset(peer)
        await self._runner.cleanup()

    async def crash(self, forget: int = 0) -> None:
        """Every connection is reset, and nothing is there for a moment; then it comes back on the same port.

        ``forget``: so many of the latest messages of each conversation, acknowledged ones, are gone.
        """
        await self.stop()
        for room in self.rooms.values():
            for message in room.stored[len(room.stored) - min(forget, len(room.stored)) :]:
                room.stored.remove(message)
                self.planted["lost"].add(message["id"])
                self._answers.pop((message["sender"], room.id, message["id"]), None)
            room.peers.clear()
        await asyncio.sleep(0.3)
        await self.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/messaging/ws"

    @staticmethod
    def _reset(peer: Peer) -> None:
        transport = peer.request.transport
        if transport is not None:
            peer_socket = transport.get_extra_info("socket")
            peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def tell(self, room: Room, peer: Peer, **frame: object) -> None:
        """A frame that nobody has asked for."""
        peer.queue.put_nowait({"conversation": room.id, **frame})

    async def ping(self, payload: bytes) -> list[Peer]:
        """A heartbeat to everybody; nobody is cut for being slow to answer."""
        asked = list(self.peers)
        for peer in asked:
            await peer.ws.ping(payload)
        return asked

    def thaw(self) -> None:
        """Nobody stands still any more."""
        self.still = lambda peer: False
        self._thawed.set()

    def delete(self, room: Room, seq: int) -> None:
        """Somebody deletes a message."""
        room.stored = [message for message in room.stored if message["seq"] != seq]
        for peer in room.peers:
            self.tell(room, peer, type="deleted", seq=seq)

    def remove(self, room: Room, peer: Peer) -> None:
        """Somebody takes a member out."""
        room.peers.discard(peer)
        self.tell(room, peer, type="left", reason="removed")

    # --- routes -----------------------------------------------------------------------------------------------

    def _user(self, request: web.Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token or self.refuse_tokens:
            raise web.HTTPUnauthorized
        return token

    async def create(self, request: web.Request) -> web.Response:
        user, body = self._user(request), await self._participants(request)
        if body["id"] in self.rooms:
            raise web.HTTPConflict
        room = self.rooms[body["id"]] = Room(body["id"], {user, *body["participants"]})
        return web.json_response(self._shown(room), status=201)

    async def add(self, request: web.Request) -> web.Response:
        room, body = self.rooms[request.match_info["id"]], await self._participants(request)
        if self._user(request) not in room.members:
            raise web.HTTPForbidden
        room.members.update(body["participants"])
        return web.json_response(self._shown(room), status=201)

    @staticmethod
    async def _participants(request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        if len(body["participants"]) > 1000:
            raise web.HTTPBadRequest
        return body

    async def mine(self, request: web.Request) -> web.Response:
        user = self._user(request)
        rooms = [self._shown(room) for room in self.rooms.values() if user in room.members]
        return web.json_response({"conversations": rooms})

    @staticmethod
    def _shown(room: Room) -> dict[str, Any]:
        total, members = len(room.stored), sorted(room.members)
        return {"id": room.id, "total_messages": total, "last_seq": room.seq, "participants": members}

    async def messages(self, request: web.Request) -> web.Response:
        room = self.rooms[request.match_info["id"]]
        if self._user(request) not in room.members:
            raise web.HTTPForbidden
        after, limit = int(request.query["after"]), int(request.query.get("limit", "100"))
        page = sorted((m for m in room.stored if m["seq"] > after), key=lambda m: m["seq"])[:limit]
        return web.json_response({"messages": page, "last_seq": room.seq})

    # --- the socket -------------------------------------------------------------------------------------------

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("messaging.v1",), autoping=False)
        peer = Peer(ws, self._user(request), request)
        await ws.prepare(request)
        self.peers.add(peer)
        writer = asyncio.ensure_future(self._write(peer))
        limits = {"frame_bytes": 65536, "frames_per_second": 50, "send_buffer_bytes": 1 << 20, "id_characters": 128}
        self.welcomed += 1
        peer.process = self.welcomed % self.processes
        name = f"{peer.process}-{self.welcomed}"
        hello = {"connection": name, "user": peer.user, "heartbeat": 30, "limits": limits}
        peer.queue.put_nowait({"type": "welcome", **hello})
        try:
            async for message in ws:
                await self._moves(peer)
                if message.type is WSMsgType.TEXT:
                    self._command(peer, json.loads(message.data))
                elif message.type is WSMsgType.PING:
                    await ws.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    self.pongs[peer].append(bytes(message.data))
        finally:
            writer.cancel()
            self.peers.discard(peer)
            for room in self.rooms.values():
                room.peers.discard(peer)
            self.held.pop(peer, None)
        return ws

    async def _moves(self, peer: Peer) -> None:
        if self.still(peer):
            await self._thawed.wait()

    async def _write(self, peer: Peer) -> None:
        while True:
            frame = await peer.queue.get()
            await self._moves(peer)
            try:
                await peer.ws.send_str(json.dumps(frame))
            except ConnectionError:
                return

    def _command(self, peer: Peer, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        name, room = frame["type"], self.rooms.get(frame.get("conversation", ""))
        if self.refusals.get(name):
            self._refuse(peer, frame, self.refusals[name].pop(0))
            return
        if name == "ping":
            peer.queue.put_nowait({"type": "pong"})
        elif room is None or peer.user not in room.members:
            self._refuse(peer, frame, "not_found")
        elif name == "join":
            room.peers.add(peer)
            peer.joined.add(room.id)
            users = sorted({other.user for other in room.peers})
            joined = {"participants": users, "last_seq": room.seq, "id": frame.get("id")}
            peer.queue.put_nowait({"type": "joined", "conversation": room.id, **joined})
        elif peer not in room.peers:
            self._refuse(peer, frame, "not_joined")
        elif name == "leave":
            room.peers.discard(peer)
            peer.queue.put_nowait({"type": "left", "conversation": room.id})
        elif name == "send":
            self._send(peer, room, frame)
        elif name in ("typing", "read"):
            for other in room.peers - {peer}:
                other.queue.put_nowait({**frame, "user": peer.user})

    @staticmethod
    def _refuse(peer: Peer, frame: dict[str, Any], code: str) -> None:
        peer.queue.put_nowait({"type": "error", "code": code, "message": code, "id": frame.get("id")})

    def _send(self, peer: Peer, room: Room, frame: dict[str, Any]) -> None:
        key = (peer.user, room.id, frame["id"])
        if key in self._answers:
            self._acknowledge(peer, room, frame["id"], self._answers[key])
            return
        self.accepted += 1
        fault = None
        if self.faults and self.accepted > SPARED and self.accepted % self.every == 0:
            fault = next(self.faults)
        if fault == "hole":
            room.seq += 1
            self.planted["hole"].add(f"{room.id}#{room.seq}")
        room.seq += 1
        self._answers[key] = room.seq
        now = datetime.now(UTC).isoformat()
        message = {"seq": room.seq, "id": frame["id"], "sender": peer.user, "body": frame["body"], "sent_at": now}
        self._store(peer, room, message, fault)
        self._deliver(peer, room, message, fault)
        self._answer(peer, room, message, fault)

    def _store(self, peer: Peer, room: Room, message: dict[str, Any], fault: str | None) -> None:
        if fault == "lost":
            self.planted["lost"].add(message["id"])
            return
        room.stored.append(message)
        if fault == "doubled":
            room.seq += 1
            room.stored.append({**message, "seq": room.seq})
            self.planted["doubled"].add(message["id"])
        elif fault == "altered":
            room.stored[-1] = {**message, "body": message["body"] + "?"}
            self.planted["altered"].add(message["id"])
        elif fault == "moved":
            room.seq += 1
            room.stored[-1] = {**message, "seq": room.seq}
            self.planted["moved"].add(message["id"])

    def _acknowledge(self, peer: Peer, room: Room, id: str, seq: int) -> None:
        now = datetime.now(UTC).isoformat()
        peer.queue.put_nowait({"type": "ack", "id": id, "conversation": room.id, "seq": seq, "sent_at": now})

    def _answer(self, peer: Peer, room: Room, message: dict[str, Any], fault: str | None) -> None:
        if fault == "unsure":  # no fault: stored and broadcast, but the answer says try again
            self._refuse(peer, message, "unavailable")
            return
        self._acknowledge(peer, room, message["id"], message["seq"])
        if fault == "renumbered":
            self.planted["renumbered"].add(message["id"])
            self._acknowledge(peer, room, message["id"], message["seq"] + 1000)

    def _deliver(self, peer: Peer, room: Room, message: dict[str, Any], fault: str | None) -> None:
        frame = {"type": "message", "conversation": room.id, **message}
        others = sorted(room.peers - {peer}, key=id)
        if fault == "unheard" and others:
            self.planted["unheard"].add(message["id"])
            others = []
        elif fault == "undelivered" and len(others) > 1:
            self.planted["undelivered"].add(message["id"])
            others = others[1:]
        elif fault == "echoed":
            self.planted["echoed"].add(message["id"])
            peer.queue.put_nowait(frame)
        elif fault == "forged" and others:
            self.planted["altered"].add(message["id"])
            frame["sender"] = "eve"
        elif fault == "strayed" and (strangers := self._strangers(room)):
            self.planted["strayed"].add(message["id"])
            strangers[0].queue.put_nowait(frame)
        elif fault == "misordered" and others and peer not in self.held:
            self.held[peer] = room, frame
            asyncio.get_running_loop().call_later(1.0, self._release, peer, frame, False)
            return
        elif fault == "redelivered" and others:
            self.planted["redelivered"].add(message["id"])
            others = others + others[:1]
        for other in others:
            other.queue.put_nowait(frame)
        if peer in self.held and self.held[peer][0].peers & set(others):
            self._release(peer, self.held[peer][1], True)

    def _strangers(self, room: Room) -> list[Peer]:
        """Who has joined something, and would not be let in here."""
        return [peer for peer in self.peers if peer.joined and peer.user not in room.members]

    def _release(self, peer: Peer, frame: dict[str, Any], overtaken: bool) -> None:
        """A message that was held back is delivered, overtaken by a later one of its sender or just late."""
        if peer not in self.held or self.held[peer][1] is not frame:
            return
        room, _ = self.held.pop(peer)
        if overtaken:
            self.planted["misordered"].add(frame["id"])
        for other in room.peers - {peer}:
            other.queue.put_nowait(frame)
