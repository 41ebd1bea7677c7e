"""Tokens: who is asking, and may it be believed. Knows no HTTP and no route.

Tokens are JWTs of one algorithm, which follows from the installation's key and never from the token: HS256
with the secret of this installation, or RS256/ES256 with the public key of the user's identity provider.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import jwt
import msgspec
from jwt.types import Options

from exporter.core.errors import Misconfigured, Refusal
from exporter.core.protocol import check_identifier
from exporter.settings import secret_file
from exporter.settings.model import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

LEEWAY: Final = 30.0  # seconds that two clocks may differ: NTP keeps them within one; PyJWT's own example has 10
MAX_TOKEN: Final = 8_000  # characters; aiohttp refuses header lines above 8,190 bytes by itself
# Claims kept of verified tokens: a reconnect storm brings back the tokens of a full server (20,000 by default),
# and 20,000 take about 7 MB. Measured: HS256 37 µs, RS256 63 µs, ES256 100 µs; a token seen before 1.4 µs.
MAX_VERIFIED: Final = 20_000
MIN_RSA_BITS: Final = 2048  # NIST SP 800-131A: less is disallowed
_FOREVER: Final = 253_402_300_799.0  # 9999-12-31: a later end would overflow timers and dates
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_UNVERIFIED_CLAIMS: Final[Options] = {
    # The times are checked here, because PyJWT's own checks raise OverflowError for an infinite exp.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}

# What PyJWT and nearly everybody else writes as the header of an HS256 token, and the same in the other order.
_PLAIN_HEADS: Final = frozenset(
    urlsafe_b64encode(head).rstrip(b"=").decode()
    for head in (b'{"alg":"HS256","typ":"JWT"}', b'{"typ":"JWT","alg":"HS256"}')
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. ``expires_at`` is Unix seconds; the leeway is not in it."""

    user: str
    role: str
    expires_at: float


class Unauthenticated(Exception):
    """The token proves nothing; the message says why, in lower case, without anything from the token."""


class Authenticator:
    """Verifies tokens of one algorithm with one key; signs them too when the key is this installation's secret."""

    def __init__(
        self,
        algorithm: str,
        key: bytes | RSAPublicKey | EllipticCurvePublicKey,
        *,
        clock: Callable[[], float] = time.time,
        max_verified: int = MAX_VERIFIED,
    ) -> None:
        self._algorithm = algorithm
        self._key = key
        self._clock = clock
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()
        self._max_verified = max_verified

    @classmethod
    def from_settings(cls, settings: Settings, *, clock: Callable[[], float] = time.time) -> Authenticator:
        """With the public key if one is set, else with the secret, made when absent; raises Misconfigured."""
        if settings.auth_public_key_file is not None:
            return cls(*_public_key(settings), clock=clock)
        path = settings.effective_secret_file
        key = secret_file.load_or_create(path)
        try:
            jwt.encode({}, key, "HS256")
        except jwt.InvalidKeyError as error:  # a PEM as an HMAC secret: everybody may know a public key
            raise Misconfigured(
                f"the secret file {path} holds a key in PEM or SSH form; a public key goes to --auth.public-key-file"
            ) from error
        return cls("HS256", key, clock=clock)

    def verify(self, token: str) -> Claims:
        """What the token says, if it is genuine and holds now; raises Unauthenticated."""
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN} characters")
        if not _JWT.fullmatch(token):
            raise Unauthenticated("the token is not a signed JWT")
        # Kept by digest: memory stays bounded per entry, and no token lies in memory for longer than its request.
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = self._claims(self._payload(token))
            self._verified[digest] = claims
            if len(self._verified) > self._max_verified:
                self._verified.popitem(last=False)
        else:
            self._verified.move_to_end(digest)
        if claims.expires_at + LEEWAY <= self._clock():
            self._verified.pop(digest, None)
            raise Unauthenticated("the token has expired")
        return claims

    def sign(self, user: str, *, role: str = "user", ttl: float = 3600) -> str:
        """A token for ``user``, good for ``ttl`` seconds; raises Misconfigured with a public key or a bad name."""
        if not isinstance(self._key, bytes):
            raise Misconfigured("with --auth.public-key-file tokens are signed by whoever has the private key")
        for value, what in ((user, "the user's name"), (role, "the role")):
            try:
                check_identifier(value, what)
            except Refusal as refusal:
                raise Misconfigured(refusal.message) from refusal
        now = self._clock()
        return jwt.encode({"sub": user, "role": role, "iat": int(now), "exp": math.ceil(now + ttl)}, self._key, "HS256")

    def _payload(self, token: str) -> Mapping[str, Any]:
        plain = self._plain_payload(token)
        if plain is not None:
            return plain
        try:
            payload: Mapping[str, Any] = jwt.decode(
                token, self._key, algorithms=[self._algorithm], options=_UNVERIFIED_CLAIMS
            )
        except jwt.InvalidAlgorithmError as error:
            raise Unauthenticated(f"the token's algorithm is not {self._algorithm}") from error
        except jwt.InvalidSignatureError as error:
            raise Unauthenticated("the token's signature is wrong") from error
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            # Besides PyJWT's own: what deep nesting and wrong types in the header bring out of json and base64.
            raise Unauthenticated("the token cannot be read") from error
        return payload

    def _plain_payload(self, token: str) -> Mapping[str, Any] | None:
        """Of a genuine token with the most usual header; None for all others, about which PyJWT says what is wrong.

        13 instead of 58 µs (docs/benchmarks.md), which is a sixth of what a new connection costs; in a reconnect storm
        that counts. It can only accept, and only what PyJWT would: the header is one of two known texts, which name
        HS256 and nothing else, and the signature is compared in its one canonical spelling.
        """
        signed, _, signature = token.rpartition(".")
        head, _, body = signed.partition(".")
        if not isinstance(self._key, bytes) or head not in _PLAIN_HEADS:
            return None
        genuine = urlsafe_b64encode(hmac.digest(self._key, signed.encode(), "sha256")).rstrip(b"=")
        if not hmac.compare_digest(genuine, signature.encode()):
            return None
        try:
            payload = msgspec.json.decode(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, RecursionError):  # msgspec is the stricter one: what it refuses, PyJWT may still read
            return None
        return payload if isinstance(payload, dict) else None

    def _claims(self, payload: Mapping[str, Any]) -> Claims:
        now = self._clock()
        expires_at = _moment(payload, "exp")
        if expires_at is None:
            raise Unauthenticated("the token has no exp")
        for name in ("nbf", "iat"):
            moment = _moment(payload, name)
            if moment is not None and moment > now + LEEWAY:
                raise Unauthenticated("the token is not valid yet")
        user, role = payload.get("sub"), payload.get("role", "user")
        if not isinstance(user, str):
            raise Unauthenticated("the token has no sub")
        if not isinstance(role, str):
            raise Unauthenticated("the token's role is not a string")
        try:
            check_identifier(user, "sub")
        except Refusal as refusal:
            raise Unauthenticated(f"the token's {refusal.message}") from refusal
        return Claims(user, role, min(expires_at, _FOREVER))


def _moment(payload: Mapping[str, Any], name: str) -> float | None:
    """A time in a token, Unix seconds; None when it has none."""
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unauthenticated(f"the token's {name} is not a number")
    try:
        moment = float(value)
    except OverflowError:
        moment = math.inf
    if not math.isfinite(moment):
        raise Unauthenticated(f"the token's {name} is not a finite number")
    return moment


def _public_key(settings: Settings) -> tuple[str, RSAPublicKey | EllipticCurvePublicKey]:
    # Here: 9 MiB that an installation with a secret never needs.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = settings.auth_public_key_file
    assert path is not None  # noqa: S101 - the only caller has asked
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "no reason given").lower()
        raise Misconfigured(f"cannot read the public key file {path}: {reason}") from error
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = ""
        if b"PRIVATE" in content:
            hint = "; it holds a private key, which belongs to the identity provider alone"
        elif b"BEGIN CERTIFICATE" in content:
            hint = "; it holds a certificate: take the key out with openssl x509 -pubkey -noout"
        raise Misconfigured(f"the public key file {path} holds no public key in PEM form{hint}") from error
    match key:
        case RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return "RS256", key
        case RSAPublicKey():
            raise Misconfigured(f"the RSA key in {path} has {key.key_size} bits, and {MIN_RSA_BITS} are the least")
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return "ES256", key
        case EllipticCurvePublicKey():
            raise Misconfigured(f"the EC key in {path} is on the curve {key.curve.name}; ES256 needs secp256r1 (P-256)")
    raise Misconfigured(f"the key in {path} is neither RSA (RS256) nor EC on P-256 (ES256)")
