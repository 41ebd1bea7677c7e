"""URLs of brokers: what each form means, and that a wrong one is one clear error without a secret in it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from exporter.broker.location import locate
from exporter.core.errors import Misconfigured


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_host_a_port_and_a_database_number(scheme: str) -> None:
    found = locate(f"{scheme}://ann:s3cret@example.com:7000/3")
    assert (found.hosts, found.username, found.password, found.database) == (
        (("example.com", 7000),),
        "ann",
        "s3cret",
        3,
    )
    assert found.tls_context() is None
    assert "s3cret" not in repr(found)


def test_what_is_left_out_is_the_default() -> None:
    assert locate("redis://").hosts == (("localhost", 6379),)
    assert locate("redis://[::1]").hosts == (("::1", 6379),)


def test_a_percent_encoded_password_is_decoded() -> None:
    assert locate("redis://:p%40ss%2Fword@h").password == "p@ss/word"
    assert locate("redis+sentinel://a%40b:p%40ss%2Fword@h/m").password == "p@ss/word"
    assert locate("redis+sentinel://a%40b:p%40ss%2Fword@h/m").username == "a@b"


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_tls_verifies_unless_told_otherwise(scheme: str) -> None:
    context = locate(f"{scheme}://h").tls_context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    lax = locate(f"{scheme}://h?ssl_cert_reqs=none").tls_context()
    assert lax is not None
    assert lax.verify_mode is ssl.CERT_NONE


def test_a_socket() -> None:
    found = locate("unix:///run/valkey.sock?db=2")
    assert (found.path, found.hosts, found.database) == ("/run/valkey.sock", (), 2)


def test_sentinels() -> None:
    found = locate("redis+sentinel://ann:s3cret@one,two:7/main/4?sentinel_password=other")
    assert found.hosts == (("one", 26379), ("two", 7))
    assert (found.master, found.database, found.username) == ("main", 4, "ann")
    assert (found.password, found.sentinel_password) == ("s3cret", "other")
    assert "s3cret" not in repr(found)
    assert "other" not in repr(found)


def test_sentinels_that_speak_tls_for_a_master_that_does_not() -> None:
    found = locate("redis+sentinel://h/m?sentinel_ssl=true&ssl_ca_certs=/ca.pem")
    assert (found.tls, found.sentinel_tls) == (None, {"ssl_ca_certs": "/ca.pem"})


def test_a_password_from_a_file_is_read_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    found = locate("redis://ann@h", file)
    assert found.secret() == "first"
    file.write_bytes(b"\xef\xbb\xbfsecond\r\n")  # as Windows writes it
    assert found.secret() == "second"
    file.write_text(" \n")
    with pytest.raises(Misconfigured, match="is empty"):
        found.secret()
    file.unlink()
    with pytest.raises(Misconfigured, match="password file"):
        found.secret()


def test_two_passwords_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="one of them only"):
        locate("redis://:x@h", tmp_path / "password")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:6379", "begins with none of"),
        ("http://h", r"begins with none of .*\(http\)"),
        ("redis://h:notaport", "cannot be read"),
        ("redis://h:99999", "cannot be read"),
        ("redis://h?port=70000", "cannot be read"),
        ("redis://h/zero", "no database number"),
        ("redis://h?db=x", "cannot be read"),
        ("redis://h?retries=3", "an option that does not exist here: retries"),
        ("redis://h?ssl_ca_certs=/x", "an option that does not exist here: ssl_ca_certs"),
        ("unix://", "names no socket"),
        ("redis+sentinel://h", "name of the master"),
        ("redis+sentinel://h/main/x", "name of the master"),
        ("redis+sentinel://h,:5/main", "a host that cannot be read"),
        ("redis://h..example.com", "a host that can be no name"),
        (f"redis+sentinel://h,{'x' * 64}.example.com/main", "a host that can be no name"),
        ("redis+sentinel://h/main?x=1", "an option that does not exist here: x"),
        ("redis+sentinel://h/main?sentinel_ssl=perhaps", "sentinel_ssl is true or false"),
        ("redis+sentinel://h/main?ssl_ca_certs=/x", "nobody speaks it"),
    ],
)
def test_a_wrong_url_is_one_clear_error_without_its_secret(url: str, words: str) -> None:
    with pytest.raises(Misconfigured, match=words) as caught:
        locate(url.replace("://", "://ann:s3cret@", 1) if "://h" in url else url)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *(f"redis://ann:s3cret{sign}x@h:6379/0" for sign in "/?#["),
        *(f"redis://ann:1{sign}s3cret@h:6379/0" for sign in "/#"),
        *(f"redis+sentinel://ann:1{sign}s3cret@h:6379/main" for sign in "/#"),
        "redis://::1:6379",
    ],
)
def test_a_password_that_tears_the_url_is_told_how_to_be_written(url: str) -> None:
    with pytest.raises(Misconfigured, match="%40 %2F %3F %23") as caught:
        locate(url)
    assert "s3cret" not in str(caught.value)


def test_tls_files_that_are_not_there_are_named_as_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="TLS files"):
        locate(f"rediss://h?ssl_ca_certs={tmp_path}/none").tls_context()
