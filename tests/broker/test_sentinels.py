"""Sentinels that are not there, that speak TLS, that refuse: the next is asked, or the reason is one clear line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter.broker import sentinels
from exporter.broker.addresses import Addresses
from exporter.broker.location import locate
from exporter.core.errors import Misconfigured
from tests.broker.nodes import Node, nodes
from tests.broker.test_addresses import silent
from tests.broker.test_redis import talk
from tests.servers import certificates
from tests.servers.exporter import until
from tests.servers.ports import free_port
from tests.servers.valkey import Sentinel, Server

pytestmark = pytest.mark.needs("redis")


@contextmanager
def watched(*options: str, tls: Path | None = None) -> Iterator[Sentinel]:
    """A server under the name ``main``, and its Sentinel; with ``tls`` both speak nothing else."""
    server = Server("redis")
    watcher = Sentinel("redis", server)
    for one in (server, watcher):
        if tls is not None:
            one.options += [
                f"tls-port {one.port}",
                "port 0",
                "tls-replication yes",
                "tls-auth-clients no",
                *(f"tls-{kind}-file {tls}/{name}" for kind, name in _FILES.items()),
            ]
            one.tls = {"ssl": True, "ssl_ca_certs": f"{tls}/ca.crt"}
    watcher.options += options
    try:
        server.start()
        watcher.start()
        yield watcher
    finally:
        watcher.remove()
        server.remove()


_FILES = {"cert": "server.crt", "key": "server.key", "ca-cert": "ca.crt"}


async def the_reason(url: str) -> str:
    """Why there is no master; not that a busy machine was too slow to say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentinels, "TIMEOUT", 20.0)
        with pytest.raises((ConnectionError, Misconfigured)) as caught:
            await sentinels.master(locate(url), Addresses())
    return str(caught.value)


async def test_the_next_one_is_asked_when_the_first_is_not_there() -> None:
    with watched() as watcher:
        began = time.monotonic()
        location = locate(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{watcher.port}/main")
        assert await sentinels.master(location, Addresses()) == ("127.0.0.1", int(watcher.options[0].split()[4]))
        assert time.monotonic() - began < 2, "the deadline of opening a connection"
        assert await the_reason(f"redis+sentinel://127.0.0.1:{watcher.port}/other") == sentinels._UNKNOWN
        both = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{watcher.port}/other"
        assert await the_reason(both) == sentinels._UNKNOWN, (
            "what one knows counts for more than that another is absent"
        )
    assert await the_reason(f"redis+sentinel://127.0.0.1:{free_port()}/main") == sentinels._ABSENT


async def test_those_that_are_silent_or_refuse_hide_none_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinels, "TIMEOUT", 60.0)
    with watched() as watcher, watched("requirepass other-s3cret") as refuses, silent() as port:
        hosts = ",".join(f"127.0.0.1:{one}" for one in (refuses.port, port, port, port, port, watcher.port))
        async with asyncio.timeout(30):  # one after the other would take as long as all of them may
            found = await sentinels.master(locate(f"redis+sentinel://{hosts}/main"), Addresses())
    assert found == ("127.0.0.1", int(watcher.options[0].split()[4]))
    assert len(asyncio.all_tasks()) == 1, "nobody is asked any more"


async def test_of_sentinels_that_differ_the_one_that_knows_of_the_latest_failover_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever knows nothing of it may be the nearest."""
    monkeypatch.setattr(sentinels, "TIMEOUT", 60.0)
    monkeypatch.setattr(sentinels, "OTHERS", 60.0)

    ask, answered = sentinels._ask, asyncio.Event()

    async def nearest_first(host: tuple[str, int], *others: Any) -> Any:
        if host[1] == current.port:
            await answered.wait()
        answer = await ask(host, *others)
        answered.set()
        return answer

    monkeypatch.setattr(sentinels, "_ask", nearest_first)
    with watched() as stale, watched("sentinel config-epoch main 7") as current:
        location = locate(f"redis+sentinel://127.0.0.1:{stale.port},127.0.0.1:{current.port}/main")
        found = await sentinels.master(location, Addresses())
    assert found == ("127.0.0.1", int(current.options[0].split()[4]))


async def test_a_password_of_the_sentinels_own() -> None:
    with watched("requirepass other-s3cret") as watcher:
        url = f"redis+sentinel://127.0.0.1:{watcher.port}/main"
        for wrong in ("", "?sentinel_password=wr0ng"):
            assert "sentinel_password" in await the_reason(url + wrong)
            node = Node(url + wrong, "messaging")
            with pytest.raises(Misconfigured, match="the Sentinels refuse"):
                await node.broker.start(5.0)
            await node.broker.close()
        async with nodes(f"{url}?sentinel_password=other-s3cret") as (first, last):
            await talk(first, last)


async def test_sentinels_that_speak_tls(tmp_path: Path) -> None:
    certificates.CertificateAuthority().write(tmp_path)
    with watched(tls=tmp_path) as watcher:
        url = f"rediss+sentinel://127.0.0.1:{watcher.port}/main?ssl_ca_certs={tmp_path}/ca.crt"

        async def known() -> bool:
            with watcher.client() as client:
                return not client.sentinel_masters()["main"]["is_sdown"]

        await until(known, "the Sentinel has reached its master")
        async with nodes(f"{url}&sentinel_ssl=true") as (first, last):
            await talk(first, last)
        assert "sentinel_ssl=true" in await the_reason(url)
        without_ca = await the_reason(f"rediss+sentinel://127.0.0.1:{watcher.port}/main?sentinel_ssl=yes")
        assert "a Sentinel's certificate cannot be verified" in without_ca
        assert "TLS files" in await the_reason(f"{url}x&sentinel_ssl=true")
