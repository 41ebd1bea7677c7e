"""``python -m tests.observe.make_data.harmless``: what a reader costs a running ejabberd or Prosody on SQLite.

151 messages are 302 rows. They are sent ten a second while nobody reads, while ``observe`` is scraped every second, and
while an ordinary reader holds a transaction for 20 ms of every 70.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp

from tests.observe.chatting import MESSAGES, ROWS, ordinary_reader, rows, two_people, write
from tests.observe.make_data.install import install
from tests.servers.exporter import figures_of
from tests.servers.ports import free_port
from tests.servers.xmpp_servers import Ejabberd, Prosody

RATE = 10
"""Messages a second."""

Server = Ejabberd | Prosody
Reader = Callable[[Server], AbstractAsyncContextManager[list[str]]]


@asynccontextmanager
async def nobody(server: Server) -> AsyncIterator[list[str]]:
    yield []


@asynccontextmanager
async def observe(server: Server) -> AsyncIterator[list[str]]:
    """The exporter as a process of its own, scraped every second, and once more at the end."""
    url = f"http://127.0.0.1:{free_port()}"
    said: list[str] = []
    with tempfile.TemporaryDirectory() as data:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "exporter", "observe", "--source.url", f"sqlite:///{server.file}",
            "--source.kind", server.name, "--data.dir", data, "--web.listen-address", url.removeprefix("http://"),
            *(["--source.host", "example.org"] if server.name == "ejabberd" else []), "--log.level", "error",
        )  # fmt: skip
        seen: list[float | None] = []

        async def scrape(session: aiohttp.ClientSession) -> None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/metrics") as answer:
                    found = figures_of(await answer.text())
                seen.append(next((v for n, v in found.items() if n.startswith("messaging_stored_messages")), None))

        async def watch(session: aiohttp.ClientSession) -> None:
            while True:
                await scrape(session)
                await asyncio.sleep(1)

        async with aiohttp.ClientSession() as session:
            watching = asyncio.create_task(watch(session))
            try:
                yield said
                async with asyncio.timeout(60):
                    while not seen or seen[-1] != MESSAGES:  # noqa: ASYNC110 - the exporter is asked by watch()
                        await asyncio.sleep(0.2)
            finally:
                watching.cancel()
                process.terminate()
                await process.wait()
    known = [value for value in seen if value is not None]
    said.append(f"{len(seen)} scrapes, {len(known)} with figures, the last {known[-1]:.0f} messages")


@asynccontextmanager
async def ordinary(server: Server) -> AsyncIterator[list[str]]:
    """``mode=ro``, a transaction of 20 ms, 50 ms of rest."""

    async def watch() -> None:
        while True:
            with ordinary_reader(server):
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield []
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def run(make: Callable[[], Server], reader: Reader) -> str:
    """One server, one reader: how many rows there are in the end, and what the server said of it."""
    server = make()
    try:
        server.start()
        async with two_people(server) as (ann, bob):
            await write(ann, bob, range(1))
            async with reader(server) as said:
                for number in range(1, MESSAGES):
                    await write(ann, bob, range(number, number + 1))
                    await asyncio.sleep(1 / RATE)
        server.stop()
        complaints = sum(
            "commit" in line or "locked" in line or "busy" in line for line in server.output().splitlines()
        )
        what = "; ".join([f"{rows(server)} of {ROWS} rows", f"{complaints} complaints in the server's log", *said])
        return f"{server.name}, {reader.__name__}: {what}"
    finally:
        server.close()


async def main() -> None:
    for make in (Ejabberd, Prosody):
        install(make.name)
        for reader in (nobody, observe, ordinary):
            print(await run(make, reader), flush=True)


if __name__ == "__main__":
    assert Path("exporter").is_dir(), "run it in the root of the repository"
    asyncio.run(main())
