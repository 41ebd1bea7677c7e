#!/usr/bin/env bash
# Alertmanager 0.25.0 (Debian 12); nothing of this project.
#
# Guess: a silence and an inhibition hold notifications back while they last. An alert that was notified, and resolves
# while it is silenced or inhibited, is told as resolved when that is over, at the latest; and when it fires again
# later, it is notified as any other.
#
# Seen: that it has resolved is never told: when the alert leaves, Alertmanager forgets it, so the incident stays open
# with who was notified. And it still remembers that it has told of it as firing: when the same alert fires again, now
# without a silence, nobody is notified until repeat_interval (4 h here) after the first notification. So after a
# maintenance that ends well the next outage of the same kind may go unnoticed.
# Each alert fires and is notified, resolves, and fires once more when nothing mutes it any more:
#   plain: firing resolved firing
#   silenced while it resolves: firing
#   inhibited while it resolves: firing
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
import datetime
import http.server
import json
import pathlib
import socket
import subprocess
import threading
import time
import urllib.request

told = {"plain": [], "silenced": [], "inhibited": [], "maintenance": []}
FEW = 4  # seconds: group_wait and two of group_interval


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told[said["groupLabels"]["alertname"]].append(said["status"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as free:
    address = f"127.0.0.1:{free.getsockname()[1]}"
url = f"http://127.0.0.1:{receiver.server_address[1]}/"
pathlib.Path("alertmanager.yml").write_text(f"""
route: {{receiver: here, group_by: [alertname], group_wait: 1s, group_interval: 1s, repeat_interval: 4h}}
receivers: [{{name: here, webhook_configs: [{{url: "{url}"}}]}}]
inhibit_rules: [{{source_matchers: [alertname=maintenance], target_matchers: [alertname=inhibited]}}]
""")


def moment(seconds=0):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).isoformat()


def call(path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}/api/v2/{path}", data, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


def post(names, began, **ends):
    call("alerts", [{"labels": {"alertname": name}, "startsAt": began} | ends for name in names])
    time.sleep(FEW)


with open("log", "w") as log:
    alertmanager = subprocess.Popen(
        ["unpacked/usr/bin/prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=data",
         f"--web.listen-address={address}", "--cluster.listen-address="], stderr=log)  # fmt: skip
try:
    for _ in range(200):
        with contextlib.suppress(OSError):
            call("status")
            break
        time.sleep(0.1)
    three, began = ["plain", "silenced", "inhibited"], moment()
    post(three, began)
    matcher = {"name": "alertname", "value": "silenced", "isRegex": False}
    silence = {"matchers": [matcher], "startsAt": moment(), "endsAt": moment(600), "createdBy": "x", "comment": "x"}
    number = json.loads(call("silences", silence))["silenceID"]
    maintained = moment()
    post(["maintenance"], maintained)
    post(three, began, endsAt=moment())  # they resolve
    call(f"silence/{number}", method="DELETE")
    post(["maintenance"], maintained, endsAt=moment())
    time.sleep(FEW)
    assert json.loads(call("alerts")) == [], "nothing fires, nothing is muted"
    post(three, moment())
finally:
    alertmanager.terminate()
    alertmanager.wait()
print("plain:", *told["plain"])
print("silenced while it resolves:", *told["silenced"])
print("inhibited while it resolves:", *told["inhibited"])
PYTHON
diff seen - <<'SEEN'
plain: firing resolved firing
silenced while it resolves: firing
inhibited while it resolves: firing
SEEN
