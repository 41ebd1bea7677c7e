"""The host of docs/embed.md under the servers that its users start it with, as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import socketio

from tests.embed.hosts import blocks, reset
from tests.servers.children import ends_with_the_tests
from tests.servers.exporter import Figures, figures_of, until
from tests.servers.ports import free_port

ROOT = Path(__file__).parents[2]
LIVE = ("messaging_active_connections", "messaging_participants", "messaging_typing_users")
DJANGO = """
from django.conf import settings
settings.configure(
    ROOT_URLCONF=__name__, SECRET_KEY="x" * 50, ALLOWED_HOSTS=["*"], DEBUG=False,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
urlpatterns = []
"""
FAILS = """
class Failing(Chat):
    async def receive_json(self, frame):
        if frame["type"] == "fail":
            raise KeyError("a defect of the host")
        await super().receive_json(frame)
application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path("ws/<str:user>", Failing.as_asgi())])}
)
"""
SERVERS = {
    "uvicorn": ("uvicorn", "host:app", "--port", "{port}"),
    "hypercorn": ("hypercorn", "host:app", "--bind", "127.0.0.1:{port}"),
    "daphne": ("daphne", "--port", "{port}", "host:app"),
    "gunicorn": ("gunicorn", "host:app", "-k", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:{port}"),
}


@contextlib.asynccontextmanager
async def serving(folder: Path, *command: str) -> AsyncIterator[str]:
    """A command of this environment with ``host.py`` on its path; its address, when something listens there."""
    port = free_port()
    program, *words = (word.format(port=port) for word in command)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / program),
            *words,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=ends_with_the_tests(signal.SIGTERM),
        )

    async def listens() -> bool:
        assert process.returncode is None, (folder / "log").read_text()
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await until(listens, f"{program} listens")
        yield f"http://127.0.0.1:{port}"
    except BaseException as fault:
        fault.add_note((folder / "log").read_text())
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def scrape(http: aiohttp.ClientSession, url: str) -> Figures:
    async with http.get(url) as response:
        assert response.status == 200, await response.text()
        return figures_of(await response.text())


async def counts(url: str, *, end: str = "reset") -> None:
    """Somebody comes, joins, types and is gone; each is in the figures."""
    async with aiohttp.ClientSession() as http:
        websocket = await http.ws_connect(f"{url}/ws/ann")
        for kind in ("join", "typing"):
            await websocket.send_json({"type": kind, "room": "one"})

        async def shows(value: float) -> bool:
            figures = await scrape(http, f"{url}/messaging/metrics")
            return [figures[name] for name in LIVE] == [value] * 3

        await until(lambda: shows(1), "one of each")
        if end == "reset":
            reset(websocket)
        else:
            await websocket.send_json({"type": end})
        await until(lambda: shows(0), "nobody is left")
        async with http.get(f"{url}/messaging/admin") as response:
            assert response.status == 403


@pytest.mark.parametrize("server", ["hypercorn", "daphne", "gunicorn"])
async def test_the_figures_are_right_under_every_server(server: str, tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(blocks("True gauges in your own server")[0])
    async with serving(tmp_path, *SERVERS[server]) as url:
        await counts(url)


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "gunicorn"])
async def test_one_workers_figures_are_never_silently_the_servers(server: str, tmp_path: Path) -> None:
    """Two workers behind one port: the route that can only know one of them says so and what to do."""
    (tmp_path / "host.py").write_text(
        textwrap.dedent("""
        from fastapi import FastAPI
        from exporter import Live
        live = Live()
        app = FastAPI()
        app.mount("/messaging", live.asgi(admin=lambda scope: True))
        """)
    )
    async with serving(tmp_path, *SERVERS[server], "--workers", "2") as url, aiohttp.ClientSession() as http:

        async def refused() -> bool:
            with contextlib.suppress(aiohttp.ClientConnectionError, TimeoutError):  # not there yet
                async with http.get(f"{url}/messaging/metrics", timeout=aiohttp.ClientTimeout(5)) as response:
                    document = await response.text()
                    return response.status == 503 and "one of several workers" in json.loads(document)["detail"]
            return False

        await until(refused, "both workers are there, and one of them says what it is")
        async with http.get(f"{url}/messaging/v1/messaging/stats") as response:
            assert response.status == 503


@pytest.mark.parametrize(("end", "reason"), [("reset", "client"), ("fail", "internal_error")])
async def test_the_documents_django_with_channels(end: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(DJANGO + blocks("What you get")[0] + FAILS)
    async with serving(tmp_path, "daphne", "--port", "{port}", "host:application") as url:
        await counts(url, end=end)
        async with aiohttp.ClientSession() as http:
            figures = await scrape(http, f"{url}/messaging/metrics")
        assert figures[f'messaging_connections_closed_total{{reason="{reason}"}}'] == 1


async def test_the_documents_flask_socketio(tmp_path: Path) -> None:
    start = "import sys\nsocketio.run(app, port=int(sys.argv[1]), allow_unsafe_werkzeug=True)\n"
    (tmp_path / "host.py").write_text(blocks("What you get")[1] + start)
    async with serving(tmp_path, "python", "host.py", "{port}") as url, aiohttp.ClientSession() as http:
        clients = [socketio.AsyncClient() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.connect(url, auth={"user": f"user{number % 2}"})
            await client.emit("join", "room")

        async def shows(connections: float, participants: float) -> bool:
            figures = await scrape(http, f"{url}/metrics")
            return [figures[name] for name in LIVE[:2]] == [connections, participants]

        await until(lambda: shows(3, 2), "three connections of two users")
        for client in clients:
            await client.disconnect()
        await until(lambda: shows(0, 0), "nobody is left")


async def test_who_goes_while_flask_socketio_still_connects_them_is_not_left_behind(tmp_path: Path) -> None:
    start = "import sys\nsocketio.run(app, port=int(sys.argv[1]), allow_unsafe_werkzeug=True)\n"
    (tmp_path / "host.py").write_text(blocks("What you get")[1] + start)
    async with serving(tmp_path, "python", "host.py", "{port}") as url, aiohttp.ClientSession() as http:

        async def come_and_go(number: int) -> None:
            """Engine.IO's polling: the second packet is sent while the first is worked on."""
            async with http.get(f"{url}/socket.io/?EIO=4&transport=polling") as response:
                sid = json.loads((await response.text())[1:])["sid"]
            packets = (f'40{{"user":"user{number}"}}', "1")
            posts = [http.post(f"{url}/socket.io/?EIO=4&transport=polling&sid={sid}", data=one) for one in packets]
            for answer in await asyncio.gather(*posts):
                answer.release()

        await asyncio.gather(*(come_and_go(number) for number in range(20)))

        async def all_have_gone() -> bool:
            figures = await scrape(http, f"{url}/metrics")
            return figures["messaging_active_connections"] == 0 and figures["messaging_connections_opened_total"] > 0

        await until(all_have_gone, "nobody is left")
