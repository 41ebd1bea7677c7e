"""What nodes send each other: the frames of one turn for one conversation, packed into one payload. Pure.

A payload begins with its kind. ``F``: a node's frames: 8 bytes that name the node, 8 bytes when it was published
(microseconds of the server's clock), then the frames, each with its length before it. ``A``: announcements of the
functions, one a line: J, L (joined, left), T, U (types, no longer types), and the user. Kinds and frames that are not
known here are a newer release's: they are passed over and counted.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from typing import Final, NamedTuple

# Length of what follows, kind, seq, microseconds since it was received there, bytes of the user's name.
_FRAME: Final = struct.Struct(">IBQIH")
_HEAD: Final = struct.Struct(">1s8sQ")
_ALONE: Final = struct.Struct(">1s8sQIBQIH").pack  # a head and a frame's
_pack, _unpack, _SIZE = _FRAME.pack, _FRAME.unpack_from, _FRAME.size
_AFTER_LENGTH: Final = _SIZE - 4
_FOREVER: Final = 2**32 - 1
# Of a run: its frames, bytes of its users' names.
_RUN: Final = struct.Struct(">II")

HEAD_SIZE: Final = _HEAD.size
_LEAST: Final = HEAD_SIZE + _SIZE  # bytes of a payload with a frame in it
NODE_BYTES: Final = 8


class Kind(IntEnum):
    """What a frame is."""

    MESSAGE = 1  # with its seq, and its sender as user; in the order of seq, once
    OTHER = 2  # handed out as it comes
    REMOVED = 3  # the user is no longer a member: leaves at once
    LOOK = 4  # messages up to this seq exist; perhaps they have been lost
    ASK = 5  # the user may be no longer a member: ask the database
    LASTING = 6  # the message of that seq is no more; sent again after an outage, with the same number as user
    TYPING = 7  # the user, who takes part on the sending node only, types (seq 1) or no longer (0): what people get
    TYPISTS = 8  # frames of that kind may have been lost: ask the server who types
    WHERE = 9  # a question, seq is its number: which connections has the user there?
    DISCONNECT = 10  # the same, and they are to be ended
    HERE = 11  # the answer to the question of that seq; data: the node that asked, when they were opened
    TYPING_RUN = 12  # several of TYPING: ``typing_run``; seq is how many
    BACK = 13  # to all nodes, or to that of data: the sender has missed what was LASTING in the last seq milliseconds
    DATABASE = 14  # to all nodes: which one the sender uses, and its name


_KNOWN: Final = frozenset(map(int, Kind))
_TYPING: Final = int(Kind.TYPING)
_TYPING_RUN: Final = int(Kind.TYPING_RUN)

Outgoing = tuple[Kind, bytes, int, str, float | None]
"""A frame on its way out: kind, data, seq, user, and when its cause was received, None when that is not measured."""

IncomingFrame = tuple[int, bytes, int, str, int]
"""Kind, data, seq, user, and microseconds from its receipt to its publishing (0: not measured).

A tuple: an object would cost 0.4 µs, a tenth of all that a frame costs here.
"""


head: Final[Callable[[bytes, int], bytes]] = partial(_HEAD.pack, b"F")
"""The beginning of a payload: ``head(node, now)``, ``now`` in microseconds of the server's clock."""


def new_node() -> bytes:
    """A name for a node, as others see it."""
    return secrets.token_bytes(NODE_BYTES)


PUBLISH: Final = b"*3\r\n$8\r\nSPUBLISH\r\n"
"""How the command begins; the rest is ``addressed``."""
PUBLISHED: Final = b">3\r\n$8\r\nsmessage\r\n"
"""How what everybody subscribed is sent begins; the rest is the same."""


def addressed(channel: bytes, payload: bytes) -> bytes:
    """Both, as RESP; written out, because packing the command costs 1 µs more."""
    return b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


def alone(channel: bytes, node: bytes, stamp: int, frame: Outgoing, now: float) -> bytes:
    """The same of a payload of one frame, as most are: in one go.

    ``now`` is by the clock by which its cause was received, ``stamp`` the same moment by the server's.
    """
    kind, data, seq, user, received = frame
    name = user.encode()
    size = len(name) + len(data)
    age = 0 if received is None else min(int((now - received) * 1e6), _FOREVER)
    head = _ALONE(b"F", node, stamp, _AFTER_LENGTH + size, kind, seq, age, len(name))
    return b"$%d\r\n%b\r\n$%d\r\n%b%b%b\r\n" % (len(channel), channel, len(head) + size, head, name, data)


def publisher(payload: bytes) -> bytes:
    """Which node it was."""
    return payload[1 : 1 + NODE_BYTES]


def published_at(payload: bytes) -> int:
    """When it was, in the publisher's view of the server's clock."""
    return int.from_bytes(payload[9:17], "big")


def pack(kind: int, data: bytes, seq: int = 0, user: str = "", age: int = 0) -> bytes:
    """One frame."""
    name = user.encode()
    size = len(name)
    return _pack(_AFTER_LENGTH + size + len(data), kind, seq, age if age < _FOREVER else _FOREVER, size) + name + data


def pack_all(turn: Iterable[Outgoing], now: float, parts: list[bytes]) -> None:
    """Frames, as ``pack`` makes them, in pieces: a message is not copied to be packed."""
    add, after, before, name, size = parts.append, _AFTER_LENGTH, "", b"", 0
    for kind, data, seq, user, received in turn:
        if user is not before:  # one after the other they are often the same user's
            before, name = user, user.encode()
            size = len(name)
        age = 0 if received is None else min(int((now - received) * 1e6), _FOREVER)
        add(_pack(after + size + len(data), kind, seq, age, size))
        add(name)
        add(data)


def lone_typing(payload: bytes) -> tuple[str, bool, bytes] | None:
    """User, whether they begin, and what people get, of a payload that is one frame of ``TYPING``; else None."""
    size = len(payload)
    if size < _LEAST:
        return None
    length, kind, seq, _, name = _unpack(payload, HEAD_SIZE)
    middle = _LEAST + name
    if kind != _TYPING or HEAD_SIZE + 4 + length != size or middle > size:
        return None
    return payload[_LEAST:middle].decode(errors="replace"), seq > 0, payload[middle:]


def unpack(payload: bytes) -> list[IncomingFrame | None]:
    """The frames of a node's payload; None for one that is not known here, or is not whole."""
    found: list[IncomingFrame | None] = []
    known, after, size = _KNOWN, _AFTER_LENGTH, _SIZE
    position, end, before, user = HEAD_SIZE, len(payload), b"", ""
    while position < end:
        begin = position + size
        if begin > end:
            found.append(None)
            break
        length, kind, seq, age, name = _unpack(payload, position)
        position += 4 + length
        if kind not in known or length < after + name or position > end:
            found.append(None)
        else:
            middle = begin + name
            if before != payload[begin:middle]:
                before = payload[begin:middle]
                user = before.decode(errors="replace")
            found.append((kind, payload[middle:position], seq, user, age))
    return found


def how_many(payload: bytes) -> int:
    """The frames of a node's payload; of a run, each that is in it."""
    return sum(frame[2] if frame and frame[0] == _TYPING_RUN else 1 for frame in unpack(payload))


class TypingRun(NamedTuple):
    """Who has begun to type and has stopped, in order, and their frames in one piece.

    Each user takes turns between the two: ``begins`` is the first of each, ``ends`` the last.
    """

    users: list[str]
    begins: list[bool]
    ends: list[bool]
    order: Sequence[int]  # of each frame, whose it is: a place in ``users``
    frames: bytes

    def each(self) -> Iterator[tuple[str, bool]]:
        """Each user and what they do, one after the other."""
        turn = list(self.begins)
        for place in self.order:
            yield self.users[place], turn[place]
            turn[place] = not turn[place]


def typing_runs(told: Iterable[Outgoing]) -> Iterator[bytes]:
    """Packed frames, nearly always one: whoever gets it hands all of it out in one piece."""
    places: dict[str, int] = {}
    words: list[int] = []  # of each user, as in their line: the first and the last thing they do
    order: list[int] = []
    data: list[bytes] = []
    for _, frame, active, user, _ in told:
        place = places.get(user)
        if place is None:
            place = places[user] = len(words)
            words.append(3 * active)
        elif words[place] & 1 == active:  # the same twice
            yield _run(places, words, order, data)
            places, words, order, data, place = {user: 0}, [3 * active], [], [], 0
        else:
            words[place] ^= 1
        order.append(place)
        data.append(frame)
    yield _run(places, words, order, data)


def _run(places: Iterable[str], words: list[int], order: list[int], data: list[bytes]) -> bytes:
    names = "\n".join([f"{word}{user}" for word, user in zip(words, places, strict=True)]).encode()
    count = len(data)
    head = _RUN.pack(count, len(names)) + names + struct.pack(f">{count}I", *order)
    return pack(_TYPING_RUN, head + b"".join(data), count)


def typing_run(data: bytes) -> TypingRun | None:
    """What such a frame holds; None when it is not whole."""
    try:
        count, size = _RUN.unpack_from(data)
        middle = _RUN.size + size
        lines = data[_RUN.size : middle].decode(errors="replace").split("\n")
        order = struct.unpack_from(f">{count}I", data, middle)
        begins = [line[0] >= "2" for line in lines]
        ends = [line[0] in "13" for line in lines]
    except (struct.error, IndexError):
        return None
    if max(order, default=0) >= len(lines):
        return None
    return TypingRun([line[1:] for line in lines], begins, ends, order, data[middle + 4 * count :])


def announcements(payload: bytes) -> Sequence[str]:
    """The lines of the functions' announcements: a letter and a user each."""
    return payload[2:].decode(errors="replace").split("\n")
