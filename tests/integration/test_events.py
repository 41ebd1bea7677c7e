"""Each event is in the very next scrape: what it changed, by how much, and that nothing else changed.

A row is one event. What comes before its ``yield`` makes the scene, what comes after it is the event; one scrape is
taken at the ``yield`` and one at the end, at once, and their difference must be the row's. Nothing waits for figures to
settle, but where a row says so because the server gives no answer to the event.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from exporter.core.errors import Unavailable
from exporter.core.websocket_frames import text_frame
from exporter.settings.model import Limits
from tests.integration.figures import CLUSTER, difference, is_consistent
from tests.servers.exporter import (
    CONVERSATIONS,
    PATIENCE,
    WS,
    Asking,
    Client,
    Exporter,
    Figures,
    InProcess,
    in_process,
    locked,
    running,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAYS = ("1d", "7d", "30d")


def changes(given: dict[str, float]) -> Figures:
    """A row's figures with the prefix, and with the cluster's, which equal the node's when it is alone."""
    expected = {f"messaging_{name}": float(value) for name, value in given.items()}
    return expected | {CLUSTER[name]: value for name, value in expected.items() if name in CLUSTER}


_numbers = itertools.count(1)


class World:
    """People and a room of one row, under names that no other row has."""

    def __init__(self, exporter: Asking) -> None:
        self.exporter = exporter
        self.number = next(_numbers)
        self.room = f"room-{self.number}"
        self.people: list[Client] = []
        self.sockets: list[asyncio.StreamWriter] = []
        self.users: set[str] = set()

    def name(self, who: str) -> str:
        return f"{who}-{self.number}"

    async def tab(self, who: str, **options: Any) -> Client:
        """Another connection of this user."""
        client = await self.exporter.connect(self.name(who), **options)
        self.people.append(client)
        self.users.add(self.name(who))
        return client

    async def registered(self) -> bool:
        """Is everybody who has come? Whoever connects waits for it for a quarter of a second and no longer."""
        with closing(sqlite3.connect(self.exporter.database)) as database:
            return self.users <= {user for (user,) in database.execute("SELECT id FROM users")}

    async def gather(self, *members: str, room: str | None = None) -> None:
        """Make the room, with these members."""
        await self.exporter.conversation(room or self.room, *(self.name(who) for who in members))

    async def joined(self, *members: str) -> list[Client]:
        """The room with all of them in it, one tab each, all announcements read."""
        await self.gather(*dict.fromkeys(members))
        tabs = [await self.tab(who) for who in members]
        for tab in tabs:
            await tab.join(self.room)
        return tabs

    async def stopped_typing(self, tab: Client, who: str) -> None:
        await tab.frame("typing", conversation=self.room, user=self.name(who), active=False)

    async def end(self) -> None:
        for client in self.people:
            await client.reset()
        for writer in self.sockets:
            writer.transport.abort()
        await self.exporter.deserted()


Scene = Callable[[World], AsyncIterator[None]]
ROWS: list[Any] = []
TIGHT: list[Any] = []


def row(table: list[Any] = ROWS, **expected: float) -> Callable[[Scene], Scene]:
    """Put a scene into a table with what its event changes; ``a__b`` is the label value b of the only label of a."""

    def add(scene: Scene) -> Scene:
        table.append(pytest.param(scene, changes({_series(k): v for k, v in expected.items()}), id=scene.__name__))
        return scene

    return add


LABELS = {
    "connections_closed_total": "reason",
    "connections_rejected_total": "reason",
    "leaves_total": "reason",
    "typing_stopped_total": "reason",
    "command_duration_seconds_count": "command",
    "message_delivery_duration_seconds_count": "path",
    "active_users": "window",
}
SHORT = {"took": "command_duration_seconds_count", "closed": "connections_closed_total"}


def _series(key: str) -> str:
    name, _, value = key.partition("__")
    if name == "refused":
        command, _, code = value.partition("__")
        return f'commands_rejected_total{{code="{code}",command="{command}"}}'
    name = SHORT.get(name, name)
    return f'{name}{{{LABELS[name]}="{value}"}}' if value else name


def a_message(recipients: int, *, first: bool = True) -> dict[str, float]:
    """What a new message changes; ``first``: of its sender's day."""
    figures: dict[str, float] = {
        "messages_accepted_total": 1,
        "stored_messages": 1,
        "messages_today": 1,
        "took__send": 1,
        "message_persist_duration_seconds_count": 1,
        "fanout_recipients_count": 1,
    }
    if recipients:
        figures |= {
            "deliveries_total": recipients,
            "fanout_recipients_sum": recipients,
            "message_delivery_duration_seconds_count__local": 1,
        }
    return figures | ({f"active_users__{days}": 1 for days in DAYS} if first else {})


A_CONNECTION_ENDS = {"active_connections": -1, "connection_duration_seconds_count": 1}
A_PARTICIPANT_ENDS = A_CONNECTION_ENDS | {"connected_users": -1, "participants": -1, "leaves_total__disconnect": 1}
EVERYTHING_ENDS = A_PARTICIPANT_ENDS | {
    "active_conversations": -1,
    "typing_users": -1,
    "typing_stopped_total__disconnect": 1,
}


# --- connections ------------------------------------------------------------------------------------------


@row(active_connections=1, connected_users=1, registered_users=1, connections_opened_total=1)
async def a_user_connects_for_the_first_time(world: World) -> AsyncIterator[None]:
    yield
    await world.tab("ann")


@row(active_connections=1, connections_opened_total=1)
async def a_second_tab_of_the_same_user_connects(world: World) -> AsyncIterator[None]:
    await world.tab("ann")
    yield
    await world.tab("ann")


@row(active_connections=1, connected_users=1, connections_opened_total=1)
async def a_user_who_was_here_before_connects(world: World) -> AsyncIterator[None]:
    await (await world.tab("ann")).close()
    yield
    await world.tab("ann")


@row(active_connections=1, connected_users=1, registered_users=1, connections_opened_total=1)
async def a_browser_connects_with_its_token_as_a_subprotocol(world: World) -> AsyncIterator[None]:
    yield
    offered = ("messaging.v1", f"bearer.{world.exporter.token(world.name('ann'))}")
    tab = await Client.connect(world.exporter.url, None, subprotocols=offered)
    world.people.append(tab)
    assert tab.connection.subprotocol == "messaging.v1"


@row(active_connections=1, connected_users=1, registered_users=1, connections_opened_total=1, took__ping=2)
async def a_client_that_does_not_wait_for_the_answer_of_its_handshake(world: World) -> AsyncIterator[None]:
    host, _, port = world.exporter.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    world.sockets.append(writer)
    headers = {"Host": host, "Authorization": f"Bearer {world.exporter.token(world.name('ann'))}", **handshake()}
    lines = [f"GET {WS} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    yield
    ping = b"\x81\x8f\0\0\0\0" + b'{"type":"ping"}'
    writer.write("\r\n".join(lines).encode() + ping + ping)
    answer = b""
    async with asyncio.timeout(PATIENCE):
        while answer.count(b'{"type":"pong"}') < 2:
            answer += await reader.read(4_096)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.index(b"welcome") < answer.index(b"pong")


@row(active_connections=-1, closed__client=1, connection_duration_seconds_count=1)
async def one_of_two_tabs_closes(world: World) -> AsyncIterator[None]:
    tab, _ = await world.tab("ann"), await world.tab("ann")
    yield
    await tab.close()


@row(**EVERYTHING_ENDS, closed__client=1)
async def the_last_tab_closes_while_its_user_types(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    await tab.send("typing", conversation=world.room, active=True)
    await tab.barrier()
    yield
    await tab.close()


@row(**EVERYTHING_ENDS, closed__client=1)
async def the_close_frame_is_enough_without_its_answer(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    await tab.send("typing", conversation=world.room, active=True)
    await tab.barrier()
    yield
    # A whole masked close frame, and no end of the TCP stream.
    tab.connection.transport.write(b"\x88\x82\0\0\0\0\x03\xe8")


@row(**EVERYTHING_ENDS, closed__client=1)
async def a_tcp_reset_while_its_user_types(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    await tab.send("typing", conversation=world.room, active=True)
    await tab.barrier()
    yield
    await tab.reset()


@row(**A_PARTICIPANT_ENDS, active_conversations=-1, closed__client=1)
async def a_tcp_reset_within_a_frame(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await tab.reset_within_a_frame()


@row(**A_PARTICIPANT_ENDS, active_conversations=-1, closed__client=1)
async def the_tcp_stream_ends_within_a_frame(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await tab.vanish_within_a_frame()


@row(**A_PARTICIPANT_ENDS, closed__client=1)
async def one_of_two_participants_resets(world: World) -> AsyncIterator[None]:
    tab, _ = await world.joined("ann", "bob")
    yield
    await tab.reset()


@row(**A_CONNECTION_ENDS, closed__client=1)
async def a_tab_that_joined_resets_and_another_of_its_user_stays(world: World) -> AsyncIterator[None]:
    tab, _ = await world.joined("ann", "ann")
    await tab.send("typing", conversation=world.room, active=True)
    await tab.barrier()
    yield
    await tab.reset()


@row(**A_CONNECTION_ENDS, connected_users=-1, closed__protocol_error=1)
async def a_frame_without_a_mask_ends_its_connection(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    tab.connection.transport.write(b"\x81\x02{}")


@row(**A_CONNECTION_ENDS, connected_users=-1, closed__protocol_error=1)
async def text_that_is_not_utf8_ends_its_connection(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    tab.connection.transport.write(b"\x81\x82\0\0\0\0\xff\xfe")


@row(**A_PARTICIPANT_ENDS, active_conversations=-1, closed__token_expired=1)
async def a_token_expires(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    token = world.exporter.token(world.name("ann"), ttl=-29)  # its leeway of 30 s ends in a second or two
    tab = await Client.connect(world.exporter.url, token)
    await tab.join(world.room)
    yield
    assert await tab.closed() == (4001, "token expired")


# --- joining and leaving ----------------------------------------------------------------------------------


@row(active_conversations=1, participants=1, joins_total=1, took__join=1)
async def somebody_joins(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    tab = await world.tab("ann")
    yield
    await tab.join(world.room)


@row(participants=1, joins_total=1, took__join=1)
async def a_second_user_joins(world: World) -> AsyncIterator[None]:
    await world.gather("ann", "bob")
    ann, bob = await world.tab("ann"), await world.tab("bob")
    await ann.join(world.room)
    yield
    await bob.join(world.room)


@row(took__join=1)
async def a_second_tab_joins(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    first, second = await world.tab("ann"), await world.tab("ann")
    await first.join(world.room)
    yield
    await second.join(world.room)


@row(took__join=1)
async def a_tab_joins_what_it_has_joined(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await tab.join(world.room)


@row(active_conversations=1, participants=1, joins_total=1, took__join=1)
async def a_participant_joins_another_conversation(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    await world.gather("ann", room=f"{world.room}-annexe")
    yield
    await tab.join(f"{world.room}-annexe")


@row(active_conversations=-1, participants=-1, leaves_total__leave=1, took__leave=1)
async def the_only_participant_leaves(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await tab.leave(world.room)


@row(took__leave=1)
async def one_of_two_tabs_leaves(world: World) -> AsyncIterator[None]:
    tab, _ = await world.joined("ann", "ann")
    yield
    await tab.leave(world.room)


@row(participants=-1, typing_users=-1, leaves_total__leave=1, typing_stopped_total__leave=1, took__leave=1)
async def a_participant_leaves_while_typing(world: World) -> AsyncIterator[None]:
    ann, _ = await world.joined("ann", "bob")
    await ann.send("typing", conversation=world.room, active=True)
    await ann.barrier()
    yield
    await ann.leave(world.room)


@row(participants=-1, typing_users=-1, leaves_total__removed=1, typing_stopped_total__leave=1)
async def a_member_with_two_tabs_is_removed_while_typing(world: World) -> AsyncIterator[None]:
    _, first, second = await world.joined("ann", "bob", "bob")
    await first.send("typing", conversation=world.room, active=True)
    await first.barrier()
    yield
    path = f"{CONVERSATIONS}/{world.room}/participants/{world.name('bob')}"
    assert (await world.exporter.request("DELETE", path, user=world.name("ann")))[0] == 204
    for tab in (first, second):
        await tab.frame("left", conversation=world.room, reason="removed")


# --- typing -----------------------------------------------------------------------------------------------


@row(typing_users=1, typing_started_total=1, took__typing=1)
async def somebody_starts_to_type(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await tab.send("typing", conversation=world.room, active=True)


@row(took__typing=1)
async def somebody_types_on(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    await tab.send("typing", conversation=world.room, active=True)
    await tab.barrier()
    yield
    await tab.send("typing", conversation=world.room, active=True)


@row(took__typing=1)
async def a_second_tab_of_somebody_who_types_types(world: World) -> AsyncIterator[None]:
    first, second = await world.joined("ann", "ann")
    await first.send("typing", conversation=world.room, active=True)
    await first.barrier()
    yield
    await second.send("typing", conversation=world.room, active=True)


@row(typing_users=1, typing_started_total=1, took__typing=1)
async def a_second_user_starts_to_type(world: World) -> AsyncIterator[None]:
    ann, bob = await world.joined("ann", "bob")
    await ann.send("typing", conversation=world.room, active=True)
    await ann.barrier()
    yield
    await bob.send("typing", conversation=world.room, active=True)


@row(typing_users=-1, typing_stopped_total__stop=1, took__typing=1)
async def somebody_stops_typing(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    await tab.send("typing", conversation=world.room, active=True)
    await tab.barrier()
    yield
    await tab.send("typing", conversation=world.room, active=False)


@row(took__typing=1)
async def somebody_stops_who_does_not_type(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await tab.send("typing", conversation=world.room, active=False)


# --- messages ---------------------------------------------------------------------------------------------


@row(**a_message(0))
async def a_message_to_nobody_else(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await tab.say(world.room, "hello", "1")


@row(**a_message(3))
async def a_message_to_two_others_and_the_senders_other_tab(world: World) -> AsyncIterator[None]:
    tab, *_ = await world.joined("ann", "ann", "bob", "cat")
    yield
    await tab.say(world.room, "hello", "1")


@row(**a_message(1, first=False))
async def a_second_message_of_the_same_day(world: World) -> AsyncIterator[None]:
    tab, _ = await world.joined("ann", "bob")
    await tab.say(world.room, "hello", "1")
    yield
    await tab.say(world.room, "hello again", "2")


@row(**a_message(1), typing_users=-1, typing_stopped_total__message=1)
async def a_message_of_somebody_who_types(world: World) -> AsyncIterator[None]:
    tab, _ = await world.joined("ann", "bob")
    await tab.send("typing", conversation=world.room, active=True)
    await tab.barrier()
    yield
    await tab.say(world.room, "hello", "1")


@row(took__send=1)
async def a_message_sent_again(world: World) -> AsyncIterator[None]:
    tab, _ = await world.joined("ann", "bob")
    first = await tab.say(world.room, "hello", "1")
    yield
    assert (await tab.say(world.room, "hello", "1"))["seq"] == first["seq"]


@row(**a_message(1))
async def a_message_whose_sender_died_before_it_was_durable(world: World) -> AsyncIterator[None]:
    ann, bob = await world.joined("ann", "bob")
    with locked(world.exporter.database):
        await ann.send("send", conversation=world.room, body="hello", id="1")
        await ann.barrier()
        await ann.reset()
        await bob.frame("participant_left", conversation=world.room, user=world.name("ann"))
        yield
    await bob.frame("message", conversation=world.room, id="1")


@row(stored_messages=-1, messages_today=-1)
async def a_message_is_deleted(world: World) -> AsyncIterator[None]:
    ann, bob = await world.joined("ann", "bob")
    seq = (await ann.say(world.room, "hello", "1"))["seq"]
    yield
    path = f"{CONVERSATIONS}/{world.room}/messages/{seq}"
    assert (await world.exporter.request("DELETE", path, user=world.name("ann")))[0] == 204
    await bob.frame("deleted", conversation=world.room, seq=seq)


@row(read_receipts_total=1, read_lag_seconds_count=1, took__read=1)
async def somebody_reads(world: World) -> AsyncIterator[None]:
    ann, bob = await world.joined("ann", "bob")
    seq = (await ann.say(world.room, "hello", "1"))["seq"]
    yield
    await bob.send("read", conversation=world.room, seq=seq)
    await ann.frame("read", conversation=world.room, user=world.name("bob"), seq=seq)


@row(took__read=1)
async def somebody_reads_what_is_read(world: World) -> AsyncIterator[None]:
    ann, bob = await world.joined("ann", "bob")
    seq = (await ann.say(world.room, "hello", "1"))["seq"]
    await bob.send("read", conversation=world.room, seq=seq)
    await ann.frame("read", conversation=world.room, user=world.name("bob"), seq=seq)
    done = (await world.exporter.scrape())['messaging_command_duration_seconds_count{command="read"}']
    yield
    await bob.send("read", conversation=world.room, seq=seq)
    # Nobody is told of a mark that does not move.
    await world.exporter.scraped(
        lambda figures: figures['messaging_command_duration_seconds_count{command="read"}'] > done, "the read is done"
    )


@row(took__ping=1)
async def somebody_pings(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await tab.ask("ping", "pong")


# --- conversations ----------------------------------------------------------------------------------------


@row(stored_conversations=1)
async def a_conversation_is_made(world: World) -> AsyncIterator[None]:
    yield
    await world.gather("ann", "bob")


@row()
async def a_member_is_added_who_never_connected(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    yield
    path = f"{CONVERSATIONS}/{world.room}/participants"
    status, _, _ = await world.exporter.request(
        "POST", path, user=world.name("ann"), json={"participants": [world.name("bob")]}
    )
    assert status == 201


@row()
async def figures_are_asked_for(world: World) -> AsyncIterator[None]:
    yield
    await world.exporter.stats()
    await world.exporter.get("/")
    await world.exporter.get("/nowhere")


# --- refused upgrades -------------------------------------------------------------------------------------


def handshake(**changed: str | None) -> dict[str, str]:
    """The headers of a good handshake, and what a row makes of them."""
    headers: dict[str, str | None] = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    return {name: value for name, value in headers.items() if value is not None}


async def knock(world: World, status: int, **changed: str | None) -> None:
    found, body, headers = await world.exporter.get(WS, user=world.name("ann"), headers=handshake(**changed))
    assert (found, headers["Content-Type"]) == (status, "application/problem+json"), body


@row(connections_rejected_total__unauthenticated=1)
async def an_upgrade_without_a_token(world: World) -> AsyncIterator[None]:
    yield
    assert (await world.exporter.refused(None)).response.status_code == 401


@row(connections_rejected_total__unauthenticated=1)
async def an_upgrade_with_a_token_that_is_none(world: World) -> AsyncIterator[None]:
    yield
    assert (await world.exporter.refused("not.a.token")).response.status_code == 401


@row(connections_rejected_total__unauthenticated=1)
async def an_upgrade_with_an_expired_token(world: World) -> AsyncIterator[None]:
    yield
    assert (await world.exporter.refused(world.exporter.token("ann", ttl=-31))).response.status_code == 401


@row(connections_rejected_total__origin=1)
async def an_upgrade_from_a_foreign_page(world: World) -> AsyncIterator[None]:
    yield
    refusal = await world.exporter.refused(world.exporter.token("ann"), headers={"Origin": "https://evil.example"})
    assert refusal.response.status_code == 403


@row(connections_rejected_total__handshake=1)
async def an_upgrade_to_another_subprotocol(world: World) -> AsyncIterator[None]:
    yield
    refusal = await world.exporter.refused(world.exporter.token("ann"), subprotocols=("messaging.v2",))
    assert refusal.response.status_code == 400


@row(connections_rejected_total__handshake=1)
async def a_request_that_is_no_upgrade(world: World) -> AsyncIterator[None]:
    yield
    await knock(world, 426, Upgrade=None, Connection=None)


@row(connections_rejected_total__handshake=1)
async def an_upgrade_of_another_version(world: World) -> AsyncIterator[None]:
    yield
    await knock(world, 426, Sec_WebSocket_Version="8")


@row(connections_rejected_total__handshake=1)
async def an_upgrade_without_a_key(world: World) -> AsyncIterator[None]:
    yield
    await knock(world, 400, Sec_WebSocket_Key=None)


# --- refused commands -------------------------------------------------------------------------------------


async def refused(tab: Client, code: str, type: str, **fields: Any) -> None:
    """The command is answered with this code and its id, and the connection stays open."""
    await tab.send(type, **fields)
    answer = await tab.frame("error")
    assert (answer["code"], answer.get("id")) == (code, fields.get("id"))


@row(refused__unknown__bad_frame=1)
async def text_that_is_no_json(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await tab.raw("{")
    assert (await tab.frame("error"))["code"] == "bad_frame"


@row(refused__unknown__bad_frame=1)
async def a_binary_message(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await tab.raw(b"{}")
    assert (await tab.frame("error"))["code"] == "bad_frame"


@row(refused__send__bad_frame=1)
async def a_command_without_a_field(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await refused(tab, "bad_frame", "send", conversation=world.room, id="1")


@row(refused__unknown__unknown_type=1)
async def a_command_that_does_not_exist(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await refused(tab, "unknown_type", "shout", id="1")


@row(refused__join__too_large=1)
async def a_name_that_is_too_long(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await refused(tab, "too_large", "join", conversation="x" * 129, id="1")


@row(refused__send__not_joined=1, took__send=1)
async def a_message_without_having_joined(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    tab = await world.tab("ann")
    yield
    await refused(tab, "not_joined", "send", conversation=world.room, body="hello", id="1")


@row(refused__typing__not_joined=1, took__typing=1)
async def typing_without_having_joined(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await refused(tab, "not_joined", "typing", conversation=world.room, active=True)


@row(refused__read__not_joined=1, took__read=1)
async def reading_without_having_joined(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await refused(tab, "not_joined", "read", conversation=world.room, seq=1)


@row(refused__leave__not_joined=1, took__leave=1)
async def leaving_twice(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    await tab.leave(world.room)
    yield
    await refused(tab, "not_joined", "leave", conversation=world.room, id="1")


@row(refused__join__forbidden=1, took__join=1)
async def joining_where_one_is_no_member(world: World) -> AsyncIterator[None]:
    await world.gather("bob")
    tab = await world.tab("ann")
    yield
    await refused(tab, "forbidden", "join", conversation=world.room, id="1")


@row(refused__join__not_found=1, took__join=1)
async def joining_what_does_not_exist(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await refused(tab, "not_found", "join", conversation=world.room, id="1")


@row(refused__read__not_found=1, took__read=1)
async def reading_what_does_not_exist(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    await refused(tab, "not_found", "read", conversation=world.room, seq=1)


# --- a server with narrow limits --------------------------------------------------------------------------

FRAMES = 10
LIMITS = (
    "--limits.connections=3",
    "--limits.connections-per-user=2",
    f"--limits.frames-per-second={FRAMES}",
    "--limits.frame-bytes=512",
    "--typing.timeout=500ms",
    "--heartbeat.interval=2s",
)


@row(TIGHT, connections_rejected_total__user_limit=1)
async def a_tab_too_many(world: World) -> AsyncIterator[None]:
    await world.tab("ann")
    await world.tab("ann")
    yield
    refusal = (await world.exporter.refused(world.exporter.token(world.name("ann")))).response
    assert refusal.status_code == 429
    assert b"too many connections: 2 are allowed" in refusal.body


@row(TIGHT, connections_rejected_total__capacity=1)
async def a_connection_too_many(world: World) -> AsyncIterator[None]:
    for who in ("ann", "bob", "cat"):
        await world.tab(who)
    yield
    refusal = await world.exporter.refused(world.exporter.token(world.name("dan")))
    assert refusal.response.status_code == 503
    assert refusal.response.headers["Retry-After"].isdigit()


@row(TIGHT, typing_started_total=1, typing_stopped_total__timeout=1, took__typing=1)
async def typing_that_times_out(world: World) -> AsyncIterator[None]:
    ann, bob = await world.joined("ann", "bob")
    yield
    await ann.send("typing", conversation=world.room, active=True)
    await world.stopped_typing(bob, "ann")


@row(TIGHT, **A_CONNECTION_ENDS, connected_users=-1, closed__protocol_error=1)
async def a_frame_above_the_limit(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await tab.raw("x" * 513)
    assert await tab.closed() == (1009, "frame is larger than 512 bytes")


@row(TIGHT, **A_CONNECTION_ENDS, connected_users=-1, closed__heartbeat=1)
async def a_peer_that_answers_no_heartbeat(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    tab.connection.transport.pause_reading()
    await world.exporter.deserted()


async def in_one_write(tab: Client, count: int) -> None:
    """So many pings at once, so that no time passes between them."""
    frame = b"\x81\x8f\0\0\0\0" + b'{"type":"ping"}'
    tab.connection.transport.write(frame * count)
    for _ in range(FRAMES):
        await tab.frame("pong")


@row(TIGHT, took__ping=FRAMES, refused__ping__rate_limited=3)
async def frames_above_the_rate(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await in_one_write(tab, FRAMES + 3)
    for _ in range(3):
        assert (await tab.frame("error"))["code"] == "rate_limited"


@row(
    TIGHT,
    **A_CONNECTION_ENDS,
    connected_users=-1,
    closed__rate_limited=1,
    took__ping=FRAMES,
    refused__ping__rate_limited=FRAMES,
)
async def as_many_again_above_the_rate(world: World) -> AsyncIterator[None]:
    tab = await world.tab("ann")
    yield
    await in_one_write(tab, 3 * FRAMES)
    assert await tab.closed() == (4029, "rate limited")


# --- the tables are run -----------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def exporter(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    async with running(tmp_path_factory.mktemp("events"), "--typing.timeout=1h", "--verify.interval=0") as exporter:
        yield exporter


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def tight(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exporter]:
    async with running(tmp_path_factory.mktemp("tight"), *LIMITS, "--verify.interval=0") as exporter:
        yield exporter


async def not_at_midnight() -> bool:
    """Not within the seconds before 00:00 UTC: ``messages_today`` would change by itself."""
    return time.time() % 86_400 < 86_395


async def play(exporter: Asking, scene: Scene, expected: Figures) -> None:
    """One row."""
    await until(not_at_midnight, "midnight is over")
    world = World(exporter)
    steps = scene(world)
    try:
        await anext(steps)
        await until(world.registered, "everybody is registered")
        before = await exporter.scrape()
        is_consistent(before)
        assert await anext(steps, "over") == "over"
        if "messaging_registered_users" in expected:
            await until(world.registered, "whoever came is registered")
        after = await exporter.scrape()
        assert difference(before, after) == expected
        is_consistent(after)
    finally:
        await steps.aclose()
        await world.end()


@pytest.mark.parametrize(("scene", "expected"), ROWS)
async def test_an_event_is_in_the_very_next_scrape_and_nothing_else(
    exporter: Exporter, scene: Scene, expected: Figures
) -> None:
    await play(exporter, scene, expected)


@pytest.mark.parametrize(("scene", "expected"), TIGHT)
async def test_a_limit_is_in_the_very_next_scrape_and_nothing_else(
    tight: Exporter, scene: Scene, expected: Figures
) -> None:
    await play(tight, scene, expected)


# --- with a fault in a part -------------------------------------------------------------------------------

FAULTS: list[Any] = []


def down(*_: object, **__: object) -> Any:
    raise Unavailable("the database cannot be reached")


def down_later(*_: object, **__: object) -> asyncio.Future[Any]:
    async def later() -> None:
        down()

    return asyncio.ensure_future(later())


def defect(*_: object, **__: object) -> Any:
    raise RuntimeError("a mistake of ours")


def server_of(world: World) -> Any:
    assert isinstance(world.exporter, InProcess)
    return world.exporter.server


@row(FAULTS, refused__send__unavailable=1, took__send=1)
async def a_message_that_cannot_be_stored(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    with patch.object(server_of(world).store, "send", down):
        await refused(tab, "unavailable", "send", conversation=world.room, body="hello", id="1")


@row(FAULTS, refused__join__unavailable=1, took__join=1)
async def a_join_while_the_database_is_down(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    tab = await world.tab("ann")
    yield
    with patch.object(server_of(world).store, "membership", down_later):
        await refused(tab, "unavailable", "join", conversation=world.room, id="1")


@row(FAULTS, refused__read__unavailable=1, took__read=1)
async def a_read_while_the_database_is_down(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    with patch.object(server_of(world).store, "mark_read", down):
        await refused(tab, "unavailable", "read", conversation=world.room, seq=0)


@row(FAULTS, refused__send__internal=1, took__send=1)
async def a_defect_in_a_command(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    with patch.object(server_of(world).store, "send", defect):
        await refused(tab, "internal", "send", conversation=world.room, body="hello", id="1")


@row(FAULTS, refused__join__internal=1, took__join=1)
async def a_defect_after_an_await(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    tab = await world.tab("ann")
    yield
    with patch.object(server_of(world).node.hub, "join", defect):
        await refused(tab, "internal", "join", conversation=world.room, id="1")


@row(FAULTS, **A_PARTICIPANT_ENDS, active_conversations=-1, closed__internal_error=1)
async def a_defect_in_a_connection(world: World) -> AsyncIterator[None]:
    [tab] = await world.joined("ann")
    yield
    with patch.object(server_of(world).node, "handle", defect):
        await tab.send("ping")
        assert await tab.closed() == (1011, "internal error")


@row(FAULTS, active_connections=1, connected_users=1, connections_opened_total=1)
async def a_new_user_while_the_database_is_down(world: World) -> AsyncIterator[None]:
    yield
    with patch.object(server_of(world).store, "register", AsyncMock(return_value=False)):
        await world.tab("ann")


@row(FAULTS)
async def the_join_of_a_connection_that_died_meanwhile(world: World) -> AsyncIterator[None]:
    await world.gather("ann")
    tab = await world.tab("ann")
    server = server_of(world)
    asked, answer, look_up = asyncio.Event(), asyncio.Event(), server.store.membership

    async def later(conversation: str, user: str) -> Any:
        asked.set()
        await answer.wait()
        return await look_up(conversation, user)

    def slow(conversation: str, user: str) -> asyncio.Future[Any]:
        return asyncio.ensure_future(later(conversation, user))

    async def is_done() -> bool:
        return not server.node._under_way

    with patch.object(server.store, "membership", slow):
        await tab.send("join", conversation=world.room)
        await asked.wait()
        await tab.reset()
        await world.exporter.deserted()
        yield
        answer.set()
        await until(is_done, "the join has ended")


@row(FAULTS, connections_rejected_total__draining=1)
async def an_upgrade_while_draining(world: World) -> AsyncIterator[None]:
    handler = server_of(world).upgrade_handler
    yield
    with patch.object(handler, "draining", True):
        refusal = await world.exporter.refused(world.exporter.token(world.name("ann")))
        assert (refusal.response.status_code, refusal.response.headers["Retry-After"]) == (503, "5")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def faulty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    async with in_process(tmp_path_factory.mktemp("faulty"), typing_timeout=3600.0, verify_interval=0.0) as server:
        yield server


@pytest.mark.parametrize(("scene", "expected"), FAULTS)
async def test_a_fault_is_in_the_very_next_scrape_and_nothing_else(
    faulty: InProcess, scene: Scene, expected: Figures
) -> None:
    await play(faulty, scene, expected)


async def test_a_slow_consumer_is_seen_then_cut_off_and_what_it_missed_is_counted(tmp_path: Path) -> None:
    limits = Limits(send_buffer_bytes=262_144, frames_per_second=10_000)
    async with in_process(tmp_path, limits=limits, heartbeat_interval=600.0, verify_interval=0.0) as exporter:
        world = World(exporter)
        ann, bob = await world.joined("ann", "bob")
        before = await exporter.scrape()
        for connection in exporter.server.connections:  # so that the kernel keeps little of what bob does not read
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        bob.connection.transport.pause_reading()

        seen_slow = False
        for number in range(1, 100):
            await ann.say(world.room, "x" * 50_000, str(number))
            now = await exporter.scrape()
            is_consistent(now)
            assert now["messaging_deliveries_total"] == now["messaging_fanout_recipients_sum"] == number
            if now["messaging_active_connections"] == 1:
                break
            assert now["messaging_deliveries_dropped_total"] == 0
            if now["messaging_slow_consumers"]:
                seen_slow = True
                assert now["messaging_slow_consumers"] == 1
                assert now["messaging_send_buffer_max_bytes"] > 262_144 / 2
            assert now["messaging_send_buffer_max_bytes"] <= 262_144
        assert seen_slow
        assert now["messaging_deliveries_dropped_total"] >= 1
        changed = difference(before, await exporter.scrape())
        expected = {**A_PARTICIPANT_ENDS, "closed__slow_consumer": 1}
        for name, value in changes({_series(name): value for name, value in expected.items()}).items():
            assert changed[name] == value, name
        assert now["messaging_slow_consumers"] == now["messaging_send_buffer_max_bytes"] == 0
        bob.connection.transport.resume_reading()
        assert await bob.closed() == (4008, "slow consumer")
        await world.end()


async def test_a_draining_server_acknowledges_what_it_took_and_is_not_ready(tmp_path: Path) -> None:
    async with in_process(tmp_path, drain_timeout=20.0, verify_interval=0.0) as exporter:
        world = World(exporter)
        ann, bob, cat = await world.joined("ann", "bob", "cat")
        with locked(exporter.database):
            await ann.send("send", conversation=world.room, body="hello", id="1")
            await ann.barrier()
            before = await exporter.scrape()
            draining = asyncio.create_task(exporter.server.drain())
            for tab in (bob, cat):
                assert await tab.closed() == (1001, "server going away")
            assert (await exporter.get("/-/ready"))[0] == 503
            assert (await exporter.get("/-/healthy"))[0] == 200
            assert (await exporter.refused(exporter.token("dan"))).response.status_code == 503
            during = await exporter.scrape()
            is_consistent(during)
        assert difference(before, during) == changes(
            {
                "active_connections": -2,
                "connected_users": -2,
                "participants": -2,
                _series("leaves_total__disconnect"): 2,
                _series("closed__shutdown"): 2,
                "connection_duration_seconds_count": 2,
                _series("connections_rejected_total__draining"): 1,
            }
        )
        assert (await ann.frame("ack", id="1"))["seq"] == 1
        assert await ann.closed() == (1001, "server going away")
        await draining
        after = await exporter.scrape()
        is_consistent(after)
        expected = {**A_PARTICIPANT_ENDS, **a_message(0), "active_conversations": -1, "closed__shutdown": 1}
        assert difference(during, after) == changes({_series(name): value for name, value in expected.items()})


async def test_of_two_handshakes_at_once_where_one_has_room_one_is_refused(tmp_path: Path) -> None:
    together = asyncio.Barrier(2)

    async def register(user: str) -> None:
        await together.wait()

    async with in_process(tmp_path, limits=Limits(connections_per_user=1)) as here:
        with patch.object(here.server.store, "register", register):
            both = await asyncio.gather(here.connect("ann"), here.connect("ann"), return_exceptions=True)
        (client,) = (found for found in both if isinstance(found, Client))
        (refusal,) = (found for found in both if isinstance(found, InvalidStatus))
        assert refusal.response.status_code == 429
        assert (await here.scrape())["messaging_active_connections"] == 1
        await client.close()


async def test_the_bytes_that_were_sent_begin_with_the_welcome(tmp_path: Path) -> None:
    async with in_process(tmp_path) as here:
        client = await here.connect("ann", welcome=False)
        welcome = await client.connection.recv(decode=False)
        assert (await here.scrape())["messaging_sent_bytes_total"] == len(text_frame(welcome))
        await client.close()
