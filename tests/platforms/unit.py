"""``deploy/systemd`` for real: a Debian that boots in ``systemd-nspawn``, with the unit, its socket and its sandbox.

Needs systemd-nspawn, root, and a hierarchy of control groups that the Debian's systemd still knows.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.platforms.roots import Failed, Root

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
# What a person would do after "systemctl enable --now": ask, look at the sandbox, restart while somebody asks, stop.
CHECK = r"""#!/bin/bash
exec > /result 2>&1
ask() {
    /opt/messaging-exporter/bin/python -c "import sys, urllib.request as u
print(u.urlopen(sys.argv[1], timeout=20).read().decode())" "http://127.0.0.1:8765$1"
}
systemctl start messaging-exporter.socket messaging-exporter.service
echo "ready: $(ask /-/ready)"
ask /metrics | grep -E '^(messaging_active_connections|process_start_time_seconds|process_max_fds) '
pid=$(systemctl show -p MainPID --value messaging-exporter.service)
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/$pid/status
ls -ld /var/lib/private/messaging-exporter
nsenter -t $pid -m touch /usr/forbidden 2>/dev/null && echo "wrote to /usr"
systemctl restart --no-block messaging-exporter.service
echo "during a restart: $(ask /-/healthy)"
systemctl stop messaging-exporter.service
echo "stopped: $(systemctl show -p Result --value messaging-exporter.service)"
journalctl -u messaging-exporter.service --no-pager -o cat | tail -n 30
systemd-analyze security messaging-exporter.service --no-pager | tail -n 1
systemctl poweroff
"""


def check(root: Root) -> str:
    """Install, boot, look; a sentence about what was seen. Raises Failed. The wheel is in /opt/messaging-exporter."""
    root.run("apt-get install --yes --quiet --no-install-recommends systemd systemd-sysv dbus util-linux")
    for unit in UNITS.iterdir():
        root.copy_in(unit, f"/etc/systemd/system/{unit.name}")
    script = root.path / "check.sh"
    script.write_text(CHECK)
    script.chmod(0o755)
    service = root.path / "etc" / "systemd" / "system" / "check.service"
    service.write_text("[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/check.sh\n")
    wants = root.path / "etc" / "systemd" / "system" / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "check.service").symlink_to("/etc/systemd/system/check.service")
    boot = [
        "systemd-nspawn",
        "--register=no",
        "--keep-unit",
        "--quiet",
        "--private-network",
        "-D",
        str(root.path),
        "-b",
    ]
    try:
        console = subprocess.run(
            boot, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False
        ).stdout
    except subprocess.TimeoutExpired:
        raise Failed("the root did not boot and power off within 180 s") from None
    result = root.path / "result"
    if not result.exists():
        raise Failed(f"the root did not boot: {console[-2000:]}")
    said = result.read_text()
    with root.log.open("a") as log:
        log.write(f"\nsystemd-nspawn:\n{said}\n")
    for wanted in (
        r"^ready: ready$",
        r"^messaging_active_connections 0",
        r"^process_start_time_seconds ",
        r"^CapEff:\s+0+$",
        r"^NoNewPrivs:\s+1$",
        r"^Seccomp:\s+2$",
        r"^during a restart: healthy$",
        r"^stopped: success$",
    ):
        if not re.search(wanted, said, re.MULTILINE):
            raise Failed(f"the unit: nothing like {wanted}\n{said}")
    if "wrote to /usr" in said or re.search(r"^Uid:\s+0\b", said, re.MULTILINE):
        raise Failed(f"the unit's sandbox has a hole\n{said}")
    exposure = re.search(r"Overall exposure level.*: ([\d.]+)", said)
    return (
        f"booted, served on systemd's socket, nobody refused by a restart; exposure {exposure[1] if exposure else '?'}"
    )
