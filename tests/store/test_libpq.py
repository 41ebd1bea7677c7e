"""A PostgreSQL URL, a service and the environment are read as libpq reads them, or refused by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from exporter.core.errors import Misconfigured, Unavailable
from exporter.core.records import Message
from exporter.observe.connections.postgresql import PostgresReader
from exporter.store import Store
from exporter.store.dialects import several_hosts
from exporter.store.dialects.libpq import target
from exporter.store.dialects.unreached import unreached
from exporter.store.errors import PASSWORD, REFUSED
from tests.databases import Postgresql, eventually, opened, send
from tests.servers.certificates import CertificateAuthority
from tests.servers.pgbouncer import Pgbouncer
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres

BASE = "postgresql://ann:hunter2@host/chat"


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "dsn", "settings"),
    [
        ("", "", {}),
        ("?sslmode=require", "?sslmode=require", {}),
        ("?keepalives=1&keepalives_idle=30&tcp_user_timeout=9", "", {}),
        ("?sslmode=require&channel_binding=prefer&gssencmode=disable", "?sslmode=require", {}),
        ("?application_name=chat", "", {"application_name": "chat"}),
        ("?fallback_application_name=a", "", {"application_name": "a"}),
        ("?fallback_application_name=a&application_name=chat", "", {"application_name": "chat"}),
        ("?application_name=chat&fallback_application_name=a", "", {"application_name": "chat"}),
        ("?options=-csearch_path%3Dchat%20-c%20work_mem%3D8MB%20--jit%3Doff", "",
         {"search_path": "chat", "work_mem": "8MB", "jit": "off"}),
        ("?options=-c%20search_path%3Da%5C%20b", "", {"search_path": "a b"}),
        ("?options=-cSearch_Path%3Dchat%20--work-mem%3D8MB", "", {"search_path": "chat", "work_mem": "8MB"}),
        ("?client_encoding=utf8&connect_timeout=", "", {}),
        ("?client_encoding=UTF8&gssencmode=Disable", "", {}),
        ("?min_protocol_version=3.0&max_protocol_version=latest&sslsni=0&requiressl=0", "", {}),
        ("?sslmode=require&sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3",
         "?sslmode=require&sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3", {}),
    ],
)  # fmt: skip
def test_options_are_passed_on_honoured_or_dropped(options: str, dsn: str, settings: dict[str, str]) -> None:
    found = target(BASE + options, environ={})
    assert (found.dsn, found.settings) == (BASE + dsn, settings)
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(("seconds", "limit"), [("10", 10.0), ("1", 2.0), ("0", None), ("-1", None)])
def test_connect_timeout_is_in_whole_seconds_of_two_at_least(seconds: str, limit: float | None) -> None:
    assert target(f"{BASE}?connect_timeout={seconds}", environ={}).connect_timeout == limit


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("sslmode=require&channel_binding=require", "channel_binding"),
        ("gssencmode=require", "gssencmode"),
        ("require_auth=scram-sha-256", "require_auth"),
        ("requirepeer=postgres", "requirepeer"),
        ("replication=database", "replication"),
        ("connect_timeout=soon", "connect_timeout"),
        ("conect_timeout=10", "conect_timeout"),
        ("options=-e", "options"),
        ("statement_timeout=5", "statement_timeout"),
        ("%22%3Bhunter2=1", "strange name"),
        ("sslmode=verify-full&sslrootcert=/no/such/ca.crt", "sslrootcert.*/no/such/ca.crt"),
        ("service=nowhere", "service"),
        ("hostaddr=10.0.0.1&sslmode=verify-full", "hostaddr.*verify-ca"),
        ("hostaddr=10.0.0.1,10.0.0.2", "hostaddr has another number of addresses"),
        ("sslcrldir=/etc/crl", "sslcrldir.*sslcrl$"),
        ("min_protocol_version=3.2", r"min_protocol_version.*3\.0"),
        ("oauth_issuer=https://x", "oauth_issuer"),
        ("sslkeylogfile=/tmp/keys", "sslkeylogfile"),
        ("requiressl=1", "requiressl"),
        ("sslmode=bogus", "sslmode.*verify-ca or verify-full"),
        ("ssl_max_protocol_version=TLSv9", r"ssl_max_protocol_version.*TLSv1\.2 or TLSv1\.3"),
        ("sslnegotiation=bogus", "sslnegotiation.*postgres or direct"),
        ("sslnegotiation=direct", "sslnegotiation is direct, which needs sslmode=require"),
        ("target_session_attrs=bogus", "target_session_attrs.*standby or prefer-standby"),
        ("port=many", "port is not a number"),
        ("servicefile=/no/such&service=chat", "not in /no/such"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name_before_anything_is_asked(options: str, named: str) -> None:
    with pytest.raises(Misconfigured, match=named) as refused:
        Store(f"{BASE}?{options}")
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


# --- services and the environment -----------------------------------------------------------------------------


def test_a_service_fills_what_the_url_leaves_open(tmp_path: Path) -> None:
    text = "# ours\n[chat]\nhost=db.example.com\nport=6432\nuser=bob\ndbname=there\nsslmode=\n"
    (tmp_path / "services").write_text(text)
    environ = {"PGSERVICEFILE": str(tmp_path / "services")}
    expected = "host=db.example.com&port=6432&user=bob&dbname=there"
    assert target("postgresql:///?service=chat", environ=environ).dsn == f"postgresql://?{expected}"
    assert target("postgresql://", environ={**environ, "PGSERVICE": "chat"}).dsn == f"postgresql://?{expected}"
    given = target("postgresql:///here?service=chat&user=ann", environ=environ).dsn
    assert given == "postgresql:///here?host=db.example.com&port=6432&user=ann&dbname=there", "the path comes first"
    with pytest.raises(Misconfigured, match=r"not in .*services"):
        target("postgresql://?service=other", environ=environ)
    (tmp_path / "pg_service.conf").write_text("[other]\nhost=of.all\n[wrong]\nHost=db\n")
    environ["PGSYSCONFDIR"] = str(tmp_path)
    of_nobody = {"PGSYSCONFDIR": str(tmp_path), "HOME": str(tmp_path / "none")}
    for where in (environ, of_nobody):
        assert target("postgresql://?service=other", environ=where).dsn == "postgresql://?host=of.all"
    with pytest.raises(Misconfigured, match="database service's option"):
        target("postgresql://?service=wrong", environ=environ)


def test_the_environment_comes_after_the_url() -> None:
    environ = {"PGOPTIONS": "-c search_path=chat", "PGCONNECT_TIMEOUT": "7", "PGAPPNAME": "app"}
    found = target(BASE, environ=environ)
    assert (found.settings, found.connect_timeout) == ({"search_path": "chat", "application_name": "app"}, 7.0)
    found = target(f"{BASE}?options=-csearch_path%3Dmine&connect_timeout=3&application_name=x", environ=environ)
    assert (found.settings, found.connect_timeout) == ({"search_path": "mine", "application_name": "x"}, 3.0)


LIBPQ = """
host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout client_encoding options
application_name fallback_application_name keepalives keepalives_idle keepalives_interval keepalives_count
tcp_user_timeout replication gssencmode sslmode requiressl sslnegotiation sslcompression sslcert sslkey sslkeylogfile
sslpassword sslcertmode sslrootcert sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version
ssl_max_protocol_version min_protocol_version max_protocol_version krbsrvname gsslib gssdelegation scram_client_key
scram_server_key service servicefile target_session_attrs load_balance_hosts oauth_issuer oauth_client_id
oauth_client_secret oauth_scope
"""


@pytest.mark.parametrize("option", LIBPQ.split())
def test_no_option_of_postgresql_18_is_called_none_of_its_options(option: str) -> None:
    said = option
    try:
        target(f"postgresql://host/?{option}=x", environ={})
    except Misconfigured as refused:
        said = str(refused)
    assert option.removesuffix("file") in said
    assert "none of PostgreSQL's" not in said


def test_the_address_takes_the_place_of_the_name() -> None:
    found = target("postgresql://ann:x@db.example.com:6432/chat?hostaddr=10.0.0.7&sslmode=require", environ={})
    assert found.dsn == "postgresql://ann:x@/chat?sslmode=require&port=6432&host=10.0.0.7"
    found = target("postgresql://one:6,two:7/chat?hostaddr=10.0.0.7,10.0.0.8", environ={})
    assert found.hosts == (("10.0.0.7", 6), ("10.0.0.8", 7)), "each host has its own port"
    assert target("postgresql:///chat", environ={"PGHOSTADDR": "::1"}).dsn == "postgresql:///chat?host=%3A%3A1"


@pytest.mark.parametrize("url", ["postgresql://db/chat", "postgresql:///chat?host=db", "postgresql://?service=chat"])
def test_an_address_of_the_environment_is_that_of_the_host_as_in_libpq_but_not_of_several_databases_hosts(
    url: str, tmp_path: Path
) -> None:
    """Each source of ``observe`` would be read from the same server, under its own name."""
    (tmp_path / "services").write_text("[chat]\nhost=db\n")
    environ = {"PGHOSTADDR": "10.0.0.7", "PGSERVICEFILE": str(tmp_path / "services")}
    assert target(url, environ=environ).hosts == (("10.0.0.7", 5432),)
    assert target(url, environ=environ, several=True).hosts == (("db", 5432),)
    assert target("postgresql:///chat", environ=environ, several=True).hosts == (("10.0.0.7", 5432),)


@pytest.mark.needs("postgres")
async def test_a_source_is_read_from_the_host_that_its_url_names(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PostgresReader(postgres.url(postgres.create_database()))
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.9")  # where nobody listens
    try:
        assert await reader.columns() == {}
    finally:
        await reader.close()


def test_a_service_file_is_named_by_its_option(tmp_path: Path) -> None:
    (tmp_path / "services").write_text("[chat]\nhost=db\n")
    assert target(f"postgresql://?service=chat&servicefile={tmp_path / 'services'}", environ={}).dsn.endswith("host=db")


def test_a_password_file_that_is_passed_over_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pass"
    file.write_text("*:*:*:*:hunter2\n")
    for mode, url, environ in (
        (0o644, f"postgresql://host/?passfile={file}", {}),
        (0o640, "postgresql://host/", {"PGPASSFILE": str(file)}),
    ):
        file.chmod(mode)
        with pytest.raises(Misconfigured, match=r"(passfile|PGPASSFILE) names a file that others can read: chmod"):
            target(url, environ=environ)
    file.chmod(0o600)
    assert target(f"postgresql://host/?passfile={file}", environ={})
    assert target(f"{BASE}?passfile=/no/such", environ={}), "a password is there already"
    with pytest.raises(Misconfigured, match="PGPASSFILE names a file that is not there"):
        target("postgresql://host/", environ={"PGPASSFILE": str(tmp_path / "none")})


@pytest.mark.needs("postgres")
async def test_a_password_that_is_changed_while_the_server_runs_is_read_from_its_file_again(tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    with contextlib.closing(Postgres(fsync="off")) as server:
        database = server.start().create_database()
        server.psql(f"CREATE ROLE app LOGIN PASSWORD 'one'; ALTER DATABASE {database} OWNER TO app")
        server.add_file("pg_hba.conf", b"host all app all scram-sha-256\nhost all all all trust\n")
        server.psql("SELECT pg_reload_conf()")
        write_passwords(file, "one")
        async with opened(Postgresql(server.url(database, "app") + f"?passfile={file}")) as store:
            server.psql("ALTER ROLE app PASSWORD 'two'")
            assert await recovered(store), "a session that is open goes on"
            server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
            with pytest.raises(Unavailable, match=PASSWORD):
                await store.totals(5)
            write_passwords(file, "two")
            assert await recovered(store)


def write_passwords(file: Path, password: str) -> None:
    """One for all databases, as its owner keeps it."""
    file.write_text(f"*:*:*:app:{password}\n")
    file.chmod(0o600)


def test_files_of_tls_are_named_with_what_is_wrong_with_them(tmp_path: Path) -> None:
    authority = CertificateAuthority()
    certificate, key = authority.issue("ann", client=True)
    _, other = authority.issue("bob", client=True)
    of_locked, locked = authority.issue("cat", client=True, password=b"open sesame")
    files = {
        "cert": certificate,
        "key": key,
        "other": other,
        "locked": locked,
        "of_locked": of_locked,
        "junk": b"nothing\n",
        "ca": authority.cert,
    }
    paths = {}
    for name, content in files.items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(content)
        paths[name].chmod(0o600)
    paths["open"] = tmp_path / "open"
    paths["open"].write_bytes(key)
    paths["open"].chmod(0o644)
    home = tmp_path / "home" / ".postgresql"
    home.mkdir(parents=True)
    (home / "postgresql.crt").write_bytes(b"not read where another one is named\n")

    def ask(options: str) -> str:
        return target(f"postgresql://host/?{options.format(**paths)}", environ={"HOME": str(home.parent)}).dsn

    for options, named in {
        "sslmode=verify-ca&sslrootcert={junk}": "sslrootcert holds no certificate",
        "sslmode=verify-ca&sslrootcert={ca}&sslcrl={junk}": "sslcrl holds no list of revoked certificates",
        "sslcert={cert}&sslkey={other}": "sslkey is not the key of sslcert",
        "sslcert={cert}&sslkey={locked}": "sslkey is encrypted: give its passphrase with sslpassword",
        "sslcert={cert}&sslkey={locked}&sslpassword=wrong": "sslkey is not opened by sslpassword",
        "sslcert={cert}&sslkey={open}": "sslkey can be read by others: chmod",
        "sslcert={junk}&sslkey={key}": "sslcert or sslkey is not in PEM form",
        "sslcert={cert}": "sslcert or sslkey is not in PEM form",
        "sslcert={cert}&sslkey=/no/such": "sslkey names a file that is not there",
    }.items():
        with pytest.raises(Misconfigured, match=named) as refused:
            ask(options)
        assert "wrong" not in str(refused.value)
    assert ask("sslcert={cert}&sslkey={key}&sslmode=verify-ca&sslrootcert={ca}")
    assert ask("sslmode=disable&sslcert={junk}&sslkey={open}"), "nobody reads them"
    assert ask("sslcert={of_locked}&sslkey={locked}&sslpassword=open%20sesame")
    (home / "postgresql.crt").unlink()
    assert "sslmode=verify-full" in ask("sslrootcert=system"), "as libpq: who trusts everybody compares names"
    paths["key"].chmod(0o640)  # as a key of root's may be, for a group that may read it
    if paths["key"].stat().st_uid == 0:
        assert ask("sslcert={cert}&sslkey={key}")
        paths["key"].chmod(0o660)
    with pytest.raises(Misconfigured, match="sslkey can be read by others"):
        ask("sslcert={cert}&sslkey={key}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGSSLMODE", "x"),
        ("PGTARGETSESSIONATTRS", "x"),
        ("PGSSLCRLDIR", "x"),
        ("PGMINPROTOCOLVERSION", "latest"),
        ("PGPORT", "x"),
    ],
)
def test_what_the_environment_says_is_named_as_the_environments(variable: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=f"^the environment variable {variable} "):
        target("postgresql://host/", environ={variable: value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PGCONNECT_TIMEOUT", "x"), ("PGCHANNELBINDING", "require"), ("PGREQUIREPEER", "x"), ("PGOPTIONS", "-e")],
)
def test_what_is_wrong_is_named_where_it_was_said(variable: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=f"^the environment variable {variable} ") as refused:
        target(BASE, environ={variable: value})
    assert "URL" not in str(refused.value)
    (tmp_path / "services").write_text("[chat]\nconnect_timeout=x\n")
    environ = {"PGSERVICEFILE": str(tmp_path / "services"), "PGSERVICE": "chat", "PGCONNECT_TIMEOUT": "7"}
    with pytest.raises(Misconfigured, match=r"^the database service's option connect_timeout "):
        target(f"{BASE}?connect_timeout=", environ=environ)
    with pytest.raises(Misconfigured, match=r"^the database URL's option connect_timeout "):
        target(f"{BASE}?connect_timeout=y", environ=environ)


@pytest.mark.needs("postgres")
async def test_the_database_of_the_environment_or_a_service_is_the_one_that_is_used(
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = postgres.create_database()
    monkeypatch.setenv("PGDATABASE", name)
    async with opened(Postgresql(f"postgresql://postgres@127.0.0.1:{postgres.port}/?connect_timeout=10&keepalives=1")):
        assert await Postgresql(postgres.url(name)).fetch("SELECT count(*) FROM conversations") == [(0,)]
    other = postgres.create_database()
    (tmp_path / "services").write_text(f"[chat]\nhost=127.0.0.1\nport={postgres.port}\nuser=postgres\ndbname={other}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "chat")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=mine")
    await Postgresql(postgres.url(other)).execute("CREATE SCHEMA mine")
    async with opened(Postgresql("postgresql://")):
        assert await Postgresql(postgres.url(other)).fetch("SELECT count(*) FROM mine.conversations") == [(0,)]


@pytest.mark.needs("postgres")
async def test_of_several_hosts_the_one_that_can_be_written_to_is_used(postgres: Postgres) -> None:
    name = postgres.create_database()
    hosts = f"postgres@127.0.0.1:9,127.0.0.1:{postgres.port}"
    async with opened(Postgresql(f"postgresql://{hosts}/{name}?target_session_attrs=primary")) as store:
        assert (await store.totals(5)).stored_messages == 0
    assert await refusal(f"postgresql://postgres@127.0.0.1:{postgres.port}/{name}?target_session_attrs=standby") == (
        Unavailable,
        f"none of the database's hosts is of the kind that target_session_attrs asks for (127.0.0.1:{postgres.port})",
    )
    _, said = await refusal(f"postgresql://postgres@/{name}?host=127.0.0.1,127.0.0.2&port=1,2,3")
    assert said == "the database's URL names another number of ports than of hosts"


@pytest.mark.needs("postgres")
async def test_a_host_that_says_nothing_leaves_time_for_those_behind_it(postgres: Postgres) -> None:
    place = Postgresql(postgres.url(postgres.create_database()))
    async with opened(place), await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as silent:
        hosts = [f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"] * 2 + [f"127.0.0.1:{postgres.port}"]
        url = place.url.replace(hosts[-1], ",".join(hosts))
        store = Store(url, timeout=3.0)
        await store.start()
        assert (await store.totals(3.0)).stored_messages == 0
        await store.close()


# --- where it was tried -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("ann:hunter2@db/chat", "db:5432"),
        ("ann:hunter2@db:6/chat", "db:6"),
        ("ann:hunter2@one:6,two/chat", "one:6, two:5432"),
        ("ann:hunter2@[::1]:6/chat", "[::1]:6"),
        ("/chat?host=one,::1&port=6,7&password=hunter2", "one:6, [::1]:7"),
        ("/chat?host=one,two&port=6", "one:6, two:6"),
        ("/chat?host=/run/pg", "/run/pg/.s.PGSQL.5432"),
        ("ann:hunter2@%2Frun%2Fpg/chat", "/run/pg/.s.PGSQL.5432"),
        ("ann:hunter2@%2FRun%2Fpg:6,two/chat", "/Run/pg/.s.PGSQL.6, two:5432"),
        ("ann:hunter2@[fe80::1%25eth0]:6,Db%2Dx/chat", "[fe80::1%eth0]:6, Db-x:5432"),
        ("ann:hunter2@db/chat?hostaddr=10.0.0.1&port=6", "10.0.0.1:6"),
        ("ann@/chat", ""),
    ],
)
def test_the_place_is_told_without_user_and_password(url: str, place: str) -> None:
    assert target(f"postgresql://{url}", environ={}).place == place


@pytest.mark.parametrize("url", ["ann:123/x@db/chat", "ann:123#x@db/chat", "ann:123?x=@db/chat", "ann:a@123/x@db/chat"])
def test_a_password_that_tears_the_url_is_not_shown_in_the_place_of_the_host(url: str) -> None:
    with contextlib.suppress(Misconfigured):
        assert target(f"postgresql://{url}", environ={}).place == ""


@pytest.mark.parametrize(
    ("hosts", "where"),
    [
        ("127.0.0.1:{0}", "127.0.0.1:{0}: connection refused"),
        ("127.0.0.1:{0},127.0.0.2:{0}", "127.0.0.1:{0}, 127.0.0.2:{0}; the last: connection refused"),
        ("no.such.invalid", r"no.such.invalid:5432: [a-z ]*name[a-z ]*"),
        ("%2Fno%2Fsuch", "/no/such/.s.PGSQL.5432: no such file or directory"),
    ],
)
async def test_what_is_not_reached_is_told_with_what_is_in_the_way(hosts: str, where: str) -> None:
    port = free_port()
    kind, said = await refusal(f"postgresql://ann:hunter2@{hosts.format(port)}/chat")
    assert kind is Unavailable
    assert re.fullmatch(rf"the database cannot be reached \({where.format(port)}\)", said)


async def test_a_name_with_several_addresses_tells_each_reason_once_and_who_hangs_up_is_told_as_such() -> None:
    refused = OSError(
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
        "[Errno 111] Connect call failed ('127.0.0.1', 1), [Errno 101] Connect call failed ('10.0.0.1', 1)"
    )
    assert unreached("db:1", refused) == "db:1: connection refused, network is unreachable"
    ended = ConnectionError("unexpected connection_lost() call")
    assert unreached("db:1", ended) == "db:1: what answers there hung up"


def test_an_error_of_tls_is_not_told_as_one_of_the_system() -> None:
    assert unreached("db:5432", ssl.SSLError(1, "wrong version number")) == "db:5432"


async def test_each_host_has_the_time_that_the_url_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    async def says_nothing(dsn: str, *, timeout: float, **options: Any) -> None:
        given.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(asyncpg, "connect", says_nothing)
    with pytest.raises(TimeoutError):
        await several_hosts.connect("postgresql://", [("one", 1), ("two", 2)], 600.0, each=2.0)
    assert given == [2.0, 2.0]


async def test_a_server_that_says_nothing_is_told_by_its_address() -> None:
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        store = Store(f"postgresql://ann:hunter2@127.0.0.1:{port}/chat", timeout=0.5)
        with pytest.raises(Unavailable, match=rf"did not answer in time \(127.0.0.1:{port}\)"):
            await store.start()
        await store.close()


# --- a schema of our own --------------------------------------------------------------------------------------


@pytest.mark.needs("postgres")
async def test_beside_the_tables_of_an_application(postgres: Postgres) -> None:
    theirs = Postgresql(postgres.url(postgres.create_database()))
    await theirs.execute(
        "CREATE TABLE users (email text); CREATE TABLE messages (subject text);"
        "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('0002')"
    )
    store = Store(theirs.url)
    with pytest.raises(Misconfigured, match=r"--database\.schema.*messages, users"):
        await store.migrate()
    await store.close()
    async with opened(theirs, schema="Our Chat") as store:
        await store.create_conversation("c", "ann", [])
        await send(store, "c", "ann", "m")
        assert (await store.totals(5)).stored_messages == 1
    assert await theirs.fetch('SELECT count(*) FROM "Our Chat".messages') == [(1,)]
    assert await theirs.fetch("SELECT * FROM alembic_version") == [("0002",)]
    assert await theirs.fetch("SELECT count(*) FROM messages") == [(0,)]


@pytest.mark.parametrize("schema", ["information_schema", "pg_catalog", "pg_toast", "pg_temp"])
def test_the_schemas_of_the_server_are_nobodys_else(schema: str) -> None:
    with pytest.raises(Misconfigured, match=f"database.schema {schema} is PostgreSQL's own"):
        Store("postgresql://host/chat", schema=schema)


@pytest.mark.needs("postgres")
async def test_a_search_path_that_begins_with_the_servers_own_schema_is_refused(postgres: Postgres) -> None:
    store = Store(postgres.url(postgres.create_database()) + "?options=-csearch_path%3Dinformation_schema")
    with pytest.raises(Misconfigured, match="information_schema is PostgreSQL's own"):
        await store.migrate()
    await store.close()


def test_an_sqlite_file_has_no_schemas() -> None:
    with pytest.raises(Misconfigured, match=r"database\.schema"):
        Store("sqlite:///m.db", schema="chat")


# --- pgbouncer --------------------------------------------------------------------------------------------------


@pytest.mark.needs("postgres", "pgbouncer")
async def test_pgbouncer_in_session_mode_and_a_second_process(postgres: Postgres) -> None:
    direct = postgres.url(postgres.create_database())
    pooler = Pgbouncer(postgres, "session", size=20)
    try:
        place = Postgresql(pooler.url(direct), direct)
        async with opened(place, schema="chat") as store, opened(place, schema="chat") as second:
            await store.create_conversation("c", "ann", [])
            assert (await send(store, "c", "ann", "m1")).seq == 1
            assert (await send(second, "c", "ann", "m2")).seq == 2
            assert (await second.totals(5)).stored_messages == 2
        assert await place.fetch("SELECT count(*) FROM chat.messages") == [(2,)]
    finally:
        pooler.close()


@pytest.mark.needs("postgres", "pgbouncer")
async def test_what_pgbouncer_refuses_is_not_called_a_lost_connection(postgres: Postgres) -> None:
    pooler = Pgbouncer(postgres, "transaction", more="max_client_conn = 1")
    try:
        place = Postgresql(pooler.url(postgres.url(postgres.create_database())))
        store = Store(place.url, timeout=2.0)
        holder = await place_connection(place.url)
        with pytest.raises(Unavailable, match=r"refuses the connection|no connection or memory to spare"):
            await store.start()
        await holder.close()
        await store.close()
    finally:
        pooler.close()


@pytest.mark.needs("postgres", "pgbouncer")
async def test_what_pgbouncer_says_when_it_hangs_up_is_not_called_a_lost_connection(postgres: Postgres) -> None:
    """With its server gone it goes on taking connections, and hangs up on whoever asks for something."""
    server = Postgres(fsync="off")
    pooler = Pgbouncer(server, "transaction", more="server_login_retry = 1")
    with contextlib.closing(server), contextlib.closing(pooler):
        async with opened(Postgresql(pooler.url(server.start().url(server.create_database())))) as store:
            server.stop()

            async def refused() -> bool:
                with pytest.raises(Unavailable) as told:
                    await store.totals(5)
                return str(told.value) == REFUSED

            await eventually(refused)
            server.start()
            await eventually(lambda: recovered(store))


async def recovered(store: Store) -> bool:
    """Does it answer again?"""
    try:
        await store.totals(5)
    except Unavailable:
        return False
    return True


@pytest.mark.needs("postgres", "pgbouncer")
async def test_what_was_given_up_in_a_poolers_queue_keeps_no_session_from_others(postgres: Postgres) -> None:
    direct = postgres.url(postgres.create_database())
    pooler = Pgbouncer(postgres, "transaction", size=1, more="server_idle_timeout = 600")
    try:
        place = Postgresql(pooler.url(direct), direct)
        async with opened(place, timeout=2.0) as store:
            await store.create_conversation("c", "ann", [])
            holder = await place_connection(place.url)
            await holder.execute("BEGIN; SELECT 1")
            waited = [send(store, "c", "ann", "m1"), store.membership("c", "ann"), store.totals(5)]
            for answer in await asyncio.gather(*waited, return_exceptions=True):
                assert isinstance(answer, Unavailable)
            await holder.execute("COMMIT")
            await holder.execute("SELECT 1")  # behind all that waited before it
            await holder.close()
            # As a client does it: new connections through a pooler may take a busy machine longer than a time limit.
            stored = await eventually(lambda: sent(store))
            assert "server conn crashed" not in pooler.log, "a session was kept until the server had enough of it"
            assert stored.seq == 1
            assert await place.fetch("SELECT seq FROM messages") == [(1,)]
    finally:
        pooler.close()


async def sent(store: Store) -> Message | None:
    """The message, if it could be stored now."""
    answer = await send(store, "c", "ann", "m1")
    return answer if isinstance(answer, Message) else None


@pytest.mark.needs("postgres", "pgbouncer")
async def test_statement_pooling_is_named(postgres: Postgres) -> None:
    pooler = Pgbouncer(postgres, "statement")
    try:
        store = Store(pooler.url(postgres.url(postgres.create_database())))
        for asked in (store.migrate, store.start):
            with pytest.raises(Misconfigured, match="pool_mode to transaction or session"):
                await asked()
        await store.close()
    finally:
        pooler.close()


@pytest.mark.needs("postgres", "pgbouncer")
async def test_sessions_of_a_pooler_that_are_of_a_read_only_time_do_not_end_a_start(
    postgres: Postgres,
) -> None:
    name = postgres.create_database()
    place = Postgresql(postgres.url(name))
    pooler = Pgbouncer(postgres, "transaction", size=8, more="server_idle_timeout = 600")
    try:
        await place.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        several = [await place_connection(pooler.url(place.url)) for _ in range(8)]
        for connection in several:
            await connection.execute("BEGIN")  # a session of the server for each
        for connection in several:
            await connection.execute("COMMIT")
            await connection.close()
        back = f"ALTER DATABASE {name} RESET default_transaction_read_only"
        await place.execute(f"BEGIN; SET TRANSACTION READ WRITE; {back}; COMMIT")

        async def old() -> bool:
            return bool((await place.fetch(AGE))[0][0] > 1)

        await eventually(old)
        async with opened(Postgresql(pooler.url(place.url), place.url)) as store:
            assert await store.register("ann")
        await place.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    finally:
        pooler.close()
    _, said = await refusal(place.url)
    assert said == "the database is read-only", "a fresh session's word counts"


AGE = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - max(backend_start)), 9) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def place_connection(url: str) -> Any:
    import asyncpg

    return await asyncpg.connect(url, statement_cache_size=0)


# --- TLS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Path]]:
    """A server with a certificate for localhost, and the folder of its authority's."""
    folder = tmp_path_factory.mktemp("tls")
    CertificateAuthority().write(folder, sans=("localhost",))
    server = Postgres(fsync="off", ssl="on")
    try:
        for name in ("server.crt", "server.key"):
            server.add_file(name, (folder / name).read_bytes())
        server.start()
        yield server, folder
    finally:
        server.close()


async def refusal(url: str) -> tuple[type[Exception], str]:
    store = Store(url, timeout=5.0)
    try:
        await store.start()
    except (Misconfigured, Unavailable) as error:
        return type(error), str(error)
    finally:
        await store.close()
    raise AssertionError("it started")


@pytest.mark.needs("postgres")
async def test_errors_of_tls_are_named_as_such(
    secured: tuple[Postgres, Path],
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, folder = secured
    base = f"postgresql://postgres@127.0.0.1:{server.port}/postgres?sslmode="
    good = base.replace("127.0.0.1", "localhost") + f"verify-full&sslrootcert={folder / 'ca.crt'}"
    assert await refusal(good) == (
        Misconfigured,
        "the database's schema is not there: run 'messaging-exporter migrate'",
    )
    (tmp_path / "other.crt").write_bytes(CertificateAuthority("another").cert)
    untrusted = await refusal(base + f"verify-ca&sslrootcert={tmp_path / 'other.crt'}")
    assert untrusted[0] is Misconfigured
    assert "signed by nobody who is trusted" in untrusted[1]
    another = await refusal(base + f"verify-full&sslrootcert={folder / 'ca.crt'}")
    assert another[0] is Misconfigured
    assert "of another host" in another[1]
    monkeypatch.setenv("HOME", str(tmp_path))
    absent = await refusal(base + "verify-full")
    assert absent[0] is Misconfigured
    assert "root certificate" in absent[1]
    without = await refusal(f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres?sslmode=require")
    assert without == (Misconfigured, "the database offers no TLS, which sslmode in its URL demands")
    assert os.environ["HOME"] == str(tmp_path)
