"""What goes over the road: the frames of one turn for one conversation, packed into one payload. Pure.

A payload begins with its kind. ``F``: a node's frames: 8 bytes that name the node, 8 bytes when it was published
(microseconds of the server's clock), then the frames, each with its length before it. ``A``: announcements of the
functions, one a line: J, L (joined, left), T, U (types, no longer types), and the user. Kinds and frames that are not
known here are a newer release's: they are passed over and counted.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

# Length of what follows, kind, seq, microseconds since it was received there, bytes of the user's name.
_FRAME: Final = struct.Struct(">IBQIH")
_HEAD: Final = struct.Struct(">1s8sQ")
_pack, _unpack, _SIZE = _FRAME.pack, _FRAME.unpack_from, _FRAME.size
_AFTER_LENGTH: Final = _SIZE - 4
_FOREVER: Final = 2**32 - 1

HEAD_SIZE: Final = _HEAD.size
NODE_BYTES: Final = 8


class Kind(IntEnum):
    """What a frame is."""

    MESSAGE = 1  # with its seq, and its sender as user; in the order of seq, once
    OTHER = 2  # handed out as it comes
    REMOVED = 3  # the user is no longer a member: leaves at once
    LOOK = 4  # messages up to this seq exist; perhaps they have been lost
    ASK = 5  # the user may be no longer a member: ask the database
    LASTING = 6  # handed out as it comes, and sent again after an outage
    TYPING = 7  # the user, who takes part on the sending node only, types (seq 1) or no longer (0): what people get
    TYPISTS = 8  # frames of that kind may have been lost: ask the server who types
    WHERE = 9  # a question, seq is its number: which connections has the user there?
    DISCONNECT = 10  # the same, and they are to be ended
    HERE = 11  # the answer to the question of that seq; data: the node that asked, when they were opened


_KNOWN: Final = frozenset(map(int, Kind))

RoadFrame = tuple[int, bytes, int, str, int]
"""Kind, data, seq, user, and microseconds from its receipt to its publishing (0: not measured).

A tuple: an object would cost 0.4 µs, a tenth of all that a frame costs here.
"""


def head(node: bytes, now: int) -> bytes:
    """The beginning of a payload; ``now`` in microseconds of the server's clock."""
    return _HEAD.pack(b"F", node, now)


def new_node() -> bytes:
    """A name for a node on the road."""
    return secrets.token_bytes(NODE_BYTES)


def publish(channel: bytes, payload: bytes) -> bytes:
    """The command; written out, because packing it costs 1 µs more."""
    return b"*3\r\n$8\r\nSPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


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


def unpack(payload: bytes) -> Iterator[RoadFrame | None]:
    """The frames of a node's payload; None for one that is not known here, or is not whole."""
    position, end = HEAD_SIZE, len(payload)
    while position < end:
        begin = position + _SIZE
        if begin > end:
            yield None
            return
        length, kind, seq, age, name = _unpack(payload, position)
        position += 4 + length
        if kind not in _KNOWN or length < _AFTER_LENGTH + name or position > end:
            yield None
        elif name:
            middle = begin + name
            yield kind, payload[middle:position], seq, payload[begin:middle].decode(errors="replace"), age
        else:
            yield kind, payload[begin:position], seq, "", age


def announcements(payload: bytes) -> Sequence[str]:
    """The lines of the functions' announcements: a letter and a user each."""
    return payload[2:].decode(errors="replace").split("\n")
