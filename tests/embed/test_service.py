"""What a defect costs a host: the figures that it concerns, and no answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import urllib.error
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from django.core.exceptions import PermissionDenied
from prometheus_client import CollectorRegistry
from sqlalchemy import make_url

from exporter.core.source_records import SourceView
from exporter.embed import Live, Source, figures, totals
from exporter.embed.service import Service
from exporter.node.history import Sample
from exporter.observe import collector
from tests.servers.exporter import until


async def test_a_kernel_that_tells_nothing_costs_the_process_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Live(workers=1), None)

    def unreadable() -> Any:
        raise OSError("the kernel does not answer")

    monkeypatch.setattr(service._process, "collect", unreadable)
    try:
        answer = await service.answer("GET", "/metrics", {}, {}, None)
        assert answer.status == 200
        assert b"messaging_active_connections 0.0" in answer.body
        assert b"process_" not in answer.body
    finally:
        await service.close()


async def test_the_last_hour_is_recorded_again_after_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Live(workers=1), lambda _: True)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # a host's log would have the defect

    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    async def samples() -> int:
        answer = await service.answer("GET", "/v1/messaging/stats/history", {}, {}, None)
        return int(json.loads(answer.body)["length"])

    try:
        with monkeypatch.context() as defect:
            defect.setattr(figures, "document", broken)
            await samples()
            assert service._sampling is not None
            await asyncio.wait({service._sampling}, timeout=60)
        async with asyncio.timeout(60):
            while True:
                if await samples():
                    break
                await asyncio.sleep(0.01)  # the task that records
    finally:
        await service.close()


def test_the_pages_outlive_an_event_loop() -> None:
    """A host may be run again: by a reloader, a test, ``asyncio.run`` in a thread."""
    live = Live(workers=1, open_sockets=lambda: range(3_000))
    for number in range(3_000):
        live.open(number, handle=number).join("room")
    service = Service(live, lambda _: True)

    async def asked() -> list[int]:
        answers = [service.answer("GET", path, {}, {}, None) for path in ("/metrics", "/v1/messaging/stats") * 4]
        return [answer.status for answer in await asyncio.gather(*answers)]

    for _ in range(3):
        assert asyncio.run(asked()) == [200] * 8
    loop = asyncio.new_event_loop()  # and one that ends without a word to those who work in it
    assert loop.run_until_complete(asked()) == [200] * 8
    loop.close()

    async def goes_on() -> bool:
        await service.answer("GET", "/metrics", {}, {}, None)
        return service._sampling is not None and service._sampling.get_loop() is asyncio.get_running_loop()

    assert asyncio.run(goes_on())
    asyncio.run(service.close())


def test_who_is_closed_and_served_again_is_counted_again() -> None:
    live = Live()
    service = Service(live, None)
    assert live.worker_group._mark is not None
    asyncio.run(service.close())
    assert live.worker_group._mark is None
    live.open("ann")
    assert live.worker_group._mark is not None
    live.worker_group.leave()


def test_totals_are_read_on_in_a_second_event_loop_and_are_unknown_while_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "host.db"
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, room TEXT, sender TEXT, at TEXT)")
    say = "INSERT INTO message (room, sender, at) VALUES ('room', ?, '2026-01-01 00:00:00')"
    connection.execute(say, ("ann",))
    (tmp_path / "mapping.yml").write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender, "
        "conversation: room}\n"
    )
    monkeypatch.setattr(totals, "REFRESH", 0.05)
    live = Live(workers=1, totals=Source(f"sqlite:///{database}", tmp_path / "mapping.yml", load=1.0))

    async def reads(wanted: int) -> None:
        live.open("ann").close()
        async with asyncio.timeout(60):
            while live.get_stats()["total_messages"] != wanted:  # noqa: ASYNC110  # it asks a database
                await asyncio.sleep(0.01)

    asyncio.run(reads(1))
    connection.execute(say, ("bob",))
    asyncio.run(reads(2))
    monkeypatch.setattr(totals, "STALE", 0.0)
    stats = live.get_stats()
    assert (stats["total_messages"], stats["database"]["error"]) == (None, totals.NOBODY_LOOKS)


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "in a file"])
def test_a_first_count_that_an_event_loop_did_not_live_to_see_ends_in_the_next(tmp_path: Path, kept: bool) -> None:
    """``asyncio.run`` before the server begins, or a test client, which has a loop for each request."""
    with contextlib.closing(sqlite3.connect(tmp_path / "host.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, room TEXT, sender TEXT, at TEXT)")
        connection.execute("INSERT INTO message (room, sender, at) VALUES ('room', 'ann', '2026-01-01 00:00:00')")
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender, "
        "conversation: room}\n"
    )
    source = Source(f"sqlite:///{tmp_path}/host.db", mapping, data_dir=tmp_path if kept else None, load=1.0)
    live = Live(workers=1, totals=source)

    async def reads(wanted: int | None) -> None:
        live.open("ann").close()
        async with asyncio.timeout(60):
            while (await source.view(1.0)).totals is None or live.get_stats()["total_messages"] != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(source.start())  # the task that counts has not begun
    asyncio.run(reads(1))
    asyncio.run(source.close())  # in a third
    assert source._collector is None
    assert source.latest().error == totals.UNREAD
    asyncio.run(reads(1))
    loop = asyncio.new_event_loop()  # one that ends without a word to those who work in it
    loop.run_until_complete(reads(1))
    loop.close()
    asyncio.run(reads(1))
    asyncio.run(source.close())


async def test_totals_begin_when_the_host_has_made_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first question may come before; and why there are no totals is said for as long as there are none."""
    monkeypatch.setattr(totals, "RETRY", 0.02)
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender, "
        "conversation: room}\n"
    )
    attempts, start = 0, Source.start

    async def counted(source: Source) -> None:
        nonlocal attempts
        attempts += 1
        await start(source)

    async def three_attempts() -> bool:
        return attempts >= 3

    monkeypatch.setattr(Source, "start", counted)
    live = Live(workers=1, totals=Source(f"sqlite:///{tmp_path}/host.db", mapping, data_dir=tmp_path, load=1.0))
    service = Service(live, lambda _: True)

    async def says(word: str, total: int | None = None) -> None:
        async def said() -> bool:
            answer = await service.answer("GET", "/v1/messaging/stats", {}, {}, None)
            document = json.loads(answer.body)
            return word in document["database"]["error"] and document["total_messages"] == total

        await until(said, word)

    try:
        await says("there is no database file at that path")

        async def still_said() -> bool:
            return "there is no database file" in live.get_stats()["database"]["error"]

        with monkeypatch.context() as half_a_minute_later:
            half_a_minute_later.setattr(totals, "STALE", 0.0)
            await until(still_said, "why, and not that nobody looks")
        await until(three_attempts, "it is tried again")
        with contextlib.closing(sqlite3.connect(tmp_path / "host.db", isolation_level=None)) as connection:
            connection.execute("CREATE TABLE another (id INTEGER PRIMARY KEY)")
            await says("no table message")
            connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, room TEXT, sender TEXT, at TEXT)")
            connection.execute("INSERT INTO message (room, sender, at) VALUES ('room', 'ann', '2026-01-01 00:00:00')")
            await says("no table of users is mapped", 1)
        told = [record.getMessage() for record in caplog.records if record.name == "exporter.embed"]
        assert len(told) == len(set(told)) == 2
    finally:
        await service.close()


async def test_a_host_that_commits_on_its_event_loop_never_waits_for_a_reading_of_its_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rollback journal a commit waits for readers; one that waits for the loop in turn would never end."""
    monkeypatch.setattr(collector, "FRESH", 0.0)
    database = tmp_path / "host.db"
    connection = sqlite3.connect(database, isolation_level=None, timeout=2.0)
    connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, room TEXT, sender TEXT, at TEXT)")
    say = "INSERT INTO message (room, sender, at) VALUES ('room', 'ann', '2026-01-01 00:00:00')"
    (tmp_path / "mapping.yml").write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender, "
        "conversation: room}\n"
    )
    source = Source(f"sqlite:///{database}", tmp_path / "mapping.yml", load=1.0)
    live = Live(workers=1, totals=source)
    await source.start()
    try:
        for _ in range(300):
            connection.execute(say)  # on the loop, as many hosts do; "database is locked" after two seconds
            await source.view(0.001)
        async with asyncio.timeout(60):
            while live.get_stats()["total_messages"] != 300:
                await source.view(1.0)
    finally:
        await source.close()


async def test_a_path_that_a_server_does_not_tell_raw_is_the_decoded_one() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/metrics", "raw_path": None, "headers": [], "query_string": b""}
    application = Live(workers=1).asgi()
    try:
        await application(scope, None, send)  # type: ignore[arg-type]  # nothing is received
    finally:
        await application.aclose()
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("name", ["a" * 300 + ".js", "a/" * 3_000 + "b.css", "\0.js", "..", ".js", "\ud800.svg"])
async def test_a_file_that_cannot_be_is_not_found(name: str) -> None:
    answer = await Service(Live(workers=1), None).answer("GET", f"/admin/static/{name}", {}, {}, None)
    assert answer.status == 404


@pytest.mark.parametrize("path", ["/", "/admin"])
async def test_a_browser_takes_into_a_page_only_what_comes_from_the_host(path: str) -> None:
    service = Service(Live(workers=1), lambda _: True)
    headers = (await service.answer("GET", path, {}, {}, None)).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[f"{what}-src"] for what in ("script", "style", "img", "connect")} == {"'self'"}
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    await service.close()


class _Odd(Exception):
    status_code = 498


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (_Odd(), 498),
        (urllib.error.HTTPError("https://sso.example.com", 302, "Found", {"set-cookie": "theirs"}, None), 500),  # type: ignore[arg-type]
        (aiohttp.ClientResponseError(None, (), status=401, headers={"set-cookie": "theirs"}), 500),  # type: ignore[arg-type]
    ],
)
async def test_what_another_server_answered_the_admin_check_is_not_the_host_s_decision(
    error: Exception, status: int
) -> None:
    def admin(_: Any) -> bool:
        raise error

    answer = await Service(Live(workers=1), admin).answer("GET", "/v1/messaging/stats", {}, {}, None)
    assert answer.status == status
    assert "set-cookie" not in answer.headers


async def test_what_one_of_several_workers_knows_is_shown_nowhere() -> None:
    live = Live(workers=2)
    live.open("ann").join("room")
    service = Service(live, lambda _: True)
    for path in ("/metrics", "/v1/messaging/stats", "/v1/messaging/stats/history"):
        answer = await service.answer("GET", path, {}, {}, None)
        assert (answer.status, b"one of several workers" in answer.body) == (503, True), path
    assert (await service.answer("GET", "/admin", {}, {}, None)).status == 200
    document = live.get_stats()
    assert {document[name] for name in ("active_connections", "total_participants", "typing_users", "nodes")} == {None}
    assert "one of several workers" in document["error"]
    assert Live(workers=1).get_stats()["nodes"] == 1
    await service.close()


@pytest.mark.parametrize(
    ("mount", "raw", "leads_to"),
    [
        ("/messaging", b"/messaging", b"messaging/"),
        ("/of/messaging", None, b"messaging/"),
        ("/\N{LATIN SMALL LETTER E WITH ACUTE}", b"/%C3%A9", b"%C3%A9/"),
        ("/\N{LATIN SMALL LETTER E WITH ACUTE}", b"/\xc3\xa9", b"%C3%A9/"),
        ("/\N{LATIN SMALL LETTER E WITH ACUTE}", None, b"%C3%A9/"),
        ("/100%", None, b"100%25/"),
        ("/why?", None, b"why%3F/"),
        ("/a:b", b"/a:b", b"a%3Ab/"),  # not an address of the kind a
    ],
)
async def test_a_mount_s_address_without_its_slash_leads_to_itself_with_it(
    mount: str, raw: bytes | None, leads_to: bytes
) -> None:
    """Whether the server tells the path as it came or, as it may, only what it means."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": mount, "root_path": mount, "headers": []}
    application = Live(workers=1).asgi()
    await application({**scope, "raw_path": raw}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"location"]) == (308, leads_to)
    await application.aclose()


async def test_the_record_of_days_is_empty_and_for_admins_only() -> None:
    for admin, status in ((True, 200), (False, 403)):
        service = Service(Live(workers=1), lambda _, admin=admin: admin)  # type: ignore[misc]
        answer = await service.answer("GET", "/v1/messaging/stats/days", {}, {}, None)
        assert answer.status == status
        assert (json.loads(answer.body).get("days", "") is None) == admin
        await service.close()


def test_the_document_says_whether_the_database_is_seen_and_when_it_last_was() -> None:
    live = Live(workers=1)
    down = SourceView("", "custom", error="it is down", last_success=1_000.0, down_since=1_001.0)
    moment = {"as_of": "1970-01-01T00:16:40Z", "error": "it is down"}
    document = figures.document(live, down)
    assert document["database"] == {"up": None, **moment}  # whether the host can write is not known
    assert document["sources"] == [{"name": "this server", "up": False, "since": "1970-01-01T00:16:41Z", **moment}]
    seen = figures.document(live, SourceView("", "custom", up=True, last_success=1_000.0))
    assert (seen["database"]["up"], seen["sources"][0]["up"]) == (True, True)
    unread = figures.document(live, SourceView("", "custom", error=totals.UNREAD))
    assert (unread["database"]["up"], unread["sources"][0]["up"]) == (None, None)


async def test_a_registry_alone_begins_the_reading_of_totals(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "host.db")) as database:
        database.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, sender TEXT, at TEXT)")
    (tmp_path / "mapping.yml").write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender}\n"
    )
    live = Live(workers=1, totals=Source(f"sqlite:///{tmp_path}/host.db", tmp_path / "mapping.yml"))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(live.collector())

    async def is_read() -> bool:
        return registry.get_sample_value("messaging_source_up") == 1

    await until(is_read, "the database is read")
    assert live.totals is not None
    await live.totals.close()


class _Refused(Exception):
    """As frameworks have it."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers = {
            "Location": "/sign-in",
            "Retry-After": "5",
            "Set-Cookie": "seen=1",
            "WWW-Authenticate": "Bearer",
            "Content-Length": "3",
        }


@pytest.mark.parametrize(
    ("error", "status", "kept"),
    [
        (_Refused(429), 429, {"location": "/sign-in", "retry-after": "5", "set-cookie": "seen=1"}),
        (_Refused(204), 500, {}),  # it refuses nothing
        (PermissionDenied(), 403, {}),
    ],
)
async def test_what_the_host_s_framework_refuses_with_is_answered(
    error: Exception, status: int, kept: dict[str, str]
) -> None:
    def admin(_: Any) -> bool:
        raise error

    answer = await Service(Live(workers=1), admin).answer("GET", "/admin", {}, {}, None)
    assert answer.status == status
    assert answer.headers.items() >= kept.items()
    assert ("www-authenticate" in answer.headers) == bool(kept)
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("described", [False, True])
async def test_a_registry_finds_by_name_what_is_known_only_after_the_registration(
    described: bool, tmp_path: Path
) -> None:
    """Prometheus may ask for single names (``params: name[]``), and a host registers before anybody has come."""
    database = sqlite3.connect(tmp_path / "host.db")
    database.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, sender TEXT, at TEXT)")
    (tmp_path / "mapping.yml").write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender}\n"
    )
    asked: list[int] = []

    def sockets() -> list[str]:
        asked.append(1)
        return ["tab"]

    live = Live(open_sockets=sockets, totals=Source(f"sqlite:///{tmp_path}/host.db", tmp_path / "mapping.yml"))
    registry = CollectorRegistry(auto_describe=described)
    registry.register(live.collector())
    assert not asked, "the host is only half imported"
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(Live().collector())
    assert live.totals is not None
    await live.totals.start()
    await live.totals.view(5.0)
    live.open("ann", handle="tab").message("room")
    families = list(registry.collect())
    assert {"messaging_live_drift", "messaging_messages_accepted", "messaging_source_up"} <= {
        family.name for family in families
    }
    for family in families:
        names = {sample.name for sample in family.samples}
        assert [found.name for found in registry.restricted_registry(names).collect()] == [family.name]
    await live.totals.close()


async def test_a_source_begins_once_with_what_it_was_told(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "host.db")) as database:
        database.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, sender TEXT, at TEXT)")
    mapping = tmp_path / "mapping.yml"
    mapping.write_text(
        "messages: {table: message, key: id, time: {column: at, unit: timestamp, zone: UTC}, sender: sender}\n"
    )
    url, kept = f"sqlite:///{tmp_path}/host.db", tmp_path / "kept"
    kept.mkdir()
    source = Source(url, mapping, data_dir=kept, load=0.5, recount_interval=60.0)
    await source.start()
    begun = source._collector
    assert begun is not None
    await source.start()
    assert source._collector is begun
    assert (begun.engine.load, begun.engine.recount_interval) == (0.5, 60.0)
    assert begun._ours, "the host writes it, and whoever closes a file of this process lets go of the host's locks"
    assert [path.name for path in kept.iterdir() if path.suffix == ".db"] == ["observe.db"]
    looking = asyncio.create_task(source.view(5.0))
    await asyncio.sleep(0)
    await source.close()
    assert (await looking).error == source.latest().error == totals.UNREAD

    async def is_read() -> bool:
        return source.latest().up

    for _ in range(2):
        source.start_soon()
        await until(is_read, "it is begun again, and looks by itself")
        await source.close()


async def test_a_scrape_gives_the_totals_what_is_left_of_its_time() -> None:
    given: list[float] = []

    class Slow(Source):
        async def view(self, deadline: float) -> SourceView:
            given.append(deadline)
            return self.latest()

    service = Service(Live(workers=1, totals=Slow("sqlite:///none.db", "mapping.yml")), None)
    for headers in ({"x-prometheus-scrape-timeout-seconds": "2"}, {}):
        given.clear()
        assert (await service.answer("GET", "/metrics", headers, {}, None)).status == 200
        assert 0 < min(given) <= (1.5 if headers else 3.75)
        assert max(given) <= 3.75  # the record's
    await service.close()


async def test_the_record_has_only_what_the_host_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {
        "messages_accepted", "deliveries", "joins", "connections_refused", "commands_refused", "sends_failed",
        "delivered", "delivered_in_time",
    }  # fmt: skip
    told = ("messages", "deliveries", "conversations", "rejections", "commands")
    for reports, unknown in (((), silent), (told, set())):
        service = Service(Live(workers=1, reports=reports), None)
        recorded: list[Sample] = []
        monkeypatch.setattr(service._history, "record", lambda _, sample, into=recorded: into.append(sample))
        await service.answer("GET", "/", {}, {}, None)

        async def is_recorded() -> bool:
            return bool(recorded)  # noqa: B023  # asked at once

        await until(is_recorded, "a sample")
        assert {name for name in silent if getattr(recorded[0], name) in (None, {})} == unknown
        assert recorded[0].connections_closed is not None
        await service.close()


async def test_totals_that_can_never_be_read_say_so_and_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url: Any = make_url("postgresql://ann:hunter2@h/d")
    with pytest.raises(TypeError, match=r"render_as_string\(False\)") as refused:
        Source(url, "mapping.yml")
    assert "hunter2" not in str(refused.value)

    async def error(live: Live) -> str:
        told: str | None = totals.UNREAD
        while told == totals.UNREAD:
            await asyncio.sleep(0)
            told = live.get_stats()["database"]["error"]
        assert live.totals is not None
        await live.totals.close()
        assert live.get_stats()["database"]["error"] == totals.UNREAD
        await live.totals.close()
        return str(told)

    assert "Source(url, 'mapping.yml')" in await error(Live(workers=1, totals=Source("sqlite:///host.db")))

    def defective(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(collector, "SourceCollector", defective)
    live = Live(workers=1, totals=Source("sqlite:///host.db", tmp_path / "mapping.yml"))
    assert await error(live) == "the database cannot be read: the log says why"
    assert "ZeroDivisionError" in caplog.text
