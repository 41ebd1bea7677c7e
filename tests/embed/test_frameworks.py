"""Embedded in real frameworks on real sockets: after any sequence every figure is the model's, in the next scrape."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastapi import FastAPI, HTTPException, Response, WebSocket
from multidict import CIMultiDict
from prometheus_client import REGISTRY, CollectorRegistry, make_asgi_app
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.websockets import WebSocketDisconnect, WebSocketState
from starlette_exporter import PrometheusMiddleware, handle_metrics

from exporter import Connection, Live, LiveMiddleware, LockedLive, live_connection
from exporter.embed.aiohttp_app import CONNECTION, watch
from tests.embed.hosts import HOSTS, Churn, on_aiohttp, on_uvicorn, reset
from tests.servers.exporter import Figures, figures_of, until

LIVE = tuple(name for name in Churn(None, "", 0).model.figures())
ROOT = Path(__file__).parents[2]


async def scrape(http: aiohttp.ClientSession, url: str) -> Figures:
    async with http.get(f"{url}/messaging/metrics") as response:
        assert response.status == 200, await response.text()
        return figures_of(await response.text())


def sum_of(figures: Figures, name: str) -> float:
    return sum(value for series, value in figures.items() if series.partition("{")[0] == name)


@pytest.mark.parametrize("host", HOSTS)
async def test_after_thousands_of_operations_every_gauge_is_the_models(host: str) -> None:
    application, serve = HOSTS[host]
    sockets: set[Any] = set()
    live = Live(typing_timeout=3_600.0, open_sockets=lambda: sockets, workers=1)
    async with serve(application(live, sockets)) as url, aiohttp.ClientSession() as http:
        churn = Churn(http, url, seed=20)
        for _ in range(30):
            for _ in range(80):
                await churn.step()
            expected = churn.model.figures()

            async def agrees(expected: dict[str, float] = expected) -> bool:
                figures = await scrape(http, url)
                assert {v for name, v in figures.items() if name.startswith("messaging_live_drift")} == {0}
                return {name: figures[name] for name in LIVE} == expected

            await until(agrees, "the ends of those who were reset have arrived")
        await churn.end()

        async def empty() -> bool:
            return {(await scrape(http, url))[name] for name in LIVE} == {0}

        await until(empty, "everybody has gone")
        figures = await scrape(http, url)
        assert (
            sum_of(figures, "messaging_connections_closed_total") == figures["messaging_connections_opened_total"] > 200
        )
        assert figures["messaging_joins_total"] == sum_of(figures, "messaging_leaves_total") > 200
        assert sum_of(figures, "messaging_connections_rejected_total") == churn.rejected > 0
        assert churn.operations == 2_400


async def test_the_middleware_knows_connections_by_itself() -> None:
    live = Live(workers=1)
    inner = FastAPI()

    @inner.websocket("/ws")
    async def chat(websocket: WebSocket) -> None:
        if websocket.query_params.get("refuse"):
            await websocket.close()
            return
        await websocket.accept()
        connection = live_connection.get()
        assert connection is not None
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                match text := await websocket.receive_text():
                    case "fail":
                        raise RuntimeError("a defect of the host")
                    case "bye":
                        await websocket.close(1001)
                        return
                    case _:
                        connection.identify(text)
                        connection.join("room")
                        await websocket.send_text("ok")

    inner.mount("/messaging", live.asgi())
    inner.add_middleware(LiveMiddleware, live=live)
    async with on_uvicorn(inner) as url, aiohttp.ClientSession() as http:
        first = await http.ws_connect(f"{url}/ws")

        async def counted() -> bool:
            return (await scrape(http, url))["messaging_active_connections"] == 1

        await until(counted, "it is counted")
        figures = await scrape(http, url)
        assert "messaging_connected_users" not in figures  # nobody has said who it is
        assert "messaging_participants" not in figures
        await first.send_str("ann")
        assert await first.receive_str() == "ok"
        figures = await scrape(http, url)
        assert [figures[name] for name in LIVE[:4]] == [1, 1, 1, 1]
        second, third = await http.ws_connect(f"{url}/ws"), await http.ws_connect(f"{url}/ws")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(f"{url}/ws?refuse=1")
        reset(first)
        await second.send_str("fail")
        await third.send_str("bye")

        async def gone() -> bool:
            return (await scrape(http, url))["messaging_active_connections"] == 0

        await until(gone, "all have ended")
        figures = await scrape(http, url)
        assert {
            name: value for name, value in figures.items() if name.startswith("messaging_connections_closed") and value
        } == {
            'messaging_connections_closed_total{reason="client"}': 1,
            'messaging_connections_closed_total{reason="internal_error"}': 1,
            'messaging_connections_closed_total{reason="shutdown"}': 1,
        }
        assert sum_of(figures, "messaging_connections_rejected_total") == 1
        assert figures["messaging_connection_duration_seconds_count"] == 3


@pytest.mark.parametrize(
    ("messages", "opened", "rejected"),
    [
        (["websocket.accept"], 0, 0),
        (["websocket.http.response.start", "websocket.close"], 0, 1),
    ],
    ids=["its client goes during the handshake", "refused with a document"],
)
async def test_a_handshake_that_comes_to_nothing_is_no_connection_and_refused_at_most_once(
    messages: list[str], opened: int, rejected: int
) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send({"type": message, "status": 403})

    async def nobody(message: Any = None) -> Any:
        raise OSError("the client has gone")

    async def somebody(message: Any) -> None:
        """It is sent."""

    live = Live(workers=1)
    watched = LiveMiddleware(handler, live=live)
    with contextlib.suppress(OSError):
        await watched({"type": "websocket"}, nobody, somebody if rejected else nobody)
    assert live.metrics.connections_opened.value == opened
    assert sum(cell.value for cell in live.metrics.connections_rejected.cells.values()) == rejected


async def test_a_close_before_the_accept_is_a_handshake_that_was_refused() -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    live = Live(workers=1)
    await LiveMiddleware(handler, live=live)({"type": "websocket"}, _never, _sent)
    refused = {str(reason): cell.value for reason, cell in live.metrics.connections_rejected.cells.items()}
    assert {reason: value for reason, value in refused.items() if value} == {"handshake": 1}


async def _never() -> Any:
    raise AssertionError("nobody asks")


async def _sent(message: Any) -> None:
    """To nobody."""


@pytest.mark.parametrize("end", ["returns", "closes", "fails"])
async def test_a_handler_under_the_middleware_says_why_it_ends(end: str) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        connection = live_connection.get()
        assert connection is not None
        connection.reason = "slow_consumer"
        if end == "closes":
            await send({"type": "websocket.close", "code": 1011})
        elif end == "fails":
            raise ZeroDivisionError

    live = Live(workers=1)
    with contextlib.suppress(ZeroDivisionError):
        await LiveMiddleware(handler, live=live)({"type": "websocket"}, _never, _sent)
    closed = {str(reason): cell.value for reason, cell in live.metrics.connections_closed.cells.items()}
    assert {reason: value for reason, value in closed.items() if value} == {"slow_consumer": 1}


async def test_an_end_is_counted_when_the_handler_is_told_however_long_it_goes_on() -> None:
    counted: list[int] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        counted.append(live.stats().active_connections)
        await receive()
        counted.append(live.stats().active_connections)

    async def goes() -> Any:
        return {"type": "websocket.disconnect", "code": 1006}

    live = Live(workers=1)
    await LiveMiddleware(handler, live=live)({"type": "websocket"}, goes, _sent)
    assert counted == [1, 0]


async def test_aiohttps_websockets_are_watched_without_a_change_of_their_handlers() -> None:
    live = Live(workers=1)
    app = web.Application()
    watch(app, live, user=lambda request: request.query.get("user"))

    async def chat(request: web.Request) -> web.WebSocketResponse:
        if request.query.get("refuse"):
            raise web.HTTPTooManyRequests
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        async for message in websocket:
            if message.data in ("fails", "ends"):
                request[CONNECTION].reason = "slow_consumer"
                if message.data == "fails":
                    raise RuntimeError("a defect of the host")
                break
            request[CONNECTION].join(message.data)
            await websocket.send_str("ok")
        return websocket

    app.router.add_get("/ws", chat)
    app.add_subapp("/messaging/", live.aiohttp())
    async with on_aiohttp(app) as url, aiohttp.ClientSession() as http:
        for why in ("fails", "ends"):
            async with http.ws_connect(f"{url}/ws") as websocket:
                await websocket.send_str(why)
                await websocket.receive()
        websocket = await http.ws_connect(f"{url}/ws?user=ann")
        await websocket.send_str("room")
        assert await websocket.receive_str() == "ok"
        figures = await scrape(http, url)
        assert [figures[name] for name in LIVE[:4]] == [1, 1, 1, 1]
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(f"{url}/ws?refuse=1")
        reset(websocket)

        async def gone() -> bool:
            return (await scrape(http, url))["messaging_active_connections"] == 0

        await until(gone, "it has ended")
        figures = await scrape(http, url)
        assert figures['messaging_connections_rejected_total{reason="user_limit"}'] == 1
        assert figures['messaging_connections_closed_total{reason="slow_consumer"}'] == 2


@pytest.mark.parametrize(("cancels", "reason"), [(True, "client"), (False, "shutdown")])
async def test_a_host_says_why_its_server_cancels_handlers(cancels: bool, reason: str) -> None:
    live, watched = (Live(workers=1, cancels_on_disconnect=cancels) for _ in range(2))
    app = web.Application()
    watch(app, watched)

    async def chat(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        with live.open("ann"):
            await asyncio.Event().wait()
        return websocket

    app.router.add_get("/ws", chat)
    app.add_subapp("/messaging/", live.aiohttp())
    app.add_subapp("/watched/messaging/", watched.aiohttp())
    async with on_aiohttp(app, handler_cancellation=True) as url, aiohttp.ClientSession() as http:
        reset(await http.ws_connect(f"{url}/ws"))
        for each in (url, f"{url}/watched"):

            async def ended(each: str = each) -> bool:
                figures = await scrape(http, each)
                return figures[f'messaging_connections_closed_total{{reason="{reason}"}}'] == 1

            await until(ended, "it has ended, for this reason")


async def test_what_is_no_handshake_or_comes_to_nothing_under_aiohttp_is_no_connection() -> None:
    live, lost, ended = Live(workers=1), asyncio.Event(), asyncio.Event()
    app = web.Application()
    watch(app, live)

    async def chat(request: web.Request) -> web.StreamResponse:
        if request.query.get("refuse"):
            return web.Response(status=401)
        try:
            lost.set()
            if request.query.get("cut"):  # by the host, which is not told yet
                assert request.transport is not None
                request.transport.abort()
            else:

                async def has_gone() -> bool:
                    return request.transport is None

                await until(has_gone, "the client has gone")
            await web.WebSocketResponse().prepare(request)
        finally:
            ended.set()
        raise AssertionError("it is prepared for nobody")

    app.router.add_get("/ws", chat)
    async with on_aiohttp(app) as url, aiohttp.ClientSession() as http:
        for upgrade in ("WebSocket", "h2c"):
            headers = {"Connection": "Upgrade", "Upgrade": upgrade}
            for path, status in (("ws?refuse=1", 401), ("nothing", 404)):
                async with http.get(f"{url}/{path}", headers=headers) as response:
                    assert response.status == status
        refused = {str(reason): cell.value for reason, cell in live.metrics.connections_rejected.cells.items()}
        assert {reason: value for reason, value in refused.items() if value} == {"unauthenticated": 1, "handshake": 1}
        for query in ("", "?cut=1"):
            lost.clear()
            ended.clear()
            connecting = asyncio.create_task(http.ws_connect(f"{url}/ws{query}"))
            await lost.wait()
            connecting.cancel()
            await asyncio.wait((connecting,))
            await ended.wait()
    assert live.metrics.connections_opened.value == 0


async def test_whoever_watches_beside_others_counts_each_connection_once_and_forgets_none() -> None:
    first, second = Live(workers=1), Live(workers=1)
    app, inner = web.Application(), web.Application()
    for application, live in ((app, first), (app, second), (inner, first)):
        watch(application, live, user=lambda request: "ann")

    async def chat(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.send_json([live.stats().active_connections for live in (first, second)])
        await websocket.receive()
        return websocket

    inner.router.add_get("/ws", chat)
    app.add_subapp("/inner/", inner)
    async with on_aiohttp(app) as url, aiohttp.ClientSession() as http:
        websocket = await http.ws_connect(f"{url}/inner/ws")
        assert await websocket.receive_json() == [1, 1]
        await websocket.close()

        async def gone() -> bool:
            return [live.stats().active_connections for live in (first, second)] == [0, 0]

        await until(gone, "both have seen the end")
        assert first.metrics.connections_opened.value == second.metrics.connections_opened.value == 1


@pytest.mark.parametrize("host", HOSTS)
async def test_the_host_decides_who_sees_the_json_and_the_page_and_metrics_are_negotiated(host: str) -> None:
    application, serve = HOSTS[host]
    live = Live(workers=1)
    with live.open("ann") as connection:
        connection.join("room")
        async with serve(application(live, set())) as url, aiohttp.ClientSession() as http:
            for path in ("/v1/messaging/stats", "/v1/messaging/stats/history", "/admin"):
                async with http.get(f"{url}/messaging{path}") as response:
                    assert response.status == 403
                    assert response.content_type == "application/problem+json"
            admin = {"X-Admin": "yes"}
            async with http.get(f"{url}/messaging/v1/messaging/stats", headers=admin) as response:
                stats = await response.json()
                assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
                assert stats["active_connections"] == stats["total_participants"] == 1
            async with http.get(f"{url}/messaging/admin", headers=admin) as response:
                page = await response.text()
                assert '<messaging-stats src="v1/messaging/stats">' in page
            for file in ("messaging-stats.js", "admin.css", "icon.svg"):
                async with http.get(f"{url}/messaging/admin/static/{file}") as response:
                    assert response.status == 200
            async with http.get(f"{url}/messaging/admin/static/../admin.html") as response:
                assert response.status == 404
            async with http.get(
                f"{url}/messaging/metrics", headers={"Accept": "application/openmetrics-text"}
            ) as response:
                assert response.content_type == "application/openmetrics-text"
                assert (await response.text()).endswith("# EOF\n")
            twice = CIMultiDict([("Accept", "text/plain; q=0.5"), ("Accept", "application/openmetrics-text")])
            async with http.get(f"{url}/messaging/metrics", headers=twice) as response:
                assert response.content_type == "application/openmetrics-text"
            async with http.get(f"{url}/messaging/metrics?name[]=messaging_participants") as response:
                assert figures_of(await response.text()) == {"messaging_participants": 1}
            async with http.head(f"{url}/messaging/metrics") as response:
                assert response.status == 200
            async with http.post(f"{url}/messaging/metrics") as response:
                assert response.status == 405
            async with http.get(f"{url}/messaging/nothing") as response:
                assert response.status == 404
            async with http.get(f"{url}/messaging") as response:  # the page's addresses are relative
                assert (response.status, response.url.path) == (200, "/messaging/")
            async with http.get(f"{url}/messaging/admin/", headers=admin) as response:
                assert (response.status, response.url.path) == (200, "/messaging/admin")
            async with http.get(f"{url}/messaging/metrics/") as response:
                assert response.status == 200
            async with http.delete(f"{url}/messaging/metrics") as response:
                assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def _raising(error: BaseException) -> Any:
    def admin(_: Any) -> bool:
        raise error

    return admin


async def _redirecting(_: Any) -> bool:
    raise HTTPException(303, headers={"Location": "/sign-in"})


DECISIONS: dict[str, tuple[Any, int, str]] = {
    "a coroutine function says yes": (lambda _: asyncio.sleep(0, result=True), 200, ""),
    "1 of a database": (lambda _: 1, 200, ""),
    "0 of a database": (lambda _: 0, 403, ""),
    "nothing": (lambda _: None, 403, ""),
    "an HTTP exception of FastAPI": (_raising(HTTPException(401, "sign in first")), 401, ""),
    "an HTTP exception of aiohttp": (_raising(web.HTTPUnauthorized()), 401, ""),
    "a redirect": (_redirecting, 303, ""),
    "a permission error": (_raising(PermissionError()), 403, ""),
    "a defect": (_raising(KeyError("user")), 500, "the admin check failed"),
    "a response, which is true": (lambda _: Response(status_code=403), 500, "answered Response: True or False"),
    "a function that was not called": (lambda _: _raising, 500, "answered function: True or False"),
}


@pytest.mark.parametrize("host", HOSTS)
async def test_an_admin_check_in_doubt_opens_nothing(host: str, caplog: pytest.LogCaptureFixture) -> None:
    application, serve = HOSTS[host]
    asked: list[Any] = []

    def admin(subject: Any) -> Any:
        return asked[-1](subject)

    async with serve(application(Live(workers=1), set(), admin)) as url, aiohttp.ClientSession() as http:
        for name, (decision, status, logged) in DECISIONS.items():
            asked.append(decision)
            caplog.clear()
            for path in ("/v1/messaging/stats", "/admin"):
                async with http.get(f"{url}/messaging{path}", allow_redirects=False) as response:
                    assert response.status == status, name
                    body = await response.text()
                    assert status == 200 or "active_connections" not in body
                    assert "KeyError" not in body
                    assert (status == 303) is (response.headers.get("Location") == "/sign-in")
            ours = [record for record in caplog.records if record.name == "exporter.embed"]
            assert bool(ours) is bool(logged), name
            assert all(logged in record.getMessage() for record in ours)
            assert name != "a defect" or all(record.exc_info and record.exc_info[0] is KeyError for record in ours)
    with pytest.raises(TypeError, match=r"admin is a function .* not bool"):
        application(Live(workers=1), set(), True)


async def test_a_middleware_whose_user_function_fails_does_not_break_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = Live(workers=1)
    app = FastAPI()

    @app.websocket("/ws")
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.receive()

    app.mount("/messaging", live.asgi())
    app.add_middleware(LiveMiddleware, live=live, user=lambda scope: scope["nobody put this here"])
    async with on_uvicorn(app) as url, aiohttp.ClientSession() as http:
        websocket = await http.ws_connect(f"{url}/ws")
        assert await websocket.receive_str() == "hello"
        figures = await scrape(http, url)
        assert figures["messaging_active_connections"] == 1
        assert "messaging_connected_users" not in figures
        await websocket.close()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_a_middleware_learns_of_an_end_from_a_handler_that_only_writes(ws: str) -> None:
    live = Live(workers=1)
    app = FastAPI()
    seen: list[tuple[str, int]] = []
    ended = asyncio.Event()

    @app.websocket("/ws")
    async def ticker(websocket: WebSocket) -> None:
        await websocket.accept()
        while not seen:
            try:
                await websocket.send_text("tick")
                await asyncio.sleep(0.001)
            except Exception as error:  # as many a broadcast does
                seen.append((type(error).__name__, live.stats().active_connections))
        ended.set()
        await websocket.send_text("once more")

    app.add_middleware(LiveMiddleware, live=live, user=lambda scope: "ann")
    async with on_uvicorn(app, ws=ws) as url, aiohttp.ClientSession() as http:
        websocket = await http.ws_connect(f"{url}/ws")
        assert await websocket.receive_str() == "tick"
        await websocket.close()
        async with asyncio.timeout(30):
            await ended.wait()
    assert seen == [("WebSocketDisconnect", 0)]
    closed = {reason: cell.value for reason, cell in live.metrics.connections_closed.cells.items() if cell.value}
    assert closed == {"client": 1}


async def test_who_writes_to_a_socket_that_has_gone_has_made_no_internal_error() -> None:
    """The reader of a handler was told of the end, and the writer was not."""

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(_: Any) -> None:
        raise OSError

    websocket = WebSocket({"type": "websocket", "headers": []}, receive, send)
    websocket.client_state = websocket.application_state = WebSocketState.CONNECTED
    live = Live(workers=1)
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive_text()
    with pytest.raises(WebSocketDisconnect):
        await websocket.send_text("hello")
    with pytest.raises(RuntimeError) as gone, live.open("ann"):
        await websocket.send_text("hello")
    reason = "client" if type(gone.value) is not RuntimeError else "internal_error"  # Starlette before 1.0
    assert live.metrics.connections_closed.cells[reason].value == 1


def _prometheus_client(app: FastAPI, registry: CollectorRegistry) -> None:
    app.mount("/metrics", make_asgi_app(registry))


def _instrumentator(app: FastAPI, registry: CollectorRegistry) -> None:
    Instrumentator(registry=registry).instrument(app).expose(app)


def _starlette_exporter(app: FastAPI, registry: CollectorRegistry) -> None:
    assert registry is REGISTRY  # it knows no other
    app.add_middleware(PrometheusMiddleware)
    app.add_route("/metrics", handle_metrics)


EXPOSED = {
    "prometheus_client.make_asgi_app": (_prometheus_client, CollectorRegistry),
    "prometheus-fastapi-instrumentator": (_instrumentator, CollectorRegistry),
    "starlette-exporter": (_starlette_exporter, lambda: REGISTRY),
}


@pytest.mark.parametrize("package", EXPOSED)
async def test_the_hosts_own_registry_exposes_it_as_it_is(package: str) -> None:
    expose, make = EXPOSED[package]
    registry, sockets = make(), set[Any]()
    live = Live(open_sockets=lambda: sockets)
    collector = live.collector()
    registry.register(collector)
    try:
        app = FastAPI()
        expose(app, registry)

        @app.get("/")
        def page() -> str:
            return "theirs"

        async with on_uvicorn(app) as url, aiohttp.ClientSession() as http:
            connection = live.open("ann", handle="tab")
            sockets.add("tab")
            for participants in (1, 0):
                if participants:
                    connection.join("room")
                else:
                    connection.leave("room")
                async with http.get(url) as response:
                    assert response.status == 200
                async with http.get(f"{url}/metrics/", headers={"Accept": "text/plain"}) as response:
                    text = await response.text()
                figures = figures_of(text)
                assert [figures[name] for name in LIVE] == [1, 1, participants, participants, 0]
                assert {value for name, value in figures.items() if name.startswith("messaging_live_drift")} == {0}
            theirs = [name for name in figures if not name.startswith("messaging_")]
            assert package.startswith("prometheus_client") or any("request" in name for name in theirs)
            assert len(text.splitlines()) == len({line for line in text.splitlines() if line[:1] != "#"}) + sum(
                line.startswith("#") for line in text.splitlines()
            )  # no series twice
    finally:
        registry.unregister(collector)


async def test_litestar_and_django_mount_it() -> None:
    from litestar import Litestar
    from litestar.handlers import asgi as litestar_asgi

    live = Live(workers=1)
    litestar = Litestar([litestar_asgi("/messaging", is_mount=True, copy_scope=True)(live.asgi())])

    from django.conf import settings as django_settings

    if not django_settings.configured:
        django_settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x" * 50, ALLOWED_HOSTS=["*"], DEBUG=False)
    from django.core.asgi import get_asgi_application

    django = get_asgi_application()
    mounted = live.asgi()

    async def beside_django(scope: Any, receive: Any, send: Any) -> None:
        """As docs/embed.md shows it for Django."""
        if scope["type"] == "http" and f"{scope['path']}/".startswith("/messaging/"):
            await mounted({**scope, "root_path": "/messaging"}, receive, send)
        elif scope["type"] != "lifespan":
            await django(scope, receive, send)

    with live.open("ann"):
        for app in (litestar, beside_django):
            async with on_uvicorn(app) as url, aiohttp.ClientSession() as http:
                assert (await scrape(http, url))["messaging_active_connections"] == 1
                async with http.get(f"{url}/messaging/admin") as response:
                    assert response.status == 403
                async with http.get(f"{url}/messaging") as response:
                    assert (response.status, response.url.path) == (200, "/messaging/")


urlpatterns: list[Any] = []  # of the Django above


async def test_litestar_copies_no_live() -> None:
    """It copies its ``State`` and what is in a router, deeply."""
    from litestar import Litestar, Router, websocket
    from litestar import WebSocket as Socket
    from litestar.datastructures import State
    from litestar.handlers import asgi as litestar_asgi
    from litestar.middleware import DefineMiddleware

    live, by_state = Live(workers=1), LockedLive(workers=1)
    mounted = litestar_asgi("/messaging", is_mount=True, copy_scope=True)(live.asgi())

    @websocket("/ws", signature_namespace={"Socket": Socket, "State": State})
    async def chat(socket: Socket, state: State) -> None:
        await socket.accept()
        with state.live.open("ann"):
            await socket.send_json([each.stats().active_connections for each in (live, by_state)])
            await socket.receive_json()

    watched = DefineMiddleware(LiveMiddleware, live=live, user=lambda _: "ann")
    app = Litestar(
        [Router("/of", route_handlers=[mounted, chat], middleware=[watched])], state=State({"live": by_state})
    )
    async with on_uvicorn(app) as url, aiohttp.ClientSession() as http, http.ws_connect(f"{url}/of/ws") as websocket:
        assert await websocket.receive_json() == [1, 1]
        assert (await scrape(http, f"{url}/of"))["messaging_active_connections"] == 1


async def test_a_mounted_application_with_a_middleware_of_its_own_counts_a_connection_once() -> None:
    first, second = Live(workers=1), Live(workers=1)
    app, inner = FastAPI(), FastAPI()
    for application, live in ((app, first), (app, second), (inner, first)):
        application.add_middleware(LiveMiddleware, live=live, user=lambda _: "ann")

    @inner.websocket("/ws")
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json([live.stats().active_connections for live in (first, second)])
        with contextlib.suppress(WebSocketDisconnect):
            await websocket.receive_text()

    app.mount("/inner", inner)
    async with on_uvicorn(app) as url, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/inner/ws") as websocket:
            assert await websocket.receive_json() == [1, 1]

        async def gone() -> bool:
            return [live.stats().active_connections for live in (first, second)] == [0, 0]

        await until(gone, "both have seen the end")
        assert first.metrics.connections_opened.value == second.metrics.connections_opened.value == 1


def test_a_threaded_server_uses_the_locked_form() -> None:
    from flask import Flask, request
    from flask_socketio import SocketIO

    live = LockedLive()
    app = Flask(__name__)
    socketio = SocketIO(app, async_mode="threading")
    connections: dict[str, Connection] = {}

    @socketio.on("connect")
    def connect(auth: dict[str, str]) -> None:
        connections[request.sid] = live.open(auth["user"], handle=request.sid)

    @socketio.on("join")
    def join(room: str) -> None:
        connections[request.sid].join(room)

    @socketio.on("disconnect")
    def disconnect() -> None:
        connections.pop(request.sid).close()

    clients = [socketio.test_client(app, auth={"user": f"user{number % 3}"}) for number in range(9)]
    for number, client in enumerate(clients):
        client.emit("join", f"room{number % 2}")
    assert live.stats().active_connections == 9
    assert live.stats().connected_users == 3
    assert live.stats().participants == 6
    for client in clients:
        client.disconnect()
    assert live.stats().active_connections == live.stats().participants == 0
