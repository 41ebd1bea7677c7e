"""Why TLS did not come about, in words for people: whose certificate it is, and what is wrong with it. Opens nothing.

Tested in ``tests/broker/test_redis.py`` and ``tests/broker/test_sentinels.py``.
"""

from __future__ import annotations

import ssl
from typing import Final

_NO_ISSUER: Final = (18, 19, 20, 21)
"""OpenSSL's numbers: the certificate is its own CA's, or that of a CA that is not known here."""


def words(error: BaseException | None, peer: str) -> str | None:
    """What the error says, or the one that it came of; None when TLS has no part in it. ``peer`` is who was reached."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "; ssl_ca_certs of --redis.url names its CA" if error.verify_code in _NO_ISSUER else ""
        return f"{peer}'s certificate cannot be verified: {error.verify_message}{advice}"
    _, alert, what = (error.reason or "").lower().replace("_", " ").partition(" alert ")
    if alert and ("certificate" in what or what == "unknown ca"):
        return f"{peer} refuses this node's certificate, ssl_certfile of --redis.url: {what}"
    return f"TLS with {peer} fails: {what or (error.reason or error.strerror or 'no reason given').lower()}"
