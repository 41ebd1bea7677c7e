"""Proxies that give up idle connections, stand still or die: what the figures say, and what keeps people on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.deploy.proxies import NGINX, environment, listens, program
from tests.servers.children import ends_with_the_tests
from tests.servers.exporter import Client, Exporter, Figures, running
from tests.servers.ports import free_port

PROXIES = [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("nginx", "haproxy")]
IDLE = 2
"""Seconds after which these proxies give up a connection that says nothing."""
SITE = """server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://{upstream};
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
        proxy_read_timeout {idle}s;
        proxy_send_timeout {idle}s;
    }}
}}
"""
HAPROXY = """global
    fd-hard-limit 1000
defaults
    mode http
    timeout connect 5s
    timeout client {idle}s
    timeout server {idle}s
    timeout tunnel {idle}s
listen all
    bind 127.0.0.1:{port}
    server one {upstream}
"""


@asynccontextmanager
async def impatient(name: str, folder: Path, server: Exporter) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The proxy with short time-outs before a server: its URL, and itself."""
    folder.mkdir()  # noqa: ASYNC240  # a moment, and nobody else waits
    port, upstream = free_port(), server.url.removeprefix("http://")
    file = folder / "configuration"
    file.write_text((SITE if name == "nginx" else HAPROXY).format(port=port, upstream=upstream, idle=IDLE))
    words = ["-db", "-f", str(file)]
    if name == "nginx":
        # One process, so that one signal stops all of it.
        (folder / "nginx.conf").write_text("master_process off;\n" + NGINX.format(folder=folder, snippet=file))
        words = ["-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    process = await asyncio.create_subprocess_exec(
        program(name), *words, env=environment(folder), cwd=folder, preexec_fn=ends_with_the_tests(signal.SIGTERM)
    )

    try:
        await listens(process, port, name)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def closed(figures: Figures, reason: str) -> float:
    return figures[f'messaging_connections_closed_total{{reason="{reason}"}}']


def is_deserted(figures: Figures) -> bool:
    """Nobody is there, and the recount from the sockets agrees."""
    drift = [value for name, value in figures.items() if name.startswith("messaging_live_drift")]
    return figures["messaging_active_connections"] == 0 and len(drift) == 5 and not any(drift)


@pytest.mark.parametrize("name", PROXIES)
async def test_heartbeats_outlast_a_proxys_patience_and_a_proxy_that_stands_still_or_dies_leaves_no_ghosts(
    name: str, tmp_path: Path
) -> None:
    async with (
        running(tmp_path / "server", "--heartbeat.interval", "1s") as server,
        impatient(name, tmp_path / "proxy", server) as (url, process),
    ):
        people = [await Client.connect(url, server.token(f"user {n}")) for n in range(3)]
        sent = (await server.scrape())["messaging_sent_bytes_total"]
        # Six pings of two bytes for each: more than twice what the proxy has patience for.
        await server.scraped(lambda f: f["messaging_sent_bytes_total"] >= sent + 3 * 6 * 2, "heartbeats")
        for client in people:
            await client.barrier()
        process.send_signal(signal.SIGSTOP)
        figures = await server.scraped(is_deserted, "who does not answer is cut")
        assert closed(figures, "heartbeat") == 3
        process.send_signal(signal.SIGCONT)
        for client in people:
            assert (await client.closed())[0] == 1006

        people = [await Client.connect(url, server.token(f"user {n}")) for n in range(3)]
        process.kill()
        figures = await server.scraped(is_deserted, "the kernel tells of the dead")
        assert closed(figures, "client") + closed(figures, "heartbeat") == 6


@pytest.mark.parametrize("name", PROXIES)
async def test_a_proxy_that_gives_up_before_the_first_heartbeat_is_the_clients_end(name: str, tmp_path: Path) -> None:
    async with running(tmp_path / "server") as server, impatient(name, tmp_path / "proxy", server) as (url, _):
        client = await Client.connect(url, server.token("ann"))
        assert (await client.closed())[0] == 1006
        figures = await server.scraped(is_deserted, "nobody is there")
        assert closed(figures, "client") == 1
