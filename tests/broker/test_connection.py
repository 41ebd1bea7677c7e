"""One connection to the broker: what is handed out when, and that nothing is left of one that nobody has."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import uvloop

from exporter.broker import frames
from exporter.broker.addresses import Addresses
from exporter.broker.connection import AT_ONCE, ECHO, LIMIT, Connection, Refused, command, connect
from exporter.broker.location import locate
from tests.servers.valkey import Server


async def test_much_that_is_read_at_once_is_handed_out_in_slices_in_order() -> None:
    got: list[int] = []
    reading: list[str] = []

    class Transport(asyncio.Transport):
        def pause_reading(self) -> None:
            reading.append("paused")

        def resume_reading(self) -> None:
            reading.append("resumed")

    connection = Connection(lambda push: got.append(int(push[1])), lambda reason: None)
    connection.connection_made(Transport())
    count = 2 * AT_ONCE + 50
    connection.data_received(b"".join(b">2\r\n$1\r\nx\r\n:%d\r\n" % n for n in range(count)))
    assert (got, reading) == ([*range(AT_ONCE)], ["paused"])
    connection.data_received(b">2\r\n$1\r\nx\r\n:%d\r\n" % count)  # what the socket had before it was paused
    assert len(got) == AT_ONCE
    while reading[-1] == "paused":
        before = len(got)
        await asyncio.sleep(0)
        assert len(got) <= before + AT_ONCE
    assert (got, reading) == ([*range(count + 1)], ["paused", "resumed"])
    connection.data_received(b">2\r\n$1\r\nx\r\n:7\r\n")
    assert got[-1] == 7


PUSH = b">3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n"


class Sent(asyncio.Transport):
    """A transport that remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: object) -> None:
        self.writes.append(bytes(data))  # type: ignore[call-overload]  # whatever asyncio takes

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.writes.append(b"aborted")


class Listening:
    """A connection with one publish on its way, and what came of it."""

    def __init__(self, **options: Any) -> None:
        self.pushes: list[list[Any]] = []
        self.replies: list[Any] = []
        self.lost: list[str] = []
        self.connection = Connection(self.pushes.append, self.lost.append, **options)
        self.connection.connection_made(Sent())

    def publish(self) -> None:
        self.connection.queue(b"SPUBLISH", 1, self.replies.append, PUSH)
        self.connection.flush()


@pytest.mark.parametrize("data", [b":2\r\n" + PUSH, PUSH + b":10\r\n"], ids=["Valkey", "Redis 7.0"])
async def test_what_was_published_comes_back_with_its_reply_wherever_it_is_cut(data: bytes) -> None:
    for cut in range(len(data) + 1):
        here = Listening()
        here.publish()
        for piece in data[:cut], data[cut:]:
            if piece:
                here.connection.data_received(piece)
        whole = cut in (0, len(data))
        assert here.replies == [ECHO if whole else int(data.replace(PUSH, b"")[1:])]
        assert here.pushes == ([] if whole else [[b"smessage", b"c", b"hello"]])
        assert (here.connection.unanswered, here.lost) == (0, [])


async def test_nothing_else_is_taken_for_it() -> None:
    here = Listening()
    here.publish()
    here.publish()
    here.connection.data_received(b":2\r\n" + PUSH)  # the first one's
    here.connection.data_received(b":3\r\n" + PUSH)
    assert (here.replies, len(here.pushes)) == ([2, 3], 2)
    here.publish()
    here.connection.data_received(PUSH + b":1\r\n" + PUSH)  # another node has said the same
    assert (here.replies[2:], len(here.pushes)) == ([1], 4)
    here.publish()
    here.connection.queue(b"PING", 1, here.replies.append)
    here.connection.data_received(b":1\r\n" + PUSH + b"+PONG\r\n")
    assert (here.replies[3:], len(here.pushes)) == ([1, b"PONG"], 5)
    here.publish()
    here.connection.data_received(b"-ERR no\r\n")
    assert isinstance(here.replies[5], Refused)
    here.publish()
    here.connection.data_received(b">2\r\n$1\r\nx\r\n$10\r\nthe end ")
    here.connection.data_received(b":1\r\n" + PUSH)  # not an integer, but the end of another push
    here.connection.data_received(b":1\r\n")
    assert (here.replies[6:], here.pushes[5:]) == ([1], [[b"x", b"the end :1"], [b"smessage", b"c", b"hello"]])
    here.publish()
    here.connection.data_received(b":1\r\n")
    here.connection.data_received(PUSH + PUSH[:4])  # behind it the beginning of another one
    here.connection.data_received(PUSH[4:])
    assert (here.replies[7:], len(here.pushes)) == ([1], 9)
    here.publish()
    here.connection.data_received(b":1\r\n" + PUSH)
    assert (here.replies[8:], len(here.pushes), here.lost) == ([ECHO], 9, [])
    here.publish()
    here.connection.data_received(b">3\r\n$10\r\nssubscribe\r\n$1\r\nc\r\n")  # hiredis has used up all bytes of it
    here.connection.data_received(b":1\r\n" + PUSH)
    here.connection.data_received(b":7\r\n")
    assert (here.replies[9:], here.pushes[9]) == ([7], [b"ssubscribe", b"c", 1])


async def test_a_process_that_had_been_asleep_does_not_take_it_either() -> None:
    now = [0.0]
    here = Listening(now=lambda: now[0], stale_after=1.0)
    here.publish()
    now[0] = 1.1
    here.connection.data_received(b":1\r\n" + PUSH)
    assert (here.replies, here.lost) == ([], ["this process had been asleep"])


@pytest.mark.parametrize("again", [b":1\r\n" + PUSH, PUSH + b":1\r\n"], ids=["Valkey", "Redis 7.0"])
async def test_what_was_published_comes_back_once(again: bytes) -> None:
    here = Listening()
    here.publish()
    here.connection.data_received(again)
    here.connection.data_received(again)
    assert (here.replies, here.lost) == ([ECHO], ["an answer that nobody asked for"])
    here = Listening()
    here.publish()
    for piece in again[:3], again[3:], again:  # also where it has been taken apart
        here.connection.data_received(piece)
    assert (here.replies, here.lost) == ([1], ["an answer that nobody asked for"])


async def test_what_is_no_integer_is_not_taken_for_one() -> None:
    here = Listening()
    here.publish()
    here.connection.data_received(b":\r\n" + PUSH)
    assert (here.replies, len(here.lost)) == ([], 1)


async def test_each_read_that_is_taken_apart_is_told_to_the_turn_of_the_loop() -> None:
    told: list[tuple[int, int]] = []

    class Turn:
        alone, reading = 7, 0

        def has_read(self) -> None:
            told.append((self.reading, len(here.pushes)))
            self.reading = 0

    here = Listening()
    here.connection.turn = turn = Turn()
    here.connection.data_received(PUSH + PUSH)
    assert (told, turn.reading) == ([(7, 2)], 0)
    here.connection.data_received(b"no RESP\r\n")
    assert (len(told), turn.reading, len(here.lost)) == (2, 0, 1)


async def test_what_is_sent_leaves_at_once_behind_what_is_queued() -> None:
    here = Listening()
    sent: Any = here.connection._transport
    here.connection.send(b"one", here.replies.append, PUSH)
    assert sent.writes == [b"one"]
    here.connection.data_received(b":3\r\n" + PUSH)
    here.connection.queue(b"two", 1, here.replies.append)
    here.connection.send(b"three", here.replies.append, PUSH)
    assert sent.writes == [b"one", b"twothree"]
    here.connection.send(b"four", here.replies.append, PUSH)
    assert (sent.writes[2:], here.connection.unanswered) == ([b"four"], 12)
    here.connection.data_received(b":1\r\n:2\r\n" + PUSH)
    here.connection.data_received(b":3\r\n" + PUSH)  # taken apart: more had been asked for
    assert (here.replies, here.connection.unanswered, len(here.pushes)) == ([ECHO, 1, 2, 3], 0, 2)
    here.connection.send(b"x" * LIMIT, here.replies.append, PUSH)
    assert here.connection.open
    here.connection.send(b"x", here.replies.append, PUSH)
    assert here.lost == ["the server is too far behind"]
    here.connection.send(b"y", here.replies.append, PUSH)
    assert sent.writes[-1] == b"aborted"


async def test_a_refusal_ends_what_is_faultless_and_is_nobodys_reply() -> None:
    """It may be of a command that has no reply else; and nobody may go on as if they had been heard."""
    here = Listening()
    here.connection.faultless = True
    here.connection.queue(command("SUNSUBSCRIBE", "c"), 0, print)
    here.publish()
    here.connection.data_received(b"-NOPERM no\r\n:1\r\n")
    assert (here.replies, here.lost) == ([], ["NOPERM no"])


async def test_what_a_server_says_before_it_is_asked_anything_is_the_reason() -> None:
    here = Listening()
    here.connection.data_received(b"-ERR max number of clients reached\r\n")
    assert here.lost == ["ERR max number of clients reached"]


async def test_the_servers_send_what_was_published_back_with_the_reply(server: Server) -> None:
    """Nearly always in one piece: then it is not taken apart."""
    replies: asyncio.Queue[Any] = asyncio.Queue()
    location = locate(server.url, None)
    connection = await connect(
        location, Addresses(), location.hosts[0], lambda _: None, print, time.monotonic, float("inf"), "x"
    )
    connection.queue(command("SSUBSCRIBE", "c"), 0, print)
    await connection.call("PING")
    whole = 0
    for number in range(50):
        words = frames.addressed(b"c", b"hello %d" % number)
        connection.queue(frames.PUBLISH + words, 1, replies.put_nowait, frames.PUBLISHED + words)
        connection.flush()
        whole += await replies.get() is ECHO
        await connection.call("PING")  # where it was cut, the rest has come now
    connection.abort("done")
    assert whole > 25


@pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nothing_of_a_connection_that_is_given_up_arrives_later(
    loop_of: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The kernel would go on sending it, and the server would tell it behind what the next connection says."""

    async def given_up(port: int) -> None:
        connection = Connection(lambda push: None, lambda reason: None)
        await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", port)
        connection.queue(command("SPUBLISH", "c", b"x" * LIMIT), 1, lambda reply: None)
        connection.flush()
        connection.abort("for this test")
        await asyncio.sleep(0)  # uvloop closes the socket in the next turn

    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.closing(loop_of()) as loop:
        loop.run_until_complete(given_up(server.getsockname()[1]))
        accepted, _ = server.accept()
        with accepted, pytest.raises(ConnectionResetError):
            b"".join(iter(partial(accepted.recv, 1 << 20), b""))


async def test_a_socket_that_takes_no_option_any_more_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, when the other side has reset it."""
    with socket.socket() as ended:
        monkeypatch.setattr(Sent, "get_extra_info", lambda *asked: ended)
        here = Listening()
        monkeypatch.setattr("exporter.broker.connection._LINGER_0", b"")  # EINVAL
        here.connection.abort("no answer")
    assert here.lost == ["no answer"]


async def test_a_start_that_is_cancelled_leaves_no_connection_behind(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the moment when it is open already and nobody has it yet."""
    made: list[Connection] = []
    loop = asyncio.get_running_loop()
    create = loop.create_connection

    async def cancelled(factory: Any, *rest: Any, **more: Any) -> Any:
        _, connection = await create(factory, *rest, **more)
        made.append(connection)
        raise asyncio.CancelledError

    monkeypatch.setattr(loop, "create_connection", cancelled)
    location = locate(server.url, None)
    with pytest.raises(asyncio.CancelledError):
        await connect(location, Addresses(), location.hosts[0], print, print, time.monotonic, float("inf"), "x")
    assert not made[0].open
