"""What a simulation may be told. Knows no network and no clock.

Tested in ``tests/simulate/test_simulate.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from exporter.core.errors import Misconfigured

SOCKET_PATH = "/v1/messaging/ws"
MOST = 100_000  # people or conversations of one process: a thousand people take some 50 MiB of it


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """People on a running server. Times in seconds, the rate in messages per second of all people together.

    ``urls`` are WebSocket URLs; several are the nodes of one cluster, and connections take turns. ``token_for`` signs a
    token for a user name; ``tokens`` instead gives ready tokens by user, and the users are then those. ``duration``
    None: until stopped. ``day`` is how long one simulated day lasts. ``settle`` is how long the end waits for
    answers and for the server to be there for the verification. ``steady``: everybody is there all the time, nobody
    loses the network, looks away or elsewhere; only messages, typing and reading.
    """

    urls: tuple[str, ...] = (f"ws://127.0.0.1:8765{SOCKET_PATH}",)
    users: int = 50
    conversations: int = 20
    rate: float = 10.0
    duration: float | None = 60.0
    seed: int = 1
    day: float = 600.0
    settle: float = 15.0
    verify: bool = True
    steady: bool = False
    json: bool = False
    ca_file: Path | None = None
    insecure: bool = False
    token_for: Callable[[str], str] | None = field(default=None, repr=False)
    tokens: dict[str, str] = field(default_factory=dict, repr=False)

    def checked(self) -> SimulateOptions:
        """These options; Misconfigured when they make no sense, in one clear line."""
        if not self.urls:
            raise Misconfigured("no URL to connect to")
        for url in self.urls:
            socket_url(url)
        if self.users < 2 and not self.tokens:
            raise Misconfigured("--users must be at least 2: somebody has to listen")
        if self.users > MOST:
            raise Misconfigured(f"--users must be at most {MOST}: for more, start several with a --seed each")
        if not 1 <= self.conversations <= MOST:
            raise Misconfigured(f"--conversations must be from 1 to {MOST}")
        if not 0 <= self.rate < 1_000_000:
            raise Misconfigured("--rate must be a number of messages per second, 0 or more")
        if self.duration is not None and self.duration <= 0:
            raise Misconfigured("--duration must be positive")
        if self.token_for is None and not self.tokens:
            raise Misconfigured("nothing to sign tokens with: give --data.dir, --auth.secret-file or --token-file")
        if self.tokens and len(self.tokens) < 2:
            raise Misconfigured("the token file must have tokens of at least 2 users")
        return self


def socket_url(url: str) -> URL:
    """The WebSocket URL meant by ``url``: a bare ``host:port`` or an ``http(s)`` base will do as well.

    A path is the server's ``--web.route-prefix``, with or without the WebSocket's own behind it.
    """
    try:
        parsed = URL(url if "://" in url else f"ws://{url}")
    except ValueError:
        raise Misconfigured("the URL cannot be read") from None
    scheme = {"http": "ws", "https": "wss"}.get(parsed.scheme, parsed.scheme)
    if scheme not in ("ws", "wss") or not parsed.host:
        raise Misconfigured("the URL must be ws://host:port or wss://host:port")
    prefix = parsed.path.rstrip("/").removesuffix(SOCKET_PATH)
    return URL.build(scheme=scheme, host=parsed.host, port=parsed.port, path=prefix + SOCKET_PATH)


def http_base(url: str) -> URL:
    """Where the HTTP routes of the server behind a WebSocket URL are."""
    parsed = socket_url(url)
    scheme = "https" if parsed.scheme == "wss" else "http"
    return parsed.with_scheme(scheme).with_path(parsed.path.removesuffix(SOCKET_PATH) or "/")
