"""``deploy/systemd`` for real: a Debian that boots in ``systemd-nspawn``, with the unit, its socket and its sandbox.

Needs systemd-nspawn, root, and a hierarchy of control groups that the Debian's systemd still knows.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.platforms.roots import Failed, Root

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
DOCUMENT = UNITS.parents[1] / "docs" / "deploy.md"
# What a person does by the document, and then: ask, look at the sandbox, restart while somebody asks, stop.
CHECK = r"""#!/bin/bash
exec > /result 2>&1
ask() {
    /opt/messaging-exporter/bin/python -c "import sys, urllib.request as u
print(u.urlopen(sys.argv[1], timeout=20).read().decode())" "http://127.0.0.1:8765$1"
}
trap "systemctl poweroff" EXIT
set -e
@commands@
set +e
echo "ready: $(ask /-/ready)"
ask /metrics | grep -E '^(messaging_active_connections|process_start_time_seconds|process_max_fds) '
pid=$(systemctl show -p MainPID --value messaging-exporter.service)
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/$pid/status
ls -ld /var/lib/private/messaging-exporter
nsenter -t $pid -m touch /usr/forbidden 2>/dev/null && echo "wrote to /usr"
sh -e <<'END'
@beside@
END
echo "doctor: $?"
systemctl restart --no-block messaging-exporter.service
echo "during a restart: $(ask /-/healthy)"
systemctl stop messaging-exporter.service
echo "stopped: $(systemctl show -p Result --value messaging-exporter.service)"
journalctl -u messaging-exporter.service --no-pager -o cat | tail -n 30
for asked in messaging-exporter.service "--offline=true /etc/systemd/system/messaging-exporter.service"; do
    systemd-analyze security --threshold=20 --no-pager $asked > /exposure
    echo "exposure $?: $(tail -n 1 /exposure)"
done
systemctl --version | head -n 1
"""


def check(root: Root) -> str:
    """Install as the document says, boot, look; a sentence about what was seen. Raises Failed."""
    root.run("apt-get install --yes --quiet --no-install-recommends systemd systemd-sysv dbus util-linux")
    root.run("rm -rf /opt/messaging-exporter /srv/clone && git clone --quiet /srv/repository.bundle /srv/clone")
    install, start, beside = _documented()
    for command in install:
        root.run(command, folder="/srv/clone")
    script = root.path / "check.sh"
    script.write_text(CHECK.replace("@commands@", "\n".join(start)).replace("@beside@", beside))
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
        r"^ok +database +SQLite [\d.]+ at /var/lib/",
        r"^doctor: 0$",
        r"^during a restart: healthy$",
        r"^stopped: success$",
        r"^exposure 0: [^\n]*\nexposure 0: ",
    ):
        if not re.search(wanted, said, re.MULTILINE):
            raise Failed(f"the unit: nothing like {wanted}\n{said}")
    if "wrote to /usr" in said or re.search(r"^Uid:\s+0\b", said, re.MULTILINE):
        raise Failed(f"the unit's sandbox has a hole\n{said}")
    exposure = re.findall(r"Overall exposure level.*: ([\d.]+)", said)
    version = re.search(r"^systemd \d+", said, re.MULTILINE)
    return (
        f"{version[0] if version else 'systemd ?'}: booted by the document, served on systemd's socket, nobody refused "
        f"by a restart; exposure {' and, of the file alone, '.join(exposure)}"
    )


def _documented() -> tuple[list[str], list[str], str]:
    """The commands of the document: what works before there is a systemd, what is said to it, a look beside it."""
    _, _, text = DOCUMENT.read_text().partition("\n## systemd\n")
    block, beside = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)[:2]
    commands = block.splitlines()
    said = [command for command in commands if command.startswith("systemctl ")]
    return [command for command in commands if command not in said], said, beside
