"""The keys that tokens are verified with: one secret, the public keys of a PEM file, or a JWKS. Knows no token.

Which algorithm a key is for follows from the key. Files are looked at whenever somebody asks for the keys, and read
again when they have changed: keys rotate. A file that is broken changes nothing, and the log says so once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jwt
import msgspec
import structlog

from exporter.core.errors import Misconfigured, os_reason
from exporter.settings import secret_file
from exporter.settings.file_watch import FileWatch, refuse_pipe

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

log = structlog.get_logger(__name__)

MIN_RSA_BITS: Final = 2048  # NIST SP 800-131A: less is disallowed
# A token that names no key is tried with each, at 60 to 150 µs: identity providers have two or three while they rotate.
MAX_KEYS: Final = 16
MAX_BYTES: Final = 1_048_576
_BLOCK: Final = re.compile(rb"-----BEGIN ([^\r\n-]+)-----.*?-----END \1-----", re.DOTALL)
_MARKER: Final = re.compile(rb"-----(?:BEGIN|END)|-----(?:BEGI?|BE?|EN?)\s*\Z")  # the last: cut off within it
_PRIVATE_MEMBERS: Final = frozenset("dpqk")  # of a JWK: RSA's and EC's private numbers, and a symmetric key


class Key(msgspec.Struct, frozen=True):
    """What verifies tokens of one algorithm; ``id`` is its ``kid`` in a JWKS."""

    algorithm: str
    material: bytes | RSAPublicKey | EllipticCurvePublicKey
    id: str | None = None


class KeyFile:
    """The keys in a file, always as it is now. Raises Misconfigured when it cannot be used at the start."""

    def __init__(self, path: Path, read: Callable[[Path], tuple[Key, ...]]) -> None:
        self._path = path
        self._read = read
        self._error: str | None = None
        self._watch = FileWatch()
        self._watch.look((path,))
        self._keys = read(path)

    def keys(self) -> tuple[Key, ...]:
        """The newest good keys: the same object as long as they have not changed."""
        if self._watch.must_read((self._path,), broken=self._error is not None):
            self._reread()
        return self._keys

    def reload(self) -> bool:
        """Read the file now, whatever its times say: False when it is broken, which the log says."""
        self._watch.look((self._path,))
        self._error = None  # so that it is said again
        self._reread()
        return self._error is None

    def _reread(self) -> None:
        before = self._error
        try:
            keys = self._read(self._path)
        except (Misconfigured, FileNotFoundError) as error:
            self._error = str(error) if isinstance(error, Misconfigured) else "the file is gone"
            if self._error != before:  # once per state: every request comes by here
                log.error(
                    "the keys of tokens cannot be read again; the old ones go on",
                    path=str(self._path),
                    error=self._error,
                )
            return
        self._error = None
        if keys != self._keys:
            self._keys = keys
            log.info("the keys of tokens were replaced", path=str(self._path), keys=len(keys))
        elif before is not None:
            log.info("the keys of tokens are good again", path=str(self._path))


def read_secret(path: Path) -> tuple[Key, ...]:
    """The HS256 secret in a file. Raises FileNotFoundError, Misconfigured."""
    return (_secret(secret_file.load(path), path),)


def read_or_create_secret(path: Path) -> tuple[Key, ...]:
    """The same, made when it is absent. Raises Misconfigured."""
    return (_secret(secret_file.load_or_create(path), path),)


def _secret(secret: bytes, path: Path) -> Key:
    try:
        jwt.encode({}, secret, "HS256")
    except jwt.InvalidKeyError as error:  # a PEM as an HMAC secret: everybody may know a public key
        raise Misconfigured(
            f"the secret file {path} holds a key in PEM or SSH form; a public key goes to --auth.public-key-file"
        ) from error
    return Key("HS256", secret)


def read_public_keys(path: Path) -> tuple[Key, ...]:
    """Every public key of a PEM file: RSA is RS256, EC on P-256 is ES256. Raises Misconfigured."""
    import cryptography  # noqa: F401  # an extra: absent, that is what is wrong, whatever the file holds

    content = _content(path, "public key file")
    blocks = [match.group() for match in _BLOCK.finditer(content)]
    if blocks and (_MARKER.search(_BLOCK.sub(b"", content)) or any(len(_MARKER.findall(b)) != 2 for b in blocks)):
        raise Misconfigured(f"the public key file {path} holds a PEM block without its BEGIN or END; is it cut off?")
    if not blocks or len(blocks) > MAX_KEYS:
        if blocks:
            raise Misconfigured(f"the public key file {path} holds {len(blocks)} keys, and {MAX_KEYS} are the most")
        jwks = "; a JWKS goes to --auth.jwks-file" if content.lstrip().startswith(b"{") else ""
        raise Misconfigured(f"the public key file {path} holds no public key in PEM form{jwks}")
    if len(blocks) == 1:
        return (_public_key(blocks[0], str(path)),)
    return tuple(_public_key(block, f"{path}, key {n} of {len(blocks)}") for n, block in enumerate(blocks, 1))


def _public_key(block: bytes, place: str) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = ""
        if b"PRIVATE" in block:
            hint = "; it holds a private key, which belongs to the identity provider alone"
        elif b"BEGIN CERTIFICATE" in block:
            hint = "; it holds a certificate: take the key out with openssl x509 -pubkey -noout"
        raise Misconfigured(f"the public key file {place} holds no public key in PEM form{hint}") from error
    return Key(*_fit(key, place))


def _fit(key: object, place: str) -> tuple[str, RSAPublicKey | EllipticCurvePublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    match key:
        case RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return "RS256", key
        case RSAPublicKey():
            raise Misconfigured(f"the RSA key in {place} has {key.key_size} bits, and {MIN_RSA_BITS} are the least")
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return "ES256", key
        case EllipticCurvePublicKey():
            raise Misconfigured(
                f"the EC key in {place} is on the curve {key.curve.name}; ES256 needs secp256r1 (P-256)"
            )
    raise Misconfigured(f"the key in {place} is neither RSA (RS256) nor EC on P-256 (ES256)")


def read_jwks(path: Path) -> tuple[Key, ...]:
    """The signature keys of a JWKS (RFC 7517) that are for RS256 or ES256; others are passed over.

    Raises Misconfigured when there is none, and when it holds what is secret.
    """
    import cryptography  # noqa: F401  # as above

    document = _json(_content(path, "JWKS file"), path)
    keys = []
    for member in document:
        if not isinstance(member, dict):
            raise Misconfigured(f"the JWKS file {path} holds a key that is not an object")
        if _PRIVATE_MEMBERS & member.keys():
            raise Misconfigured(f"the JWKS file {path} holds a private or symmetric key; only public keys belong there")
        made = _of_jwk(member, str(path))
        if made is not None:
            keys.append(made)
    if not keys:
        others = f"; {len(document)} for other uses or algorithms, or incomplete" if document else ""
        raise Misconfigured(f"the JWKS file {path} holds no key for RS256 or ES256 signatures{others}")
    return tuple(keys)


def _of_jwk(member: dict[str, Any], place: str) -> Key | None:
    if member.get("use", "sig") != "sig" or member.get("alg") not in (None, "RS256", "ES256"):
        return None
    operations = member.get("key_ops") or ["verify"]
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if member.get("kty") != "RSA" and (member.get("kty"), member.get("crv")) != ("EC", "P-256"):
        return None
    try:
        algorithm, key = _fit(jwt.PyJWK.from_dict(member).key, place)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None  # a number is missing or is none
    kid = member.get("kid")
    return Key(algorithm, key, kid if isinstance(kid, str) else None)


def _json(content: bytes, path: Path) -> list[Any]:
    try:
        document = msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        hint = "; PEM goes to --auth.public-key-file" if b"-----BEGIN" in content else ""
        raise Misconfigured(f"the JWKS file {path} is not JSON{hint}") from error
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise Misconfigured(f'the JWKS file {path} has no list "keys"')
    return document["keys"]  # type: ignore[no-any-return]  # a list, as was asked


def _content(path: Path, what: str) -> bytes:
    refuse_pipe(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"cannot read the {what} {path}: {os_reason(error)}") from error
    if len(content) > MAX_BYTES:
        raise Misconfigured(f"the {what} {path} is longer than {MAX_BYTES} bytes")
    return content
