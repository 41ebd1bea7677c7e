"""A server of the admin page whose figures a test sets: for what no real server shows when it is asked to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import ClientSession, DummyCookieJar, web
from multidict import CIMultiDict
from yarl import URL

from exporter.auth.tokens import Authenticator
from exporter.core.errors import ErrorCode
from exporter.core.events import ClosedReason, RejectedReason
from exporter.node import history
from exporter.node.history import History, Sample
from exporter.web import access
from exporter.web.problems import Problem, problems
from exporter.web.routes.admin import POLICY, AdminPage

FIGURES: dict[str, Any] = {
    "active_connections": 1240,
    "connected_users": 830,
    "active_conversations": 96,
    "total_participants": 2310,
    "typing_users": 17,
    "total_messages": 1_234_567,
    "total_conversations": 50_210,
    "messages_today": 40_210,
    "registered_users": 8000,
    "active_users": {"1d": 1200, "7d": 3000, "30d": 5600},
    "scope": "node",
    "nodes": 1,
    "version": "0.4.0",
    "refused": {
        "connections": {reason.value: 0 for reason in RejectedReason} | {"unauthenticated": 131, "user_limit": 3},
        "commands": {code.value: 0 for code in ErrorCode} | {"rate_limited": 1200, "not_joined": 4},
    },
    "sends_failed": 4,
    "delivered_in_time": 0.99987,
    "inaccurate": {"conversations": 0, "days": 0, "triggers": 0},
}

REACHED = "the database cannot be reached"


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class StatsDouble:
    """The real page, sign-in and history around made-up figures; can be stopped and started on the same port."""

    def __init__(self, secret: bytes = b"a secret of the tests that is long enough") -> None:
        self.authenticator = Authenticator("HS256", secret)
        self.history = History()
        self.figures: dict[str, Any] = {}
        self.fail: int | None = None  # the status to answer with
        self.failing: set[str] = set()  # of "history", "days" and "top" those that are answered 503
        self.hanging: set[str] = set()  # of them those that are never answered
        self.hangs = asyncio.Event()  # set: one of them has been asked for
        self.detail = "the tests want it so"  # the reason of ``fail``
        self.unread = REACHED  # that of ``failing``
        self.cut_off = False  # an answer ends in its middle
        self.held = asyncio.Event()  # not set: an answer waits
        self.held.set()
        self.asked = 0
        self.days: Callable[[int], tuple[int | None, int | None]] = lambda ago: (0, 0)  # by how many days ago
        self.top: dict[str, Any] = {}
        self.disconnected: list[str] = []
        self.whereabouts: dict[str, Any] = {}  # what a cluster's answer about a user has in other words than one node's
        self.may_disconnect = True
        self.port = 0
        self.pages: dict[str, str] = {}  # path: text, served with the strict policy of the admin page
        self.lax = False  # without that policy
        self._runner: web.AppRunner | None = None
        self.reset()

    def reset(self) -> None:
        """The figures as they are in FIGURES, and an hour of history."""
        self.figures = {**FIGURES, "database": {"up": True, "writable": True, "error": None}}
        self.figures["started_at"] = moment(time.time() - 200_000)
        self.days = lambda ago: (40_210 - 300 * ago, 1200 - 10 * ago) if ago < 60 else (0, None)
        self.top = {
            "largest": [{"id": f"room {n}", "members": 50 - n, "total_messages": 90_000 // n} for n in range(1, 6)],
            "busiest": [{"id": "deploys", "messages": 410}],
            "undercounted_by": 0,
            "error": None,
        }
        self.disconnected = []
        self.fail = None
        self.failing, self.hanging = set(), set()
        self.detail, self.unread = "the tests want it so", REACHED
        self.held.set()
        self.history.record(0, Sample())  # so far from all others that it begins anew
        now = time.time()
        for i in range(360):
            at = now - 10 * (360 - i) + 5
            counters = {
                "messages_accepted": 125 * i,
                "deliveries": 1900 * i,
                "joins": 14 * i,
                "connections_opened": 4 * i,
                "sends_failed": 0,
                "delivered": 1000 * i,
                "delivered_in_time": 999 * i,
            }
            live: dict[str, Any] = {name: FIGURES[name] for name in history.FIGURES}
            closed = {reason.value: 0 for reason in ClosedReason} | {
                "client": 3 * i,
                "heartbeat": i // 10,
                "internal_error": i // 200,  # an hour ago as people see it, not this minute
            }
            refused = {reason.value: 0 for reason in RejectedReason} | {"unauthenticated": i // 6}
            errors = {code.value: 0 for code in ErrorCode} | {"rate_limited": 2 * i}
            groups = {"connections_closed": closed, "connections_refused": refused, "commands_refused": errors}
            live["active_connections"] = 1500 if i == 345 else 1240  # two minutes ago
            self.history.record(at, Sample(**live, **counters, **groups))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def link(self, ttl: float = 3600, role: str = "admin") -> str:
        """What ``demo`` prints: the page with a token in the fragment."""
        return f"{self.url}/admin#token={self.token(ttl, role)}"

    def token(self, ttl: float = 3600, role: str = "admin") -> str:
        return self.authenticator.sign("ada", role=role, ttl=ttl)

    async def start(self) -> None:
        app = web.Application(middlewares=[problems(), self._refusing()])
        app.router.add_get("/v1/messaging/stats", self._stats)
        app.router.add_get("/v1/messaging/stats/days", self._days)
        app.router.add_get("/v1/messaging/conversations/top", self._top)
        app.router.add_route("*", "/v1/messaging/users/connections", self._user)
        app.add_routes(AdminPage(self.authenticator, self.history).routes())
        app.router.add_get("/{page}", self._page)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def behind(self, prefix: str, **others: StatsDouble) -> web.AppRunner:
        """A reverse proxy on another port that serves all of this below ``prefix``, and others below their names.

        It takes the prefixes away, and the caller cleans it up.
        """
        servers = {prefix: self, **{f"/{name}": other for name, other in others.items()}}

        async def forward(request: web.Request) -> web.Response:
            below = next(below for below in servers if request.raw_path.startswith(f"{below}/"))
            url = URL(servers[below].url + request.raw_path.removeprefix(below), encoded=True)
            headers = {name: value for name, value in request.headers.items() if name != "Accept-Encoding"}
            body = await request.read()
            async with (
                ClientSession(cookie_jar=DummyCookieJar()) as session,
                session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as answer,
            ):
                kept = CIMultiDict(answer.headers)
                for name in ("Content-Length", "Content-Encoding"):  # the body is read and no longer packed
                    kept.popall(name, None)
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        app = web.Application()
        for below in servers:
            app.router.add_route("*", below + "/{tail:.*}", forward)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _refusing(self) -> Any:
        @web.middleware
        async def refuse(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            name = request.path.rpartition("/")[2]
            if name in self.hanging:
                self.hangs.set()
                await asyncio.Event().wait()
            if name in self.failing:
                raise Problem(503, self.unread)
            return await handler(request)

        return refuse

    async def _stats(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.fail is not None:
            raise Problem(self.fail, self.detail)
        access.require_admin(request, self.authenticator)
        await self.held.wait()
        now = time.time()
        database = {"as_of": moment(now - 2), **self.figures["database"]}
        answer = {"as_of": moment(now), **self.figures, "database": database}
        if self.cut_off:
            return await _cut_off(request, json.dumps(answer).encode())
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _days(self, request: web.Request) -> web.Response:
        access.require_admin(request, self.authenticator)
        count = int(request.query["days"])
        today = datetime.now(UTC).date()
        days = [(today - timedelta(days=ago), *self.days(ago)) for ago in range(count - 1, -1, -1)]
        if request.headers["Accept"] == "text/csv":
            lines = [",".join("" if cell is None else str(cell) for cell in row) for row in days]
            return web.Response(text="\r\n".join(["day,messages,active_users", *lines, ""]), content_type="text/csv")
        shape = [{"day": str(day), "messages": messages, "active_users": users} for day, messages, users in days]
        return web.json_response({"days": shape}, headers={"Cache-Control": "no-store"})

    async def _top(self, request: web.Request) -> web.Response:
        access.require_admin(request, self.authenticator)
        return web.json_response(self.top)

    async def _user(self, request: web.Request) -> web.Response:
        access.require_admin(request, self.authenticator, change=True)
        user = request.query["id"]
        if request.method == "DELETE":
            if not self.may_disconnect:
                detail = "0 connections were closed, perhaps not all: not known of web-2:8765; try again"
                return web.json_response({"status": 503, "detail": detail}, status=503)
            self.disconnected.append(user)
            return web.Response(status=204)
        opened_at = [] if user in self.disconnected else [moment(time.time())] * 2
        shape = {"user": user, "connected": bool(opened_at), "since": opened_at[0] if opened_at else None}
        shape |= {"connections": len(opened_at), "opened_at": opened_at, "scope": "node", "error": None}
        return web.json_response(shape | self.whereabouts)

    async def _page(self, request: web.Request) -> web.Response:
        path = f"/{request.match_info['page']}"
        kind = "text/javascript" if path.endswith(".js") else "text/html"
        headers = {"Content-Type": f"{kind}; charset=utf-8"}
        if not self.lax:
            headers["Content-Security-Policy"] = POLICY
        return web.Response(text=self.pages[path], headers=headers)


async def _cut_off(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.close()
    return response
