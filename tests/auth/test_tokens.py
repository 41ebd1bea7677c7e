"""Tokens, Origins and the cookie: who gets in, and every way of getting in that must not work."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from exporter.auth.tokens import LEEWAY, MAX_TOKEN, Authenticator, Claims, Unauthenticated
from exporter.core.errors import Misconfigured
from exporter.settings import secret_file
from exporter.settings.model import Settings
from exporter.web import access
from exporter.web.problems import Problem
from tests.logged import logged

KEY = b"k" * 48
NOW = 1_700_000_000.0
RSA = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def hs256(**more: Any) -> Authenticator:
    return Authenticator("HS256", KEY, clock=Clock(), **more)


def token(algorithm: str = "HS256", key: Any = KEY, **claims: Any) -> str:
    return jwt.encode({"sub": "ann", "exp": NOW + 60} | claims, key, algorithm)


def handmade(header: Any, payload: Any, key: bytes = KEY, *, raw: bool = False) -> str:
    """A token with a right HMAC over whatever is in it."""
    parts = [part if raw else json.dumps(part).encode() for part in (header, payload)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(key, text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def request(method: str = "GET", **headers: str) -> web.Request:
    return make_mocked_request(method, "/", headers={name.replace("_", "-"): text for name, text in headers.items()})


# --- what is accepted ---------------------------------------------------------------------------------------


def test_a_signed_token_says_who_and_until_when() -> None:
    authenticator = hs256()
    assert authenticator.verify(authenticator.sign("ann", role="admin", ttl=60)) == Claims("ann", "admin", NOW + 60)


def test_a_token_is_good_for_as_long_as_was_asked_and_not_a_fraction_less() -> None:
    authenticator, clock = hs256(), Clock()
    authenticator._clock, clock.now = clock, NOW + 0.25
    assert authenticator.verify(authenticator.sign("ann", ttl=60)).expires_at == NOW + 61


def test_the_role_is_user_when_the_token_says_nothing() -> None:
    assert hs256().verify(token()).role == "user"


def test_other_claims_are_somebody_elses_business() -> None:
    assert hs256().verify(token(aud="chat", iss="idp", jti=7, nonce=[1], iat=NOW)).user == "ann"


@pytest.mark.parametrize("user", ["a", "x" * 128, "Ännchen 🙂", "a/b {c}", "' OR 1=1 --", "<script>"])
def test_a_user_may_have_any_printable_name(user: str) -> None:
    authenticator = hs256()
    assert authenticator.verify(authenticator.sign(user)).user == user


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA), ("ES256", EC)])
def test_a_public_key_verifies_what_the_identity_provider_signed(algorithm: str, key: Any, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem(key))
    settings = Settings(data_dir=tmp_path, auth_public_key_file=file)
    authenticator = Authenticator.from_settings(settings, clock=Clock())
    assert authenticator.verify(token(algorithm, key)).user == "ann"
    assert not (tmp_path / "auth.secret").exists()
    with pytest.raises(Misconfigured, match="private key"):
        authenticator.sign("ann")


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_token_is_good_until_its_end_and_the_leeway_and_no_longer(seen_before: bool) -> None:
    authenticator, clock = hs256(), Clock()
    authenticator._clock = clock
    text = token(exp=NOW + 10)
    if seen_before:
        authenticator.verify(text)
    clock.now = NOW + 10 + LEEWAY - 0.001
    assert authenticator.verify(text).expires_at == NOW + 10
    clock.now = NOW + 10 + LEEWAY
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="has expired"):
            authenticator.verify(text)


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused_beyond_the_leeway(name: str) -> None:
    assert hs256().verify(token(**{name: NOW + LEEWAY})).user == "ann"
    with pytest.raises(Unauthenticated, match=rf"not valid yet \({name}\)"):
        hs256().verify(token(**{name: NOW + LEEWAY + 1}))


@pytest.mark.parametrize("exp", [True, "1700000060", [NOW], {}, "inf"])
def test_an_end_that_is_no_number_is_refused(exp: Any) -> None:
    with pytest.raises(Unauthenticated, match="exp is not a number"):
        hs256().verify(handmade({"alg": "HS256"}, {"sub": "ann", "exp": exp}))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400])
def test_a_time_that_is_not_finite_is_refused(name: str, value: float) -> None:
    payload = {"sub": "ann", "exp": NOW + 60} | {name: value}
    with pytest.raises(Unauthenticated, match=f"{name} is not a finite number"):
        hs256().verify(handmade({"alg": "HS256"}, payload))


def test_a_token_for_ever_ends_where_dates_end() -> None:
    assert hs256().verify(token(exp=1e300)).expires_at < 2.6e11


@pytest.mark.parametrize("missing", ["exp", "sub"])
def test_a_token_without_end_or_name_is_refused(missing: str) -> None:
    claims = {"sub": "ann", "exp": NOW + 60}
    del claims[missing]
    with pytest.raises(Unauthenticated, match=f"has no {missing}"):
        hs256().verify(jwt.encode(claims, KEY, "HS256"))


# --- attacks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_an_unsigned_token_is_refused(algorithm: str, signature: str) -> None:
    text = handmade({"alg": algorithm}, {"sub": "ann", "exp": NOW + 60, "role": "admin"}).rpartition(".")[0]
    with pytest.raises(Unauthenticated):
        hs256().verify(f"{text}.{signature}")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_only_the_configured_algorithm_is_accepted_even_with_the_right_key(algorithm: str) -> None:
    with pytest.raises(Unauthenticated, match="algorithm is not HS256"):
        hs256().verify(token(algorithm, KEY * 2))


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA), ("ES256", EC)])
def test_the_public_key_is_no_hmac_secret(algorithm: str, key: Any) -> None:
    authenticator = Authenticator(algorithm, key.public_key(), clock=Clock())
    for secret_of_all in (pem(key), pem(key).strip(), pem(key).replace(b"\n", b"")):
        forged = handmade({"alg": "HS256", "typ": "JWT"}, {"sub": "ann", "exp": NOW + 60}, secret_of_all)
        with pytest.raises(Unauthenticated):
            authenticator.verify(forged)
        with pytest.raises(Unauthenticated):
            authenticator.verify(handmade({"alg": algorithm}, {"sub": "ann", "exp": NOW + 60}, secret_of_all))


def test_a_key_inside_the_token_is_not_used() -> None:
    mine = b"m" * 48
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(mine).decode()}
    for more in ({"jwk": jwk}, {"jku": "http://127.0.0.1/"}, {"kid": "../../dev/null"}, {"x5u": "http://127.0.0.1/"}):
        with pytest.raises(Unauthenticated):
            hs256().verify(handmade({"alg": "HS256", **more}, {"sub": "ann", "exp": NOW + 60}, mine))


def test_another_installations_token_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="signature is wrong"):
        hs256().verify(token(key=b"o" * 48))


def test_a_changed_token_is_refused_though_the_original_is_known() -> None:
    authenticator = hs256()
    header, payload, signature = token().split(".")
    authenticator.verify(f"{header}.{payload}.{signature}")
    admin = base64.urlsafe_b64encode(json.dumps({"sub": "ann", "exp": NOW + 60, "role": "admin"}).encode()).decode()
    with pytest.raises(Unauthenticated):
        authenticator.verify(f"{header}.{admin.rstrip('=')}.{signature}")


def test_an_oversized_token_is_refused_before_it_is_read() -> None:
    longest = next(text for n in range(5_000, MAX_TOKEN) if len(text := token(x="y" * n)) == MAX_TOKEN)
    assert hs256().verify(longest).user == "ann"
    with pytest.raises(Unauthenticated, match="longer than"):
        hs256().verify(longest + "x")


def test_a_padded_token_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="not a signed JWT"):  # RFC 7515 section 2; PyJWT would take it
        hs256().verify(token() + "=")


@pytest.mark.parametrize("sub", ["", "x" * 129, "a\nb", "a\x00b", "\x85", "\ud800", 7, None, ["ann"], {"a": 1}, True])
def test_a_name_that_is_no_identifier_is_refused(sub: Any) -> None:
    with pytest.raises(Unauthenticated):
        hs256().verify(handmade({"alg": "HS256"}, {"sub": sub, "exp": NOW + 60}))


@pytest.mark.parametrize("sub", [7, ["ann"], {"a": 1}, True, 0.5])
def test_a_name_of_another_type_is_not_said_to_be_absent(sub: Any) -> None:
    with pytest.raises(Unauthenticated, match="sub is not a string"):
        hs256().verify(handmade({"alg": "HS256"}, {"sub": sub, "exp": NOW + 60}))


@pytest.mark.parametrize("role", [None, 7, ["admin"], {"admin": True}, True])
def test_a_role_that_is_no_string_is_refused(role: Any) -> None:
    with pytest.raises(Unauthenticated, match="role"):
        hs256().verify(handmade({"alg": "HS256"}, {"sub": "ann", "exp": NOW + 60, "role": role}))


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (b'{"alg":"HS256"}', b"[" * 2_500),
        (b"[" * 2_500, b"{}"),
        (b'{"alg":"HS256"}', b'{"exp":' + b"9" * 5_000 + b"}"),
        (b'{"alg":"HS256"}', b"null"),
        (b'{"alg":"HS256"}', b'"text"'),
        (b'{"alg":"HS256"}', b"\xff\xfe"),
        (b'{"alg":"HS256"}', b""),
        (b"null", b"{}"),
        (b"7", b"{}"),
        (b'{"alg":7}', b"{}"),
        (b'{"alg":["HS256"]}', b"{}"),
        (b'{"alg":{"a":1}}', b"{}"),
        (b"{}", b"{}"),
        (b'{"alg":"HS256","kid":7}', b"{}"),
        (b'{"alg":"HS256","crit":["exp"]}', b"{}"),
        (b'{"alg":"HS256","b64":false}', b"{}"),
        (b'{"alg":"HS256","zip":"DEF"}', b"{}"),
    ],
)
def test_a_token_with_nonsense_inside_is_refused_though_its_signature_is_right(header: bytes, payload: bytes) -> None:
    with pytest.raises(Unauthenticated):
        hs256().verify(handmade(header, payload, raw=True))


@given(text=st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,30}\.[A-Za-z0-9_-]{0,30}\.[A-Za-z0-9_-]{0,30}"))
def test_any_text_is_refused_in_printable_words_that_repeat_nothing(text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        hs256().verify(text)
    assert str(caught.value).isprintable()
    assert len(text) < 12 or text not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["alg", "typ", "sub", "exp", "nbf", "iat", "role", "aud", "crit"])


@given(header=st.dictionaries(NAMES, json_values), payload=st.dictionaries(NAMES, json_values) | json_values)
def test_any_json_with_a_right_signature_is_verified_or_refused(header: Any, payload: Any) -> None:
    try:
        claims = hs256().verify(handmade({"alg": "HS256"} | header, payload))
    except Unauthenticated:
        return
    assert 1 <= len(claims.user) <= 128
    assert claims.expires_at + LEEWAY > NOW


@pytest.mark.parametrize(
    ("header", "payload", "words"),
    [
        ({"alg": "HS256", "crit": ["x"], "x": 1}, {}, "critical headers"),
        ({"alg": "HS256", "crit": []}, {}, "critical headers"),
        ({"alg": "HS256", "crit": ["b64"], "b64": False}, {}, "critical headers"),
        ({"alg": "HS256", "kid": 7}, {}, "kid is not a string"),
        ({"alg": "RS256"}, {}, "algorithm is not HS256"),
        ({"alg": "HS256"}, [1], "no JSON object"),
        ({"alg": "HS256"}, {"sub": "ann", "exp": -5}, "has expired"),
        ({"alg": "HS256"}, {"sub": "ann", "exp": NOW - LEEWAY - 0.5}, "has expired"),
        ({"alg": "HS256"}, {"sub": "ann", "exp": None}, "no exp"),
    ],
)
def test_the_reason_is_the_true_one(header: Any, payload: Any, words: str) -> None:
    with pytest.raises(Unauthenticated, match=words):
        hs256().verify(handmade(header, payload))


@pytest.mark.parametrize("exp", [NOW + 0.5, 10**30, 1e300])
def test_an_end_may_be_a_fraction_or_far_away(exp: float) -> None:
    assert hs256().verify(handmade({"alg": "HS256"}, {"sub": "ann", "exp": exp})).expires_at <= 253_402_300_799


# --- for whom and from whom ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "chat"}, None),
        ({"aud": ["mail", "chat"]}, None),
        ({"aud": "other", "iss": "idp"}, "another audience"),
        ({"aud": "mail"}, "another audience"),
        ({"aud": ["mail"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": "Chat"}, "another audience"),
        ({"aud": "chat/"}, "another audience"),
        ({}, "no aud, and --auth.audience is set"),
        ({"aud": None}, "no aud"),
        ({"aud": 7}, "neither a string nor a list"),
        ({"aud": ["chat", 7]}, "neither a string nor a list"),
        ({"aud": {"chat": 1}}, "neither a string nor a list"),
    ],
)
def test_a_token_for_another_audience_is_refused_where_one_is_set(claims: dict[str, Any], words: str | None) -> None:
    authenticator = hs256(audiences=("chat", "chat-admin"))
    if words is None:
        assert authenticator.verify(token(**claims)).user == "ann"
        return
    for _ in range(2):
        with pytest.raises(Unauthenticated, match=words):
            authenticator.verify(token(**claims))


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"iss": "https://idp/"}, None),
        ({"iss": "https://new.idp/"}, None),
        ({"iss": "https://idp"}, "another issuer"),
        ({}, "no iss, and --auth.issuer is set"),
        ({"iss": ""}, "another issuer"),
    ],
)
def test_a_token_from_another_issuer_is_refused_where_one_is_set(claims: dict[str, Any], words: str | None) -> None:
    authenticator = hs256(issuers=("https://idp/", "https://new.idp/"))
    if words is None:
        assert authenticator.verify(token(**claims)).user == "ann"
        return
    with pytest.raises(Unauthenticated, match=words):
        authenticator.verify(token(**claims))


def test_what_this_installation_signs_is_for_itself_and_from_itself(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, auth_audiences=("chat", "other"), auth_issuers=("me",))
    authenticator = Authenticator.from_settings(settings)
    assert authenticator.verify(authenticator.sign("ann")).user == "ann"
    odd = handmade({"alg": "HS256"}, {"sub": "ann", "exp": NOW + 60, "iss": ["https://idp/"]})
    with pytest.raises(Unauthenticated, match="iss is not a string"):
        hs256(issuers=("https://idp/", "https://new.idp/")).verify(odd)
    with pytest.raises(Unauthenticated, match="no aud"):
        authenticator.verify(Authenticator.from_settings(Settings(data_dir=tmp_path)).sign("ann"))


# --- the memory of verified tokens --------------------------------------------------------------------------


def test_a_token_seen_before_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator, text = hs256(), token()
    first = authenticator.verify(text)
    monkeypatch.setattr(jwt.PyJWS, "decode", lambda *_, **__: pytest.fail("verified twice"))
    assert authenticator.verify(text) is first


def test_the_memory_is_bounded_keeps_what_is_used_and_no_refusals() -> None:
    authenticator = hs256(max_verified=3)
    used = authenticator.sign("used")
    for number in range(10):
        authenticator.verify(used)
        authenticator.verify(authenticator.sign(f"user{number}"))
        with pytest.raises(Unauthenticated):
            authenticator.verify(token(key=b"o" * 48, sub=f"user{number}"))
    assert len(authenticator._verified) == 3
    assert "used" in {claims.user for claims in authenticator._verified.values()}
    assert not any(used.encode() in key for key in authenticator._verified)


def test_the_token_that_was_not_used_for_longest_is_forgotten_first() -> None:
    authenticator = hs256(max_verified=3)
    for user in ("ann", "bob", "cat", "ann", "dan"):
        authenticator.verify(authenticator.sign(user))
    assert [claims.user for claims in authenticator._verified.values()] == ["cat", "ann", "dan"]


def test_tokens_that_have_expired_push_out_none_that_are_good() -> None:
    authenticator = hs256(max_verified=3)
    for user in ("ann", "bob", "cat"):
        authenticator.verify(authenticator.sign(user))
    for user in ("dan", "eve"):
        with pytest.raises(Unauthenticated, match="has expired"):
            authenticator.verify(token(sub=user, exp=NOW - 3600))
    assert [claims.user for claims in authenticator._verified.values()] == ["ann", "bob", "cat"]


# --- the secret ---------------------------------------------------------------------------------------------


def test_the_secret_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o022, 0o777):
        before = os.umask(umask)
        try:
            made = secret_file.load_or_create(tmp_path / f"{umask}.secret")
        finally:
            os.umask(before)
        file = tmp_path / f"{umask}.secret"
        assert file.stat().st_mode & 0o777 == 0o600
        assert len(made) >= 32
        assert file.read_text().strip().encode() == made
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".secret"] * 3


def test_the_secret_stays_the_same_and_white_space_around_it_does_not_count(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "folder")
    before = os.umask(0)
    try:
        Authenticator.from_settings(settings)
    finally:
        os.umask(before)
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700
    text = Authenticator.from_settings(settings).sign("ann")
    assert Authenticator.from_settings(settings).verify(text).user == "ann"
    content = settings.effective_secret_file.read_text().strip()
    for encoding in ("utf-8", "utf-8-sig"):  # Windows writes a mark before the text
        settings.effective_secret_file.write_text(f"\n  {content}\r\n\n", encoding)
        assert Authenticator.from_settings(settings).verify(text).user == "ann"
    assert jwt.decode(text, content, ["HS256"])["sub"] == "ann"


SOMEBODY = 12_345
"""A user who is not root: the tests may run as root, and what root owns is another matter."""


def secret_of(tmp_path: Path, owner: int, mode: int) -> Settings:
    """A good secret with this owner and mode."""
    file = tmp_path / "auth.secret"
    file.write_bytes(KEY)
    if os.geteuid() == 0:
        os.chown(file, owner, owner)
    elif owner == 0:
        pytest.skip("only root can give a file to root")
    file.chmod(mode)
    return Settings(data_dir=tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o601, 0o440, 0o444])
def test_a_secret_that_others_can_reach_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="chmod 600"):
        Authenticator.from_settings(secret_of(tmp_path, SOMEBODY, mode))


@pytest.mark.parametrize("mode", [0o440, 0o640, 0o040, 0o400, 0o600])
def test_what_root_owns_a_group_may_read(mode: int, tmp_path: Path) -> None:
    """Kubernetes' fsGroup, systemd's credentials, an access control list: they all show as the group's right."""
    with logged(secret_file) as logged_lines:
        assert Authenticator.from_settings(secret_of(tmp_path, 0, mode)).sign("ann")
    assert logged_lines == []


@pytest.mark.parametrize("mode", [0o460, 0o450, 0o444, 0o644, 0o604, 0o622, 0o777])
def test_what_root_owns_nobody_else_may_write_and_not_everybody_read(mode: int, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="chmod 600"):
        Authenticator.from_settings(secret_of(tmp_path, 0, mode))


@pytest.mark.parametrize("where", ["a secrets folder", "a read-only mount"])
def test_where_platforms_put_secrets_everybody_may_read_what_root_owns_and_is_warned_once(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "a secrets folder":
        monkeypatch.setattr(secret_file, "SECRETS", tmp_path)
    else:
        monkeypatch.setattr(secret_file, "_is_read_only", lambda descriptor: True)
    settings = secret_of(tmp_path, 0, 0o444)
    with logged(secret_file) as logged_lines:
        for _ in range(2):
            assert Authenticator.from_settings(settings).sign("ann")
    assert [(line["log_level"], line["mode"]) for line in logged_lines] == [("warning", "0444")]
    for mode in (0o446, 0o445, 0o466):
        with pytest.raises(Misconfigured, match="open to other users"):
            Authenticator.from_settings(secret_of(tmp_path, 0, mode))
    with pytest.raises(Misconfigured, match="open to other users"):
        Authenticator.from_settings(secret_of(tmp_path, SOMEBODY, 0o444))


def test_on_a_read_only_mount_nobody_is_told_to_change_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_file, "_is_read_only", lambda descriptor: True)
    with pytest.raises(Misconfigured, match="mount it with mode 0400, or owned by root with mode 0440") as caught:
        Authenticator.from_settings(secret_of(tmp_path, SOMEBODY, 0o444))
    assert "chmod" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to root")
def test_a_user_of_the_group_reads_the_secret_of_root() -> None:
    """As a pod with fsGroup does: it runs as somebody, and the file is root's and the group's."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for root alone
        Path(folder).chmod(0o711)
        file = Path(folder) / "auth.secret"
        file.write_bytes(KEY)
        os.chown(file, 0, SOMEBODY)
        file.chmod(0o440)
        os.setegid(SOMEBODY)
        os.seteuid(SOMEBODY)
        try:
            assert secret_file.load(file) == KEY
        finally:
            os.seteuid(0)
            os.setegid(0)


def test_32_bytes_are_enough_for_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "auth.secret"
    file.write_bytes(b"k" * 32)
    file.chmod(0o600)
    assert Authenticator.from_settings(Settings(data_dir=tmp_path)).sign("ann")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b" \n\t", "0 bytes"),
        (b"k" * 31, "31 bytes"),
        (b"\n" + b"k" * 31 + b"\n", "31 bytes"),
        (bytes(range(128, 176)), "not text"),
        (b"k" * 70_000, "longer than"),
        (pem(RSA), "PEM"),
    ],
)
def test_a_secret_that_is_no_good_secret_is_refused_without_being_shown(
    content: bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "auth.secret"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(Misconfigured, match=words) as caught:
        Authenticator.from_settings(Settings(data_dir=tmp_path))
    assert "kkkk" not in str(caught.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["auth_public_key_file", "auth_jwks_file"])
def test_a_pipe_is_no_file_of_keys(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(Misconfigured, match="is a pipe, and is read more than once: give a file"):
        Authenticator.from_settings(Settings(**{name: tmp_path / "keys"}))


def test_a_secret_that_is_a_folder_or_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("folder", "pipe"):
        with pytest.raises(Misconfigured, match="not a regular file"):
            secret_file.load_or_create(tmp_path / name)


def test_a_place_where_no_secret_can_be_made_is_misconfigured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "auth.secret", Path("/proc/auth.secret")):
        with pytest.raises(Misconfigured, match="secret"):
            secret_file.load_or_create(path)


def test_processes_that_start_at_once_agree_on_one_secret_and_one_has_made_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from exporter.settings import secret_file; sys.stdin.read(1); "
        "secret, made = secret_file.obtain(Path(sys.argv[1])); print(secret.decode(), made)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "auth.secret")]
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(6)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=400)[0].split() for process in started]
    (secret,) = {secret for secret, _ in said}
    assert len(secret) >= 32
    assert [made for _, made in said].count("True") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["auth.secret"]


def test_whoever_comes_second_takes_the_first_ones_secret_and_has_not_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link_late(aside: Path, path: Path, link: Callable[[Path, Path], None] = os.link) -> None:
        path.write_bytes(b"f" * 48)
        path.chmod(0o600)
        link(aside, path)

    monkeypatch.setattr(os, "link", link_late)
    assert secret_file.obtain(tmp_path / "auth.secret") == (b"f" * 48, False)
    assert [path.name for path in tmp_path.iterdir()] == ["auth.secret"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no public key"),
        (b"garbage", "no public key"),
        (RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "openssl x509 -pubkey"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "neither RSA"),
        (pem(rsa.generate_private_key(65_537, 1_024)), "1024 bits"),  # noqa: S505 - refusing it is the point
    ],
)
def test_a_public_key_file_that_does_not_fit_is_misconfigured(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(Misconfigured, match=words):
        Authenticator.from_settings(Settings(auth_public_key_file=file))


def test_an_absent_public_key_file_is_misconfigured(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot read"):
        Authenticator.from_settings(Settings(auth_public_key_file=tmp_path / "absent.pem"))


@pytest.mark.parametrize(("user", "role"), [("", "user"), ("a\nb", "user"), ("x" * 129, "user"), ("ann", "")])
def test_no_token_is_signed_that_nobody_would_accept(user: str, role: str) -> None:
    with pytest.raises(Misconfigured):
        hs256().sign(user, role=role)


# --- requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "bEARER  abc "}, "abc"),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "abc"}, None),
        ({"Authorization": "Basic YTpi"}, None),
        ({"Sec_WebSocket_Protocol": "messaging.v1, bearer.abc"}, "abc"),
        ({"Sec_WebSocket_Protocol": "bearer.abc,messaging.v1"}, "abc"),
        ({"Sec_WebSocket_Protocol": "messaging.v1, bearer."}, None),
        ({"Sec_WebSocket_Protocol": "messaging.v1"}, None),
        ({"Authorization": "Bearer one", "Sec_WebSocket_Protocol": "bearer.two"}, "one"),
        ({"Authorization": "Basic YTpi", "Sec_WebSocket_Protocol": "bearer.two"}, "two"),
        ({"Cookie": f"{access.COOKIE}=abc"}, None),
    ],
)
def test_a_token_comes_by_authorization_or_subprotocol(headers: dict[str, str], found: str | None) -> None:
    assert access.token_of(request(**headers)) == found


def test_the_cookie_counts_only_where_it_is_asked_for() -> None:
    assert access.token_of(request(Cookie="mine=abc"), "mine") == "abc"
    assert access.token_of(request(Cookie="mine=abc", Authorization="Bearer xyz"), "mine") == "xyz"


def test_two_authorizations_are_none() -> None:
    two = make_mocked_request("GET", "/", headers=[("Authorization", "Bearer a"), ("Authorization", "Bearer b")])
    assert access.token_of(two) is None


def test_without_a_token_the_answer_is_401_with_a_challenge() -> None:
    for headers, words in (({}, "needed"), ({"Authorization": "Bearer x.y.z"}, "cannot be read")):
        with pytest.raises(Problem, match=words) as caught:
            access.claims_of(request(**headers), hs256())
        assert caught.value.status == 401
        assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_user_is_no_admin_and_a_role_is_compared_exactly() -> None:
    authenticator = hs256()
    for role in ("user", "Admin", "admin ", "administrator", "superadmin"):
        with pytest.raises(Problem) as caught:
            access.require_admin(request(Authorization=f"Bearer {token(role=role)}"), authenticator)
        assert caught.value.status == 403
    assert access.require_admin(request(Authorization=f"Bearer {token(role='admin')}"), authenticator).user == "ann"


def test_the_admins_cookie_reads_but_never_writes() -> None:
    cookie = f"{access.cookie_name(request(), hs256())}={token(role='admin')}"
    assert access.require_admin(request(Cookie=cookie), hs256()).role == "admin"
    for method in ("POST", "DELETE", "PUT"):
        with pytest.raises(Problem) as caught:
            access.require_admin(request(method, Cookie=cookie), hs256())
        assert caught.value.status == 401


def test_the_cookie_of_our_own_page_may_change_something_where_that_is_asked_for() -> None:
    cookie = f"{access.cookie_name(request(), hs256())}={token(role='admin')}"
    assert access.require_admin(request("DELETE", Cookie=cookie), hs256(), change=True).role == "admin"


def test_installations_on_one_host_have_cookies_of_their_own() -> None:
    other = Authenticator("HS256", b"another secret of the tests, long enough")
    names = [
        access.cookie_name(request(Host=host), authenticator)
        for authenticator in (hs256(), other)
        for host in ("x", "x:8765", "x:8766", "[::1]:8766", "[::1]:1")
    ]
    assert len(set(names)) == 8, "the host itself tells browsers enough: 8766 of two hosts are one name"
    assert all(name.startswith(access.COOKIE) and name[len(access.COOKIE) :].isalnum() for name in names)
    assert access.cookie_name(request(Host="x:1"), hs256()) == access.cookie_name(request(Host="x:1"), hs256())


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://chat.example.com", "chat.example.com", True),
        ("https://chat.example.com", "chat.example.com", True),
        ("https://chat.example.com", "chat.example.com:443", True),
        ("http://chat.example.com:80", "CHAT.example.com", True),
        ("http://127.0.0.1:8765", "127.0.0.1:8765", True),
        ("http://[::1]:8765", "[::1]:8765", True),
        ("http://127.0.0.1:8766", "127.0.0.1:8765", False),
        ("http://evil.example.com", "chat.example.com", False),
        ("http://chat.example.com.evil.com", "chat.example.com", False),
        ("http://evil.com/chat.example.com", "chat.example.com", False),
        ("http://chat.example.com@evil.com", "chat.example.com", False),
        ("null", "chat.example.com", False),
        ("", "chat.example.com", False),
        ("file://", "chat.example.com", False),
        ("http://chat.example.com:99999", "chat.example.com:99999", False),
        ("http://[", "[", False),
        ("*", "*", False),
    ],
)
def test_without_a_list_only_the_same_origin_may_connect(origin: str, host: str, same: bool) -> None:
    assert access.origin_allowed(request(Origin=origin, Host=host), ()) is same


def test_where_tls_ends_here_a_page_that_came_without_it_is_of_another_origin() -> None:
    for origin, same in (("https://chat.example.com", True), ("http://chat.example.com", False)):
        asked = request(Origin=origin, Host="chat.example.com").clone(scheme="https")
        assert access.origin_allowed(asked, ()) is same


def test_a_program_without_an_origin_may_connect() -> None:
    assert access.origin_allowed(request(Host="x"), ())
    assert access.origin_allowed(request(Host="x"), ("https://chat.example.com",))


def test_a_list_says_exactly_who_may_connect() -> None:
    allowed = ("https://chat.example.com",)
    assert access.origin_allowed(request(Origin="https://CHAT.example.com:443", Host="x"), allowed)
    for origin in ("http://chat.example.com", "https://x.chat.example.com", "http://x", "null", "*"):
        assert not access.origin_allowed(request(Origin=origin, Host="x"), allowed)
        assert access.origin_allowed(request(Origin=origin, Host="x"), ("*",))


def test_two_origins_are_nobodys() -> None:
    two = make_mocked_request("GET", "/", headers=[("Origin", "http://x"), ("Origin", "http://x"), ("Host", "x")])
    assert not access.origin_allowed(two, ())


@pytest.mark.parametrize(
    ("headers", "safe"),
    [
        ({}, True),
        ({"Origin": "http://x", "Sec_Fetch_Site": "same-origin"}, True),
        ({"Origin": "http://x", "Sec_Fetch_Site": "cross-site"}, False),
        ({"Origin": "http://x", "Sec_Fetch_Site": "same-site"}, False),
        ({"Origin": "http://evil"}, False),
        ({"Origin": "null"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
    ],
)
def test_a_form_of_another_site_is_told_from_our_own(headers: dict[str, str], safe: bool) -> None:
    assert access.csrf_safe(request("POST", Host="x", **headers)) is safe


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites() -> None:
    for secure in (False, True):
        response = web.Response()
        access.set_cookie(response, "mine", "abc", Claims("ann", "admin", 4e9), secure=secure)
        cookie = response.cookies["mine"]
        assert (cookie.value, cookie["httponly"], cookie["samesite"], cookie["path"]) == ("abc", True, "Strict", "/")
        assert bool(cookie["secure"]) is secure
        assert int(cookie["max-age"]) > 0
        access.clear_cookie(response, "mine", secure=secure)
        assert str(response.cookies["mine"]["max-age"]) == "0"
        assert bool(response.cookies["mine"]["secure"]) is secure


def test_a_cookie_of_a_token_for_ever_lasts_as_long_as_browsers_can_count() -> None:
    response = web.Response()
    access.set_cookie(response, "mine", "abc", Claims("ann", "admin", 1e11), secure=False)
    assert response.cookies["mine"]["max-age"] == str(2**31 - 1)


def test_the_address_of_the_socket_is_no_name_that_a_browser_asked() -> None:
    """aiohttp has it in the place of a Host that is missing; the port is not in it."""
    transport = Mock(get_extra_info=lambda name, default=None: ("127.0.0.1", 8765) if name == "sockname" else default)
    asked = make_mocked_request("GET", "/", headers={"Origin": "http://127.0.0.1"}, transport=transport)
    assert asked.host == "127.0.0.1"
    assert not access.origin_allowed(asked, ())
    assert access.cookie_name(asked, hs256()) == access.cookie_name(request(Host="x"), hs256())


def test_of_every_change_of_a_token_only_what_pyjwt_accepts_too_is_accepted() -> None:
    """Every character of a genuine token in turn is replaced by others, and there are other heads and bodies."""

    def accepted(text: str) -> bool:
        try:
            return hs256().verify(text) == Claims("ann", "user", NOW + 60)
        except Unauthenticated:
            return False

    def genuine_to_pyjwt(text: str) -> bool:
        try:
            return bool(jwt.decode(text, KEY, ["HS256"], options={"verify_exp": False}))
        except (jwt.PyJWTError, ValueError):
            return False

    genuine = token()
    assert accepted(genuine)
    changed = [genuine[:at] + other + genuine[at + 1 :] for at in range(len(genuine)) for other in "AQgw-_."]
    spliced = [genuine + "A", genuine[:-1], genuine.replace(".", "..", 1), "." + genuine, genuine.split(".", 1)[1]]
    bodies = [b"[]", b"null", b"7", b'"ann"', b"{}", b"\xff", b"{", b"[" * 2_000, b'{"sub": "ann", "exp": 1e999}']
    heads = [b'{"alg":"HS256","typ":"JWT"}', b'{"typ":"JWT","alg":"HS256"}', b'{"alg":"none"}', b'{"alg":"HS512"}']
    signed = [handmade_raw(head, body) for head in heads for body in bodies]
    for text in changed + spliced + signed:
        assert not accepted(text) or genuine_to_pyjwt(text), text
    assert not any(accepted(text) for text in spliced + signed)


def handmade_raw(header: bytes, payload: bytes) -> str:
    return handmade(header, payload, raw=True)
