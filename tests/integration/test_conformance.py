"""RFC 6455 on the wire, case by case: what a peer may send and what it may not, whole and octet by octet.

The peer is put together from parts that are not the server's own: h11 makes the handshake, ``websockets`` makes the
frames and reads the answers. It never closes its socket first: at the end of every case the server has to. A connection
that goes wrong lingers for an hour here, so one that waits for the peer would not end in time.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import pytest
import pytest_asyncio
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from exporter.web.websocket import connection as connection_module
from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import PATIENCE, WS, Exporter, InProcess, in_process, running

LIMIT = 65_536
TEXT, BINARY, CONT, CLOSE, PING, PONG = (
    Opcode.TEXT,
    Opcode.BINARY,
    Opcode.CONT,
    Opcode.CLOSE,
    Opcode.PING,
    Opcode.PONG,
)
ALIVE = 0
"""Nothing was wrong: the peer closes with 1000, and is answered in kind."""


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """A frame as it may be sent, or not: the library makes a text, and its first octet is set afterwards."""
    made = bytearray(Frame(TEXT, payload).serialize(mask=masked))
    made[0] = fin << 7 | reserved << 4 | opcode
    return bytes(made)


def command(id: str) -> bytes:
    """A text that is answered, with the id."""
    return json.dumps({"type": "ping", "id": id}).encode()


def text(payload: bytes, *cuts: int) -> bytes:
    """A text message, cut into fragments at these places."""
    edges = [0, *cuts, len(payload)]
    pieces = [payload[a:b] for a, b in itertools.pairwise(edges)]
    last = len(pieces) - 1
    return b"".join(frame(CONT if n else TEXT, piece, fin=n == last) for n, piece in enumerate(pieces))


def padded(size: int) -> bytes:
    """A command of so many bytes; JSON may have any number of spaces."""
    return command("sized").ljust(size)


@dataclass(frozen=True)
class Case:
    """What is sent; the answers: ``pong:ID`` and ``error:CODE`` for texts, bytes for pongs; and how it ends."""

    name: str
    sent: bytes
    answers: tuple[str | bytes, ...] = ()
    ends: int = ALIVE
    whole: bool = False  # sent at once only


PIECES = text(command("pieces"), 3, 9, 20)
HALVES = [frame(TEXT, command("halves")[:7], fin=False), frame(CONT, command("halves")[7:])]
BAD_TEXTS = {
    "a lone continuation byte": b"\x80",
    "a sequence cut short": b"\xce\xba\xe1\xbd",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xe0\x80\x80",
    "a surrogate": b"\xed\xa0\x80",
    "beyond the last code point": b"\xf4\x90\x80\x80",
    "a byte that never occurs": b"\xfe",
}
GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
CASES = [
    *(Case(f"text of {n} bytes", text(padded(n)), ("pong:sized",)) for n in (125, 126, 127, 128, 65_535, LIMIT)),
    Case("text above the limit", text(padded(LIMIT + 1)), (), 1009),
    Case("fragments above the limit", text(padded(LIMIT + 1), 40_000), (), 1009),
    Case("text that says nothing", text(b""), ("error:bad_frame",)),
    Case("binary", frame(BINARY, b"\x00\xff"), ("error:bad_frame",)),
    Case("ping without a payload", frame(PING), (b"",)),
    Case("ping with the longest payload", frame(PING, bytes(125)), (bytes(125),)),
    Case("ping that is no UTF-8", frame(PING, b"\xff\xfe"), (b"\xff\xfe",)),
    Case("ping that is too long", frame(PING, bytes(126)), (), 1002),
    Case("pong too long", frame(PONG, bytes(126)), (), 1002),
    Case("pong that nobody asked for", frame(PONG, b"x") + text(command("1")), ("pong:1",)),
    Case("ten pings", b"".join(frame(PING, b"%d" % n) for n in range(10)), tuple(b"%d" % n for n in range(10))),
    *(Case(f"reserved bits {n}", frame(TEXT, command("1"), reserved=n), (), 1002) for n in range(1, 8)),
    Case("a reserved bit on a ping", frame(PING, reserved=4), (), 1002),
    Case("a reserved bit behind a good frame", text(command("1")) + frame(TEXT, b"x", reserved=2), ("pong:1",), 1002),
    *(Case(f"reserved opcode {n}", frame(n), (), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    Case("reserved opcode behind a ping", frame(PING, b"p") + frame(5), (b"p",), 1002),
    Case("unmasked", frame(TEXT, command("1"), masked=False), (), 1002),
    Case("ping cut into two", frame(PING, b"p", fin=False) + frame(CONT, b"q"), (), 1002),
    Case("close in pieces", frame(CLOSE, b"\x03\xe8", fin=False), (), 1002),
    Case("fragments", PIECES, ("pong:pieces",)),
    Case("empty fragments", text(command("1"), 0, 0, 5, 5), ("pong:1",)),
    Case("ping between fragments", HALVES[0] + frame(PING, b"p") + HALVES[1], (b"p", "pong:halves")),
    Case("continuation of nothing", frame(CONT, b"x"), (), 1002),
    Case("unfinished continuation of nothing", frame(CONT, b"x", fin=False) + text(command("1")), (), 1002),
    Case("a new text within a message", HALVES[0] + text(command("1")), (), 1002),
    Case("a continuation too many", PIECES + frame(CONT, b"x"), ("pong:pieces",), 1002),
    Case("text in many languages", text('{"type":"ping","id":"κόσμε 日本 😀"}'.encode()), ("pong:κόσμε 日本 😀",)),
    Case("text cut within a character", text('{"type":"ping","id":"😀"}'.encode(), 22), ("pong:😀",)),
    *(Case(f"not UTF-8: {name}", text(b'{"type":"' + bad + b'"}'), (), 1007) for name, bad in BAD_TEXTS.items()),
    *(Case(f"not UTF-8 in pieces: {name}", text(b'{"' + bad + b'"}', 2), (), 1007) for name, bad in BAD_TEXTS.items()),
    *(Case(f"close {n}", frame(CLOSE, n.to_bytes(2, "big") + b"bye"), (), n) for n in GOOD_CODES),
    *(Case(f"close {n}, which nobody may send", frame(CLOSE, n.to_bytes(2, "big")), (), 1002) for n in BAD_CODES),
    Case("close without a code", frame(CLOSE), (), 1000),
    Case("close with half a code", frame(CLOSE, b"\x03"), (), 1002),
    Case("close with the longest reason", frame(CLOSE, b"\x03\xe8" + b"x" * 123), (), 1000),
    Case("close that is too long", frame(CLOSE, b"\x03\xe8" + b"x" * 124), (), 1002),
    Case("close whose reason is not UTF-8", frame(CLOSE, b"\x03\xe8\xff"), (), 1002),
    Case("a fragment that is not UTF-8, and the peer waits", frame(TEXT, b'{"\xff', fin=False), (), 1007),
    Case("a character cut short by the end", HALVES[0] + frame(CONT, b"\xce"), (), 1007),
    Case("a header of more than will ever come", b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"mask", (), 1009),
    Case("text behind a close", frame(CLOSE, b"\x03\xe8") + text(command("1")), (), 1000, whole=True),
    Case("ping behind a close", frame(CLOSE, b"\x03\xe8") + frame(PING, b"p"), (), 1000, whole=True),
    Case("a second close", frame(CLOSE, b"\x03\xe8") + frame(CLOSE, b"\x03\xe9"), (), 1000, whole=True),
    Case("everything else behind a broken frame", frame(7) + text(command("1")) * 30, (), 1002),
]


class Peer:
    """A socket after its handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes) -> None:
        self.reader, self.writer, self.early = reader, writer, early

    @classmethod
    async def connect(
        cls, here: InProcess | Exporter, *, tls: ssl.SSLContext | None = None, **more: str | bytes
    ) -> tuple[Peer, int]:
        """The peer and the status of the answer; ``more`` are headers instead of the usual ones."""
        host, port = here.url.partition("://")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        client = h11.Connection(h11.CLIENT)
        headers: dict[str, str | bytes] = {
            "Host": f"{host}:{port}",
            "Authorization": f"Bearer {here.token('ann')}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **more,
        }
        writer.write(client.send(h11.Request(method="GET", target=WS, headers=list(headers.items()))) or b"")
        event: Any = h11.NEED_DATA
        while event is h11.NEED_DATA:
            client.receive_data(await reader.read(65_536))
            event = client.next_event()
        return cls(reader, writer, client.trailing_data[0]), event.status_code

    async def all_frames(self) -> list[Frame]:
        """Every frame until the server has closed the connection, which it does without a reset."""
        async with asyncio.timeout(PATIENCE):
            data = self.early + await self.reader.read()
        stream = StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        frames = []
        while stream.buffer:
            parser = Frame.parse(stream.read_exact, mask=False)
            try:
                while True:
                    next(parser)
            except StopIteration as stop:
                frames.append(stop.value)
        self.writer.close()
        return frames


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_module, "LINGER", 3_600.0)
        patch.setattr(connection_module, "LINGER_MAX", 3_600.0)
        async with in_process(tmp_path_factory.mktemp("conformance"), heartbeat_interval=3_600.0) as made:
            yield made


def told(frames: Sequence[Frame]) -> tuple[list[str | bytes], int | None]:
    """The answers in a case's words, and the code of the close frame, behind which there is nothing."""
    assert json.loads(frames[0].data)["type"] == "welcome"
    answers: list[str | bytes] = []
    for number, found in enumerate(frames[1:], 1):
        if found.opcode is CLOSE:
            assert number == len(frames) - 1, "something follows the close frame"
            return answers, int.from_bytes(found.data[:2], "big")
        if found.opcode is PONG:
            answers.append(bytes(found.data))
        else:
            said = json.loads(found.data)
            answers.append(f"{said['type']}:{said.get('id') or said.get('code')}")
    return answers, None


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
async def test_the_answer_is_what_the_rfc_says_and_the_server_ends_it(here: InProcess, case: Case) -> None:
    ending = frame(CLOSE, (1000).to_bytes(2, "big")) if case.ends == ALIVE else b""
    for octets in (False,) if case.whole or len(case.sent) > 1_000 else (False, True):
        peer, status = await Peer.connect(here)
        assert status == 101
        if octets:
            for at in range(len(case.sent)):
                peer.writer.write(case.sent[at : at + 1])
                await asyncio.sleep(0)
            peer.writer.write(ending)
        else:
            peer.writer.write(case.sent + ending)
        answers, code = told(await peer.all_frames())
        assert (answers, code) == (list(case.answers), case.ends or 1000)
    await here.deserted()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Connection": "keep-alive, Upgrade"}, 101),
        ({"Connection": "UPGRADE"}, 101),
        ({"Upgrade": "WebSocket"}, 101),
        ({"Upgrade": "h2c, websocket"}, 101),
        ({"Connection": "not-an-upgrade"}, 426),
        ({"Connection": "upgraded"}, 426),
        ({"Connection": "keep-alive"}, 426),
        ({"Upgrade": "websockets"}, 426),
        ({"Upgrade": "not-websocket"}, 426),
        ({"Sec-WebSocket-Protocol": ""}, 101),  # as a proxy sends it that copies what is not there
        ({"Sec-WebSocket-Protocol": ", messaging.v1,"}, 101),
        ({"Sec-WebSocket-Protocol": "messaging"}, 400),
    ],
)
async def test_tokens_of_a_header_are_compared_whole(here: InProcess, headers: dict[str, str], status: int) -> None:
    peer, answered = await Peer.connect(here, **headers)
    peer.writer.close()
    assert answered == status


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("key", ["AAECAwQFBgcICQoLDA0ODw", "AAECAwQFBgcICQoL!!DA0ODw==", "AAECAwQFBgcICQ==", b"\xff"])
async def test_a_key_that_is_none_is_refused(here: InProcess, key: str | bytes) -> None:
    peer, answered = await Peer.connect(here, **{"Sec-WebSocket-Key": key})
    peer.writer.close()
    assert answered == 400


VIOLATIONS = [case for case in CASES if case.ends in (1002, 1007, 1009) and not case.name.startswith("close")]


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_a_served_connection_ends_by_itself_while_the_peer_waits(tmp_path: Path, tls: bool) -> None:
    """The command, on the loop that it chooses: nobody answers the close frame, and yet the end is there at once."""
    flags, context = [], None
    if tls:
        authority = CertificateAuthority()
        certificate, key = authority.issue("server")
        (tmp_path / "server.pem").write_bytes(certificate + key)
        (tmp_path / "server.pem").chmod(0o600)
        names = "{cert_file: server.pem, key_file: server.pem}"
        (tmp_path / "web.yml").write_text(f"tls_server_config: {names}")
        (tmp_path / "ca.pem").write_bytes(authority.cert)
        flags = ["--web.config.file", str(tmp_path / "web.yml")]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    async with running(tmp_path / "server", *flags, ready=False) as served:
        ended = []

        async def attempt(case: Case) -> None:
            peer, status = await Peer.connect(served, tls=context, Authorization=f"Bearer {served.token(case.name)}")
            assert status == 101
            peer.writer.write(case.sent)
            answers, code = told(await peer.all_frames())
            assert (answers, code) == (list(case.answers), case.ends), case.name
            ended.append(case)

        # The courtesy is five seconds, the patience of TLS thirty: whoever waited for either would be late.
        async with asyncio.timeout(4.5), asyncio.TaskGroup() as group:
            for case in VIOLATIONS:
                group.create_task(attempt(case))
        assert len(ended) == len(VIOLATIONS) > 40
