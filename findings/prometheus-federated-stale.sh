#!/usr/bin/env bash
# Prometheus 2.42.0 (Debian 12); nothing of this project.
#
# Guess: a Prometheus that federates from another one sees what that one sees: when a target is taken out there, and its
# series end, they end here too with the next scrape of /federate, which has them no more.
#
# Seen: they stay for five minutes after the last sample (--query.lookback-delta), with "up 1" among them. What comes
# from /federate has timestamps, and series with timestamps are not marked as stale when an answer has them no more. So
# after a rolling deployment a sum over the instances counts the old ones and the new ones for so long, and an alert on
# absent() comes so much later. The series of a target that is down stay beside "up 0". With honor_timestamps: false
# they end with the next scrape. What the two have of "up" and of a metric of that target:
#   it is there: source 1 100, federated 1 100, without timestamps 1 100
#   taken out 15 s ago: source nothing, federated 1 100, without timestamps nothing
#   taken out 290 s ago: source nothing, federated 1 100, without timestamps nothing
#   taken out 330 s ago: source nothing, federated nothing, without timestamps nothing
#   down for 15 s: source 0 none, federated 0 100, without timestamps 0 none
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'prometheus=2.42.0*'
dpkg -x prometheus_*.deb unpacked
python3 - <<'PYTHON' | tee seen
import contextlib
import http.server
import json
import pathlib
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request


USUAL, WITHOUT = ("federating", ",way='usual'"), ("federating", ",way='without'")
WAYS = {"source": ("source", ""), "federated": USUAL, "without timestamps": WITHOUT}


class Target(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.end_headers(), self.wfile.write(b"connections 100\n")

    def log_message(self, *arguments):
        pass


target = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target)
threading.Thread(target=target.serve_forever, daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
    addresses = {"source": "{}:{}".format(*one.getsockname()), "federating": "{}:{}".format(*other.getsockname())}
FILE, TARGETS = pathlib.Path("targets.json"), json.dumps([{"targets": [f"127.0.0.1:{target.server_address[1]}"]}])
pathlib.Path("source.yml").write_text("""
scrape_configs: [{job_name: app, scrape_interval: 1s, file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]}]
""")
federate = "honor_labels: true, scrape_interval: 1s, metrics_path: /federate, params: {'match[]': ['{job=\"app\"}']}, "
federate += f"static_configs: [{{targets: [\"{addresses['source']}\"]}}]"
federate += ", metric_relabel_configs: [{target_label: way, replacement: "
pathlib.Path("federating.yml").write_text(f"""
scrape_configs:
- {{job_name: as usual, {federate}usual}}]}}
- {{job_name: without timestamps, honor_timestamps: false, {federate}without}}]}}
""")


def ask(name, query, when):
    asked = urllib.parse.urlencode({"query": query, "time": when})
    said = json.load(urllib.request.urlopen(f"http://{addresses[name]}/api/v1/query?{asked}"))
    return "".join(series["value"][1] for series in said["data"]["result"])


def look(name, when):
    shown = []
    for who, (server, labels) in WAYS.items():
        up, value = (ask(server, f"{metric}{{job='app'{labels}}}", when) for metric in ("up", "connections"))
        shown.append(f"{who} {up} {value or 'none'}" if up else f"{who} nothing")
    print(f"{name}: {', '.join(shown)}")


def wait():
    """The target is put in, until it is seen both ways."""
    FILE.write_text(TARGETS)
    for _ in range(200):
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            if ask("federating", "count(connections)", time.time() - 2) == "2":
                break


log, servers = open("log", "w"), []
try:
    for name, address in addresses.items():
        options = [f"--config.file={name}.yml", f"--storage.tsdb.path={name}", f"--web.listen-address={address}"]
        servers.append(subprocess.Popen(["unpacked/usr/bin/prometheus", *options], stderr=log))
    wait()
    look("it is there", time.time())
    FILE.write_text("[]")
    time.sleep(15)
    for ago in (15, 290, 330):  # the later ones: what will be answered then, when nothing else comes
        look(f"taken out {ago} s ago", time.time() - 15 + ago)
    wait()
    target.shutdown(), target.server_close()
    time.sleep(15)
    look("down for 15 s", time.time())
finally:
    for server in servers:
        server.terminate()
        server.wait()
PYTHON
diff seen - <<'SEEN'
it is there: source 1 100, federated 1 100, without timestamps 1 100
taken out 15 s ago: source nothing, federated 1 100, without timestamps nothing
taken out 290 s ago: source nothing, federated 1 100, without timestamps nothing
taken out 330 s ago: source nothing, federated nothing, without timestamps nothing
down for 15 s: source 0 none, federated 0 100, without timestamps 0 none
SEEN
