"""Plans for the load client, and a handle on a running one.

A plan says, for each connection, what to write and what to wait for until it has joined, and which payloads it may
send afterwards. All knowledge of a server's protocol is here and in subjects.py; load.c only moves bytes.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.machine import compiled, cores, keep, raise_files

MASK = bytes([0x37, 0xFA, 0x21, 0x3D])
# With more than half of the 28,000 local ports taken, the kernel's search for a free one takes a millisecond: above so
# many connections they come from eight addresses of the loopback network.
MANY = 5_000
LOOPBACK = 0x7F000000
NUMBER = "000000000000"  # twelve digits that the load replaces by a running number


def frame(payload: bytes) -> bytes:
    """One masked text frame, as a client must send it (RFC 6455, 5.2)."""
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0x80 | 126]) + struct.pack(">H", size)
    return head + MASK + bytes(byte ^ MASK[i & 3] for i, byte in enumerate(payload))


@dataclass
class Connection:
    """What one connection does: steps until it has joined, then templates of what it sends, in turn."""

    steps: list[tuple[bytes, bytes]]
    templates: list[str] = field(default_factory=list)
    source: int = 0

    def packed(self) -> bytes:
        parts = [struct.pack("<IB", self.source, len(self.steps))]
        for send, wait in self.steps:
            parts += [struct.pack("<I", len(send)), send, struct.pack("<B", len(wait)), wait]
        parts.append(struct.pack("<B", len(self.templates)))
        for template in self.templates:
            raw = template.encode()
            parts += [struct.pack("<I", len(raw)), raw, struct.pack("<i", raw.find(NUMBER.encode()))]
        return b"".join(parts)


def upgrade(path: str, headers: Iterable[str] = ()) -> tuple[bytes, bytes]:
    """The opening handshake as a step."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode(), b""


class Load:
    """A load client of its own process on its own core, with one plan against one server."""

    def __init__(self, plan: list[Connection], port: int, server_pid: int = 0) -> None:
        self.server_pid = server_pid
        with tempfile.NamedTemporaryFile(suffix=".plan", delete=False) as file:
            file.write(b"MBP1" + struct.pack("<I", len(plan)))
            for number, connection in enumerate(plan):
                if len(plan) > MANY:
                    connection.source = LOOPBACK + 2 + number % 8
                file.write(connection.packed())
        self._plan = Path(file.name)
        here = Path(__file__).parent
        program = compiled(here / "load.c")
        command = [str(program)] if program else [sys.executable, str(here / "load_python.py")]
        self.kind = "C" if program else "Python"
        core = cores()[1]
        raise_files()
        self._process = subprocess.Popen(
            [*command, str(self._plan), "127.0.0.1", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: keep(0, core),
        )
        self._answer()
        self._plan.unlink()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load client ended with {self._process.wait()}")
        return json.loads(line)

    def start(self, command: str, **arguments: object) -> None:
        """Begin a command without waiting for its end."""
        arguments.setdefault("pid", self.server_pid)
        line = " ".join([command, *(f"{key}={value}".replace(" ", "\1") for key, value in arguments.items())])
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """The answer of the command begun last."""
        return self._answer()

    def run(self, command: str, **arguments: object) -> dict[str, Any]:
        """One command from begin to end; the answer's times are seconds."""
        self.start(command, **arguments)
        return self.finish()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
