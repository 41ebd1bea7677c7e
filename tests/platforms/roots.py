"""A Debian in a folder: made by debootstrap, entered by chroot in namespaces of its own. Needs root and Linux.

Nothing of this machine is visible inside but the network, the certificates that it trusts and pip's settings.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LOGS = Path(__file__).parents[2] / "build" / "platforms"
# Outside the repository: whoever builds a package walks through everything below it.
ROOTS = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "messaging-exporter-platforms"
CERTIFICATES = "/etc/ssl/certs/machine.crt"
# A mount namespace for /proc, /dev and /tmp, a process namespace so that nothing outlives the command. The shell stays
# its first process: who becomes another user there is no longer told to end with its parent.
ENTER = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
root=$1; shift
chroot "$root" "$@"
exit
"""


class Failed(Exception):
    """A command inside did not succeed; the message has its output."""


class Root:
    """One root. Everything that is run in it, and what it said, is in ``log``."""

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self.log = log

    def run(
        self, command: str, *, user: str = "root", folder: str = "/", timeout: float = 600, **variables: str
    ) -> str:
        """A line of shell, by a user, in a folder; what it printed. Raises Failed."""
        with self.log.open("a") as log:
            log.write(f"\n{user}:{folder}$ {command}\n")
        begun = time.monotonic()
        process = self.start(command, user=user, folder=folder, variables=variables)
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            raise Failed(f"not within {timeout:.0f} s: {command}\n{said[-4000:]}") from None
        with self.log.open("a") as log:
            log.write(f"{said}({time.monotonic() - begun:.0f} s, status {process.returncode})\n")
        if process.returncode:
            raise Failed(f"status {process.returncode}: {command}\n{said[-4000:]}")
        return said

    def start(
        self, command: str, *, user: str = "root", folder: str = "/", variables: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """The same without waiting; when the process that is returned ends, so does everything that it started."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root" if user == "root" else f"/home/{user}",
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            **(variables or {}),
        }
        environment.pop("PIP_FIND_LINKS", None)  # a folder of this machine
        if (self.path / CERTIFICATES.lstrip("/")).exists():
            environment["PIP_CERT"] = environment["SSL_CERT_FILE"] = CERTIFICATES
        shell = f"cd {shlex.quote(folder)} && {command}"
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        inside = [*become, "bash", "-o", "pipefail", "-c", shell]
        return subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-euc",
                ENTER,
                "sh",
                str(self.path),
                *inside,
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def copy_in(self, source: Path, target: str) -> None:
        """A file of this machine."""
        place = self.path / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)


def pristine(release: str) -> Path:
    """A minimal root of a Debian release as debootstrap leaves it, made when it is not there."""
    path = ROOTS / "pristine" / release
    if not (path / "etc" / "debian_version").exists():
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A release that this machine's debootstrap does not know yet is made as unstable is.
        known = Path("/usr/share/debootstrap/scripts", release).exists()
        script = [] if known else ["", "/usr/share/debootstrap/scripts/sid"]
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=ca-certificates", release, str(path), *script],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=900,
        )
    return path


@contextmanager
def fresh(release: str, name: str) -> Iterator[Root]:
    """A copy of the pristine root for the length of a block; its log stays."""
    path, log = ROOTS / name, LOGS / f"{name}.log"
    source = pristine(release)
    shutil.rmtree(path, ignore_errors=True)
    log.unlink(missing_ok=True)
    subprocess.run(["cp", "-a", str(source), str(path)], check=True, timeout=300)
    root = Root(path, log)
    for file in ("/etc/resolv.conf", "/etc/hosts"):
        root.copy_in(Path(file), file)
    certificates = Path(os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or "")
    if certificates.is_file():
        root.copy_in(certificates, CERTIFICATES)
    policy = (
        path / "usr" / "sbin" / "policy-rc.d"
    )  # packages must not start their servers: they would be this machine's
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(path, ignore_errors=True)
