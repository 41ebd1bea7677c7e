"""Key files: several keys, keys by name, and what happens when a file is replaced, broken or gone while people come."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exporter.auth import keys as keys_module
from exporter.auth.keys import MAX_BYTES, MAX_KEYS, Key, KeyFile, read_public_keys
from exporter.auth.tokens import Authenticator, Unauthenticated
from exporter.core.errors import Misconfigured
from exporter.settings import options
from exporter.settings.model import Settings
from tests.logged import logged

NOW = 1_700_000_000.0
OLD = rsa.generate_private_key(65_537, 2_048)
NEW = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())
EC_384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def pem(*keys: Any) -> bytes:
    return b"a comment\n".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys
    )


def jwk(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """A public key as identity providers publish it."""
    kinds = {rsa.RSAPrivateKey: "RSAAlgorithm", ec.EllipticCurvePrivateKey: "ECAlgorithm"}
    name = next((name for kind, name in kinds.items() if isinstance(key, kind)), "OKPAlgorithm")
    made = getattr(jwt.algorithms, name).to_jwk(key.public_key(), as_dict=True)
    return {**made, **({} if kid is None else {"kid": kid}), **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def signed(key: Any, algorithm: str = "RS256", kid: str | None = None) -> str:
    headers = None if kid is None else {"kid": kid}
    return jwt.encode({"sub": "ann", "exp": NOW + 60}, key, algorithm, headers=headers)


def replace(path: Path, content: bytes) -> None:
    """As deployments do it: the new file takes the old one's name in one step."""
    aside = path.with_suffix(".aside")
    aside.write_bytes(content)
    os.replace(aside, path)


Opened = Callable[[bytes], Authenticator]


@pytest.fixture
def pem_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.pem"


@pytest.fixture
def jwks_file(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


def with_pem(path: Path, content: bytes) -> Authenticator:
    path.write_bytes(content)
    return Authenticator.from_settings(Settings(auth_public_key_file=path), clock=lambda: NOW)


def with_jwks(path: Path, content: bytes) -> Authenticator:
    path.write_bytes(content)
    return Authenticator.from_settings(Settings(auth_jwks_file=path), clock=lambda: NOW)


# --- several keys -------------------------------------------------------------------------------------------


def test_each_block_of_a_pem_file_is_a_key_whatever_stands_between_them(pem_file: Path) -> None:
    authenticator = with_pem(pem_file, b"# rotated in May\n" + pem(OLD, EC, NEW))
    for key, algorithm in ((OLD, "RS256"), (NEW, "RS256"), (EC, "ES256")):
        assert authenticator.verify(signed(key, algorithm)).user == "ann"


def test_a_key_of_nobody_is_refused_by_the_signature_and_another_algorithm_by_its_name(pem_file: Path) -> None:
    authenticator = with_pem(pem_file, pem(OLD, NEW))
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        authenticator.verify(signed(rsa.generate_private_key(65_537, 2_048)))
    with pytest.raises(Unauthenticated, match="algorithm is not RS256"):
        authenticator.verify(signed(EC, "ES256"))
    with pytest.raises(Unauthenticated, match="algorithm is not ES256 or RS256"):
        with_pem(pem_file, pem(OLD, EC)).verify(signed(b"k" * 48, "HS256"))


def test_one_unfit_block_is_named_by_its_place(pem_file: Path) -> None:
    with pytest.raises(Misconfigured, match=r"keys\.pem, key 2 of 3 .*P-256"):
        with_pem(pem_file, pem(OLD, EC_384, NEW))


BROKEN_PEMS = {
    "an unfinished second block": pem(OLD) + pem(NEW)[:200],
    "an unfinished first block": pem(NEW)[:200] + b"\n" + pem(OLD),
    "an end without a beginning": pem(OLD) + pem(NEW)[40:],
    "cut off within BEGIN": pem(OLD) + b"-----BEG",
    "the end of another kind": pem(OLD) + pem(NEW).replace(b"END PUBLIC KEY", b"END RSA PUBLIC KEY"),
}


@pytest.mark.parametrize("content", BROKEN_PEMS.values(), ids=BROKEN_PEMS.keys())
def test_a_block_that_is_not_whole_breaks_the_file_and_the_old_keys_go_on(content: bytes, pem_file: Path) -> None:
    with pytest.raises(Misconfigured, match="without its BEGIN or END"):
        with_pem(pem_file, content)
    authenticator = with_pem(pem_file, pem(OLD, NEW))
    with logged(keys_module) as logged_lines:
        replace(pem_file, content)
        assert authenticator.verify(signed(NEW)).user == "ann"
    assert [line["event"] for line in logged_lines] == ["the keys of tokens cannot be read again; the old ones go on"]


def test_more_keys_than_a_token_can_be_tried_with_are_refused(pem_file: Path) -> None:
    assert with_pem(pem_file, pem(NEW, *[EC] * (MAX_KEYS - 1))).verify(signed(NEW)).user == "ann"
    with pytest.raises(Misconfigured, match=f"{MAX_KEYS} are the most"):
        with_pem(pem_file, pem(*[EC] * (MAX_KEYS + 1)))


# --- a JWKS -------------------------------------------------------------------------------------------------


def test_a_token_is_verified_with_the_key_that_it_names(jwks_file: Path) -> None:
    authenticator = with_jwks(jwks_file, jwks(jwk(OLD, "old"), jwk(NEW, "new"), jwk(EC, "ec")))
    assert authenticator.verify(signed(OLD, kid="old")).user == "ann"
    assert authenticator.verify(signed(EC, "ES256", kid="ec")).user == "ann"
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        authenticator.verify(signed(OLD, kid="new"))
    with pytest.raises(Unauthenticated, match="not known here"):
        authenticator.verify(signed(OLD, kid="other"))


def test_an_algorithm_that_the_named_key_does_not_have_is_said_to_be_so(jwks_file: Path) -> None:
    authenticator = with_jwks(jwks_file, jwks(jwk(OLD, "rsa"), jwk(EC, "ec")))
    with pytest.raises(Unauthenticated, match=r"algorithm is not ES256$"):
        authenticator.verify(signed(OLD, "RS256", kid="ec"))
    with pytest.raises(Unauthenticated, match=r"algorithm is not RS256$"):
        authenticator.verify(signed(EC, "ES256", kid="rsa"))


def test_keys_of_one_name_are_all_tried(jwks_file: Path) -> None:
    authenticator = with_jwks(jwks_file, jwks(jwk(OLD, "a"), jwk(NEW, "a"), jwk(EC, "a"), jwk(ED, "a")))
    for key, algorithm in ((OLD, "RS256"), (NEW, "RS256"), (EC, "ES256")):
        assert authenticator.verify(signed(key, algorithm, kid="a")).user == "ann"
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        authenticator.verify(signed(rsa.generate_private_key(65_537, 2_048), kid="a"))


def test_a_token_without_a_name_is_tried_with_each_key_of_a_few_and_refused_among_many(jwks_file: Path) -> None:
    authenticator = with_jwks(jwks_file, jwks(jwk(OLD, "old"), jwk(NEW, "new")))
    assert authenticator.verify(signed(NEW)).user == "ann"
    many = [jwk(EC, f"key-{number}") for number in range(MAX_KEYS)]
    assert with_jwks(jwks_file, jwks(jwk(NEW, "new"), *many[1:])).verify(signed(NEW)).user == "ann"
    with pytest.raises(Unauthenticated, match="does not name its key"):
        with_jwks(jwks_file, jwks(jwk(NEW, "new"), *many)).verify(signed(NEW))


@pytest.mark.parametrize("kid", [None, 7])
def test_a_key_without_a_name_is_tried_whatever_the_token_names(kid: Any, jwks_file: Path) -> None:
    authenticator = with_jwks(jwks_file, jwks(jwk(OLD, "old"), jwk(NEW, kid)))
    assert authenticator.verify(signed(NEW, kid="new")).user == "ann"
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        authenticator.verify(signed(OLD, kid="new"))


def test_keys_for_other_purposes_are_passed_over(jwks_file: Path) -> None:
    others = (
        jwk(OLD, "encryption", use="enc"),
        jwk(OLD, "oaep", alg="RSA-OAEP"),
        jwk(OLD, "wraps", key_ops=["wrapKey"]),
        jwk(OLD, "pss", alg="PS256"),
        jwk(ED, "edwards"),
        jwk(EC_384, "another curve"),
        {"kty": "unheard of", "kid": "x"},
    )
    authenticator = with_jwks(jwks_file, jwks(*others, jwk(NEW, "new", use="sig", alg="RS256", x5t="more")))
    assert authenticator.verify(signed(NEW, kid="new")).user == "ann"
    with pytest.raises(Unauthenticated, match="not known here"):
        authenticator.verify(signed(OLD, kid="encryption"))
    with pytest.raises(Misconfigured, match="no key for RS256 or ES256 signatures; 7 for other uses"):
        with_jwks(jwks_file, jwks(*others))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (pem(OLD), "--auth.public-key-file"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'no list "keys"'),
        (b'{"keys": {}}', 'no list "keys"'),
        (b'{"keys": [7]}', "not an object"),
        (b'{"keys": []}', "no key for RS256"),
        (jwks(jwk(NEW, "new")) + b" " * MAX_BYTES, f"longer than {MAX_BYTES} bytes"),
        (jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "s"}), "private or symmetric"),
        (jwks(jwt.algorithms.RSAAlgorithm.to_jwk(OLD, as_dict=True)), "private or symmetric"),
        (jwks(jwk(rsa.generate_private_key(65_537, 1_024))), "1024 bits"),  # noqa: S505 - refusing it is the point
    ],
)
def test_a_jwks_that_cannot_be_used_is_misconfigured_and_nothing_of_it_is_shown(
    content: bytes, words: str, jwks_file: Path
) -> None:
    with pytest.raises(Misconfigured, match=words) as caught:
        with_jwks(jwks_file, content)
    assert "c2VjcmV0" not in str(caught.value)


def test_a_jwks_as_public_key_file_is_told_where_it_goes(pem_file: Path) -> None:
    with pytest.raises(Misconfigured, match=r"--auth\.jwks-file"):
        with_pem(pem_file, jwks(jwk(OLD)))


# --- rotation -----------------------------------------------------------------------------------------------


def test_a_replaced_file_counts_at_once_also_for_tokens_seen_before(pem_file: Path) -> None:
    authenticator = with_pem(pem_file, pem(OLD))
    assert authenticator.verify(signed(OLD)).user == "ann"
    replace(pem_file, pem(OLD, NEW))
    assert authenticator.verify(signed(NEW)).user == "ann"
    assert authenticator.verify(signed(OLD)).user == "ann"
    replace(pem_file, pem(NEW))
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        authenticator.verify(signed(OLD))


@pytest.mark.parametrize("operations", [5, True, "verify", {"verify": True}])
def test_a_key_whose_operations_are_no_list_is_passed_over_and_takes_nothing_down(
    operations: object, jwks_file: Path
) -> None:
    odd = jwk(OLD, "odd", key_ops=operations)
    authenticator = with_jwks(jwks_file, jwks(odd, jwk(NEW, "new")))
    assert authenticator.verify(signed(NEW, kid="new")).user == "ann"
    replace(jwks_file, jwks(odd))
    assert authenticator.verify(signed(NEW, kid="new")).user == "ann"  # a file without a key is broken: the old go on


def test_a_broken_file_keeps_the_old_keys_and_says_so_once(jwks_file: Path) -> None:
    authenticator = with_jwks(jwks_file, jwks(jwk(OLD, "old")))
    with logged(keys_module) as logged_lines:
        replace(jwks_file, b"{")
        for _ in range(3):
            assert authenticator.verify(signed(OLD, kid="old")).user == "ann"
        jwks_file.unlink()
        assert authenticator.verify(signed(OLD, kid="old")).user == "ann"
        replace(jwks_file, jwks(jwk(NEW, "new")))
        assert authenticator.verify(signed(NEW, kid="new")).user == "ann"
    said = [(line["log_level"], line["event"]) for line in logged_lines]
    assert said == [
        ("error", "the keys of tokens cannot be read again; the old ones go on"),
        ("error", "the keys of tokens cannot be read again; the old ones go on"),
        ("info", "the keys of tokens were replaced"),
    ]


def test_a_file_that_is_good_again_is_read_no_more_often_than_before(
    pem_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, reads = time.time(), []
    monkeypatch.setattr(time, "time", lambda: now)
    pem_file.write_bytes(pem(OLD))

    def read(path: Path) -> tuple[Key, ...]:
        reads.append(path)
        return read_public_keys(path)

    file = KeyFile(pem_file, read)
    with logged(keys_module) as logged_lines:
        for content in (b"", pem(OLD)):
            replace(pem_file, content)
            file.keys()
        now += 60
        file.keys()  # a change within the clock's tick would not have been seen
        before = len(reads)
        for _ in range(3):
            now += 60
            file.keys()
    assert len(reads) == before
    assert [line["event"] for line in logged_lines][1:] == ["the keys of tokens are good again"]


def test_a_file_that_could_not_be_opened_is_tried_again_although_it_stays_as_it_is(
    pem_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process has no file left to open, in the moment in which its keys rotate."""
    now, busy = time.time(), False
    monkeypatch.setattr(time, "time", lambda: now)
    pem_file.write_bytes(pem(OLD))

    def read(path: Path) -> tuple[Key, ...]:
        if busy:
            raise Misconfigured("too many open files")
        return read_public_keys(path)

    file = KeyFile(pem_file, read)
    old = file.keys()
    replace(pem_file, pem(NEW))
    busy, now = True, now + 60
    assert file.keys() == old
    busy, now = False, now + 60
    assert file.keys() != old


def test_a_file_that_is_replaced_while_it_is_read_at_the_start_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted volume swaps a link, and what it then leads to may have been there for long."""
    (tmp_path / "old").write_bytes(pem(OLD))
    (tmp_path / "new").write_bytes(pem(NEW))
    link = tmp_path / "keys.pem"
    link.symlink_to("old")
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)

    def read(path: Path) -> tuple[Key, ...]:
        found = read_public_keys(path)
        (tmp_path / "link").symlink_to("new")
        (tmp_path / "link").rename(link)
        return found

    file = KeyFile(link, read)
    assert file.keys() == read_public_keys(link)


def test_the_secret_rotates_too_and_signs_from_then_on(tmp_path: Path) -> None:
    authenticator = Authenticator.from_settings(Settings(data_dir=tmp_path))
    before = authenticator.sign("ann")
    replace(tmp_path / "auth.secret", b"s" * 48)
    (tmp_path / "auth.secret").chmod(0o600)
    assert jwt.decode(authenticator.sign("bob"), b"s" * 48, ["HS256"])["sub"] == "bob"
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        authenticator.verify(before)


def test_a_secret_whose_file_is_gone_goes_on(tmp_path: Path) -> None:
    authenticator = Authenticator.from_settings(Settings(data_dir=tmp_path))
    (tmp_path / "auth.secret").unlink()
    with logged(keys_module) as logged_lines:
        assert authenticator.verify(authenticator.sign("ann")).user == "ann"
        assert not authenticator.reload()
    assert {line["error"] for line in logged_lines} == {"the file is gone"}


def test_a_reload_says_again_what_is_broken(pem_file: Path) -> None:
    authenticator = with_pem(pem_file, pem(OLD))
    assert authenticator.reload()
    replace(pem_file, b"")
    with logged(keys_module) as logged_lines:
        assert not authenticator.reload()
        assert not authenticator.reload()
    assert len(logged_lines) == 2


@pytest.mark.parametrize("files", [("auth.secret-file", "auth.jwks-file"), ("auth.public-key-file", "auth.jwks-file")])
def test_only_one_kind_of_key_can_be_chosen(files: tuple[str, str]) -> None:
    with pytest.raises(Misconfigured, match="exclude each other"):
        options.resolve(dict.fromkeys(files, "x"), {})
