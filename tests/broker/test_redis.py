"""The way to the server: each kind of URL on real servers, what is wrong at start in one line, and an absent server."""

from __future__ import annotations

import asyncio
import gc
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from msgspec.structs import replace

from exporter.broker import frames, outgoing, reconnecting, redelivery
from exporter.broker.clock import ServerClock
from exporter.broker.connection import Connection, Reply
from exporter.broker.envelope import Envelope
from exporter.broker.frames import Kind
from exporter.broker.functions import Functions
from exporter.broker.held_conversations import STORM
from exporter.broker.location import locate
from exporter.broker.presence import PAUSE
from exporter.broker.reconnecting import ReconnectingConnection
from exporter.broker.redis import EARLY, RedisBroker
from exporter.core.errors import Misconfigured
from exporter.core.events import ClosedReason
from exporter.core.records import Membership
from exporter.metrics.counters import Metrics
from tests.broker.conftest import BOTH
from tests.broker.nodes import Ear, Node, counts, nodes
from tests.logged import logged
from tests.servers import certificates
from tests.servers.cut import CutProxy
from tests.servers.exporter import until
from tests.servers.ports import free_port
from tests.servers.valkey import Sentinel, Server, running

# As docs/cluster.md has them.
RIGHTS = (
    "resetkeys ~messaging:* resetchannels &messaging:* -@all +ping +info +function|load "
    "+fcall +fcall_ro +smembers +ssubscribe +sunsubscribe +spublish +time +zadd +zrem +zscore +zcount +zrangebyscore "
    "+hset +hget +hmget +hdel +hlen +hvals +sadd +srem +spop +scard +smismember +srandmember +del"
)


async def talk(first: Node, last: Node) -> None:
    """A message from one to the other, and who is there."""
    first.join("a", "ann", "room")
    await first.hears(b"J ann")
    last.join("b", "bob", "room")
    await first.hears(b"J bob")
    first.broker.publish(Envelope("room", b"hello", seq=1, sender="ann"))
    assert first.ear.heard[-1] == b"hello"  # here at once
    await last.hears(b"hello")

    async def counted() -> bool:
        cluster = first.broker.cluster()
        return cluster is not None and (cluster.users, cluster.participants, cluster.conversations) == (2, 2, 1)

    await until(counted, "counted")


async def refused(url: str, words: str, **more: Any) -> None:
    """A start that ends with one clear line, which holds no secret."""
    node = Node(url, "messaging", **more)
    try:
        with logged(reconnecting) as lines, pytest.raises(Misconfigured, match=words) as caught:
            await node.broker.start(5.0)
        assert lines == []  # nothing is tried on, and whoever started it says why
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)
    finally:
        await node.broker.close()


async def test_by_tcp_and_by_a_socket(server: Server) -> None:
    for url in (server.url, f"valkey://127.0.0.1:{server.port}/3", f"unix://{server.socket}?db=1"):
        async with nodes(url) as (first, last):
            await talk(first, last)


async def test_two_clusters_on_one_server_do_not_hear_each_other(server: Server) -> None:
    async with nodes(server.url) as (first, last), nodes(server.url, 1) as (stranger,):
        stranger.join("c", "cat", "room")
        await talk(first, last)
        cluster = stranger.broker.cluster()
        assert cluster is not None
        assert (cluster.nodes, stranger.ear.heard) == (1, [b"J cat"])


@contextmanager
def _with(kind: str, *options: str, **more: Any) -> Iterator[Server]:
    with running(kind, *options, **more) as server:
        yield server


@pytest.mark.parametrize("kind", BOTH)
async def test_a_password_and_the_rights_of_the_documentation_are_enough(kind: str, tmp_path: Path) -> None:
    with _with(kind, "requirepass s3cret", password="s3cret") as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "messaging", "on", ">other-s3cret", *RIGHTS.split())
        file = tmp_path / "password"
        file.write_text("other-s3cret\n")
        async with nodes(f"redis://messaging@127.0.0.1:{server.port}", password_file=file) as (first, last):
            await talk(first, last)
        await refused(server.url, "wants a password")
        await refused(f"redis://:wrong-s3cret@127.0.0.1:{server.port}", "user or the password")
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "messaging", "-spop", "-ssubscribe")
        await refused(
            f"redis://messaging@127.0.0.1:{server.port}", r"lacks rights: \+spop \+ssubscribe", password_file=file
        )
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "messaging", "+@all", "resetkeys", "~other:*")
        await refused(f"redis://messaging@127.0.0.1:{server.port}", "lacks rights", password_file=file)
        file.write_text("\n")
        await refused(f"redis://messaging@127.0.0.1:{server.port}", "password file .* is empty", password_file=file)


def test_the_documented_rights_are_those_of_these_tests() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    assert RIGHTS in " ".join(text.split())


@pytest.mark.parametrize("kind", BOTH)
async def test_each_of_the_documented_rights_is_needed_and_the_missing_one_is_named(kind: str) -> None:
    rights = RIGHTS.split()
    with _with(kind, "requirepass s3cret", password="s3cret") as server, server.client() as client:
        for right in rights:
            if right[0] in "+~&":
                rest = [other for other in rights if other != right]
                client.execute_command("ACL", "SETUSER", "messaging", "reset", "on", ">other-s3cret", *rest)
                named = rf": [^;]*{re.escape(right)}\b" if right[0] == "+" else ""
                await refused(f"redis://messaging:other-s3cret@127.0.0.1:{server.port}", f"lacks rights{named}")


@pytest.mark.needs("redis")
@pytest.mark.parametrize("command", ["hello", "info", "function", "fcall_ro", "hset", "ssubscribe", "unlink"])
async def test_a_command_that_the_server_does_not_have_is_named_without_the_password_behind_it(command: str) -> None:
    server = Server("redis", "requirepass s3cret", f'rename-command {command} ""', password="s3cret")
    server.tls = {"protocol": 2}  # of the tests' own client, which would say hello
    url = f"redis://:s3cret@127.0.0.1:{server.port}"
    try:
        server.start()
        if command == "unlink":  # which need not be there
            async with nodes(url, 1):
                return
        await refused(url, f"does not know {command}: ")
    finally:
        server.remove()


@pytest.mark.parametrize("kind", BOTH)
async def test_publishing_that_is_refused_is_told_and_what_it_carried_is_told_again(kind: str) -> None:
    with _with(kind, "requirepass s3cret", password="s3cret") as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "messaging", "on", ">other-s3cret", *RIGHTS.split())
        async with nodes(f"redis://messaging:other-s3cret@127.0.0.1:{server.port}") as (first, last):
            await talk(first, last)
            client.execute_command("ACL", "SETUSER", "messaging", "-spublish")
            outbox = first.broker._outbox
            for seq in range(2, 50):
                first.broker.publish(Envelope("room", b"lost", seq=seq, sender="ann"))

            async def told() -> bool:
                return not first.broker.up and "spublish" in str(first.broker.error).lower()

            await until(told, "the reason")
            assert len(outbox._unanswered) < 50, "nothing is remembered without end"
            client.execute_command("ACL", "SETUSER", "messaging", "+spublish")
            await first.up()
            await last.hears(b"heal 1 49")


@pytest.mark.parametrize("right", ["hset", "hdel", "smembers", "spublish"])
@pytest.mark.parametrize("kind", BOTH)
async def test_a_right_that_is_taken_away_and_given_back_leaves_all_as_it_should_be(kind: str, right: str) -> None:
    with _with(kind, "requirepass s3cret", password="s3cret") as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "messaging", "on", ">other-s3cret", *RIGHTS.split())
        async with nodes(f"redis://messaging:other-s3cret@127.0.0.1:{server.port}", lease=3.0) as (first, last):
            last.join("b", "bob", "room")
            first.join("c", "cat", "room")
            await last.hears(b"J cat")
            await counts(last, participants=2, settling=0)

            async def compared() -> bool:
                return last.broker._announcements._timer is None

            await until(compared, "what is said from now on is not made good by a comparison")
            client.execute_command("ACL", "SETUSER", "messaging", f"-{right}")
            first.join("a", "ann", "room")
            for event in first.hub.leave("c", "room"):
                first.broker.events.on_event[type(event)](event)

            async def told() -> bool:
                return not first.broker.up

            await until(told, "refused")  # and back before its lease is over
            client.execute_command("ACL", "SETUSER", "messaging", f"+{right}")
            await last.hears(b"J ann")
            await last.hears(b"L cat")
            for node in (first, last):
                await counts(node, nodes=2, connections=3, users=3, conversations=1, participants=2, settling=0)


@pytest.mark.parametrize("kind", BOTH)
async def test_the_refusal_of_what_has_no_reply_is_not_taken_for_the_reply_to_what_follows(kind: str) -> None:
    with _with(kind) as server, server.client() as client:
        async with nodes(server.url) as (first, last):
            await talk(first, last)
            client.execute_command("ACL", "SETUSER", "default", "-sunsubscribe")
            connection = first.broker._reconnecting.connection
            assert connection is not None
            with logged(reconnecting) as lines:
                for event in first.hub.leave("a", "room"):
                    first.broker.events.on_event[type(event)](event)
                first.broker.nodes_channel.publish(connection, Kind.HERE, 1, data=b"somebody[]")

                async def told() -> bool:
                    return "lacks rights: +sunsubscribe" in str(first.broker.error)

                await until(told, "the reason")
                assert all("sunsubscribe" in line["reason"] for line in lines), lines
            client.execute_command("ACL", "SETUSER", "default", "+sunsubscribe")
            await first.up()
            await counts(last, participants=1)


async def test_frames_are_counted_one_by_one_however_many_share_a_payload(server: Server) -> None:
    async with nodes(server.url) as (first, last):
        last.join("b", "bob", "room")
        await counts(first, nodes=2, participants=1, settling=0)
        sent, received = first.metrics.broker_frames_sent, last.metrics.broker_frames_received
        before = sent.value, received.value
        for seq in (1, 2, 3):
            first.broker.publish(Envelope("room", b"%d" % seq, seq=seq, sender="ann"))
        await last.hears(b"3")
        assert (sent.value, received.value) == (before[0] + 3, before[1] + 3)


@pytest.mark.parametrize("conversations", [3, 95_000])
async def test_what_is_owed_after_an_outage_is_told_piece_by_piece(server: Server, conversations: int) -> None:
    async with nodes(server.url, 1, lease=15.0) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        lost = node.broker._reconnecting.connection
        assert lost is not None
        lost.abort("a test")
        for number in range(conversations):
            name = f"{number:08x}-6a1c-4d0e-9f3b-{number:012x}"
            node.broker.publish(Envelope(name, b"{}", seq=7, sender="ann"))
        outbox, connections = node.broker._outbox, set[int]()

        async def told() -> bool:
            connections.add(id(node.broker._reconnecting.connection))
            return node.broker.up and not (outbox._look or outbox._unanswered or outbox._waiting)

        await until(told, "told")
        assert len(connections) <= 2, "none, and the one after it"


@pytest.mark.parametrize("kind", BOTH)
async def test_a_password_that_changes_is_read_again_and_a_wrong_one_is_told(kind: str, tmp_path: Path) -> None:
    with _with(kind, "requirepass s3cret", password="s3cret") as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "messaging", "on", ">old-s3cret", *RIGHTS.split())
        file = tmp_path / "password"
        file.write_text("old-s3cret\n")
        async with nodes(f"redis://messaging@127.0.0.1:{server.port}", 1, password_file=file) as (node,):
            client.execute_command("ACL", "SETUSER", "messaging", "resetpass", ">new-s3cret")
            client.execute_command("CLIENT", "KILL", "USER", "messaging")

            async def told() -> bool:
                return "user or the password" in str(node.broker.error)

            await until(told, "the reason")
            assert not node.broker.up
            file.write_text("new-s3cret\n")
            await node.up()


async def test_by_ipv6() -> None:
    with _with("valkey", "bind 127.0.0.1 ::1") as server:
        async with nodes(f"redis://[::1]:{server.port}") as (first, last):
            await talk(first, last)


@pytest.mark.parametrize("kind", BOTH)
async def test_a_server_that_evicts_is_refused(kind: str) -> None:
    with _with(kind, "maxmemory 100mb", "maxmemory-policy allkeys-lru") as server:
        await refused(server.url, "maxmemory-policy is allkeys-lru")


@pytest.mark.parametrize("kind", BOTH)
async def test_a_server_that_begins_to_evict_is_left_and_what_it_has_dropped_is_told_anew(kind: str) -> None:
    with _with(kind) as server, server.client() as client:
        async with nodes(server.url) as (first, last):
            first.join("a", "ann", "room")
            last.join("b", "bob", "room")
            for node in (first, last):
                await counts(node, connections=2, users=2, participants=2)
            client.config_set("maxmemory-policy", "volatile-ttl")

            async def told() -> bool:
                return all("maxmemory-policy is volatile-ttl" in str(n.broker.error) for n in (first, last))

            await until(told, "the reason, and no figures")
            client.set("somebody's", "value", ex=1000)
            client.config_set("maxmemory", 1)
            assert client.info("stats")["evicted_keys"] == 1
            root = first.broker._functions.root
            assert client.delete(f"{root}:u", f"{root}:p", f"{root}:h:{first.broker.incarnation}:p") == 3  # others too
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            for node in (first, last):
                await counts(node, nodes=2, connections=2, users=2, conversations=1, participants=2, settling=0)
            for event in first.hub.leave("a", "room"):
                first.broker.events.on_event[type(event)](event)
            await last.hears(b"L ann")
            await counts(last, users=2, conversations=1, participants=1)


@pytest.mark.parametrize("kind", BOTH)
async def test_what_a_server_drops_while_it_serves_nobody_is_told_anew(kind: str) -> None:
    with _with(kind) as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "messaging", "on", ">s3cret", *RIGHTS.split())
        async with (
            CutProxy(server.port) as way,
            nodes(f"redis://messaging:s3cret@127.0.0.1:{way.port}", 1, lease=60.0) as (node,),
        ):
            node.join("a", "ann", "room")
            await counts(node, users=1, participants=1)
            way.refusing = True
            way.drop()

            async def lost() -> bool:
                return node.broker._reconnecting.connection is None

            await until(lost, "no beat sees it")
            client.config_set("maxmemory-policy", "allkeys-lru")  # as with a start from other settings
            way.refusing = False

            async def told() -> bool:
                return "maxmemory-policy is allkeys-lru" in str(node.broker.error)

            await until(told, "the reason")
            assert client.delete(f"{node.broker._functions.root}:u") == 1
            client.config_set("maxmemory-policy", "noeviction")
            await counts(node, nodes=1, connections=1, users=1, conversations=1, participants=1)


async def test_nobody_is_said_to_leave_where_all_tell_anew_what_they_hold(server: Server) -> None:
    async with nodes(server.url) as (first, last):
        first.join("a", "ann", "room")
        last.join("b", "bob", "room")
        await first.hears(b"J bob")
        await last.hears(b"J ann")
        before = {node.broker.incarnation for node in (first, last)}

        async def begun_anew() -> bool:
            return not before & {node.broker.incarnation for node in (first, last)}

        with server.client() as client:
            client.hset(f"{first.broker._functions.root}:state", "evicted", "17")  # keys have been dropped since
        await until(begun_anew, "both have new names")
        for node in (first, last):
            await counts(node, nodes=2, participants=2, settling=0)
        assert sorted(first.ear.heard) == sorted(last.ear.heard) == [b"J ann", b"J bob"]


async def test_a_server_that_goes_back_to_what_it_knew_before_counts_nobody_twice(server: Server) -> None:
    before: set[str | None] = set()

    async with nodes(server.url, lease=60.0) as both:
        both[0].join("a", "ann", "room")

        async def begun_anew() -> bool:
            now = {node.broker.incarnation for node in both}
            return not now & before and all(node.broker.up for node in both)

        with server.client() as client:
            for _ in range(2):
                before |= {node.broker.incarnation for node in both}
                client.swapdb(0, 1)
                await until(begun_anew, "both have told all they hold anew")
        for node in both:
            await counts(node, nodes=2, connections=1, users=1, conversations=1, participants=1)


@pytest.mark.parametrize("kind", BOTH)
async def test_who_is_only_in_the_file_that_a_server_has_started_from_is_in_no_final_figure(kind: str) -> None:
    with _with(kind) as server, server.client() as client:
        async with nodes(server.url, 1, lease=2.0) as (before,):
            before.join("g", "ghost", "old room")
            await counts(before, users=1, participants=1, settling=0)
            client.save()
            async with nodes(server.url, 1, lease=2.0, cluster=before.broker._functions.root[11:-1]) as (node,):
                node.join("a", "ann", "room")
                await before.broker.close()
                await counts(node, nodes=1, users=1, participants=1, settling=0)
                server.restart()
                since = client.time()[0]

                async def final() -> bool:
                    figures = node.broker.cluster()
                    return figures is not None and figures.as_of > since and not figures.settling

                await until(final, "final figures")
                figures = node.broker.cluster()
                assert figures is not None
                assert (figures.nodes, figures.connections, figures.users, figures.participants) == (1, 1, 1, 1)


async def test_what_is_wrong_only_after_the_start_was_waited_for_is_a_reason_and_no_lost_exception() -> None:
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost.append(context))

    async def live(way: CutProxy) -> None:
        node = Node(f"redis://127.0.0.1:{way.port}", "c")
        way.cut()
        await node.broker.start(0.01)
        way.mend()

        async def told() -> bool:
            return "maxmemory-policy" in (node.broker.error or "")

        await until(told, "the reason")
        await node.broker.close()

    with _with("valkey", "maxmemory 100mb", "maxmemory-policy allkeys-lru") as server:
        async with CutProxy(server.port) as way:
            await live(way)
    gc.collect()
    assert not lost


async def test_a_connection_that_a_defect_has_met_is_not_heard_beside_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(server.url, uuid.uuid4().hex[:8])
    channel = node.broker.nodes_channel
    opened = channel.opened

    def breaks(connection: Connection) -> None:
        monkeypatch.setattr(channel, "opened", opened)
        raise RuntimeError("a defect")

    monkeypatch.setattr(channel, "opened", breaks)
    try:
        await node.broker.start(5.0)
        await node.up()
        with server.client() as client:
            name = node.broker._reconnecting._name

            async def one() -> bool:
                return [found["name"] for found in client.client_list()].count(name) == 1

            await until(one, "one connection")
    finally:
        await node.broker.close()


async def test_what_lasts_is_heard_after_an_outage_in_which_the_clock_of_a_node_stood_still(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "SILENCE", 0.0)
    stopped_at: list[float] = []

    def now() -> float:
        return stopped_at[0] if stopped_at else time.monotonic()

    async with CutProxy(server.port) as way, nodes(server.url, 1, lease=1.0) as (first,):
        last = Node(f"redis://127.0.0.1:{way.port}", first.broker._functions.root[11:-1], lease=1.0, now=now)
        await last.broker.start(5.0)
        try:
            first.join("1", "ann", "c")
            last.join("2", "bob", "c")
            await first.hears(b"J bob")
            way.refusing = True
            stopped_at.append(now())
            way.drop()
            first.broker.publish(Envelope("c", b"deleted", lasting=True))
            with server.client() as client:
                seconds, _ = client.time()

                async def later() -> bool:
                    return client.time()[0] > seconds + 1

                await until(later, "a second more")
            way.refusing = False
            await last.hears(b"deleted")
        finally:
            await last.broker.close()


async def test_a_node_that_may_not_say_goodbye_does_not_insist() -> None:
    with _with("valkey") as server, server.client() as client:
        node = Node(server.url, "c")
        await node.broker.start(5.0)
        await node.up()
        client.execute_command("ACL", "SETUSER", "default", "-fcall")
        await node.broker.close()
        assert client.info("commandstats")["cmdstat_fcall"]["rejected_calls"] < 10


@contextmanager
def speaking_tls(
    folder: Path, *options: str, authority: certificates.CertificateAuthority | None = None
) -> Iterator[Server]:
    """A server with a certificate for this machine; there are ``client.crt`` and ``client.key`` for its clients."""
    authority = authority or certificates.CertificateAuthority()
    authority.write(folder)
    authority.write(folder, "client", client=True)
    server = Server(
        "redis",  # the wheel's Valkey is built without TLS
        f"tls-cert-file {folder}/server.crt",
        f"tls-key-file {folder}/server.key",
        f"tls-ca-cert-file {folder}/ca.crt",
        *options,
    )
    server.options += ["port 0", f"tls-port {server.port}"]
    server.tls = {
        "ssl": True,
        "ssl_ca_certs": f"{folder}/ca.crt",
        "ssl_certfile": f"{folder}/client.crt",
        "ssl_keyfile": f"{folder}/client.key",
    }
    try:
        yield server.start()
    finally:
        server.remove()


async def absent(url: str, reason: str) -> None:
    """A broker that cannot be used, which a node waits for all the same, and says why.

    It tries again: where the server says why and hangs up, a reset may take the reason away, and is what is said then.
    """
    node = Node(url, "messaging")

    async def said() -> bool:
        assert not node.broker.up
        return reason in str(node.broker.error).lower()

    try:
        await node.broker.start(0)
        await until(said, f"an error with {reason}")
    finally:
        await node.broker.close()


@pytest.mark.needs("redis")
async def test_tls_is_verified(tmp_path: Path) -> None:
    with speaking_tls(tmp_path, "tls-auth-clients no") as server:
        url = f"rediss://127.0.0.1:{server.port}"
        async with nodes(f"{url}?ssl_ca_certs={tmp_path}/ca.crt") as (first, last):
            await talk(first, last)
        await absent(url, "certificate")


@pytest.mark.needs("redis")
async def test_a_server_that_wants_a_certificate_of_its_clients(tmp_path: Path) -> None:
    with speaking_tls(tmp_path, "tls-auth-clients yes") as server:
        url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={tmp_path}/ca.crt"
        own = f"{url}&ssl_certfile={tmp_path}/client.crt&ssl_keyfile={tmp_path}/client.key"
        async with nodes(own) as (first, last):
            await talk(first, last)
        await absent(url, "certificate")
        await refused(f"{url}&ssl_certfile={tmp_path}/absent.crt", "TLS files cannot be used: no such file")


@pytest.mark.needs("redis")
async def test_a_certificate_that_expires_while_nodes_run_is_told_whose_it_is_and_a_new_one_is_read(
    tmp_path: Path,
) -> None:
    authority, shown = certificates.CertificateAuthority(), tmp_path / "shown"
    shown.mkdir()

    def show(name: str, *, expired: bool) -> None:
        authority.write(shown, name, client=name == "client", expired=expired)
        if name == "server":  # it reads the files when it is told of them
            files = {"tls-cert-file": f"{shown}/server.crt", "tls-key-file": f"{shown}/server.key"}
            client.execute_command("CONFIG", "SET", *(word for pair in files.items() for word in pair))

    with speaking_tls(tmp_path, "tls-auth-clients yes", authority=authority) as server, server.client() as client:
        show("client", expired=False)
        url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={tmp_path}/ca.crt"
        async with nodes(f"{url}&ssl_certfile={shown}/client.crt&ssl_keyfile={shown}/client.key") as (first, last):
            for name, words in (
                ("server", "the broker's certificate cannot be verified: certificate has expired"),
                ("client", "refuses this node's certificate, ssl_certfile of --redis.url: certificate expired"),
            ):
                show(name, expired=True)
                client.client_kill_filter(_type="pubsub")

                async def told(words: str = words) -> bool:
                    return words in str(first.broker.error)

                await until(told, f"{words}, not {first.broker.error}")
                show(name, expired=False)
                await first.up()
                await last.up()
            await talk(first, last)


@pytest.mark.needs("redis")
async def test_a_ca_that_is_not_known_is_told_where_to_be_named(tmp_path: Path) -> None:
    with speaking_tls(tmp_path, "tls-auth-clients no") as server:
        await absent(f"rediss://127.0.0.1:{server.port}", "; ssl_ca_certs of --redis.url names its ca")
        (tmp_path / "ca.crt").write_text("nonsense")
        await refused(
            f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={tmp_path}/ca.crt", r"cannot be used: .*\(ssl_ca_certs\)"
        )


@pytest.mark.needs("redis")
async def test_sentinel_names_the_master_and_the_one_after_a_failover() -> None:
    first = Server("redis", "repl-diskless-sync-delay 0").start()
    second = Server("redis", f"replicaof 127.0.0.1 {first.port}").start()
    watchers = [Sentinel("redis", first, quorum=2) for _ in range(3)]
    try:
        for watcher in watchers:
            watcher.start()

        async def known() -> bool:
            answers = []
            for watcher in watchers:
                with watcher.client() as client:
                    [state] = client.sentinel_masters().values()
                    answers.append(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2)
            return all(answers)

        await until(known, "the sentinels know each other", 30)
        hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        async with nodes(f"redis+sentinel://{hosts}/main") as (left, right):
            await talk(left, right)
            first.stop()

            async def moved() -> bool:
                with second.client() as client:
                    return client.info("replication")["role"] == "master"

            await until(moved, "failed over", 30)
            await left.up()
            await right.up()
            for node in (left, right):
                cluster = node.broker.cluster()
                assert cluster is not None
                await counts(node, users=2, participants=2, nodes=2)
            right.broker.publish(Envelope("room", b"after", seq=2, sender="bob"))
            await left.hears(b"after")
    finally:
        for server in (*watchers, second, first):
            server.remove()


def _shard(kind: str) -> AbstractContextManager[Server]:
    """A server of a Redis Cluster; its second option names the port for the others."""
    return _with(kind, "cluster-enabled yes", f"cluster-port {free_port()}")


@pytest.mark.parametrize("kind", BOTH)
async def test_a_cluster_of_one_shard_and_no_database_number_in_it(kind: str) -> None:
    with _shard(kind) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

            async def ready() -> bool:
                return "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO"))

            await until(ready, "the cluster is ready")
        async with nodes(server.url) as (first, last):
            await talk(first, last)
        node = Node(f"{server.url}/1", "messaging")
        await node.broker.start(2.0)
        assert not node.broker.up
        await node.broker.close()


@pytest.mark.parametrize("kind", BOTH)
async def test_a_cluster_of_several_shards_whichever_is_named(kind: str) -> None:
    with ExitStack() as stack:
        shards = [stack.enter_context(_shard(kind)) for _ in range(3)]
        for shard, slots in zip(shards, ((0, 5460), (5461, 10922), (10923, 16383)), strict=True):
            with shard.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        with shards[0].client() as client:
            for shard in shards[1:]:
                bus = int(shard.options[1].split()[1])
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", shard.port, bus)

        async def ready() -> bool:
            answers = []
            for shard in shards:
                with shard.client() as client:
                    answers.append("cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
            return all(answers)

        await until(ready, "the cluster is ready", 30)
        cluster = uuid.uuid4().hex[:8]
        async with AsyncExitStack() as closing:
            made = [Node(shard.url, cluster, lease=10.0) for shard in shards]
            for node in made:
                closing.push_async_callback(node.broker.close)
                await node.broker.start(5.0)
            for node in made:
                await node.up()
            await talk(made[0], made[-1])
            await counts(made[1], users=2, participants=2, nodes=3)


@pytest.mark.parametrize("kind", BOTH)
async def test_a_replica_is_no_broker_and_the_reason_is_told(kind: str) -> None:
    with _with(kind) as server, _with(kind, f"replicaof 127.0.0.1 {server.port}") as replica:
        node = Node(replica.url, "messaging")
        await node.broker.start(2.0)
        assert (node.broker.up, node.broker.error) == (False, "the server is a replica")
        await node.broker.close()


async def test_an_absent_server_is_waited_for_and_nothing_here_waits() -> None:
    server = Server("valkey")
    node = Node(server.url, "messaging")
    await node.broker.start(1.0)
    assert not node.broker.up
    assert node.broker.cluster() is None
    assert str(node.broker.view.error).startswith("the broker cannot be reached: ")
    node.join("a", "ann", "room")
    node.broker.publish(Envelope("room", b"hello", seq=1, sender="ann"))
    assert node.ear.heard == [b"J ann", b"hello"]
    assert node.metrics.broker_frames_dropped.value == 1
    try:
        server.start()
        await node.up()
        await counts(node, users=1, participants=1, conversations=1)
    finally:
        await node.broker.close()
        server.remove()


class Reader(Ear):
    """A local node with a database that holds what was published, as a node's own reads it after an outage."""

    def __init__(self, broker: RedisBroker[str], stored: dict[int, bytes]) -> None:
        super().__init__()
        self._broker, self._stored = broker, stored

    def heal(self, conversation: str, after: int, through: int) -> None:
        def read() -> None:
            for seq in range(after + 1, through + 1):
                envelope: Envelope[str] = Envelope(conversation, self._stored[seq], seq=seq, remote=True)
                self._broker.ordering.fill(envelope)
            self._broker.ordering.healed(conversation, through)

        asyncio.get_running_loop().call_soon(read)

    def examine(self, pairs: list[tuple[str, str]] | None) -> None:
        known = Membership(True, max(self._stored))
        asyncio.get_running_loop().call_soon(self._broker.conversations.found, "room", known, None)


async def test_a_frozen_server_delays_nothing_and_is_given_up(server: Server) -> None:
    async with nodes(server.url, lease=10.0) as (first, last):
        await talk(first, last)
        stored = {1: b"hello"}
        last.broker._local = last.broker.ordering._local = last.broker._incoming._local = Reader(last.broker, stored)
        server.freeze()
        try:
            for seq in range(2, 2000):
                stored[seq] = b"%d " % seq + b"x" * 1000
                first.broker.publish(Envelope("room", stored[seq], seq=seq, sender="ann"))
            sent = [stored[seq] for seq in range(2, 2000)]
            assert first.ear.heard[-1998:] == sent  # at once: nothing was awaited

            async def given_up() -> bool:
                return not first.broker.up and first.broker.cluster() is None

            await until(given_up, "given up")
        finally:
            server.thaw()
        await first.up()
        await last.up()
        reader = last.broker._local

        async def complete() -> bool:
            # A thawed server may carry out a part of what had been given up; the rest is read from the database.
            return [frame for frame in reader.heard if frame.endswith(b"x")][-1:] == sent[-1:]

        await until(complete, "nothing is missing")
        assert [frame for frame in reader.heard if frame.endswith(b"x")] == sent, "in order, and none twice"


async def test_more_than_may_wait_is_given_up_instead_of_growing(server: Server) -> None:
    async with nodes(server.url, 1, lease=60.0) as (node,):
        node.join("a", "ann", "room")
        server.freeze()
        try:
            for seq in range(1, 40):
                node.broker.publish(Envelope("room", b"x" * 500_000, seq=seq, sender="ann"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert node.broker.error == "the server is too far behind"
        finally:
            server.thaw()
        await node.up()


async def test_nodes_of_two_releases_side_by_side(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter.broker import frames, functions

    name, text = functions.library()
    async with nodes(server.url, 1) as (old,):
        newer = text.replace(name, f"{name}_next") + "\n-- a later release\n"
        monkeypatch.setattr(functions, "library", lambda: (f"{name}_next", newer))
        new = Node(server.url, old.broker._functions.root[11:-1])
        try:
            await new.broker.start(5.0)
            await new.up()
            await talk(old, new)
            dropped = old.metrics.broker_frames_dropped.value
            channel = new.broker._functions.channel("room").encode()
            unknown = frames.head(b"another1", 0) + bytes([0, 0, 0, 15, 99]) + bytes(14)
            with server.client() as client:
                client.execute_command("SPUBLISH", channel, unknown)
                client.execute_command("SPUBLISH", channel, b"Z of a later release")
                client.execute_command("SPUBLISH", channel, b"A\nXann\nJcat")
            await old.hears(b"J cat")
            assert old.metrics.broker_frames_dropped.value == dropped + 3
            with server.client() as client:
                assert len(client.function_list(library=f"{name}*")) >= 2
        finally:
            await new.broker.close()


async def test_what_was_asked_for_a_conversation_that_was_let_go_of_announces_nothing(server: Server) -> None:
    async with nodes(server.url, lease=10.0) as (first, last):
        last.join("b", "bob", "room")
        await last.hears(b"J bob")
        await counts(first, participants=1)
        server.freeze()
        try:
            for _ in range(3):  # held, let go of and held anew, while no answer comes
                first.broker.conversations.hold("room", lambda: None)
                first.broker.conversations.settle("room")
            first.join("a", "ann", "room")
            await first.hears(b"J ann")  # without waiting for the broker
        finally:
            server.thaw()
        await last.hears(b"J ann")
        await first.hears(b"J bob")
        await counts(first, participants=2)
        assert first.ear.heard.count(b"J bob") == 1


def test_where_no_more_conversations_are_owed_the_numbers_of_those_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MOST_OWED", 1)
    outbox: outgoing.Outbox[str] = outgoing.Outbox(MagicMock(meters=Metrics()))
    for room, seq in (("room", 3), ("other", 4), ("room", 5)):
        outbox.drop(room, outgoing.outgoing(Kind.LOOK, seq=seq))
    outbox.opened()
    assert {room: frame[2] for room, (frame,) in outbox._waiting.items()} == {"room": 5}


def test_what_is_owed_is_the_highest_number_and_owed_once() -> None:
    clock = ServerClock(lambda: 0.0)
    context = MagicMock(held={}, functions=Functions("test"), node=b"12345678", meters=Metrics(), clock=clock)
    context.now = lambda: 0.0
    outbox: outgoing.Outbox[str] = outgoing.Outbox(context)
    for seq in (3, 5, 4):
        outbox.put("room", outgoing.outgoing(Kind.LOOK, seq=seq))
        outbox.flush(MagicMock())
    outbox.closed()
    outbox.opened()
    assert [seq for _, _, seq, _, _ in outbox._waiting["room"]] == [5]
    outbox.flush(MagicMock())
    outbox._answered(1)
    outbox.closed()
    outbox.opened()
    assert not outbox.waiting


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Kind.MESSAGE, (Kind.LOOK, 3, "")),
        (Kind.LOOK, (Kind.LOOK, 3, "")),
        (Kind.REMOVED, (Kind.ASK, 0, "ann")),
        (Kind.ASK, (Kind.ASK, 0, "ann")),
        (Kind.TYPING, (Kind.TYPISTS, 0, "")),
        (Kind.TYPISTS, (Kind.TYPISTS, 0, "")),
        (Kind.LASTING, (Kind.LASTING, 3, "ann")),
    ],
)
def test_whatever_could_not_leave_is_counted_and_what_it_comes_to_is_told_later(
    kind: Kind, told: tuple[Kind, int, str]
) -> None:
    metrics = Metrics()
    outbox: outgoing.Outbox[str] = outgoing.Outbox(MagicMock(meters=metrics))
    outbox.put("room", outgoing.outgoing(kind, seq=3, user="ann"))
    outbox.closed()
    assert metrics.broker_frames_dropped.value == 1
    outbox.opened()
    assert [(kind, seq, user) for kind, _, seq, user, _ in outbox._waiting["room"]] == [told]


async def test_a_conversation_whose_last_participant_leaves_while_somebody_is_about_to_join_is_held(
    server: Server,
) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        ready = list[str]()
        node.broker.conversations.hold("room", partial(ready.append, "bob"))
        for event in node.hub.leave("a", "room"):
            node.broker.events.on_event[type(event)](event)
        assert node.broker.conversations.begin("room", 0) == 0
        node.broker.conversations.settle("room")
        assert (ready, node.broker._held) == (["bob"], {})


async def test_a_conversation_that_empties_while_somebody_joins_is_counted_again_when_they_have(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await counts(node, conversations=1)
        conversations = node.broker.conversations
        conversations.hold("room", lambda: None)
        for happens in (
            partial(node.hub.leave, "a", "room"),
            partial(node.hub.open, "b", "bob"),
            partial(node.hub.join, "b", "room"),
        ):
            for event in happens():
                node.broker.events.on_event[type(event)](event)
        conversations.settle("room")
        await counts(node, conversations=1, participants=1, users=2)


async def test_a_user_is_connected_until_the_last_of_their_connections_has_gone(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        for connection in ("a", "b"):
            node.join(connection, "ann", "room")
        await counts(node, connections=2, users=1, participants=1)
        for connection, users in (("a", 1), ("b", 0)):
            for event in node.hub.close(connection, ClosedReason.CLIENT):
                if (tell := node.broker.events.on_event.get(type(event))) is not None:
                    tell(event)
            await counts(node, connections=users, users=users, participants=users)


async def test_what_nobody_holds_any_more_is_not_listened_to(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        channel = node.broker._functions.channel("room")
        with server.client() as client:
            assert client.execute_command("PUBSUB", "SHARDCHANNELS", channel) == [channel]
            assert (node.broker.conversations._awaited, node.broker.conversations._joins) == (set(), 0)
            for event in node.hub.leave("a", "room"):
                node.broker.events.on_event[type(event)](event)

            async def is_left() -> bool:
                return client.execute_command("PUBSUB", "SHARDCHANNELS", channel) == []

            await until(is_left, "left")


async def test_what_was_about_to_be_subscribed_to_goes_on_without_a_broker_that_is_lost(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        ready = list[str]()
        node.broker.conversations.hold("room", partial(ready.append, "ann"))
        connection = node.broker._reconnecting.connection
        assert connection is not None
        connection.abort("for this test")
        assert ready == ["ann"]
        assert not node.broker.conversations.new, "the next connection subscribes to all that is held then"
        node.broker.conversations.settle("room")


async def test_what_came_before_the_answer_to_the_first_join_shows_a_hole_behind_it(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        conversations = node.broker.conversations
        conversations.hold("room", lambda: None)
        node.broker.ordering.message(node.broker._held["room"], Envelope("room", b"seventh", seq=7))
        assert conversations.begin("room", 5) == 5
        await node.hears(b"heal 5 7")
        conversations.settle("room")


async def test_who_takes_part_is_told_also_when_it_is_known_only_after_the_join(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        node.broker._announcements.seeded(node.broker._held["room"], [b"ann", b"bob"])
        assert node.ear.heard == [b"J ann", b"J bob"]


async def test_a_broker_that_has_answered_no_beat_for_a_lease_is_not_up(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        assert node.broker.cluster() is not None
        node.broker._alive_until = node.broker._now()
        assert not node.broker.up
        assert node.broker.cluster() is None


async def test_a_beat_counts_from_when_it_was_sent(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        figures = node.broker._figures
        assert figures is not None
        node.broker._alive_until = 0.0
        node.broker._answered(figures, 5.0)  # the server's lease began then, or later
        assert node.broker._alive_until == 5.0 + node.broker._lease


@pytest.mark.parametrize(
    ("change", "examined"),
    [
        ({}, []),
        ({"nodes": -1}, [None]),
        ({"nodes": 1}, []),
        ({"came": 1}, [None]),
        ({"purged": 1}, []),
        ({"unsettled": 500}, []),
    ],
)
async def test_whoever_dies_or_comes_may_have_stored_what_was_not_published(
    change: dict[str, int], examined: list[None], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(server.url, 1) as (node,):
        looked: list[object] = []
        monkeypatch.setattr(node.ear, "examine", looked.append)
        assert node.broker._figures is not None
        figures = node.broker._figures = replace(node.broker._figures, unsettled=0)
        more = {name: getattr(figures, name) + by for name, by in change.items()}
        beats, compared = list[object](), list[float]()
        monkeypatch.setattr(node.broker._presence, "beat", beats.append)
        monkeypatch.setattr(node.broker._announcements, "compare_in", compared.append)
        node.broker._answered(replace(figures, **more), node.broker._now())
        assert looked == examined
        assert len(beats) == ("purged" in change), "what is left of the dead does not wait for the next beat"
        assert compared == [0.51] * ("unsettled" in change), "as soon as nobody's entries can be missing"


async def test_another_connection_may_be_to_another_clock(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(server.url, 1) as (node,):
        forgotten: list[None] = []
        monkeypatch.setattr(node.broker._clock, "forget", lambda: forgotten.append(None))
        connection = node.broker._reconnecting.connection
        assert connection is not None
        connection.abort("for this test")
        await node.up()
        assert forgotten


async def test_the_last_node_leaves_nothing_behind_however_much_it_holds(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        for number in range(400):
            node.join(f"c{number}", f"user{number}", "room")
        await counts(node, users=400, participants=400)
        root = node.broker._functions.root
    with server.client() as client:
        assert client.keys(f"{root}:*") == [f"{root}:state"]


async def test_a_message_of_another_node_is_timed_from_when_it_was_received_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        came: list[Envelope[str]] = []
        monkeypatch.setattr(node.ear, "deliver", came.append)
        clock, broker = node.broker._clock, node.broker
        stamp = clock.stamp(broker._now() - 1.0)
        published = clock.here(stamp)
        assert published is not None
        for seq, age in ((1, 3_000_000), (2, 0)):
            payload = frames.head(b"another1", stamp) + frames.pack(Kind.MESSAGE, b"m", seq, "bob", age)
            broker._incoming.pushed([b"smessage", broker._held["room"].channel, payload])
        assert [one.received for one in came] == [published - 3.0, None]


async def test_what_a_stranger_says_is_dropped_frame_by_frame(server: Server) -> None:
    """As many as they would have been if they had been received."""
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        typing: list[Any] = [(Kind.TYPING, b"t", active, "bob", None) for active in (1, 0)]
        said = [frames.pack(Kind.MESSAGE, b"m", 1, "bob"), *frames.typing_runs(typing)]
        payload = frames.head(b"another1", 0) + b"".join(said)
        meters = (node.metrics.broker_frames_dropped, node.metrics.broker_frames_received)
        before = [meter.value for meter in meters]
        for foreign_nodes in ({b"another1"}, set()):
            node.broker.nodes_channel.foreign_nodes = foreign_nodes
            node.broker._incoming.pushed([b"smessage", node.broker._held["room"].channel, payload])
        assert [meter.value - was for meter, was in zip(meters, before, strict=True)] == [3, 3]


async def test_a_removal_whose_age_is_not_known_may_be_late(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        now = node.broker._clock.stamp(node.broker._now())
        assert not node.broker._incoming._is_late(frames.head(b"another1", now))
        assert node.broker._incoming._is_late(frames.head(b"another1", 0))


@pytest.mark.parametrize("late", [False, True])
async def test_who_joins_with_an_answer_older_than_the_subscription_is_examined_when_the_join_is_over(
    late: bool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        looked: list[object] = []
        monkeypatch.setattr(node.ear, "examine", looked.append)
        conversations = node.broker.conversations
        conversations.hold("room", lambda: None)
        if late:
            conversations._look_back(node.broker._held["room"])  # it took longer than a join waits
        else:
            conversations.subscribed()  # by another connection than when the database was asked
        assert looked == [[("room", "ann")]] * late
        looked.clear()
        conversations.settle("room")
        assert looked == [[("room", "ann")]]


def way_to(server: Server, **more: Any) -> ReconnectingConnection:
    """With a lease of ten seconds."""
    nothing: dict[str, Any] = {
        "on_open": lambda connection: None,
        "on_closed": lambda: None,
        "on_push": lambda push: None,
        "beat": lambda connection: None,
        "now": time.monotonic,
    }
    return ReconnectingConnection(locate(server.url), Functions("way"), 10.0, name="test", **{**nothing, **more})


async def test_a_process_that_had_been_asleep_for_a_lease_begins_with_a_new_connection(server: Server) -> None:
    asleep, beats = 0.0, list[Connection]()
    way = way_to(server, beat=beats.append, now=lambda: time.monotonic() + asleep)
    await way.start(5.0)
    try:
        assert way.connection is not None
        asleep = 11.0
        way._tick()
        assert (way.connection, way.error, beats) == (None, "this process had been asleep", [])
    finally:
        await way.close()


async def test_a_server_that_answers_no_beat_is_given_up(server: Server) -> None:
    later, beats = 0.0, list[Connection]()
    way = way_to(server, beat=beats.append, now=lambda: time.monotonic() + later)
    await way.start(5.0)
    try:
        way._tick()
        later = 1.5
        way.answered()
        way._tick()
        later = 3.0  # not silent for two seconds yet
        way._tick()
        assert way.connection is not None
        later = 4.0
        way._tick()
        assert (way.connection, way.error, len(beats)) == (None, "no answer for 2 s", 3)
    finally:
        await way.close()


async def test_whoever_was_asleep_reads_what_has_come_before_a_server_is_given_up(server: Server) -> None:
    later, beats = 0.0, list[Connection]()
    way = way_to(server, beat=beats.append, now=lambda: time.monotonic() + later)
    await way.start(5.0)
    try:
        way._tick()
        later = 5.0  # the answer lies in the socket
        way._tick()
        later = 6.0
        way._tick()
        assert way.connection is not None
        later = 7.0
        way._tick()
        assert (way.connection, way.error, len(beats)) == (None, "no answer for 2 s", 3)
    finally:
        await way.close()


async def test_whoever_is_always_late_gives_a_server_up_that_does_not_answer(server: Server) -> None:
    later = 0.0
    way = way_to(server, now=lambda: time.monotonic() + later)
    await way.start(5.0)
    try:
        for passed in (0.0, 3.5, 7.0):
            assert way.connection is not None
            later = passed
            way._tick()
        assert (way.connection, way.error) == (None, "no answer for 2 s")
    finally:
        await way.close()


@pytest.mark.parametrize(("lease", "most"), [(1.0, 0.25), (15.0, 2.0)])
async def test_whoever_is_without_a_server_tries_often_enough_to_be_back_within_a_lease_of_the_first(
    lease: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For so long the server takes nobody for dead."""
    pauses: list[float] = []

    def uniform(least: float, longest: float) -> float:
        pauses.append(longest)
        return least

    monkeypatch.setattr(reconnecting.random, "uniform", uniform)
    node = Node(f"redis://127.0.0.1:{free_port()}", "c", lease=lease)
    await node.broker.start(0.01)
    try:

        async def tried() -> bool:
            return len(pauses) > 10

        await until(tried, "ten tries")
    finally:
        await node.broker.close()
    assert (pauses[0], max(pauses), pauses[-1]) == (0.05, most, most)


async def test_where_a_server_has_pointed_to_is_tried_once(server: Server) -> None:
    """What it knew may be old: the URL's servers know who owns the slot by now."""
    way = way_to(server)
    way._redirected = ("127.0.0.1", free_port())
    await way.start(5.0)
    try:

        async def open_() -> bool:
            return way.connection is not None

        await until(open_, "open")
    finally:
        await way.close()


async def test_each_outage_is_told_with_its_reason(server: Server) -> None:
    """Once, however often it is tried; and again when the broker has been there in between."""
    way = way_to(server)
    with logged(reconnecting) as lines:
        await way.start(5.0)
        try:
            for times in (1, 2):
                for _ in range(2):
                    way._failed("down", None)
                assert [line.get("reason") for line in lines].count("down") == times
                connection = way.connection
                assert connection is not None
                connection.abort("a test")

                async def open_again(before: Connection = connection) -> bool:
                    return way.connection not in (None, before)

                await until(open_again, "open again")
        finally:
            await way.close()


async def test_a_connection_that_ends_while_it_is_looked_at_is_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = way_to(server)
    check, looked = way._check, list[Connection]()

    async def ends_once(connection: Connection) -> str:
        run_id = await check(connection)
        looked.append(connection)
        if len(looked) == 1:
            connection.abort("for this test")
        return run_id

    monkeypatch.setattr(way, "_check", ends_once)
    try:
        await way.start(20.0)
        assert way.connection is looked[-1]
        assert way.connection.open
    finally:
        await way.close()


async def test_a_silence_ends_with_its_connection_and_a_slot_that_has_moved_is_followed(server: Server) -> None:
    way = way_to(server)
    way._silent_since = 0.0  # of the connection before
    try:
        await way.start(5.0)
        assert way.connection is not None
        assert way._silent_since is None
        way._lost("MOVED 1234 [::1]:7001")
        assert way._redirected == ("::1", 7001)
    finally:
        await way.close()


async def test_a_join_that_waits_for_a_message_is_told_that_somebody_was_removed_meanwhile(server: Server) -> None:
    """What it knows of members is then to be asked again."""
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        held, told = node.broker.conversations, list[bool]()
        for seq, removal in ((1, False), (2, True)):
            held.catch_up("room", seq, told.append)
            if removal:
                held.removed("room")
            node.broker.publish(Envelope("room", b"m%d" % seq, seq=seq, sender="ann"))
            await node.hears(b"m%d" % seq)
        assert told == [False, True]


async def test_how_long_the_way_takes_is_measured_now_and_then(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of all that comes back in ``MEASURED`` seconds."""
    monkeypatch.setattr(outgoing, "MEASURED", 60.0)
    async with nodes(server.url, 1) as (node,):
        node.join("a", "ann", "room")
        await node.hears(b"J ann")
        sent, lag = node.metrics.broker_frames_sent, node.metrics.broker_lag
        connection = node.broker._reconnecting.connection
        assert connection is not None

        async def left() -> bool:
            return sent.value == before + 1

        for turn in (1, 2):
            for _ in range(10):
                before = sent.value
                node.broker.publish(Envelope("room", b"typing"))
                await until(left, "it has left")
                await connection.call("PING")  # behind what comes back
            assert sum(lag.counts) == turn
            node.broker._outbox._measured_at -= 61.0
        assert 0 < lag.sum < 60.0


async def test_a_pause_between_batches_whose_timer_comes_early_is_over(server: Server) -> None:
    """To wait for the rest would be timers of 0 ms in a row."""
    async with nodes(server.url, 1) as (node,):
        connection, presence = node.broker._reconnecting.connection, node.broker._presence
        assert connection is not None
        now = presence._sent_at + PAUSE - EARLY / 2
        presence._now = lambda: now
        presence.add("uann")
        assert presence.waiting
        node.broker._tell_what_changed(connection)
        assert not presence.waiting
        assert node.broker._pause is None


async def test_subscriptions_of_a_turn_share_a_command_and_in_a_storm_they_wait_for_each_other(server: Server) -> None:
    async with nodes(server.url, 1) as (node,):
        connection = node.broker._reconnecting.connection
        assert connection is not None
        subscriptions: list[bytes] = []
        queue, ready = connection.queue, []

        def noted(data: bytes, replies: int, told: Reply) -> None:
            if b"SSUBSCRIBE" in data:
                subscriptions.append(data)
            queue(data, replies, told)

        connection.queue = noted
        held = node.broker.conversations

        async def all_ready(count: int) -> None:
            async def enough() -> bool:
                return len(ready) == count

            await until(enough, f"{count} ready")

        first = [f"room{number}" for number in range(STORM)]
        for name in first:
            held.hold(name, partial(ready.append, name))
        assert ready == []
        await all_ready(STORM)
        assert [command.count(b":c:room") for command in subscriptions] == [STORM]
        # As many joins are under way: what is held within the pause leaves together.
        held._subscribe_at = asyncio.get_running_loop().time() + 0.3
        for name in ("later", "latest"):
            held.hold(name, partial(ready.append, name))
            await connection.call("PING")
        assert len(subscriptions) == 1
        await all_ready(STORM + 2)
        assert [command.count(b":c:") for command in subscriptions] == [STORM, 2]
        for name in (*first, "later", "latest"):
            held.settle(name)
        assert node.broker._held == {}
        # Nobody joins any more: one who comes alone waits for nobody.
        held.hold("quiet", partial(ready.append, "quiet"))
        await all_ready(STORM + 3)
        assert len(subscriptions) == 3
        held.settle("quiet")


async def test_a_node_that_takes_a_dead_ones_place_makes_the_others_look_for_what_that_had_stored(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(server.url, lease=10.0) as (first, last):
        looked: list[object] = []
        await counts(last, nodes=2)
        monkeypatch.setattr(last.ear, "examine", looked.append)
        successor = Node(server.url, last.broker._functions.root[11:-1], lease=10.0)
        assert first.broker.incarnation is not None
        successor.broker.take_the_place_of(first.broker.incarnation)
        try:
            await successor.broker.start(5.0)

            async def has_looked() -> bool:
                return bool(looked)

            await until(has_looked, "looked")  # though there are as many nodes as before
        finally:
            await successor.broker.close()


async def test_a_second_deletion_under_the_number_of_an_earlier_one_is_heard_too(server: Server) -> None:
    async with nodes(server.url) as (first, last):
        last.join("b", "bob", "room")  # deleted and made again meanwhile
        await counts(first, participants=1, settling=0)
        for _ in range(2):
            first.broker.publish(Envelope("room", b"deleted 1", lasting=True))
        first.broker.publish(Envelope("room", b"the end"))
        await last.hears(b"the end")
        assert last.ear.heard.count(b"deleted 1") == 2


async def test_the_figures_that_are_shown_first_after_an_empty_start_have_what_this_node_holds(server: Server) -> None:
    async with nodes(server.url, 1, lease=10.0) as (node,):
        node.join("a", "ann", "room")
        await counts(node, participants=1)
        before = node.broker.incarnation
        server.restart()

        async def another() -> bool:
            return node.broker.incarnation not in (None, before)

        await until(another, "another incarnation")
        shown: list[int] = []

        async def is_shown() -> bool:
            shown.extend(one.participants for one in [node.broker.cluster()] if one is not None)
            return bool(shown)

        await until(is_shown, "figures")
        assert shown == [1]
