"""The admin page and the history behind its charts. Knows tokens and files; knows no hub and no store.

The page is a handful of static files around the web component ``<messaging-stats>``, which asks
``/v1/messaging/stats`` and ``/v1/messaging/stats/history`` as any other client would: there is no figure that the page
knows and the API does not. Signing in exchanges an admin's token for an HttpOnly cookie that holds the same token, so
the server keeps no sessions and a sign-in ends when its token does.
"""

from __future__ import annotations

import hashlib
import html
import re
from importlib import resources
from string import Template
from typing import Final
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from exporter.auth.tokens import ADMIN, Authenticator, Claims, Unauthenticated
from exporter.node.document import utc
from exporter.node.history import History
from exporter.web import access
from exporter.web.origins import Origins
from exporter.web.problems import Problem
from exporter.web.routes.answers import NO_STORE, answer, compress

MAX_COOKIE: Final = 4_096  # bytes of name and value that a browser keeps (RFC 6265, section 6.1); longer is dropped
MAX_FIELDS: Final = 100  # of the form, which has one: a body of nothing but & is not worth the work
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",  # to be downloaded: no browser runs TypeScript
    ".tsx": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
PAGE_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # no-referrer would make the form's Origin "null"
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Cookie",
}

HINTS: Final = {
    True: "Make a token where the server runs, with the server’s own folder:<br>"
    "<code>messaging-exporter token NAME --role admin --data.dir DIR</code>",
    False: "Your identity provider makes the token: its <code>role</code> is <code>admin</code>.",
}
"""By whether this installation signs tokens. The folder is not named: whoever reads this has not signed in."""

# People copy the whole header line, or what stands behind its name.
_PASTED: Final = re.compile(r"^\s*(authorization\s*:\s*)?(bearer\s+)?", re.IGNORECASE)


class _File(msgspec.Struct, frozen=True):
    """A static file, read once at start; ``etag`` changes with its contents."""

    body: bytes
    kind: str
    etag: str


class AdminPage:
    """The handlers; ``routes()`` is what an application adds.

    ``path`` is where the browser has the server, and the only place that it sends the cookie to.
    """

    def __init__(
        self, authenticator: Authenticator, history: History, *, origins: Origins | None = None, path: str = "/"
    ) -> None:
        self._authenticator = authenticator
        self._history = history
        self._origins = origins or Origins()
        self._path = path
        self._files = _static_files()
        self._page = Template(_static("admin.html").decode())

    def routes(self) -> list[web.RouteDef]:
        """``/admin`` and all below it, and the history."""
        return [
            web.get("/admin", self.page),
            web.get("/admin/", self.page_without_slash),
            web.get("/admin/sign-in", self.page_elsewhere),
            web.post("/admin/sign-in", self.sign_in),
            web.post("/admin/sign-out", self.sign_out),
            web.get("/admin/static/{name}", self.static),
            web.get("/v1/messaging/stats/history", self.history),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """The figures for whoever brings an admin's cookie or token, the form for everybody else; always 200."""
        return self._render(self._signed_in(request))

    async def page_without_slash(self, request: web.Request) -> web.Response:
        """``/admin/`` is ``/admin``: the page's own addresses are relative, so that a proxy may give it a prefix."""
        query = request.rel_url.raw_query_string
        return web.Response(status=308, headers={"Location": f"../admin?{query}" if query else "../admin"})

    async def page_elsewhere(self, request: web.Request) -> web.Response:
        """Where a browser without scripts ends up when it reloads the answer to the form."""
        return _back()

    async def sign_in(self, request: web.Request) -> web.Response:
        """Exchange the form's ``token`` for the cookie.

        For scripts (``Accept: application/json``): 200 with ``{"user", "expires_at"}``, or a problem document of status
        400, 401 or 403. For a browser without scripts: the page, with what was wrong in it.
        """
        try:
            claims, token = await self._claims_of_form(request)
        except Problem as problem:
            if _wants_json(request):
                raise
            response = self._render(None, problem=_sentence(problem.detail), below=True)
            response.set_status(problem.status)
            response.headers.update(problem.headers)
            return response
        if _wants_json(request):
            response = answer({"user": claims.user, "expires_at": utc(claims.expires_at)})
        else:
            response = _back()
        name, secure = self._cookie(request), self._origins.is_secure(request)
        access.set_cookie(response, name, token, claims, secure=secure, path=self._path)
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """Take the cookie back: 204 for scripts, the sign-in form for a browser without them."""
        if not self._origins.may_sign_in(request):
            raise Problem(403, "a page of another site may not sign you out")
        response = web.Response(status=204, headers=NO_STORE) if _wants_json(request) else _back()
        secure = self._origins.is_secure(request)
        access.clear_cookie(response, self._cookie(request), secure=secure, path=self._path)
        return response

    async def static(self, request: web.Request) -> web.Response:
        """A file of the page; anyone may read it. Revalidated each time, so an upgrade shows at once."""
        file = self._files.get(request.match_info["name"])
        if file is None:
            raise Problem(404, "no such page")
        headers = {
            "Content-Type": file.kind,
            "Cache-Control": "no-cache",
            "ETag": file.etag,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        if _has(request, file):
            return web.Response(status=304, headers=headers)
        response = web.Response(body=file.body, headers=headers)
        compress(request, response)
        return response

    async def history(self, request: web.Request) -> web.Response:
        """The last hour, as ``History.answer`` describes it; 401 without a token, 403 for another role."""
        access.require_admin(request, self._authenticator)
        response = answer(self._history.body())
        compress(request, response)
        return response

    def _cookie(self, request: web.Request) -> str:
        return access.cookie_name(request, self._authenticator)

    def _signed_in(self, request: web.Request) -> Claims | None:
        token = access.token_of(request, self._cookie(request))
        if token is None:
            return None
        try:
            claims = self._authenticator.verify(token)
        except Unauthenticated:
            return None
        return claims if claims.role == ADMIN else None

    async def _claims_of_form(self, request: web.Request) -> tuple[Claims, str]:
        if not self._origins.may_sign_in(request):
            raise Problem(403, "a page of another site may not sign you in; the log says what to set if it is yours")
        if request.content_type != "application/x-www-form-urlencoded":
            raise Problem(415, "the form is application/x-www-form-urlencoded")
        # Not request.post(): it also takes multipart, and a charset or a boundary that is none would be a crash.
        try:
            given = parse_qs((await request.read()).decode(errors="replace"), max_num_fields=MAX_FIELDS)
        except ValueError:
            raise Problem(400, f"the form has more than {MAX_FIELDS} fields") from None
        token = _PASTED.sub("", given.get("token", [""])[0]).strip()
        if not token:
            raise Problem(400, "there is no token in the form")
        if len(self._cookie(request)) + len(token) > MAX_COOKIE:
            raise Problem(400, f"the token is too long for a cookie, which holds {MAX_COOKIE} characters")
        claims = access.verified(token, self._authenticator)
        if claims.role != ADMIN:
            raise Problem(403, "the token is good, but its role is not admin")
        return claims, token

    def _render(self, claims: Claims | None, *, problem: str = "", below: bool = False) -> web.Response:
        """The page; ``below``: it is the answer to an address below ``/admin``, and its own are relative."""
        fields = {
            "view": "sign-in" if claims is None else "panel",
            "user": "" if claims is None else claims.user,
            "expires": (claims and utc(claims.expires_at)) or "",
            "problem": problem,
            "base": "." if below else "admin",
            "root": ".." if below else ".",
        }
        escaped = {name: html.escape(value) for name, value in fields.items()}
        text = self._page.substitute(escaped, hint=HINTS[self._authenticator.signs])
        return web.Response(text=text, headers=PAGE_HEADERS)


def _has(request: web.Request, file: _File) -> bool:
    """Does a cache have it? Proxies that compress send a tag of ours back as a weak one (RFC 9110 section 13.1.2)."""
    tags = ",".join(request.headers.getall("If-None-Match", ())).split(",")
    return bool({"*", file.etag, file.etag.removeprefix("W/")} & {tag.strip() for tag in tags})


def _wants_json(request: web.Request) -> bool:
    return any("application/json" in line for line in request.headers.getall("Accept", ()))


def _back() -> web.Response:
    """To the page, by GET; relative, so that a proxy may give everything a prefix."""
    return web.Response(status=303, headers={"Location": "../admin", **NO_STORE})


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _static(name: str) -> bytes:
    return resources.files("exporter.web").joinpath("static", name).read_bytes()


def _static_files() -> dict[str, _File]:
    files = {}
    for path in resources.files("exporter.web").joinpath("static").iterdir():
        kind = TYPES.get(path.name[path.name.rfind(".") :])
        if kind is not None:
            body = path.read_bytes()
            files[path.name] = _File(body, kind, f'W/"{hashlib.sha256(body).hexdigest()[:16]}"')
    return files
