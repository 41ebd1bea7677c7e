"""Tokens: who is asking, and may it be believed. Knows no HTTP and no route.

Tokens are JWTs whose algorithm follows from the installation's keys and never from the token: HS256 with the secret of
this installation, or RS256/ES256 with the public keys of the user's identity provider.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm

from exporter.auth import keys
from exporter.auth.keys import MAX_KEYS, Key, KeyFile
from exporter.core.errors import Misconfigured, Refusal
from exporter.core.protocol import check_identifier
from exporter.settings.model import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

ADMIN: Final = "admin"
ROLES: Final = ("user", ADMIN)
"""Those that mean something here. Whoever has another may do what a user may: identity providers have more roles."""
LEEWAY: Final = 30.0  # seconds that two clocks may differ: NTP keeps them within one; PyJWT's own example has 10
MAX_TOKEN: Final = 8_000  # characters; aiohttp refuses header lines above 8,190 bytes by itself
# Claims kept of verified tokens: a reconnect storm brings back the tokens of a full server (20,000 by default),
# and 20,000 take about 7 MB. Measured: HS256 28 µs, RS256 63 µs, ES256 100 µs; a token seen before 1.4 µs.
MAX_VERIFIED: Final = 20_000
_FOREVER: Final = 253_402_300_799.0  # 9999-12-31: a later end would overflow timers and dates
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# The signature alone: what the claims mean is decided here, because PyJWT's own check of an infinite exp overflows.
_JWS: Final = jwt.PyJWS(algorithms=["HS256", "RS256", "ES256"])


class _HS256(HMACAlgorithm):
    """Takes secrets as they are: ``keys`` has checked them once, PyJWT would for each token, a third of its time."""

    def prepare_key(self, key: str | bytes) -> bytes:
        assert isinstance(key, bytes)  # noqa: S101 - as keys.Key has it
        return key


_JWS.unregister_algorithm("HS256")
_JWS.register_algorithm("HS256", _HS256(HMACAlgorithm.SHA256))


class Claims(msgspec.Struct, frozen=True):
    """What a verified token says. ``expires_at`` is Unix seconds; the leeway is not in it."""

    user: str
    role: str
    expires_at: float


class Unauthenticated(Exception):
    """The token proves nothing; the message says why, in lower case, without anything from the token."""


class Authenticator:
    """Verifies tokens; signs them too when the key is this installation's secret.

    With one key for good, or with those of a ``file`` as they are at the moment, of which that one is the first.
    ``audiences`` and ``issuers`` are those that tokens must be for and from; empty: whoever has the key.
    """

    def __init__(
        self,
        algorithm: str,
        key: bytes | RSAPublicKey | EllipticCurvePublicKey,
        *,
        clock: Callable[[], float] = time.time,
        max_verified: int = MAX_VERIFIED,
        file: KeyFile | None = None,
        audiences: tuple[str, ...] = (),
        issuers: tuple[str, ...] = (),
    ) -> None:
        self._file = file
        self._audiences = audiences
        self._issuers = issuers
        self._keys = (Key(algorithm, key),) if file is None else file.keys()
        self._clock = clock
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()
        self._max_verified = max_verified

    @classmethod
    def from_settings(cls, settings: Settings, *, clock: Callable[[], float] = time.time) -> Authenticator:
        """With the public keys if they are set, else with the secret, made when absent; raises Misconfigured."""
        file = _key_file(settings)
        first = file.keys()[0]
        return cls(
            first.algorithm,
            first.material,
            clock=clock,
            file=file,
            audiences=settings.auth_audiences,
            issuers=settings.auth_issuers,
        )

    @property
    def installation(self) -> str:
        """Hexadecimal digits that differ between installations with secrets of their own, and tell nothing of them."""
        material = self._keys[0].material
        return hashlib.sha256(b"installation " + (material if isinstance(material, bytes) else b"")).hexdigest()

    @property
    def signs(self) -> bool:
        """Is the key this installation's secret? With public keys an identity provider makes the tokens."""
        return isinstance(self._keys[0].material, bytes)

    def reload(self) -> bool:
        """Read the key file now: False when it is broken, which the log says; the old keys then go on."""
        return self._file is None or self._file.reload()

    def verify(self, token: str) -> Claims:
        """What the token says, if it is genuine and holds now; raises Unauthenticated."""
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN} characters")
        if not _JWT.fullmatch(token):
            raise Unauthenticated("the token is not a signed JWT")
        self._look_for_keys()
        # Kept by digest: memory stays bounded per entry, and no token lies in memory for longer than its request.
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._verified.pop(digest, None) or self._claims(self._payload(token))
        if claims.expires_at + LEEWAY <= self._clock():
            raise Unauthenticated("the token has expired")
        self._verified[digest] = claims  # behind all others: who was not seen for longest is forgotten first
        if len(self._verified) > self._max_verified:
            self._verified.popitem(last=False)
        return claims

    def sign(self, user: str, *, role: str = "user", ttl: float = 3600) -> str:
        """A token for ``user``, good for ``ttl`` seconds; raises Misconfigured with a public key or a bad name."""
        self._look_for_keys()
        secret = self._keys[0].material
        if not isinstance(secret, bytes):
            raise Misconfigured("with public keys tokens are signed by whoever has the private key")
        check_names(user, role)
        now = self._clock()
        claims = {"sub": user, "role": role, "iat": int(now), "exp": math.ceil(now + ttl)}
        claims |= {"aud": self._audiences[0]} if self._audiences else {}
        claims |= {"iss": self._issuers[0]} if self._issuers else {}
        return jwt.encode(claims, secret, "HS256")

    def _look_for_keys(self) -> None:
        """After a change of keys what was verified with the old ones counts no more."""
        if self._file is not None and (newest := self._file.keys()) is not self._keys:
            self._keys = newest
            self._verified.clear()

    def _payload(self, token: str) -> Mapping[str, Any]:
        try:
            candidates = self._candidates(token)
            wrong = f"the token's algorithm is not {' or '.join(sorted({key.algorithm for key in candidates}))}"
            for key in candidates:
                try:
                    payload = json.loads(_JWS.decode(token, key.material, algorithms=[key.algorithm]))
                except jwt.InvalidAlgorithmError:
                    continue
                except jwt.InvalidSignatureError:
                    wrong = "the token's signature is wrong"
                    continue
                if isinstance(payload, dict):
                    return payload
                raise Unauthenticated("the token's claims are no JSON object")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            # Besides PyJWT's own: what deep nesting and wrong types in the header bring out of json and base64.
            raise Unauthenticated(_unreadable(token)) from error
        raise Unauthenticated(wrong)

    def _candidates(self, token: str) -> Sequence[Key]:
        """The keys that may have signed it: all, or those of the name (kid) that it gives where keys have names."""
        keys = self._keys
        if all(key.id is None for key in keys):
            return keys
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is None and len(keys) > MAX_KEYS:
            raise Unauthenticated("the token does not name its key (kid)")
        named = [key for key in keys if kid is None or key.id is None or key.id == kid]
        if not named:
            raise Unauthenticated(
                "the token names a key (kid) that is not known here, or is not for RS256 or ES256 signatures"
            )
        return named

    def _claims(self, payload: Mapping[str, Any]) -> Claims:
        now = self._clock()
        expires_at = _moment(payload, "exp")
        if expires_at is None:
            raise Unauthenticated("the token has no exp")
        for name in ("nbf", "iat"):
            moment = _moment(payload, name)
            if moment is not None and moment > now + LEEWAY:
                why = "" if name == "nbf" else ": it was issued in the future; compare the clocks"
                raise Unauthenticated(f"the token is not valid yet ({name}){why}")
        self._check_parties(payload)
        user, role = payload.get("sub"), payload.get("role", "user")
        if user is None:
            raise Unauthenticated("the token has no sub")
        if not isinstance(user, str):
            raise Unauthenticated("the token's sub is not a string")
        if not isinstance(role, str):
            raise Unauthenticated("the token's role is not a string")
        try:
            check_identifier(user, "sub")
        except Refusal as refusal:
            raise Unauthenticated(f"the token's {refusal.message}") from refusal
        return Claims(user, role, min(expires_at, _FOREVER))

    def _check_parties(self, payload: Mapping[str, Any]) -> None:
        """Is it for this installation (RFC 7519 section 4.1.3), and from its identity provider?"""
        if self._audiences:
            given = payload.get("aud")
            if given is None:
                raise Unauthenticated("the token has no aud, and --auth.audience is set")
            audiences = given if isinstance(given, list) else [given]
            if not all(isinstance(audience, str) for audience in audiences):
                raise Unauthenticated("the token's aud is neither a string nor a list of strings")
            if not set(audiences) & set(self._audiences):
                raise Unauthenticated("the token is for another audience (aud)")
        if self._issuers:
            issuer = payload.get("iss")
            if issuer is None:
                raise Unauthenticated("the token has no iss, and --auth.issuer is set")
            if not isinstance(issuer, str):
                raise Unauthenticated("the token's iss is not a string")
            if issuer not in self._issuers:
                raise Unauthenticated("the token is from another issuer (iss)")


def check_names(user: str, role: str) -> None:
    """Can they stand in a token? Raises Misconfigured."""
    for value, what in ((user, "the user's name"), (role, "the role")):
        try:
            check_identifier(value, what)
        except Refusal as refusal:
            raise Misconfigured(refusal.message) from refusal


def _unreadable(token: str) -> str:
    """Why a token cannot be read, as far as its header tells: nothing of it is believed."""
    try:
        encoded = token.partition(".")[0]
        header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, RecursionError):
        header = None
    if isinstance(header, dict):
        if "crit" in header:
            return "the token has critical headers (crit) that are not known here"
        if not isinstance(header.get("kid", ""), str):
            return "the token's kid is not a string"
    return "the token cannot be read"


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


def _key_file(settings: Settings) -> KeyFile:
    if settings.auth_jwks_file is not None:
        return KeyFile(settings.auth_jwks_file, keys.read_jwks)
    if settings.auth_public_key_file is not None:
        return KeyFile(settings.auth_public_key_file, keys.read_public_keys)
    path = settings.effective_secret_file
    keys.read_or_create_secret(path)
    return KeyFile(path, keys.read_secret)
