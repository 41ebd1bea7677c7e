"""What a database can do to its caller, in a fixed vocabulary. Knows no driver: each dialect translates its own errors.

A driver's own words are never shown: they may hold a password, an address or a user's message. Which file or server it
was is told apart from the text: whoever runs the server needs it, and clients and pages have no business with it.

Tested in ``tests/store/test_writing.py``.
"""

from __future__ import annotations

from enum import Enum, auto

from exporter.core.errors import Misconfigured, Unavailable


class ErrorKind(Enum):
    """What a caller can do about it."""

    DISCONNECTED = auto()
    """The connection is of no more use; another one may be."""
    READ_ONLY = auto()
    """The server behind this connection takes no writes; another one may have its address by now."""
    TIMEOUT = auto()
    """It did not answer in time, or another program holds the whole of it: later."""
    LOCKED = auto()
    """Another program holds a row or a table that was needed; the rest may be free."""
    SERIALIZATION = auto()
    """Two transactions were in each other's way and this one was taken back: again at once."""
    CONFLICT = auto()
    """A key that was free a moment ago is not: somebody was first, and looking again will show what they did."""
    DATA = auto()
    """What this statement wanted to write cannot be stored; its neighbours may be."""
    REFUSED = auto()
    """Another program's trigger or column refuses what was to be written; its neighbours may be welcome."""
    CONFIGURATION = auto()
    """It will stay so until somebody changes something: rights, a password, a path, a schema."""


USELESS = (ErrorKind.DISCONNECTED, ErrorKind.READ_ONLY, ErrorKind.CONFIGURATION)
"""With these a connection cannot do its work: it is thrown away, and the address asked again."""


class DatabaseError(Exception):
    """A statement that did not do what it should; ``text`` is fit for people, logs and pages.

    ``where`` is the file or the server's address, never a user or password, and what is in the way there: for logs and
    terminals only.
    """

    def __init__(self, kind: ErrorKind, text: str, where: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.where = where

    @property
    def told(self) -> str:
        """What is told to whoever runs the server."""
        return f"{self.text} ({self.where})" if self.where else self.text


def at_start(failure: DatabaseError) -> Misconfigured | Unavailable:
    """What ends a start or a command, or is worth trying again. No client has asked for it, so it says where, too."""
    lasting = failure.kind is ErrorKind.CONFIGURATION or failure.text == READ_ONLY
    if failure.text == FULL:  # to try again is right, and of no use before
        return Unavailable(f"{failure.told}: make room there")
    return Misconfigured(failure.told) if lasting else Unavailable(failure.told)


UNREACHABLE = "the database cannot be reached"
LOST = "the connection to the database was lost"
REFUSED = "the database, or a pooler before it, refuses the connection"
OTHER_SESSION = "another session of the database answers on this connection than before"
UNREPLICATED = "the database could not tell whether its standby has the transaction"
NO_SUCH_SERVER = "none of the database's hosts is of the kind that target_session_attrs asks for"
UNKNOWN_SETTING = "the database does not know a setting, schema or type that the URL or this program names"
CERTIFICATE_UNTRUSTED = "the database's certificate is signed by nobody who is trusted: see sslrootcert in its URL"
CERTIFICATE_EXPIRED = "the database's certificate has expired"
CERTIFICATE_OF_ANOTHER = "the database's certificate is of another host: sslmode=verify-full compares the names"
NO_ROOT_CERTIFICATE = "the root certificate is not there that sslmode needs: name it with sslrootcert in the URL"
PORTS = "the database's URL names another number of ports than of hosts"
NO_TLS = "the database offers no TLS, which sslmode in its URL demands"
TLS_FAILED = "the TLS handshake with the database failed"
TIMEOUT = "the database did not answer in time"
TOO_MUCH_TO_READ = "too much is waiting to be read"
LOCKED = "the database is locked by another program"
MOVED = "the database's file was moved, removed or replaced"
LOG_GONE = "the log beside the database's file, or its index, was moved, removed or replaced"
FULL = "the database's disk is full"
READ_ONLY = "the database is read-only"
NO_TRANSACTIONS = "the database takes no writes before it is vacuumed: the numbers of its transactions are used up"
OLD_SESSION = "the pooler's session is of a time when the database took no writes"
STATEMENT_POOLING = (
    "the pooler before the database gives each statement another session, which no transaction survives: "
    "set its pool_mode to transaction or session"
)
STANDBY = "the database is a standby, which takes no writes"
NOT_READY = "the database is not ready"
BROKEN_DISK = "the database's disk reports an error"
DAMAGED = "the file is not a database or is damaged"
NO_FILE = "the database's file cannot be opened"
A_FOLDER = "the path of the database's file is that of a folder"
NO_FILE_YET = "the database's file does not exist: run migrate"
NO_NEW_FILE = "the database's file cannot be made"
NO_FOLDER = "the folder of the database's file does not exist"
RIGHTS = "the database refuses: the user lacks a right"
PASSWORD = "the database refuses the user or the password"
NOT_ADMITTED = (
    "the database does not admit the user: it does not know them, they may not log in, or its pg_hba.conf has no line "
    "for them, the database, this address and whether there is TLS"
)
NO_DATABASE = "the database that the URL names does not exist"
BAD_URL = "the database's URL cannot be read"
CLOSED_TO_ALL = "the database admits no connections: somebody has set ALLOW_CONNECTIONS to false for it"
NO_SESSION = "the database can begin no session: its own log says why; a full disk is told like this, too"
CROWDED = "the database has no connection or memory to spare"
STARTING = "the database is starting up or shutting down"
RACED = "the database took the transaction back: others were in its way"
KEY_TAKEN = "the database has something else in that place"
REJECTED = "the database rejected the data"
BEYOND_TIME = "a row has a time before the year 1 or after 9999, which cannot be read: correct it"
FOREIGN = (
    "the database has tables or other objects of this program's names that it did not make, or whose table "
    "messaging_schema_version is gone: give it a database of its own, or on PostgreSQL a schema with --database.schema"
)
NO_SCHEMA = (
    "the database lacks a table, column, key or function that this program had made: "
    "'messaging-exporter doctor' names it"
)
REFUSED_BY_TRIGGER = "a trigger of another program in the database refuses it, or fails"
NO_PARTITION = "a table of the database is partitioned, and has no partition for what is to be written"
UNFILLED = (
    "the database demands a value in a column that this program does not know: 'messaging-exporter doctor' names it"
)
CLOSED = "the database was closed"
UNKNOWN = "the database reported an error"
