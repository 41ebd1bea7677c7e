"""What PostgreSQL's errors and its driver's mean. Knows no connection.

Tested in ``tests/store/test_writing.py``.
"""

from __future__ import annotations

import re
import ssl
from typing import Final

import asyncpg

from exporter.store import errors
from exporter.store.errors import DatabaseError, ErrorKind

_BY_STATE: Final = (  # SQLSTATE, or its beginning; the first that fits
    ("57014", ErrorKind.TIMEOUT, errors.TIMEOUT),
    ("55P03", ErrorKind.LOCKED, errors.LOCKED),
    ("25P03", ErrorKind.DISCONNECTED, errors.TIMEOUT),  # idle in a transaction: this process was asleep
    ("57P03", ErrorKind.DISCONNECTED, errors.STARTING),
    ("57P", ErrorKind.DISCONNECTED, errors.STARTING),
    ("40", ErrorKind.SERIALIZATION, errors.RACED),
    ("23505", ErrorKind.CONFLICT, errors.KEY_TAKEN),
    ("23502", ErrorKind.REFUSED, errors.UNFILLED),  # no value of ours is null
    ("22", ErrorKind.DATA, errors.REJECTED),
    ("23", ErrorKind.DATA, errors.REJECTED),
    ("54", ErrorKind.DATA, errors.REJECTED),
    ("28P01", ErrorKind.CONFIGURATION, errors.PASSWORD),
    ("28", ErrorKind.CONFIGURATION, errors.NOT_ADMITTED),
    ("3D", ErrorKind.CONFIGURATION, errors.NO_DATABASE),
    ("42501", ErrorKind.CONFIGURATION, errors.RIGHTS),
    ("42P07", ErrorKind.CONFIGURATION, errors.FOREIGN),
    ("42704", ErrorKind.CONFIGURATION, errors.UNKNOWN_SETTING),
    ("42P05", ErrorKind.DISCONNECTED, errors.OTHER_SESSION),
    ("26", ErrorKind.DISCONNECTED, errors.OTHER_SESSION),
    ("0A000", ErrorKind.DISCONNECTED, errors.OTHER_SESSION),  # a cached plan must not change its result
    ("42", ErrorKind.CONFIGURATION, errors.NO_SCHEMA),
    ("3F", ErrorKind.CONFIGURATION, errors.NO_SCHEMA),
    ("P0", ErrorKind.REFUSED, errors.REFUSED_BY_TRIGGER),
    ("25006", ErrorKind.READ_ONLY, errors.READ_ONLY),
    ("53100", ErrorKind.DISCONNECTED, errors.FULL),
    ("53", ErrorKind.DISCONNECTED, errors.CROWDED),
    ("58", ErrorKind.DISCONNECTED, errors.BROKEN_DISK),
    ("08P01", ErrorKind.DISCONNECTED, errors.REFUSED),
    ("08", ErrorKind.DISCONNECTED, errors.LOST),
)
# Of a statement these mean many things. "Could not write init file", for one, is an internal error to PostgreSQL.
_OF_A_SESSION: Final = {"55000": errors.CLOSED_TO_ALL, "XX000": errors.NO_SESSION}
_BY_WORDS: Final = (("root certificate", errors.NO_ROOT_CERTIFICATE), ("could not match", errors.PORTS))
_ANYWHERE: Final = ("57014", "55P03", "40", "53", "58")
_LANGUAGE: Final = re.compile(r"\bPL/\w")
_NUMBERING: Final = ("GetNewTransactionId", "GetNewMultiXactId")
"""Of the server's source: its state is that of a row that is too large, and its words are of any language."""
_EXPIRED, _HOSTNAME, _ADDRESS = 10, 62, 64
"""OpenSSL's verification results; what else it says is that nobody trusted has signed."""


DRIVERS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises of itself."""


def translate_error(error: BaseException) -> DatabaseError:
    """What an error of the driver means."""
    if isinstance(error, DatabaseError):
        return error
    if "statement pooling mode" in str(error):  # pgbouncer, which hangs up at the same moment
        return DatabaseError(ErrorKind.CONFIGURATION, errors.STATEMENT_POOLING)
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and isinstance(error.__cause__, asyncpg.PostgresError):
        # A pooler, or the server, has said why it hangs up; whatever that is, the connection is gone.
        return DatabaseError(ErrorKind.DISCONNECTED, translate_error(error.__cause__).text)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        if getattr(error, "server_source_function", None) in _NUMBERING:
            return DatabaseError(ErrorKind.DISCONNECTED, errors.NO_TRANSACTIONS)
        if _of_another_program(error, state):
            return DatabaseError(ErrorKind.REFUSED, errors.REFUSED_BY_TRIGGER)
        if state == "23514" and not getattr(error, "constraint_name", None):  # no constraint, but a row without a place
            return DatabaseError(ErrorKind.REFUSED, errors.NO_PARTITION)
        for start, kind, text in _BY_STATE:
            if state.startswith(start):
                return DatabaseError(kind, text)
        if state in _OF_A_SESSION and getattr(error, "severity_en", None) == "FATAL":
            return DatabaseError(ErrorKind.DISCONNECTED, _OF_A_SESSION[state])
        return DatabaseError(ErrorKind.DISCONNECTED, errors.UNKNOWN, f"SQLSTATE {state}")
    if isinstance(error, TimeoutError):
        return DatabaseError(ErrorKind.TIMEOUT, errors.TIMEOUT)
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        text = next((text for part, text in _BY_WORDS if part in str(error)), errors.BAD_URL)
        return DatabaseError(ErrorKind.CONFIGURATION, text)
    if isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched):
        return DatabaseError(ErrorKind.DISCONNECTED, errors.NO_SUCH_SERVER)
    if isinstance(error, (asyncpg.DataError, UnicodeError, OverflowError)):
        return DatabaseError(ErrorKind.DATA, errors.REJECTED)
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return DatabaseError(ErrorKind.DISCONNECTED, errors.LOST)
    if isinstance(error, OSError):
        return _of_the_network(error)
    return DatabaseError(ErrorKind.DISCONNECTED, errors.UNKNOWN)


def _of_another_program(error: BaseException, state: str) -> bool:
    """Did a trigger's function fail that is not ours? Whatever state it gives: it says nothing of the server.

    What waits, races or runs out of room there does so for the reasons that it has anywhere.
    """
    if getattr(error, "severity_en", None) != "ERROR" or state.startswith(_ANYWHERE):
        return False
    # The innermost function is named first, in every language that the server speaks as "PL/pgSQL".
    lines = str(getattr(error, "context", None) or "").splitlines()
    innermost = next((line for line in lines if _LANGUAGE.search(line)), None)
    return innermost is not None and "messaging_" not in innermost


def _of_the_network(error: OSError) -> DatabaseError:
    if isinstance(error, ssl.SSLCertVerificationError):
        text = {
            _EXPIRED: errors.CERTIFICATE_EXPIRED,
            _HOSTNAME: errors.CERTIFICATE_OF_ANOTHER,
            _ADDRESS: errors.CERTIFICATE_OF_ANOTHER,
        }.get(error.verify_code, errors.CERTIFICATE_UNTRUSTED)
        return DatabaseError(ErrorKind.CONFIGURATION, text)
    if isinstance(error, ssl.SSLError):
        return DatabaseError(ErrorKind.DISCONNECTED, errors.TLS_FAILED)
    if "rejected SSL upgrade" in str(error):
        return DatabaseError(ErrorKind.CONFIGURATION, errors.NO_TLS)
    return DatabaseError(ErrorKind.DISCONNECTED, errors.UNREACHABLE)
