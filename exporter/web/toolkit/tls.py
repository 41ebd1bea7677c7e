"""TLS of the exporter-toolkit file, with Python's ssl. Knows certificates and versions; knows no HTTP and no YAML.

A context is built whole out of the settings and never changed. The listener holds one that hands every new
connection to the newest good one, so certificates, client CAs and versions all follow the files.

Tested in ``tests/web/test_toolkit.py``.
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import structlog

from exporter.core.errors import Misconfigured, os_reason

log = structlog.get_logger(__name__)

VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
CURVES: Final = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
# Go's secure suites (crypto/tls, CipherSuites) as OpenSSL calls them. Those of TLS 1.3 cannot be chosen in Go either.
CIPHERS: Final = {
    "TLS_AES_128_GCM_SHA256": None,
    "TLS_AES_256_GCM_SHA384": None,
    "TLS_CHACHA20_POLY1305_SHA256": None,
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
_CLIENT_AUTH: Final = {
    "": ssl.CERT_NONE,
    "NoClientCert": ssl.CERT_NONE,
    # Asked for, neither needed nor checked in Go: who may connect is the same when it is not asked for.
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED: Final = ("RequireAnyClientCert", "RequireClientCert")
# How getpeercert() calls the kinds of names that the toolkit compares.
_SAN_KINDS: Final = ("DNS", "email", "IP Address", "URI")


class InvalidSetting(Misconfigured):
    """One of the settings cannot be used; ``name`` is its key."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(problem)
        self.name = name


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """``tls_server_config``: paths are absolute or relative to the working directory; texts are PEM."""

    cert: str = ""
    key: str = field(default="", repr=False)
    client_ca: str = ""
    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    client_auth_type: str = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    curve_preferences: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """What must be looked at to know that nothing changed."""
        return tuple(path for path in (self.cert_file, self.key_file, self.client_ca_file) if path is not None)


def build(settings: TlsSettings) -> ssl.SSLContext:
    """A server's context; raises Misconfigured when anything named in ``settings`` is missing, unknown or unfit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _LoggingSSLObject
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _versions(context, settings)
    _certificate(context, settings)
    _ciphers(context, settings)
    _clients(context, settings)
    return context


class ReloadingContext(ssl.SSLContext):
    """What a listener holds: every new connection is wrapped by the context that ``newest()`` gives then."""

    newest: Callable[[], ssl.SSLContext]

    @classmethod
    def over(cls, newest: Callable[[], ssl.SSLContext]) -> ReloadingContext:
        """A context without certificates of its own."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.newest = newest
        return context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """What asyncio and uvloop call for each connection."""
        return self.newest().wrap_bio(*args, **kwargs)


def _versions(context: ssl.SSLContext, settings: TlsSettings) -> None:
    for name in ("min_version", "max_version"):
        if getattr(settings, name) not in VERSIONS:
            raise InvalidSetting(name, f"unknown TLS version; known are {', '.join(sorted(VERSIONS))}")
    least, most = VERSIONS[settings.min_version], VERSIONS[settings.max_version]
    if least > most:
        raise InvalidSetting("min_version", "is above max_version")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # who asks for TLS 1.0 has been told by the file's docs
        context.minimum_version, context.maximum_version = least, most


def _certificate(context: ssl.SSLContext, settings: TlsSettings) -> None:
    for text, file, what in (
        (settings.cert, settings.cert_file, "cert"),
        (settings.key, settings.key_file, "key"),
        (settings.client_ca, settings.client_ca_file, "client_ca"),
    ):
        if text and file:
            raise InvalidSetting(what, f"is given, and {what}_file, too; one of them is enough")
        if not text and not file and what != "client_ca":
            raise InvalidSetting("", f"missing one of {what} or {what}_file")
    for name in ("cert_file", "key_file", "client_ca_file"):
        _readable(getattr(settings, name), name)
    try:
        # load_cert_chain reads files only; the folder is ours alone (0700) and gone at the end of the block.
        with tempfile.TemporaryDirectory() as folder:
            cert, key = settings.cert_file or Path(folder) / "cert", settings.key_file or Path(folder) / "key"
            if settings.cert_file is None:
                cert.write_text(settings.cert, encoding="utf-8")
            if settings.key_file is None:
                key.touch(mode=0o600)
                key.write_text(settings.key, encoding="utf-8")
            context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError, TypeError) as error:
        name = "cert_file" if settings.cert_file is not None else "cert"
        raise InvalidSetting(name, f"the certificate and its key cannot be used: {_reason(error)}") from error


def _no_password() -> str:
    """Without this, OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted")


def _ciphers(context: ssl.SSLContext, settings: TlsSettings) -> None:
    unknown = [name for name in settings.cipher_suites if name not in CIPHERS]
    if unknown:
        raise InvalidSetting("cipher_suites", "names an unknown or insecure suite; see Go's crypto/tls CipherSuites")
    chosen = [name for name in (CIPHERS[suite] for suite in settings.cipher_suites) if name]
    if chosen:
        try:
            context.set_ciphers(":".join(chosen))
        except ssl.SSLError as error:
            raise InvalidSetting("cipher_suites", "OpenSSL has none of them") from error
    if settings.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if any(name not in CURVES for name in settings.curve_preferences):
        raise InvalidSetting("curve_preferences", f"unknown curve; known are {', '.join(CURVES)}")
    if settings.curve_preferences:
        _curve(context, settings.curve_preferences)


def _curve(context: ssl.SSLContext, preferences: tuple[str, ...]) -> None:
    """The first that this Python and its OpenSSL take: Python 3.11.2, for one, has no X25519.

    Before Python 3.15 (set_groups) only one can be named, which is stricter, never weaker.
    """
    for name in preferences:
        with contextlib.suppress(ssl.SSLError):
            context.set_ecdh_curve(CURVES[name])
            return
    raise InvalidSetting("curve_preferences", "this Python's OpenSSL takes none of these")


def _clients(context: ssl.SSLContext, settings: TlsSettings) -> None:
    if settings.client_auth_type in _UNVERIFIED:
        raise InvalidSetting(
            "client_auth_type",
            f"{settings.client_auth_type} would take any certificate unseen, which Python's TLS "
            "does not offer and nobody should want: use RequireAndVerifyClientCert",
        )
    if settings.client_auth_type not in _CLIENT_AUTH:
        raise InvalidSetting(
            "client_auth_type", f"unknown; known are {', '.join(name for name in _CLIENT_AUTH if name)}"
        )
    mode = _CLIENT_AUTH[settings.client_auth_type]
    if (settings.client_ca or settings.client_ca_file) and settings.client_auth_type in ("", "NoClientCert"):
        name = "client_ca" if settings.client_ca else "client_ca_file"
        raise InvalidSetting(name, "a client CA is given without a client_auth_type")
    if settings.client_allowed_sans and mode != ssl.CERT_REQUIRED:
        raise InvalidSetting("client_allowed_sans", "needs client_auth_type RequireAndVerifyClientCert")
    context.verify_mode = mode
    if mode == ssl.CERT_NONE:
        return
    try:
        if settings.client_ca_file is not None:
            context.load_verify_locations(cafile=settings.client_ca_file)
        elif settings.client_ca:
            context.load_verify_locations(cadata=settings.client_ca)
        else:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)  # as Go does without ClientCAs
    except (ssl.SSLError, OSError, ValueError) as error:
        name = "client_ca" if settings.client_ca else "client_ca_file"
        raise InvalidSetting(name, f"the client CA cannot be used: {_reason(error)}") from error
    if settings.client_allowed_sans:
        context.sslobject_class = _checking(frozenset(settings.client_allowed_sans))


# Reasons of OpenSSL for whoever speaks something else; asyncio and uvloop end such a connection without a word.
_NO_TLS: Final = {
    "HTTP_REQUEST": "plain HTTP arrives where TLS is spoken: use https://, or let the proxy speak TLS to this server",
    "HTTPS_PROXY_REQUEST": "a request to a proxy (CONNECT) arrives where TLS is spoken",
    "WRONG_VERSION_NUMBER": (
        "something else arrives where TLS is spoken, such as a PROXY protocol header, which is not understood here: "
        "let the proxy send none (HAProxy: without send-proxy; nginx: without proxy_protocol)"
    ),
}
_said: Final[set[str]] = set()


class _LoggingSSLObject(ssl.SSLObject):
    """Says once of each kind what arrives that is no TLS."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            reason = _NO_TLS.get(error.reason or "")
            if reason is not None and reason not in _said:
                _said.add(reason)
                log.warning("a TLS handshake failed", reason=reason)
            raise


def _checking(allowed: frozenset[str]) -> type[ssl.SSLObject]:
    class Checking(_LoggingSSLObject):
        """Ends the handshake of a client whose certificate has none of the allowed names."""

        def do_handshake(self) -> None:
            super().do_handshake()
            names: Any = (self.getpeercert() or {}).get("subjectAltName", ())
            if not any(kind in _SAN_KINDS and _name(kind, value) in allowed for kind, value in names):
                raise ssl.SSLCertVerificationError("the client's certificate has no allowed name")

    return Checking


def _name(kind: str, value: str) -> str:
    """A name as Go writes it: OpenSSL spells out IPv6 addresses."""
    if kind != "IP Address":
        return value
    try:
        return str(ip_address(value.strip()))
    except ValueError:
        return value


def _readable(path: Path | None, what: str) -> None:
    try:
        with path.open("rb") if path is not None else contextlib.nullcontext():
            pass
    except OSError as error:
        raise InvalidSetting(what, f"cannot read {path}: {os_reason(error)}") from error


def _reason(error: Exception) -> str:
    """OpenSSL's word for it, without its file names and line numbers; never a content."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return "the key is encrypted" if "encrypted" in str(error) else "not in PEM form"
