"""Real nginx, HAProxy and Caddy with the configurations of deploy/, in front of two nodes.

Only addresses differ from what is in the files: free ports in the place of 8080, 8765 and 8766.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.servers.children import ends_with_the_tests
from tests.servers.exporter import ROOT, until
from tests.servers.ports import free_port

DEPLOY = ROOT / "deploy"
CONFIGURATIONS = {
    "nginx": DEPLOY / "nginx" / "messaging.conf",
    "haproxy": DEPLOY / "haproxy" / "haproxy.cfg",
    "caddy": DEPLOY / "caddy" / "Caddyfile",
}
# What a distribution's nginx.conf has around conf.d; here in a folder of its own and in the foreground.
NGINX = """daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {snippet};
}}
"""


def program(name: str) -> str:
    """Where it is; Debian keeps servers in a folder that is not on everybody's path."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    assert found is not None
    return found


def command(name: str, configuration: Path, folder: Path, *, check: bool = False) -> list[str]:
    """How the proxy is started with this file, or how it checks it."""
    if name == "nginx":
        main = folder / "nginx.conf"
        main.write_text(NGINX.format(folder=folder, snippet=configuration))
        return [program(name), "-p", str(folder), "-e", "stderr", "-c", str(main), *(["-t"] if check else [])]
    if name == "haproxy":
        return [program(name), *(["-c"] if check else ["-db"]), "-f", str(configuration)]
    return [program(name), "validate" if check else "run", "--adapter", "caddyfile", "--config", str(configuration)]


def environment(folder: Path) -> dict[str, str]:
    """Caddy keeps what it has learned below these folders."""
    return {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}


def configured(name: str, folder: Path, port: int, nodes: list[str]) -> Path:
    """The file of deploy/ with these ports, in a folder."""
    folder.mkdir(parents=True)
    text = CONFIGURATIONS[name].read_text()
    for written, here in zip(("127.0.0.1:8765", "127.0.0.1:8766"), nodes, strict=True):
        assert text.count(written) == 1, (name, written)
        text = text.replace(written, here)
    listen = {"nginx": ("listen 8080", "listen 127.0.0.1:{}"), "haproxy": ("bind :8080", "bind 127.0.0.1:{}")}
    written, wanted = listen.get(name, (":8080 {", "http://127.0.0.1:{} {{"))
    assert text.count(written) == 1, name
    text = text.replace(written, wanted.format(port))
    if name == "caddy":
        text = "{\n\tadmin off\n}\n" + text  # its port is everybody's
    copy = folder / CONFIGURATIONS[name].name
    copy.write_text(text)
    return copy


async def listens(process: asyncio.subprocess.Process, port: int, name: str, log: Path | None = None) -> None:
    """The proxy takes connections; an AssertionError with what it logged when it has ended instead."""

    async def listening() -> bool:
        assert process.returncode is None, log.read_text() if log else name  # noqa: ASYNC240 - the test ends with it
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(listening, f"{name} listens")


@asynccontextmanager
async def running_proxy(words: list[str], folder: Path, port: int, name: str) -> AsyncIterator[None]:
    """The proxy that this command starts, from when it listens on to the end of the block."""
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *words,
            env=environment(folder),
            stdout=output,
            stderr=output,
            cwd=folder,
            preexec_fn=ends_with_the_tests(signal.SIGTERM),
        )
    try:
        await listens(process, port, name, log)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def proxy(name: str, folder: Path, nodes: list[str]) -> AsyncIterator[str]:
    """The proxy in front of these two addresses for the length of a block: its URL."""
    port = free_port()
    words = command(name, configured(name, folder, port, nodes), folder)
    async with running_proxy(words, folder, port, name):
        yield f"http://127.0.0.1:{port}"
