"""The load client where no compiler is: the same plan, commands and answers as load.c, in Python.

It is slower than the cheapest servers, so the tables then show a load that is busy to the brim and rates that are
the load's; costs in CPU time of the server stay what they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MASK = bytes([0x37, 0xFA, 0x21, 0x3D])
now = time.monotonic


def masked(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else bytes([0x80 | opcode, 0xFE]) + struct.pack(">H", size)
    keys = (MASK * (size // 4 + 1))[:size]
    body = (int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
    return head + MASK + body


class Conn:
    """One connection of the plan."""

    def __init__(self, source: int, steps: list[tuple[bytes, bytes]], templates: list[tuple[bytes, int]]) -> None:
        self.source, self.steps, self.templates = source, steps, templates
        self.sock: socket.socket | None = None
        self.step = self.turn = self.level = self.answers = self.asked = 0
        self.joined = False
        self.since = 0.0
        self.incoming, self.outgoing = b"", bytearray()
        self.wants_write = False


class Client:
    """All connections, one selector; one command at a time."""

    def __init__(self, plan: bytes, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.selector = selectors.DefaultSelector()
        self.conns = list(self.read(plan))
        self.opened = self.number = 0
        self.dirty: set[Conn] = set()
        self.probe: Conn | None = None
        self.connecting = 0
        self.stdin_ready = False
        self.reset({})
        self.selector.register(0, selectors.EVENT_READ, None)

    @staticmethod
    def read(plan: bytes) -> Any:
        at = 8

        def take(form: str) -> Any:
            nonlocal at
            (value,) = struct.unpack_from(form, plan, at)
            at += struct.calcsize(form)
            return value

        def span(size: int) -> bytes:
            nonlocal at
            at += size
            return plan[at - size : at]

        for _ in range(struct.unpack_from("<I", plan, 4)[0]):
            source = take("<I")
            steps = [(span(take("<I")), span(take("<B"))) for _ in range(take("<B"))]
            templates = [(span(take("<I")), take("<i")) for _ in range(take("<B"))]
            yield Conn(source, steps, templates)

    # --- one command's figures

    def reset(self, given: dict[str, str]) -> None:
        self.given = given
        self.deliver, self.answer, self.answer2, self.pong = (
            given.get(key, "").encode() for key in ("deliver", "answer", "answer2", "pong")
        )
        self.sent = self.completed = self.deliveries = self.answers = self.others = self.bytes = self.failed = 0
        self.fanout = self.request = False
        self.members, self.atleast, self.sent_at = 0, dict[int, int](), dict[int, float]()
        self.samples: list[float] = []
        self.probe_samples: list[float] = []
        self.probe_every, self.probe_next, self.probe_sent, self.probe_waits = self.get("probe"), now(), 0.0, False
        at = int(self.get("probe_conn", -1))
        self.probe = self.conns[at] if self.probe_every and 0 <= at < self.opened else None
        self.quiet = 0.0
        self.started, self.own, self.server = now(), time.process_time(), self.server_cpu()

    def get(self, key: str, otherwise: float = 0) -> float:
        return float(self.given.get(key, otherwise))

    def server_cpu(self) -> float:
        pid = int(self.get("pid"))
        with contextlib.suppress(OSError):
            return time.clock_gettime((~pid << 3) | 2) if pid else 0.0
        return 0.0

    def report(self, command: str) -> None:
        answer: dict[str, Any] = {
            "command": command,
            "seconds": now() - self.started,
            "server_cpu": self.server_cpu() - self.server,
            "client_cpu": time.process_time() - self.own,
            "quiet": self.quiet,
            "joined": sum(conn.joined for conn in self.conns[: self.opened]),
        }
        for key in ("sent", "deliveries", "answers", "others", "bytes", "failed"):
            answer[key] = getattr(self, key)
        for name, values in (("latency", sorted(self.samples)), ("probe", sorted(self.probe_samples))):
            answer[f"{name}_n"] = len(values)
            if values:
                answer[f"{name}_p50"] = values[len(values) // 2]
                answer[f"{name}_p99"] = values[int(len(values) * 0.99)]
                answer[f"{name}_max"] = values[-1]
        self.probe = None
        print(json.dumps(answer), flush=True)

    # --- sockets

    def open(self, conn: Conn) -> None:
        sock = conn.sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.step = conn.turn = conn.level = 0
        conn.joined, conn.incoming, conn.since, conn.wants_write = False, b"", now(), True
        conn.outgoing = bytearray(conn.steps[0][0])
        self.connecting += 1
        if conn.source:
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((socket.inet_ntoa(struct.pack(">I", conn.source)), 0))
        sock.connect_ex(self.address)
        self.selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, conn)

    def lost(self, conn: Conn) -> None:
        if conn.sock is None:
            return
        self.selector.unregister(conn.sock)
        conn.sock.close()
        conn.sock = None
        if not conn.joined:
            self.connecting -= 1
        conn.joined = False
        self.failed += 1

    def put(self, conn: Conn, data: bytes) -> None:
        conn.outgoing += data
        self.dirty.add(conn)

    def put_template(self, conn: Conn) -> None:
        payload, at = conn.templates[conn.turn]
        conn.turn = (conn.turn + 1) % len(conn.templates)
        if at >= 0:
            self.number += 1
            payload = payload[:at] + b"%012d" % self.number + payload[at + 12 :]
        self.put(conn, masked(1, payload))

    def flush(self, conn: Conn) -> None:
        if conn.sock is None:
            return
        try:
            while conn.outgoing:
                del conn.outgoing[: conn.sock.send(conn.outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self.lost(conn)
            return
        if bool(conn.outgoing) != conn.wants_write:
            conn.wants_write = bool(conn.outgoing)
            self.selector.modify(conn.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE * conn.wants_write), conn)

    def flush_dirty(self) -> None:
        dirty, self.dirty = self.dirty, set()
        for conn in dirty:
            self.flush(conn)

    def turn(self, timeout: float) -> None:
        probe = self.probe
        if probe is not None and probe.joined:
            time_now = now()
            if not self.probe_waits and time_now >= self.probe_next:
                self.put_template(probe)
                self.probe_sent, self.probe_waits, self.probe_next = time_now, True, time_now + self.probe_every
                self.flush_dirty()
            timeout = min(timeout, 0.001)
        for key, events in self.selector.select(timeout):
            conn = key.data
            if conn is None:
                self.stdin_ready = True
                continue
            if events & selectors.EVENT_WRITE:
                self.flush(conn)
            if events & selectors.EVENT_READ and conn.sock is not None:
                self.readable(conn)
        self.flush_dirty()

    def readable(self, conn: Conn) -> None:
        assert conn.sock is not None
        try:
            data = conn.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lost(conn)
            return
        self.bytes += len(data)
        data = conn.incoming + data if conn.incoming else data
        at, end = 0, len(data)
        if not conn.joined and conn.step == 0:
            head = data.find(b"\r\n\r\n")
            if head < 0:
                conn.incoming = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.lost(conn)
                return
            at, conn.step = head + 4, 1
            self.next_step(conn)
        while end - at >= 2:
            size, head = data[at + 1] & 127, 2
            if size == 126:
                if end - at < 4:
                    break
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif size == 127:
                if end - at < 10:
                    break
                size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if end - at < head + size:
                break
            self.frame(conn, data[at] & 15, data[at + head : at + head + size])
            at += head + size
        conn.incoming = data[at:]

    def next_step(self, conn: Conn) -> None:
        while conn.step < len(conn.steps):
            send, wait = conn.steps[conn.step]
            self.put(conn, send)
            if wait:
                return
            conn.step += 1
        conn.joined = True
        self.connecting -= 1
        self.samples.append(now() - conn.since)

    def frame(self, conn: Conn, opcode: int, payload: bytes) -> None:
        if opcode == 9:
            self.put(conn, masked(10, payload))
        elif opcode == 8:
            return
        elif payload == b"2":  # Engine.IO's ping
            self.put(conn, masked(1, b"3"))
        elif not conn.joined:
            if payload.startswith(conn.steps[conn.step][1]):
                conn.step += 1
                self.next_step(conn)
        elif conn is self.probe and self.probe_waits and payload.startswith(self.pong):
            self.probe_waits = False
            self.probe_samples.append(now() - self.probe_sent)
        elif self.deliver and payload.startswith(self.deliver):
            self.deliveries += 1
            if self.fanout:
                self.level_up(conn)
        elif any(wanted and payload.startswith(wanted) for wanted in (self.answer, self.answer2)):
            self.answers += 1
            conn.answers += 1
            if self.request:
                self.samples.append(now() - conn.since)
        else:
            self.others += 1

    def level_up(self, conn: Conn) -> None:
        level, conn.level = conn.level, conn.level + 1
        reached = self.atleast[level] = self.atleast.get(level, 0) + 1
        if reached == self.members:
            del self.atleast[level]
            self.samples.append(now() - self.sent_at.pop(self.completed))
            self.completed += 1

    # --- commands

    def connect(self) -> None:
        count, window = int(self.get("count", len(self.conns))), int(self.get("window", 256))
        if self.get("again"):
            waiting = [conn for conn in self.conns[: self.opened] if conn is not self.probe]
            for conn in waiting:
                if conn.sock is not None:
                    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.selector.unregister(conn.sock)
                    conn.sock.close()
                    conn.sock, conn.joined = None, False
        else:
            waiting = self.conns[self.opened : self.opened + count]
            self.opened += len(waiting)
        self.connecting, stop = 0, now() + self.get("limit", 60)
        waiting.reverse()
        while (waiting or self.connecting) and now() < stop:
            for _ in range(64):
                if not waiting or self.connecting >= window:
                    break
                self.open(waiting.pop())
            self.turn(0 if waiting and self.connecting < window else 0.005)
            if self.get("again") and not waiting and not self.connecting:  # refused: come again
                waiting = [conn for conn in self.conns[: self.opened] if conn.sock is None]

    def fan_out(self) -> None:
        quiet, seen = now() + 0.02, -1
        while now() < quiet:
            self.turn(0.005)
            if self.bytes != seen:
                seen, quiet = self.bytes, now() + 0.02
        self.reset(self.given)
        self.fanout, self.members = True, int(self.get("members", self.opened))
        for conn in self.conns:
            conn.level = 0
        window, senders, echo = int(self.get("inflight", 1)), int(self.get("senders", 1)), self.get("echo")
        stop = now() + self.get("seconds", 1)
        while now() < stop + 20:
            over = now() >= stop
            if over and self.completed == self.sent:
                break
            while not over and self.sent - self.completed < window:
                conn = self.conns[self.sent % senders]
                self.sent_at[self.sent] = now()
                self.put_template(conn)
                self.sent += 1
                if not echo:
                    self.level_up(conn)
            self.flush_dirty()
            self.turn(0.02)
        self.failed += max(0, self.sent - self.completed)

    def rounds(self) -> None:
        burst, senders = int(self.get("burst", 1)), int(self.get("senders", 1))
        control, count, stop = self.conns[0], 0, now() + self.get("seconds", 1)
        control.answers = 0
        while now() < stop and control.sock is not None:
            for conn in self.conns[1 : senders + 1]:
                for _ in range(burst):
                    self.put_template(conn)
                    self.sent += 1
            self.flush_dirty()
            self.put_template(control)
            self.flush_dirty()
            count += 1
            patience = now() + 5
            while control.answers < count and now() < patience:
                self.turn(0.02)
            if control.answers < count:
                self.failed += 1
                return

    def requests(self) -> None:
        self.request = True
        first, senders, window = int(self.get("first")), int(self.get("senders", 1)), int(self.get("inflight", 1))
        stop, asking = now() + self.get("seconds", 1), self.conns[first : first + senders]
        for conn in asking:
            conn.answers = conn.asked = 0
        while True:
            time_now = now()
            if time_now > stop + 5 or (time_now >= stop and self.answers >= self.sent):
                break
            if time_now < stop:
                for conn in asking:
                    while conn.sock is not None and conn.asked - conn.answers < window:
                        conn.since = time_now
                        self.put_template(conn)
                        conn.asked += 1
                        self.sent += 1
            self.flush_dirty()
            self.turn(0.02)
        over, each = now(), self.get("expect")  # what is still on its way
        while self.deliveries < each * self.answers and now() < over + 5:
            self.turn(0.005)
        self.failed += max(0, self.sent - self.answers)
        self.quiet = now() - over

    def paced(self) -> None:
        rate, first, senders = self.get("rate"), int(self.get("first")), int(self.get("senders", 1))
        stop = now() + self.get("seconds", 1)
        while now() < stop:
            due = int((now() - self.started) * rate)
            while self.sent < due:
                conn = self.conns[first + self.sent % senders]
                if conn.sock is not None:
                    self.put_template(conn)
                self.sent += 1
            self.flush_dirty()
            self.turn(0.001 if rate else 0.005)

    def serve(self) -> None:
        commands: dict[str, Callable[[], None]] = {
            "connect": self.connect,
            "fanout": self.fan_out,
            "rounds": self.rounds,
            "request": self.requests,
            "paced": self.paced,
        }
        print(json.dumps({"command": "ready", "connections": len(self.conns)}), flush=True)
        while True:
            self.turn(1.0)
            if not self.stdin_ready:
                continue
            self.stdin_ready = False
            name, *words = os.read(0, 4096).decode().strip().split(" ") or [""]
            if name not in commands:
                return
            self.reset({key: value.replace("\1", " ") for key, _, value in (word.partition("=") for word in words)})
            commands[name]()
            self.report(name)


if __name__ == "__main__":
    Client(Path(sys.argv[1]).read_bytes(), int(sys.argv[3])).serve()
