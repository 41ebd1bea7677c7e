"""``--web.config.file``, the Prometheus exporter toolkit's: TLS, headers, basic auth, rate. Knows no route.

The file is looked at on every request and every new TLS connection, and read when it, or a certificate that
it names, has changed. A file that is broken opens nothing: everything but ``/-/healthy`` answers 500 until it
is repaired, and TLS goes on with the last good certificate, so that there is somebody to say so.

Tested in ``tests/web/test_toolkit.py``.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from exporter.core.errors import Misconfigured
from exporter.settings.file_watch import FileWatch
from exporter.web.problems import Problem
from exporter.web.toolkit import basic_auth, tls
from exporter.web.toolkit.basic_auth import BasicAuth, Busy
from exporter.web.toolkit.settings import RateLimit, WebSettings, read

ALWAYS_SERVED: Final = "/-/healthy"  # a broken file is no reason for a supervisor to kill the process
_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="messaging-exporter", charset="UTF-8"'}
_log = structlog.get_logger("web_config")


class WebConfig:
    """The file, always as it is now. Raises Misconfigured when it is broken at the start."""

    def __init__(self, path: Path | None, *, always_served: str = ALWAYS_SERVED) -> None:
        self._path = path
        self._always_served = always_served
        self._error: str | None = None
        self._watch = FileWatch()
        self._current = WebSettings()
        self._basic_auth = BasicAuth()
        self._tokens, self._refilled = 0.0, time.monotonic()
        if path is not None:
            self._watch.look((path,))
            self._current = read(path)
            self._tokens = float(self._current.rate.burst)

    @property
    def secure(self) -> bool:
        """Is TLS spoken? It cannot be switched on or off while the server runs."""
        return self._current.context is not None

    def ssl_context(self) -> ssl.SSLContext | None:
        """For the listeners: each new connection gets the certificates that are in the files then."""
        return tls.ReloadingContext.over(self._context) if self.secure else None

    def middleware(self, guarded: Callable[[web.Request], bool]) -> Middleware:
        """Headers on every response, basic auth and the rate limit where ``guarded(request)``; the outermost."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            settings, error = self._fresh()
            if error is not None and request.path != self._always_served:
                return Problem(500, "the web configuration file is broken; the log says how").response()
            try:
                if guarded(request):
                    await self._guard(settings, request)
                response = await handler(request)
            except Problem as problem:
                response = problem.response()
            if not response.prepared:
                _add_headers(settings, response)
            return response

        return middleware

    async def on_response_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """The same headers for responses that are written while their handler runs; for the signal of that name."""
        _add_headers(self._current, response)

    def reload(self) -> bool:
        """Read the file now, whatever its times say: False when it is broken, which the log says."""
        if self._path is not None:
            self._watch.look(self._files(self._path))
            self._error = None  # so that it is said again
            self._reread(self._path)
        return self._error is None

    def close(self) -> None:
        """Let go of the thread that checks passwords."""
        self._basic_auth.close()

    async def _guard(self, settings: WebSettings, request: web.Request) -> None:
        if not self._take_token(settings.rate):
            raise Problem(429, "too many requests", headers={"Retry-After": "1"})
        if not settings.users:
            return
        given = request.headers.getall("Authorization", ())
        pair = basic_auth.credentials(given[0]) if len(given) == 1 else None
        try:
            if pair is not None and await self._basic_auth.allows(settings.users, *pair):
                return
        except Busy:
            raise Problem(503, "too many passwords are being checked", headers={"Retry-After": "5"}) from None
        raise Problem(401, "a user and a password are needed", headers=_CHALLENGE)

    def _take_token(self, rate: RateLimit) -> bool:
        if rate.interval <= 0:
            return True
        now = time.monotonic()
        self._tokens = min(float(rate.burst), self._tokens + (now - self._refilled) / rate.interval)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _context(self) -> ssl.SSLContext:
        settings, _ = self._fresh()
        assert settings.context is not None  # noqa: S101 - it was there at the start, and _reread keeps it
        return settings.context

    def _fresh(self) -> tuple[WebSettings, str | None]:
        """The newest good settings, and what is wrong with the file if they are not those in it."""
        if self._path is None:
            return self._current, None
        if self._watch.must_read(self._files(self._path), broken=self._error is not None):
            self._reread(self._path)
        return self._current, self._error

    def _reread(self, path: Path) -> None:
        before = self._error
        try:
            settings = read(path)
            if (settings.context is None) != (self._current.context is None):
                raise Misconfigured(f"{path}: switching TLS on or off needs a restart")
            if settings == WebSettings() != self._current:  # cut off before it is written anew, or on a full disk
                raise Misconfigured(f"{path}: nothing is left of it; to do without it needs a restart")
        except Misconfigured as error:
            self._error = str(error)
            if before != self._error:  # once per state: every scrape comes by here
                _log.error("web configuration is broken, answering 500", path=str(path), error=self._error)
            return
        self._error = None
        if settings.rate != self._current.rate:
            self._tokens = float(settings.rate.burst)
        self._current = settings
        if before is not None:
            _log.info("web configuration is good again", path=str(path))

    def _files(self, path: Path) -> tuple[Path, ...]:
        """What is looked at before it is read; files that it has just begun to name make it be read once more."""
        return (path, *(self._current.tls.files if self._current.tls else ()))


def _add_headers(settings: WebSettings, response: web.StreamResponse) -> None:
    for name, value in settings.headers.items():
        response.headers.setdefault(name, value)  # a page that needs a stricter policy has set its own
