"""The certificate that the server shows: until when is it good?

Tested in ``tests/doctor/test_certificate.py``.
"""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from pathlib import Path

from exporter.core.errors import Misconfigured, tls_reason
from exporter.doctor.findings import Finding, Outcome
from exporter.web.toolkit import tls
from exporter.web.toolkit.settings import read

SOON = 7 * 86_400.0
"""Seconds before its end that a certificate should have been renewed in."""
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for: one that has expired tells its dates, too."""


def examine(path: Path) -> list[Finding]:
    """Nothing of a file without TLS, or of one that is refused: that is said elsewhere."""
    try:
        settings = read(path).tls
        return [] if settings is None else [finding(settings, time.time())]
    except Misconfigured:
        return []


def finding(settings: tls.TlsSettings, now: float) -> Finding:
    """How long the certificate is good. The short-lived are renewed late, so a quarter of their time is soon."""
    where = settings.cert_file or "that of the web configuration"
    try:
        begin, end = _dates(settings)
    except ssl.SSLError as error:  # not fit for a server, or with a key of a kind that clients do not offer
        return Finding("certificate", Outcome.WARNING, f"{where} may be refused: {tls_reason(error)}")
    if now < begin:
        advice = "is this machine's clock right? everybody refuses the certificate until then"
        return Finding("certificate", Outcome.FAILED, f"{where} is not good before {_shown(begin)}", advice)
    advice = "renew it: the server takes the new one without a restart"
    if now > end:
        return Finding("certificate", Outcome.FAILED, f"{where} has expired on {_shown(end)}", advice)
    if end - now < min(SOON, (end - begin) / 4):
        return Finding("certificate", Outcome.WARNING, f"{where} expires on {_shown(end)}", advice)
    return Finding("certificate", Outcome.OK, f"{where} is good until {_shown(end)}")


def _dates(settings: tls.TlsSettings) -> tuple[float, float]:
    """From when until when it is good, in Unix seconds, as a client reads it in a handshake."""
    ours = tls.TlsSettings(settings.cert, settings.key, cert_file=settings.cert_file, key_file=settings.key_file)
    pem = settings.cert.encode() if settings.cert_file is None else settings.cert_file.read_bytes()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    trusting.load_verify_locations(cadata=pem.decode("ascii", "ignore"))  # names beside it may be of any letters
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = trusting.wrap_bio(down, up), tls.build(ours).wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server, client):  # the last two where this machine's TLS ends at 1.2
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown = client.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(shown["notBefore"])), ssl.cert_time_to_seconds(str(shown["notAfter"]))


def _shown(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
