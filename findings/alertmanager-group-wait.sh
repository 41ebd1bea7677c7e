#!/usr/bin/env bash
# Alertmanager 0.25.0 (Debian 12); nothing of this project.
#
# Guess: the first notification of a group waits for group_wait after its first alert came, so that alerts of one cause
# come in one notification.
#
# Seen: it waits only when that alert began less than group_wait ago. One that began earlier is sent at once, alone, and
# those of the same group that come a moment later wait for all of group_interval. Alerts are old whenever Alertmanager
# is the one that is new, after an outage of its own for example. So the first notification then may show one alert of
# many.
# With group_wait 3s and group_interval 6s, one alert of each group, and a second one a second later:
#   group New (began now): after 3 s 2 alerts
#   group Old (began a minute ago): after 0 s 1 alert, after 6 s 2 alerts
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

notifications = []


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        notifications.append((time.monotonic(), said["groupLabels"]["alertname"], len(said["alerts"])))
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
route: {{receiver: here, group_by: [alertname], group_wait: 3s, group_interval: 6s, repeat_interval: 1h}}
receivers: [{{name: here, webhook_configs: [{{url: "{url}"}}]}}]
""")


def post(instance):
    now = datetime.datetime.now(datetime.timezone.utc)
    ages = {"New": 0, "Old": 60}
    alerts = [
        {"labels": {"alertname": name, "instance": instance},
         "startsAt": (now - datetime.timedelta(seconds=age)).isoformat()}
        for name, age in ages.items()
    ]  # fmt: skip
    request = urllib.request.Request(f"http://{address}/api/v2/alerts", json.dumps(alerts).encode())
    request.add_header("Content-Type", "application/json")
    for _ in range(200):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=5).close()
            return
        time.sleep(0.1)
    raise SystemExit("Alertmanager does not start")


with open("log", "w") as log:
    alertmanager = subprocess.Popen(
        ["unpacked/usr/bin/prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=data",
         f"--web.listen-address={address}", "--cluster.listen-address="], stderr=log)  # fmt: skip
try:
    post("one")
    began = time.monotonic()
    time.sleep(1)
    post("two")
    while len(notifications) < 3 and time.monotonic() - began < 20:
        time.sleep(0.1)
finally:
    alertmanager.terminate()
    alertmanager.wait()
for group, what in (("New", "began now"), ("Old", "began a minute ago")):
    seen = [(when - began, number) for when, name, number in notifications if name == group]
    told = []
    for after, number in seen:
        waited = 6 if after > 5 else 3 if after > 2 else 0  # group_interval was waited for, group_wait, nothing
        told.append(f"after {waited} s {number} alert{'s'[: number - 1]}")
    print(f"group {group} ({what}): {', '.join(told)}")
PYTHON
diff seen - <<'SEEN'
group New (began now): after 3 s 2 alerts
group Old (began a minute ago): after 0 s 1 alert, after 6 s 2 alerts
SEEN
