"""The installation's signing secret on disk. Knows files and modes; knows no token, no HTTP and no settings.

Whoever can read this file can be anybody on the server, so it is created for its owner alone and refused when others
could have read it. What platforms mount is another matter: root owns it, and a group or everybody in the container
reads it (PostgreSQL, too, takes a key of root's that a group may read). Two processes that start at once agree on one
secret, and neither ever sees half of it: it is written aside and linked into place.

Tested in ``tests/auth/test_tokens.py``.
"""

from __future__ import annotations

import os
import secrets
import stat
from codecs import BOM_UTF8
from pathlib import Path
from typing import Final

import structlog

from exporter.core.errors import Misconfigured, os_reason
from exporter.ownership import taken_by_another

log = structlog.get_logger(__name__)

MIN_SECRET_BYTES: Final = 32  # RFC 7518 section 3.2: an HS256 key has at least the size of the hash
MAX_SECRET_BYTES: Final = 65_536  # nobody's secret is longer; a path to something else is noticed early
_NEW_SECRET_BYTES: Final = 48  # 64 characters of base64
SECRETS: Final = Path("/run/secrets")  # where container engines put them, readable by everybody in the container
_OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def load_or_create(path: Path) -> bytes:
    """The secret in ``path``, created (mode 0600) when the file is absent; raises Misconfigured."""
    return obtain(path)[0]


def obtain(path: Path) -> tuple[bytes, bool]:
    """The same, and whether this call has created it: nobody can know a secret that was not there before."""
    try:
        return load(path), False
    except FileNotFoundError:
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        created = _create(path, secrets.token_urlsafe(_NEW_SECRET_BYTES).encode())
    except OSError as error:
        raise Misconfigured(f"cannot create the secret file {path}: {os_reason(error)}") from error
    try:
        return load(path), created  # perhaps another process's: whoever linked first has given it to all
    except FileNotFoundError as error:
        raise Misconfigured(f"the secret file {path} vanished while it was being created") from error


def load(path: Path) -> bytes:
    """The secret in ``path`` without surrounding white space; raises FileNotFoundError or Misconfigured."""
    content = read_private(path, "secret file")
    if (foreign := taken_by_another(path)) is not None:  # whom root would read it from without a word
        raise Misconfigured(
            f"the secret file {path} may be another user's, who made {foreign} where everybody may make one, and knows "
            "what is in it: choose another --data.dir or --auth.secret-file"
        )
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise Misconfigured(f"the secret file {path} is not text; make one with: openssl rand -base64 48") from error
    secret = content.removeprefix(BOM_UTF8).strip()  # Windows writes a mark before the text
    if len(secret) < MIN_SECRET_BYTES:
        raise Misconfigured(
            f"the secret in {path} has {len(secret)} bytes, and {MIN_SECRET_BYTES} are the least; "
            "remove the file to get a new one, or make one with: openssl rand -base64 48"
        )
    return secret


def read_private(path: Path, what: str) -> bytes:
    """The content of a file that only its owner may read; raises FileNotFoundError or Misconfigured."""
    try:
        # O_NONBLOCK: opening a pipe must not hang. The checks are made on what was opened, not on the name.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Misconfigured(f"cannot read the {what} {path}: {os_reason(error)}") from error
    try:
        _check(os.fstat(descriptor), path, what, read_only=_is_read_only(descriptor))
        return os.read(descriptor, MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"cannot read the {what} {path}: {os_reason(error)}") from error
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, path: Path, what: str, *, read_only: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"the {what} {path} is not a regular file")
    _check_mode(status, path, what, read_only=read_only)
    if status.st_size > MAX_SECRET_BYTES:
        raise Misconfigured(f"the {what} {path} is longer than {MAX_SECRET_BYTES} bytes")


def _check_mode(status: os.stat_result, path: Path, what: str, *, read_only: bool) -> None:
    mode = stat.S_IMODE(status.st_mode)
    beyond = mode & _OF_OTHERS
    roots = status.st_uid == 0
    if roots and not beyond & ~stat.S_IRGRP:
        return  # nobody's, or a group's that root has chosen; an access control list shows as the group's bits, too
    mounted = read_only or path.resolve().is_relative_to(SECRETS)
    if roots and mounted and not beyond & ~(stat.S_IRGRP | stat.S_IROTH):
        if (path, mode) not in _warned:
            _warned.add((path, mode))
            log.warning(
                f"every user of this machine or container may read the {what}; mount it with mode 0440 or 0400",
                path=str(path),
                mode=f"{mode:04o}",
            )
        return
    if beyond:
        hint = "mount it with mode 0400, or owned by root with mode 0440" if read_only else f"chmod 600 {path}"
        raise Misconfigured(f"the {what} {path} is open to other users (mode {mode:04o}): {hint}")


_warned: Final[set[tuple[Path, int]]] = set()  # said once, though the file is read again when it changes


def _is_read_only(descriptor: int) -> bool:
    """Does the file lie on a mount where its mode cannot be changed?"""
    return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)


def _create(path: Path, secret: bytes) -> bool:
    """Put ``secret`` there unless somebody else was first (False); the name never shows an incomplete file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # an odd umask may have taken rights from the owner, too
            file.write(secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        return True
    finally:
        aside.unlink(missing_ok=True)
