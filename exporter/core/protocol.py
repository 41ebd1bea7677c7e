"""The wire, subprotocol ``messaging.v1``: bytes to commands, facts to bytes. Knows no state, no socket, no clock.

One JSON object per text frame, tagged by ``type``. ``parse`` decodes and validates in one pass and raises
``Malformed``, which says as much of the command as could be read, so that the refusal can be answered and
counted. Unknown fields are ignored: an older server must understand a newer client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any, Final, TypedDict

import msgspec

from exporter.core.errors import BadFrame, Refusal, TooLarge, UnknownType
from exporter.core.events import COMMANDS, Command, Join, Leave, Ping, Read, Send, Typing
from exporter.core.records import Message

SUBPROTOCOL: Final = "messaging.v1"
MAX_IDENTIFIER: Final = 128
MAX_CLIENT_ID: Final = 64
MAX_LISTED: Final = 1_000  # participants in one answer: 15 KB of usual names, and encoded in 20 µs
MAX_SEQ: Final = 2**63 - 1  # what a bigint holds

# C0, DEL and C1 (Unicode category Cc). ``isprintable`` is asked first: 0.05 µs, and true of nearly every identifier.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class CloseCode(IntEnum):
    """Close codes the server sends: RFC 6455 section 7.4.1, and the application's own from 4000 up."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    TOO_LARGE = 1009
    INTERNAL = 1011
    TOKEN_EXPIRED = 4001
    ADMIN = 4003
    SLOW_CONSUMER = 4008
    RATE_LIMITED = 4029


class Malformed(Exception):
    """A frame that is no command: the refusal, and what could be read of it for the answer and the counter."""

    def __init__(self, refusal: Refusal, command: str = "unknown", id: str | None = None) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.command = command
        self.id = id


# --- inbound ----------------------------------------------------------------------------------------------

_NAMES: Final = frozenset(COMMANDS.values())
_decode_command = msgspec.json.Decoder(Command).decode


def parse(payload: bytes) -> Command:
    """The command in a text frame; raises Malformed. Rules for identifiers: ``check_identifier``."""
    try:
        command: Command = _decode_command(payload)
        if type(command) is Typing:  # most often, hence not asked in another function
            name = command.conversation
            if name.isprintable() and 0 < len(name) <= MAX_IDENTIFIER:
                return command
        _CHECKS[type(command)](command)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(payload, error) from None
    except Refusal as refusal:
        raise Malformed(refusal, COMMANDS[type(command)], _client_id(getattr(command, "id", None))) from None
    return command


def check_identifier(value: str, field: str, limit: int = MAX_IDENTIFIER) -> None:
    """1 to ``limit`` characters, no control characters, no lone surrogates: TooLarge or BadFrame otherwise."""
    if len(value) > limit:
        raise TooLarge(f"{field} is longer than {limit} characters")
    if not value:
        raise BadFrame(f"{field} is empty")
    if not value.isprintable() and _CONTROL.search(value):
        raise BadFrame(f"{field} contains a control character or a lone surrogate")


def _check_conversation(command: Any) -> None:
    check_identifier(command.conversation, "conversation")


def _check_optional_id(command: Any) -> None:
    if command.id is not None:
        check_identifier(command.id, "id", MAX_CLIENT_ID)


def _check_membership(command: Any) -> None:
    check_identifier(command.conversation, "conversation")
    _check_optional_id(command)


def _check_send(command: Any) -> None:
    check_identifier(command.conversation, "conversation")
    check_identifier(command.id, "id", MAX_CLIENT_ID)
    if "\x00" in command.body:  # legal JSON, but PostgreSQL's text cannot hold it
        raise BadFrame("body contains a NUL character")


def _check_read(command: Any) -> None:
    check_identifier(command.conversation, "conversation")
    if command.seq < 0:  # however high it is: that message does not exist yet, which is not the frame's fault
        raise BadFrame("seq is negative")


_CHECKS: Final = {
    Join: _check_membership,
    Leave: _check_membership,
    Typing: _check_conversation,
    Send: _check_send,
    Read: _check_read,
    Ping: _check_optional_id,
}


_PARTS: Final = (b",", b"[", b"{", b"\\")
MAX_PARTS: Final = 4_000
"""Of a frame that is no command, by these signs. Reading one of 30,000 numbers again takes 6 ms, a good one 0.1 ms."""


class _Skimmed(TypedDict, total=False):  # what a refusal says of a frame, as it stands there
    type: msgspec.Raw
    id: msgspec.Raw


def read_name(payload: bytes) -> tuple[str, str | None]:
    """The command's name and id as far as they can be read; ``unknown`` otherwise. For frames refused unread."""
    try:
        command = parse(payload)
    except Malformed as malformed:
        return malformed.command, malformed.id
    return COMMANDS[type(command)], getattr(command, "id", None)


def _explain(payload: bytes, error: Exception) -> Malformed:
    """The slow path: read again what can be read, to say what was wrong with which command."""
    try:
        value = _skim(payload) if sum(map(payload.count, _PARTS)) > MAX_PARTS else _read_loosely(payload)
    except msgspec.MsgspecError:
        return Malformed(BadFrame("not a command, and in too many parts to say why"))
    except (ValueError, RecursionError):
        return Malformed(BadFrame("not a JSON object in UTF-8"))
    if not isinstance(value, dict):
        return Malformed(BadFrame("not a JSON object"))
    id, name = _client_id(value.get("id")), value.get("type")
    if not isinstance(name, str):
        return Malformed(BadFrame("type is missing or not a string"), id=id)
    if name not in _NAMES:
        return Malformed(UnknownType("no such command"), id=id)
    return Malformed(BadFrame(_readable(error)), name, id)


def _read_loosely(payload: bytes) -> object:
    """The standard library also reads lone surrogates, NaN and, like this, numbers of any length.

    Whoever sent one along with a good ``id`` waits for an answer to that id. Raises ValueError, RecursionError.
    """
    return json.loads(payload.decode(), parse_int=len, parse_float=len)  # whatever a number is, it is no string


def _skim(payload: bytes) -> dict[str, object]:
    """Type and id, quickly. Raises MsgspecError, also for what the standard library would read, and RecursionError."""
    found: dict[str, msgspec.Raw] = msgspec.json.decode(payload, type=_Skimmed)
    return {name: msgspec.json.decode(raw) for name, raw in found.items()}


def _client_id(value: object) -> str | None:
    """The id to answer with: only one that is valid, so that nothing is echoed that may not be said."""
    if not isinstance(value, str):
        return None
    try:
        check_identifier(value, "id", MAX_CLIENT_ID)
    except Refusal:
        return None
    return value


def _readable(error: Exception) -> str:
    """msgspec's words without JSONPath's dollar: it names fields and types, never the client's values."""
    if not isinstance(error, msgspec.ValidationError):
        return "not well-formed JSON, or with a lone surrogate"
    text = str(error)
    if text.startswith("Invalid value"):  # of the tag, hence a first one that is unknown before a second one
        return "type is given twice"
    return text[:1].lower() + text[1:].replace(" - at `$.", " at `").replace(" - at `$`", "")


# --- outbound ---------------------------------------------------------------------------------------------


class Welcome(msgspec.Struct, tag="welcome"):
    """First frame of a connection; ``heartbeat`` in seconds.

    ``connection`` names it, and before the last hyphen the process that serves it.
    """

    connection: str
    user: str
    heartbeat: float
    limits: dict[str, int]


class Joined(msgspec.Struct, tag="joined", omit_defaults=True):
    """Answer to ``join``; ``participants`` are the users joined now, the new one included.

    At most 1,000 of them; then ``truncated`` says so and ``participants_total`` how many there are. Every message above
    ``last_seq`` follows; of those up to it, one that was being handed out meanwhile may follow as well.
    """

    conversation: str
    participants: Sequence[str]
    last_seq: int
    id: str | None = None
    truncated: bool = False
    participants_total: int | None = None


class Left(msgspec.Struct, tag="left", omit_defaults=True):
    """Answer to ``leave``; with ``reason`` ``removed`` unasked, to a member who was removed."""

    conversation: str
    id: str | None = None
    reason: str | None = None


class SomebodyJoined(msgspec.Struct, tag="participant_joined"):
    """To other users: a user's first connection joined."""

    conversation: str
    user: str


class SomebodyLeft(msgspec.Struct, tag="participant_left"):
    """To other users: a user's last connection left."""

    conversation: str
    user: str


class SomebodyTyping(msgspec.Struct, tag="typing"):
    """To other users, only when it changes."""

    conversation: str
    user: str
    active: bool


class Ack(msgspec.Struct, tag="ack"):
    """The message is durable."""

    id: str
    conversation: str
    seq: int
    sent_at: datetime


MESSAGE_BEGINS: Final = b'{"type":"message",'
"""How a ``message`` begins, and nothing else: dropped ones are counted by it, so that none need be marked."""


class NewMessage(msgspec.Struct, tag="message"):
    """To every joined connection but the sending one."""

    conversation: str
    seq: int
    id: str
    sender: str
    body: str
    sent_at: datetime


class SomebodyRead(msgspec.Struct, tag="read"):
    """To every joined connection but the reading one, when the mark moves forward."""

    conversation: str
    user: str
    seq: int


class Deleted(msgspec.Struct, tag="deleted"):
    """To the joined: a message no longer exists."""

    conversation: str
    seq: int


class Pong(msgspec.Struct, tag="pong", omit_defaults=True):
    """Answer to ``ping``."""

    id: str | None = None


class Error(msgspec.Struct, tag="error", omit_defaults=True):
    """A command was refused and changed nothing."""

    code: str
    message: str
    id: str | None = None


encode = msgspec.json.Encoder().encode


def new_message(message: Message) -> bytes:
    """The ``message`` payload of a durable message."""
    return encode(
        NewMessage(message.conversation, message.seq, message.id, message.sender, message.body, message.sent_at)
    )


def ack(message: Message) -> bytes:
    """The ``ack`` payload of a durable message."""
    return encode(Ack(message.id, message.conversation, message.seq, message.sent_at))


def joined(
    conversation: str, participants: Sequence[str], total: int, user: str, last_seq: int, id: str | None = None
) -> bytes:
    """The ``joined`` payload for ``user``; ``participants`` are sorted, and ``total`` is how many there are in all."""
    if total <= MAX_LISTED:
        return encode(Joined(conversation, participants, last_seq, id))
    shown = list(participants[:MAX_LISTED])
    if user > shown[-1]:  # the list is cut before whom it is for
        shown[-1] = user
    return encode(Joined(conversation, shown, last_seq, id, truncated=True, participants_total=total))


def error(refusal: Refusal, id: str | None = None) -> bytes:
    """The ``error`` payload of a refusal."""
    return encode(Error(refusal.code, refusal.message, id))
