"""The certificates, keys and choices of TLS that a PostgreSQL URL names: is each what it is taken for?

A driver finds out while it connects, and what it says then is "the handshake failed". So the files are read here first,
and what is wrong is said with the option's name. No passphrase and nothing of a file's content is repeated.

Tested in ``tests/store/test_libpq.py``.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from exporter.core.errors import Misconfigured

_FILES: Final = {"sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL"}
_DEFAULTS: Final = {"sslcert": "postgresql.crt", "sslkey": "postgresql.key"}
_WITHOUT_VERIFICATION: Final = frozenset({"disable", "allow", "prefer"})
_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

CHOICES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "sslmode": ("PGSSLMODE", ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")),
    "sslnegotiation": ("PGSSLNEGOTIATION", ("postgres", "direct")),
    "ssl_min_protocol_version": ("PGSSLMINPROTOCOLVERSION", _VERSIONS),
    "ssl_max_protocol_version": ("PGSSLMAXPROTOCOLVERSION", _VERSIONS),
    "target_session_attrs": (
        "PGTARGETSESSIONATTRS",
        ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    ),
}
"""Options of few values, and the variables that give them."""


def require_choices(passed: Mapping[str, str], environ: Mapping[str, str], origins: Mapping[str, str]) -> None:
    """Is each option one of its values? Raises Misconfigured, which names both."""
    for name, (variable, values) in CHOICES.items():
        value = passed.get(name) or environ.get(variable)
        if value and value not in values:
            origin = origins.get(name, f"the environment variable {variable}")
            raise Misconfigured(f"{origin} has a value that there is not: use {', '.join(values[:-1])} or {values[-1]}")
    mode = passed.get("sslmode") or environ.get("PGSSLMODE") or "prefer"
    if (passed.get("sslnegotiation") or environ.get("PGSSLNEGOTIATION")) == "direct" and mode in _WITHOUT_VERIFICATION:
        origin = origins.get("sslnegotiation", "the environment variable PGSSLNEGOTIATION")
        raise Misconfigured(f"{origin} is direct, which needs sslmode=require, verify-ca or verify-full")


def require_files(passed: dict[str, str], environ: Mapping[str, str]) -> None:
    """Are the certificates, keys and lists there, and are they such? Raises Misconfigured. Opens no connection."""
    mode = passed.get("sslmode") or environ.get("PGSSLMODE") or "prefer"
    if mode == "disable":
        return
    if passed.get("sslrootcert") == "system":
        system = ssl.get_default_verify_paths()
        passed["sslrootcert"] = system.cafile or system.openssl_cafile
        passed["sslmode"] = mode = "verify-full"
    names = [name for name in _FILES if name in _DEFAULTS or mode not in _WITHOUT_VERIFICATION]
    files = {name: passed.get(name) or environ.get(_FILES[name]) for name in names}
    for name, file in files.items():
        if file and not os.access(file, os.R_OK):
            raise Misconfigured(f"the database's {name} names a file that is not there or cannot be read: {file}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name, kind in (("sslrootcert", "certificate"), ("sslcrl", "list of revoked certificates")):
        if file := files.get(name):
            try:
                context.load_verify_locations(cafile=file)
            except ssl.SSLError:
                raise Misconfigured(f"the database's {name} holds no {kind} in PEM form: {file}") from None
    home = Path(environ.get("HOME") or Path.home()) / ".postgresql"
    for name, default in _DEFAULTS.items():
        if not files[name] and (home / default).is_file() and os.access(home / default, os.R_OK):
            files[name] = str(home / default)
    if certificate := files["sslcert"]:
        _require_pair(context, certificate, files["sslkey"] or certificate, passed.get("sslpassword"))


def _require_pair(context: ssl.SSLContext, certificate: str, key: str, password: str | None) -> None:
    found = Path(key).stat()
    # As libpq: nobody but its owner, or, where that is root, the group that may read it.
    forbidden = stat.S_IRWXO | (stat.S_IRWXG if found.st_uid else stat.S_IWGRP | stat.S_IXGRP)
    if found.st_mode & forbidden:
        allowed = "0600" if found.st_uid else "0640"
        raise Misconfigured(f"the database's sslkey can be read by others: chmod it to {allowed} or less: {key}")
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return password or ""

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except (ssl.SSLError, ValueError) as error:
        if asked and not password:
            problem = f"sslkey is encrypted: give its passphrase with sslpassword ({key})"
        elif asked:
            problem = f"sslkey is not opened by sslpassword ({key})"
        elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            problem = f"sslkey is not the key of sslcert: {key}, {certificate}"
        else:
            problem = f"sslcert or sslkey is not in PEM form: {certificate}, {key}"
        raise Misconfigured(f"the database's {problem}") from None
