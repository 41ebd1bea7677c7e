"""What stands around a server stands around several workers: systemd's sockets, its notices, TLS."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import tempfile
from pathlib import Path

import aiohttp
import pytest

from tests.servers.certificates import CertificateAuthority
from tests.servers.exporter import PATIENCE
from tests.servers.postgres import Postgres
from tests.servers.workers import Workers
from tests.web.test_systemd import ACTIVATED

pytestmark = [pytest.mark.needs("postgres", "valkey")]


async def test_systemds_unix_socket_its_notices_and_tls(postgres: Postgres, tmp_path: Path) -> None:
    issued = CertificateAuthority()
    certificate, key = issued.issue("server", ("127.0.0.1", "localhost"))
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n")
    trusting = ssl.create_default_context(cadata=issued.cert.decode())
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as short,
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
    ):
        listening.bind(f"{short}/public")
        listening.listen()
        notices.bind(f"{short}/notices")
        notices.setblocking(False)
        words = ("bash", "-c", ACTIVATED, "bash", str(listening.fileno()), sys.executable, "-m", "exporter")
        server = Workers(
            tmp_path,
            postgres.url(postgres.create_database()),
            "--web.systemd-socket",
            "--web.metrics-listen-address=127.0.0.1:0",
            f"--web.config.file={tmp_path}/web.yml",
            program=words,
            inherit=(listening.fileno(),),
            environment={"NOTIFY_SOCKET": f"{short}/notices"},
        )
        try:
            await server.start(ready=False)
            assert server.url == f"unix:{short}/public"
            async with asyncio.timeout(PATIENCE):
                told = (await asyncio.get_running_loop().sock_recv(notices, 65_536)).decode().splitlines()
            assert told[0] == "READY=1"
            where = json.loads(told[2].removeprefix("X_MESSAGING_URLS="))
            assert where["metrics_urls"] == [worker.url for worker in server.workers]
            assert [url.partition("://")[0] for url in where["metrics_urls"]] == ["https", "https"]
            reader, writer = await asyncio.open_unix_connection(
                f"{short}/public", ssl=trusting, server_hostname="localhost"
            )
            writer.write(b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).split()[1] == b"200"
            writer.close()
            async with aiohttp.ClientSession() as http:
                for url in where["metrics_urls"]:
                    async with http.get(f"{url}/metrics", ssl=trusting) as response:
                        assert "messaging_worker_restarts_total 0.0" in await response.text()
            assert await server.stop() == 0
            assert notices.recv(65_536).decode().startswith("STOPPING=1")
            with pytest.raises(BlockingIOError):
                notices.recv(65_536)  # the workers say nothing to systemd
        finally:
            await server.kill()
