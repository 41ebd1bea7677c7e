#!/usr/bin/env bash
# Prometheus 2.42.0 (Debian 12); nothing of this project.
#
# Guess: an alert's "for" survives a restart of Prometheus, from the series ALERTS_FOR_STATE: an alert that fires goes
# on firing, and one that is pending keeps what it has waited.
#
# Seen: only where "for" is at least ten minutes (--rules.alert.for-grace-period). A shorter one begins anew: an alert
# that was firing is pending again, and is silent for all of its "for", although its state was stored. So after each
# restart a critical alert with "for: 2m" is two minutes late. (What follows, not run here because it takes minutes:
# Alertmanager takes an alert for resolved some four minutes after it last heard of it, so one with "for: 5m" may be
# announced as resolved, and then again.)
#   for 6s:  firing before the restart, pending after it, begins anew
#   for 5m:  pending before the restart, pending after it, begins anew
#   for 15m: pending before the restart, pending after it, keeps what it has waited
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'prometheus=2.42.0*'
dpkg -x prometheus_*.deb unpacked
cat >prometheus.yml <<'YAML'
global: {evaluation_interval: 1s}
rule_files: [rules.yml]
YAML
cat >rules.yml <<'YAML'
groups:
  - name: restarted
    rules:
      - {alert: 6s, expr: vector(1), for: 6s}
      - {alert: 5m, expr: vector(1), for: 5m}
      - {alert: 15m, expr: vector(1), for: 15m}
YAML
python3 - <<'PYTHON' | tee seen
import contextlib
import datetime
import json
import socket
import subprocess
import time
import urllib.request

with socket.create_server(("127.0.0.1", 0)) as free:
    address = f"127.0.0.1:{free.getsockname()[1]}"


def wait_for(condition):
    for _ in range(250):
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://{address}/api/v1/rules", timeout=5) as answer:
                groups = json.load(answer)["data"]["groups"]
            alerts = {rule["name"]: alert for rule in groups[0]["rules"] for alert in rule["alerts"]}
            if len(alerts) == 3 and condition(alerts):
                return alerts
        time.sleep(0.1)
    raise SystemExit(f"not seen: {alerts}")


def start(log):
    return subprocess.Popen(
        ["unpacked/usr/bin/prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
         f"--web.listen-address={address}"], stderr=log)  # fmt: skip


def since(alert):
    return datetime.datetime.fromisoformat(alert["activeAt"][:19] + "+00:00").timestamp()


with open("log", "w") as log:
    prometheus = start(log)
    try:
        before = wait_for(lambda alerts: alerts["6s"]["state"] == "firing")
    finally:
        prometheus.terminate()
        prometheus.wait()
    prometheus = start(log)
    try:
        first = wait_for(lambda alerts: True)  # what was stored is taken up within the first evaluations
        after = wait_for(lambda alerts: alerts["6s"]["state"] == "firing")
    finally:
        prometheus.terminate()
        prometheus.wait()
anew = max(since(alert) for alert in after.values())
for name in before:
    active = "keeps what it has waited" if since(after[name]) < anew - 2 else "begins anew"
    print(f"for {name}: {before[name]['state']} before the restart, {first[name]['state']} after it, {active}")
PYTHON
diff seen - <<'SEEN'
for 6s: firing before the restart, pending after it, begins anew
for 5m: pending before the restart, pending after it, begins anew
for 15m: pending before the restart, pending after it, keeps what it has waited
SEEN
