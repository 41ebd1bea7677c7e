#!/usr/bin/env bash
# Alertmanager 0.25.0 (Debian 12); nothing of this project.
#
# Guess: a silence whose creation was answered with its number is stored: a kill -9 (or out of memory) of Alertmanager
# does not undo it, and a silence that was ended stays ended.
#
# Seen: silences are in memory, and in the file only every 15 minutes (--data.maintenance-interval) and at a clean end.
# A kill -9 puts back what there was at the last of these: a silence that was answered with 200 is gone, so what it
# muted is notified, and one that was ended is active again, so an alert that should be told is muted, until the end the
# silence once had. The same holds for what was notified, which is told again. Each time an alert fires and is notified,
# one silence is made and an older one is ended; Alertmanager ends after four seconds or more, and starts once more:
#   ended cleanly: the new silence active, the old one expired, told 1 times
#   killed: the new silence gone, the old one active, told 2 times
#   killed, with --data.maintenance-interval=1s: the new silence active, the old one expired, told 1 times
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'prometheus-alertmanager=0.25.0-*'
dpkg -x prometheus-alertmanager_*.deb unpacked
python3 - <<'PYTHON' | tee seen
import contextlib
import http.server
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

told, log = [], open("log", "a")


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        told.append(1), self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as free:
    address = "{}:{}".format(*free.getsockname())
pathlib.Path("alertmanager.yml").write_text(f"""
route: {{receiver: here, group_by: [alertname], group_wait: 1s, group_interval: 1s, repeat_interval: 4h}}
receivers: [{{name: here, webhook_configs: [{{url: "http://127.0.0.1:{receiver.server_address[1]}/"}}]}}]
""")


def moment(seconds=0):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def call(path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}/api/v2/{path}", data, method=method)
    request.add_header("Content-Type", "application/json")
    return json.loads(urllib.request.urlopen(request, timeout=5).read() or "null")


def silence(name):
    body = {"matchers": [{"name": "alertname", "value": name, "isRegex": False}], "createdBy": "x", "comment": "x"}
    return call("silences", body | {"startsAt": moment(), "endsAt": moment(600)})["silenceID"]


def state(number):
    return {one["id"]: one["status"]["state"] for one in call("silences")}.get(number, "gone")


@contextlib.contextmanager
def alertmanager(*options, end=signal.SIGTERM):
    process = subprocess.Popen(
        ["unpacked/usr/bin/prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=data",
         f"--web.listen-address={address}", "--cluster.listen-address=", *options], stderr=log)  # fmt: skip
    try:
        time.sleep(3)
        yield
    finally:
        process.send_signal(end)
        process.wait()


def look(name, end, pause, *options):
    shutil.rmtree("data", ignore_errors=True)
    told.clear()
    alert = [{"labels": {"alertname": "outage"}, "startsAt": moment()}]
    with alertmanager():
        old = silence("old")
    with alertmanager(*options, end=end):
        new, _ = silence("new"), call(f"silence/{old}", method="DELETE")
        call("alerts", alert)
        time.sleep(4)
        assert (state(new), state(old), len(told)) == ("active", "expired", 1)
        time.sleep(pause)
    with alertmanager():
        call("alerts", alert)
        time.sleep(4)
        print(f"{name}: the new silence {state(new)}, the old one {state(old)}, told {len(told)} times")


look("ended cleanly", signal.SIGTERM, 0)
look("killed", signal.SIGKILL, 0)
look("killed, with --data.maintenance-interval=1s", signal.SIGKILL, 3, "--data.maintenance-interval=1s")
PYTHON
diff seen - <<'SEEN'
ended cleanly: the new silence active, the old one expired, told 1 times
killed: the new silence gone, the old one active, told 2 times
killed, with --data.maintenance-interval=1s: the new silence active, the old one expired, told 1 times
SEEN
