#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12), its stub_status; nothing of this project.
#
# Guess: "Active connections" and "Writing" of stub_status are the connections there are. When a worker dies (out of
# memory, or by kill -9 here), its connections end, and the master, which starts another worker, counts them no more.
#
# Seen: what the dead worker had counted stays counted, also when it was told to end by a SIGTERM of its own. No client
# and no backend has one of these connections any more, but each WebSocket is in Active and in Writing for as long as
# the master runs: the new worker does not begin anew, and a reload does not either. So after a crash a graph of open
# WebSockets is too high from then on, by what the worker had, and an alert on it that fires does not resolve.
#   nothing open: active 1, writing 1
#   20 WebSockets: active 21, writing 21
#   their worker killed: 20 have ended; active 21, writing 21
#   20 new ones: active 41, writing 41
#   their worker ended by SIGTERM: 20 have ended; active 41, writing 41
#   20 new ones: active 61, writing 61
#   these closed by their clients: active 41, writing 41
#   after a reload, by the new worker: active 41, writing 41
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'nginx=1.22.1-*'
dpkg -x nginx_*.deb unpacked
python3 - <<'PYTHON' | tee seen
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
ASKED = b"GET /ws HTTP/1.1\r\nHost: example.org\r\n" + UPGRADE
AGREED = b"HTTP/1.1 101 Switching Protocols\r\n" + UPGRADE
here = pathlib.Path.cwd()
backend = socket.create_server(("127.0.0.1", 0))
with socket.create_server(("127.0.0.1", 0)) as free:
    address = free.getsockname()
kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
paths = "".join(f"{kind}_temp_path {here}/{kind}; " for kind in kinds)
pathlib.Path("nginx.conf").write_text(f"""
    daemon off; worker_processes 1; pid {here}/pid; error_log {here}/log; events {{}}
    http {{ access_log off; {paths} server {{
        listen 127.0.0.1:{address[1]}; location /status {{ stub_status; }}
        location /ws {{
            proxy_pass http://127.0.0.1:{backend.getsockname()[1]}; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
    }} }} }}""")


def serve(agreed):
    while True:
        agreed.append(backend.accept()[0])
        agreed[-1].recv(10000)
        agreed[-1].sendall(AGREED)


def ask(text, answer):
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(text)
    return connection, re.search(answer, connection.recv(10000).decode())[1]


def status():
    time.sleep(1)  # what was closed is counted down
    request = b"GET /status HTTP/1.0\r\n\r\n"
    return f"active {ask(request, 'Active connections: ([0-9]+)')[1]}, writing {ask(request, 'Writing: ([0-9]+)')[1]}"


def worker():
    return pathlib.Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text()


def replace(number, process=None):
    """Sends a signal to nginx or to its worker, and waits until another worker has taken the place of this one."""
    before = worker()
    time.sleep(1)
    os.kill(process or int(before), number)
    while worker() in (before, ""):
        time.sleep(0.1)
    time.sleep(1)


threading.Thread(target=serve, args=([],), daemon=True).start()
nginx = subprocess.Popen(["unpacked/usr/sbin/nginx", "-p", here, "-c", here / "nginx.conf", "-e", here / "log"])
try:
    time.sleep(2)
    print("nothing open:", status())
    sockets = [ask(ASKED, "(101)")[0] for _ in range(20)]
    print("20 WebSockets:", status())
    for name, number in (("killed", signal.SIGKILL), ("ended by SIGTERM", signal.SIGTERM)):
        replace(number)
        print(f"their worker {name}: {sum(one.recv(1) == b'' for one in sockets)} have ended; {status()}")
        sockets = [ask(ASKED, "(101)")[0] for _ in range(20)]
        print("20 new ones:", status())
    [connection.close() for connection in sockets]
    print("these closed by their clients:", status())
    replace(signal.SIGHUP, nginx.pid)
    print("after a reload, by the new worker:", status())
finally:
    nginx.terminate()
    nginx.wait()
PYTHON
diff seen - <<'SEEN'
nothing open: active 1, writing 1
20 WebSockets: active 21, writing 21
their worker killed: 20 have ended; active 21, writing 21
20 new ones: active 41, writing 41
their worker ended by SIGTERM: 20 have ended; active 41, writing 41
20 new ones: active 61, writing 61
these closed by their clients: active 41, writing 41
after a reload, by the new worker: active 41, writing 41
SEEN
