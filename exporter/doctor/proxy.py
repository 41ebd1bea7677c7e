"""What lies between people and the server: a page of ``--url``'s own origin, a token and an upgrade, as they arrive.

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
import msgspec

from exporter.auth.tokens import Authenticator
from exporter.core.errors import Misconfigured, tls_reason
from exporter.doctor.findings import Finding, Outcome
from exporter.doctor.machine import clock
from exporter.settings import parsers
from exporter.settings.model import Settings
from exporter.web import forwarded
from exporter.web.routes.schemas import ArrivedRequest

WAIT = 10.0
"""Seconds for each request."""
LIFE = 60.0
"""Seconds that the token for these requests is good."""
USER = "doctor"
_REQUEST = "/v1/messaging/request"


async def examine(settings: Settings, url: str, token: str | None) -> list[Finding]:
    """Asks the server behind ``url`` what it sees, and opens a WebSocket there as a browser would."""
    try:
        parts = urlsplit(url)
        origin = parsers.origin(f"{parts.scheme}://{parts.netloc}")  # as a browser writes it
    except ValueError:
        raise Misconfigured("--url: expected an address such as https://chat.example.com") from None
    base = url.rstrip("/")
    if token is None:
        token = _signed(settings)
    if token is None:
        text = "cannot be examined: tokens are signed elsewhere, or not on this machine"
        return [Finding("proxy", Outcome.UNKNOWN, text, "give an admin's token with --token-file")]
    timeout = aiohttp.ClientTimeout(total=WAIT)
    staying = aiohttp.TraceConfig()
    staying.on_request_redirect.append(_stay)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Origin": origin}, trace_configs=[staying]) as http:
        try:
            seen = await _request(http, base, origin, origin == settings.external_origin, token)
            return [*seen, await _socket(http, base, token, arrives=seen[0].subject != "proxy")]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return [Finding("proxy", Outcome.FAILED, f"{origin} cannot be reached: {_reason(error)}")]


async def _stay(_http: aiohttp.ClientSession, _context: object, seen: aiohttp.TraceRequestRedirectParams) -> None:
    """No browser follows an upgrade elsewhere, and the token in it is for nobody else."""
    answer = seen.response
    raise aiohttp.WSServerHandshakeError(answer.request_info, answer.history, status=answer.status)


def _signed(settings: Settings) -> str | None:
    secret: Path = settings.effective_secret_file
    if settings.identity_provider_file is not None or not secret.exists():
        return None
    return Authenticator.from_settings(settings).sign(USER, role="admin", ttl=LIFE)


async def _request(http: aiohttp.ClientSession, base: str, asked: str, known: bool, token: str) -> list[Finding]:
    begun = time.time()
    headers = {"Authorization": f"Bearer {token}"}
    async with http.get(f"{base}{_REQUEST}", headers=headers, allow_redirects=False) as response:
        moment = (begun + time.time()) / 2
        if response.status != 200:
            theirs = "the server's own" if _ours(response) else "not the server's"
            return [Finding("proxy", Outcome.FAILED, f"the answer is {response.status}, {theirs}", _hint(response))]
        try:
            seen = msgspec.json.decode(await response.read(), type=ArrivedRequest)
        except (msgspec.DecodeError, UnicodeDecodeError):  # a page that a proxy answers every address with
            text = f"the answer is 200 ({response.content_type}), not the server's"
            return [Finding("proxy", Outcome.FAILED, text, _hint(response))]
        dated = response.headers.get("Date", "")
    findings = [_names(seen, asked, known), _origin(seen), _sender(seen, await _own(urlsplit(base)))]
    with suppress(ValueError, OverflowError):  # none, or no date: whoever answered last writes it, in whole seconds
        ahead = parsedate_to_datetime(dated).timestamp() + 0.5 - moment
        findings.append(clock("the server", ahead if abs(ahead) > 1 else 0.0))
    return findings


def _names(seen: ArrivedRequest, asked: str, known: bool) -> Finding:
    arrived = f"{seen.scheme}://{seen.host}"
    if arrived == asked:
        return Finding("proxy: name", Outcome.OK, f"arrives as {arrived}")
    if known:
        return Finding("proxy: name", Outcome.OK, f"arrives as {arrived}, and --web.external-url says what it is")
    advice = "let the proxy pass the Host on, or set X-Forwarded-Host and -Proto and name it in --web.trusted-proxies"
    return Finding("proxy: name", Outcome.WARNING, f"{asked} arrives as {arrived}", advice)


def _origin(seen: ArrivedRequest) -> Finding:
    if seen.origin_allowed:
        return Finding("proxy: origin", Outcome.OK, "pages of this address may sign in and connect")
    advice = "see above, or name the address in --auth.allowed-origins"
    return Finding("proxy: origin", Outcome.FAILED, "pages of this address get 403", advice)


def _sender(seen: ArrivedRequest, own: Sequence[str]) -> Finding:
    told = "; ".join(f"{name}: {', '.join(values)}" for name, values in seen.headers.items() if name != "Host")
    text = f"the server sees {seen.remote or 'a Unix socket'}, HTTP/{seen.http_version}" + (f", {told}" if told else "")
    standard, usual = (seen.headers.get(name, ()) for name in ("Forwarded", "X-Forwarded-For"))
    senders = [hop.address for hop in forwarded.x_forwarded(usual, (), ())]
    with suppress(forwarded.Malformed):
        senders += [hop.address for hop in forwarded.forwarded(standard)]
    if (standard or usual) and seen.remote not in senders:
        advice = f"they are not believed: name the proxy in --web.trusted-proxies ({seen.remote or 'unix'})"
        return Finding("proxy: headers", Outcome.WARNING, text, advice)
    alike = [address for address in own if (":" in address) == (":" in seen.remote)]
    if not (standard or usual) and alike and seen.remote not in alike:
        text += f", and not {alike[0]}, where this asks from: the proxy does not tell it, and nothing here needs it"
    return Finding("proxy: headers", Outcome.OK, text)


async def _own(url: SplitResult) -> list[str]:
    """Addresses of this machine from which that server would be asked; a datagram's socket sends nothing for it."""
    found = []
    with suppress(OSError):
        port = url.port or (443 if url.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        for family, kind, _, _, address in await loop.getaddrinfo(url.hostname, port, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(address)
                found.append(probe.getsockname()[0])
    return found


async def _socket(http: aiohttp.ClientSession, base: str, token: str, *, arrives: bool) -> Finding:
    """As a browser: the token is a subprotocol, because scripts of pages cannot set headers.

    What is in the way of every request has been told (not ``arrives``), and the upgrade's headers are not it.
    """
    try:
        async with (
            asyncio.timeout(WAIT),
            http.ws_connect(f"{base}/v1/messaging/ws", protocols=("messaging.v1", f"bearer.{token}")) as websocket,
        ):
            heartbeat = float((await websocket.receive_json())["heartbeat"])
    except aiohttp.WSServerHandshakeError as error:
        blamed = arrives or error.status == 426  # the server's own word that it was no upgrade
        advice = "the proxy must pass Upgrade, Connection and Sec-WebSocket-Protocol on (deploy/)" if blamed else ""
        return Finding("proxy: WebSocket", Outcome.FAILED, f"the upgrade is answered with {error.status}", advice)
    except (LookupError, TypeError, ValueError, TimeoutError):  # no text frame, no JSON, no welcome, none at all
        return Finding("proxy: WebSocket", Outcome.FAILED, "opens, but the server's welcome does not come through")
    return Finding("proxy: WebSocket", Outcome.OK, f"opens, heartbeats every {heartbeat:g} s")


def _ours(response: aiohttp.ClientResponse) -> bool:
    """Did the server itself refuse? A proxy's login, or a rule of it, has no such body."""
    return response.content_type == "application/problem+json"


def _hint(response: aiohttp.ClientResponse) -> str:
    asked, to = str(response.url), ""
    with suppress(ValueError):  # no address
        to = urljoin(asked, response.headers.get("Location", "")).partition("?")[0]
    if response.status in (301, 302, 303, 307, 308) and to.endswith(_REQUEST) and to != asked:
        return f"give the address that it redirects to: {to.removesuffix(_REQUEST)}"
    if _ours(response) and response.status in (401, 403):
        if response.status == 403:
            return "the server wants an admin's token, and this is somebody else's"
        if "error=" not in response.headers.get("WWW-Authenticate", ""):
            return "the token does not arrive: the proxy must pass Authorization on"
        return "the server does not take this installation's token: is --data.dir the server's?"
    if response.status in (200, 404):
        path = response.url.path.removesuffix(_REQUEST)
        longer = f", or --url has a path too many ({path})" if path else ""
        return f"the proxy does not pass /v1/messaging/ on, or the server is an older one{longer}"
    if response.status >= 500:
        return "the proxy reaches no server that is ready"
    if response.status == 400 and response.url.scheme == "http":
        return "is it https://? a port for TLS answers so"
    return "that is an answer of the proxy's own: a login or a rule of it stands before the server"


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted on this machine: {tls_reason(error.certificate_error)}"
    if isinstance(error, TimeoutError):
        return f"no answer within {WAIT:g} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name is unknown here"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "what listens there does not speak TLS as it is spoken here: is it http://?"
    if isinstance(error, aiohttp.ClientConnectorError):  # the number's words: asyncio puts its own in their place
        return os.strerror(error.errno).lower() if error.errno else "no connection"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        return "what listens there hung up: is it https://?"
    return type(error).__name__
