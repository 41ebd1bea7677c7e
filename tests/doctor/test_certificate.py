"""``doctor`` reads the dates of the certificate that the server shows, and says why one is refused."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from exporter.doctor import Outcome
from exporter.doctor.certificate import finding
from exporter.web.toolkit.tls import TlsSettings, build
from tests.doctor.test_doctor import doctor
from tests.servers.certificates import CertificateAuthority
from tests.test_cli import one_line, run

HOUR = 3600
TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"


@pytest.mark.parametrize(
    ("hours", "outcome", "told"),
    [
        (-25, Outcome.FAILED, "is not good before"),
        (0, Outcome.OK, "is good until"),
        (12, Outcome.WARNING, "expires on"),  # of 48 hours, which is short-lived
        (25, Outcome.FAILED, "has expired on"),
    ],
)
def test_a_certificate_is_told_by_its_dates(hours: float, outcome: Outcome, told: str) -> None:
    cert, key = CertificateAuthority().issue("server")
    settings = TlsSettings(cert="friendlyName: Köln\n" + cert.decode(), key=key.decode())
    found = finding(settings, time.time() + hours * HOUR)
    assert (found.outcome, told in found.text) == (outcome, True), found


def test_a_certificate_for_clients_is_a_warning() -> None:
    cert, key = CertificateAuthority().issue("ann", client=True)
    found = finding(TlsSettings(cert=cert.decode(), key=key.decode()), time.time())
    assert (found.outcome, "purpose" in found.text) == (Outcome.WARNING, True), found


def test_a_key_that_no_client_asks_for_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = CertificateAuthority()
    monkeypatch.setattr(ec, "SECP256R1", ec.SECP256K1)
    cert, key = authority.issue("server")
    found = finding(TlsSettings(cert=cert.decode(), key=key.decode()), time.time())
    assert (found.outcome, "no shared cipher" in found.text) == (Outcome.WARNING, True), found


def test_its_dates_are_read_where_the_machine_allows_no_more_than_tls_1_2(tmp_path: Path) -> None:
    CertificateAuthority().write(tmp_path)
    (tmp_path / "web.yml").write_text(TLS)
    sections = (
        "openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = most\n[most]\nMaxProtocol = TLSv1.2\n"
    )
    (tmp_path / "openssl.cnf").write_text(sections)
    _, found, said = doctor(tmp_path, "--web.config.file", "web.yml", environment={"OPENSSL_CONF": "openssl.cnf"})
    assert found.get("certificate", ("none",))[0] == "ok", said


async def test_one_that_has_expired_fails_and_whoever_asks_the_server_is_told_so(tmp_path: Path) -> None:
    """Also where clients need a certificate of their own."""
    CertificateAuthority().write(tmp_path, expired=True)
    (tmp_path / "web.yml").write_text(TLS)
    clients = "server.key, client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}"
    (tmp_path / "clients.yml").write_text(TLS.replace("server.key}", clients))
    for file in ("web.yml", "clients.yml"):
        code, found, said = await asyncio.to_thread(doctor, tmp_path, "--web.config.file", file)
        assert (code, found["web config"][0], found["certificate"][0]) == (1, "ok", "failed"), said
        assert found["certificate"][1].startswith("server.crt has expired on ")
    (tmp_path / "token").write_text("any")
    context = build(TlsSettings(cert_file=tmp_path / "server.crt", key_file=tmp_path / "server.key"))
    async with await asyncio.start_server(_hang_up, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        trust = {"SSL_CERT_FILE": str(tmp_path / "ca.crt")}
        words = ("--url", url, "--token-file", "token")
        _, found, _ = await asyncio.to_thread(doctor, tmp_path, *words, environment=trust)
        (tmp_path / "secret").write_text("0123456789abcdef" * 4)
        (tmp_path / "secret").chmod(0o600)
        words = ("--url", url.replace("https", "wss"), "--ca-file", "ca.crt", "--auth.secret-file", "secret")
        simulated = await asyncio.to_thread(run, "simulate", *words, cwd=tmp_path)
    assert "not trusted here: certificate has expired" in one_line(simulated.stderr)
    assert "not trusted on this machine: certificate has expired" in found["proxy"][1]


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
