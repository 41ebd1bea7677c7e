#!/usr/bin/env bash
# Prometheus 2.42.0 and Alertmanager 0.25.0 (Debian 12); nothing of this project.
#
# Guess: Prometheus and Alertmanager agree on what fires. When the query of an alert fails for a while, because a series
# that it joins is there twice since a second node came, say, the alert either goes on firing in both or ends in both.
#
# Seen: Prometheus shows it as firing for as long as the query fails, but says no more of it to Alertmanager. That
# announces it as resolved after four times the evaluation interval or the --rules.alert.resend-delay, whichever is
# longer: four minutes with the defaults. What was wrong still is. When the query works again it is announced a second
# time, as having begun when it first did. Only the rule's health ("err") shows that something is amiss.
# With both at 1 s:
#   it fires:          Prometheus firing, health ok;  announced: firing
#   the query fails:   Prometheus firing, health err; announced: firing, resolved
#   the query is back: Prometheus firing, health ok;  announced: firing, resolved, firing; begun when it first did: True
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'prometheus=2.42.0*' 'prometheus-alertmanager=0.25.0-*'
for package in *.deb; do dpkg -x "$package" unpacked; done
python3 - <<'PYTHON' | tee seen
import contextlib
import http.server
import json
import pathlib
import socket
import subprocess
import threading
import time
import urllib.request

ONE_NODE = 'used{shard="a"} 20\nlimit{shard="a", node="1"} 10\n'
TWO_NODES = ONE_NODE + 'limit{shard="a", node="2"} 10\n'
exposed = ONE_NODE
announced = []  # the state of each notification, and since when


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # a scrape
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(exposed.encode())

    def do_POST(self):  # a notification
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        announced.extend((alert["status"], alert["startsAt"]) for alert in said["alerts"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def free():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
here, prometheus, alertmanager = f"127.0.0.1:{server.server_address[1]}", free(), free()
pathlib.Path("alertmanager.yml").write_text(f"""
route: {{receiver: here, group_wait: 0s, group_interval: 1s}}
receivers: [{{name: here, webhook_configs: [{{url: "http://{here}/"}}]}}]
""")
pathlib.Path("rules.yml").write_text("""
groups: [{name: rules, rules: [{alert: Full, expr: used > on (shard) limit}]}]
""")
pathlib.Path("prometheus.yml").write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{alertmanager}"]}}]}}]}}
scrape_configs: [{{job_name: nodes, static_configs: [{{targets: ["{here}"]}}]}}]
""")


def rule():
    with contextlib.suppress(OSError):
        answer = urllib.request.urlopen(f"http://{prometheus}/api/v1/rules", timeout=5)
        for group in json.load(answer)["data"]["groups"]:
            return group["rules"][0]
    return {"state": "unknown", "health": "unknown"}


def wait(number, health):
    """Until there were so many notifications and the rule has that health."""
    until = time.monotonic() + 60
    while (len(announced) < number or rule()["health"] != health) and time.monotonic() < until:
        time.sleep(0.2)


def tell(what, more=""):
    now, states = rule(), ", ".join(state for state, _ in announced)
    print(f"{what:18} Prometheus {now['state']}, health {now['health'] + ';':4} announced: {states}{more}", flush=True)


with open("log", "w") as log:
    programs = [
        subprocess.Popen(["unpacked/usr/bin/prometheus-alertmanager", "--config.file=alertmanager.yml",
                          "--storage.path=silences", f"--web.listen-address={alertmanager}",
                          "--cluster.listen-address="], stderr=log),
        subprocess.Popen(["unpacked/usr/bin/prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                          f"--web.listen-address={prometheus}", "--rules.alert.resend-delay=1s"], stderr=log),
    ]  # fmt: skip
try:
    wait(1, "ok")
    tell("it fires:")
    exposed = TWO_NODES
    wait(2, "err")
    tell("the query fails:")
    exposed = ONE_NODE
    wait(3, "ok")
    tell("the query is back:", f"; begun when it first did: {announced[0][1] == announced[-1][1]}")
finally:
    for program in programs:
        program.terminate()
        program.wait()
PYTHON
diff seen - <<'SEEN'
it fires:          Prometheus firing, health ok;  announced: firing
the query fails:   Prometheus firing, health err; announced: firing, resolved
the query is back: Prometheus firing, health ok;  announced: firing, resolved, firing; begun when it first did: True
SEEN
