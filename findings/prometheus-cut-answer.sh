#!/usr/bin/env bash
# Prometheus 2.42.0 (Debian 12); nothing of this project.
#
# Guess: an answer that ends in the middle of a line is a failed scrape, up is 0 and nothing of it is taken: the text
# format wants a line feed at the end of the last line, and OpenMetrics wants "# EOF". It comes from a target that ends
# while it answers; without Content-Length and chunks (HTTP/1.0) the end of the connection is that of the answer.
#
# Seen: in the text format what is there of the last line is taken for the whole: "messages_total 123456" that ends
# after "12" is a sample of 12, with up 1. The counter seems to have begun anew, so increase() counts all that was ever
# counted once more. Cut within a name, or in OpenMetrics, it is a failed scrape, and where Content-Length was said.
#   text, whole: up 1, 123456
#   text, cut in the value: up 1, 12
#   text, whole again: up 1, 123456; more than 120000 new messages in a minute, by increase()
#   text, cut in the name: up 0, nothing
#   text with Content-Length, cut in the value: up 0, nothing
#   OpenMetrics, cut in the value: up 0, nothing
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

TEXT = ("text/plain; version=0.0.4", b"messages_total 123456\n")
OPEN = ("application/openmetrics-text; version=1.0.0; charset=utf-8", TEXT[1] + b"# EOF\n")
IN_VALUE, IN_NAME = len(b"messages_total 12"), len(b"messages_to")
answer = {"format": TEXT, "end": None, "length": False, "scrapes": 0}


class Target(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, body = answer["format"]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if answer["length"]:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: answer["end"]])
        answer["scrapes"] += 1

    def log_message(self, *arguments):
        pass


target = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target)
threading.Thread(target=target.serve_forever, daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as free:
    address = f"127.0.0.1:{free.getsockname()[1]}"
pathlib.Path("prometheus.yml").write_text(f"""
scrape_configs:
  - {{job_name: app, scrape_interval: 1s, static_configs: [{{targets: ["127.0.0.1:{target.server_address[1]}"]}}]}}
""")


def ask(query):
    """The only value of that query, None when there is none."""
    with urllib.request.urlopen(f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": query})) as said:
        (value,) = [series["value"][1] for series in json.load(said)["data"]["result"]] or [None]
    return value


def look(name, **how):
    answer.update({"format": TEXT, "end": None, "length": False, "scrapes": 0} | how)
    while answer["scrapes"] < 3:
        time.sleep(0.1)
    time.sleep(0.3)  # the last of them is stored
    return f"{name}: up {ask('up')}, {ask('messages_total') or 'nothing'}"


with open("log", "w") as log:
    prometheus = subprocess.Popen(
        ["unpacked/usr/bin/prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
         f"--web.listen-address={address}"], stderr=log)  # fmt: skip
try:
    for _ in range(300):
        with contextlib.suppress(OSError):
            if ask("up"):
                break
        time.sleep(0.1)
    print(look("text, whole"))
    print(look("text, cut in the value", end=IN_VALUE))
    whole = look("text, whole again")
    many = "more" if float(ask("increase(messages_total[1m])")) > 120000 else "not more"
    print(f"{whole}; {many} than 120000 new messages in a minute, by increase()")
    print(look("text, cut in the name", end=IN_NAME))
    print(look("text with Content-Length, cut in the value", end=IN_VALUE, length=True))
    print(look("OpenMetrics, cut in the value", end=IN_VALUE, format=OPEN))
finally:
    prometheus.terminate()
    prometheus.wait()
PYTHON
diff seen - <<'SEEN'
text, whole: up 1, 123456
text, cut in the value: up 1, 12
text, whole again: up 1, 123456; more than 120000 new messages in a minute, by increase()
text, cut in the name: up 0, nothing
text with Content-Length, cut in the value: up 0, nothing
OpenMetrics, cut in the value: up 0, nothing
SEEN
