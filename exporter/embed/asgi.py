"""An ASGI application with metrics, stats and the admin page, to be mounted in FastAPI, Starlette, Django, Litestar.

Tested in ``tests/embed/test_frameworks.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, quote

from exporter.embed.service import Service, slashed

if TYPE_CHECKING:
    from exporter.embed.live import Live

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Principal: TypeAlias = Scope
"""What the host's admin check gets: the ASGI scope, with whatever its middlewares put there."""


class Asgi:
    """``app.mount("/messaging", live.asgi(admin=is_admin))``.

    ``admin(scope)`` decides who may see ``/v1/messaging/stats`` and ``/admin`` (see ``AdminCheck``). Without it nobody
    may. ``/metrics`` is open: mount it where only Prometheus comes by, or guard the mount.
    """

    def __init__(self, live: Live, admin: Callable[[Principal], Any] | None) -> None:
        self._service = Service(live, admin)

    def __deepcopy__(self, memo: object) -> Asgi:
        """Itself, as ``Live``."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return

        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            headers[key] = f"{headers[key]},{value.decode('latin-1')}" if key in headers else value.decode("latin-1")
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        path = below_the_mount(scope).rstrip("/")
        asked = (scope.get("raw_path") or quote(scope["path"]).encode()).partition(b"?")[0].decode("latin-1")
        if asked.endswith("/"):
            path += "/"  # as the browser has it: some frameworks add one
        answer = await self._service.answer(scope["method"], path, headers, query, scope) if path else slashed(asked)
        raw = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        raw.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    async def aclose(self) -> None:
        """Stop what runs beside the requests; for hosts that want it at once and not with the loop."""
        await self._service.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.aclose()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


def below_the_mount(scope: Scope) -> str:
    """The path that is ours. A server's root path (a proxy's prefix) may be part of the scope's path or not."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    for prefix in (root, root.removeprefix(scope.get("app_root_path", ""))):
        if path == prefix or path.startswith(f"{prefix}/"):
            return path.removeprefix(prefix)
    return path
