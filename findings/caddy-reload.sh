#!/usr/bin/env bash
# Caddy 2.6.2 (Debian 12); nothing of this project.
#
# Guess: "caddy reload" is graceful, so a WebSocket that is open stays open, as it does with nginx and HAProxy, whose
# old processes keep theirs; at worst grace_period bounds it.
#
# Seen: any reload that changes the configuration, and be it a header of another site, ends every WebSocket at once, in
# spite of a grace_period of ten minutes. Caddy writes a close frame of its own to both sides: client and server each
# take it that the other one said 1001. A reload of the same configuration changes nothing.
#   same configuration: the WebSocket answers
#   another site was changed: the client reads close code 1001, the server reads close code 1001, at once
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'caddy=2.6.2-*'
dpkg -x caddy_*.deb unpacked
export HOME="$folder" XDG_CONFIG_HOME="$folder" XDG_DATA_HOME="$folder"
python3 - <<'PYTHON' | tee seen
import asyncio
import contextlib
import pathlib
import socket
import subprocess
import time

ASKED = (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
         b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
AGREED = (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
          b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
PING, PONG, CLOSE = 0x89, 0x8A, 0x88
CADDY = "unpacked/usr/bin/caddy"
FILE = ["--adapter", "caddyfile", "--config", "Caddyfile"]
ADMIN = f"unix/{pathlib.Path.cwd()}/admin"


async def frame(reader):
    """The opcode and the text of a frame of less than 126 bytes."""
    opcode, length = await reader.readexactly(2)
    mask = await reader.readexactly(4) if length & 0x80 else bytes(4)
    text = await reader.readexactly(length & 0x7F)
    return opcode, bytes(byte ^ mask[place % 4] for place, byte in enumerate(text))


def free():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def main():
    told = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(AGREED)
        while (received := await frame(reader))[0] == PING:
            writer.write(bytes([PONG, 0]))
        told.set_result(received)
        writer.close()

    port, other = free(), free()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[1]

    def configure(answer):
        pathlib.Path("Caddyfile").write_text(
            f"{{\n\tadmin {ADMIN}\n\tgrace_period 10m\n}}\n"
            f"http://127.0.0.1:{port} {{\n\treverse_proxy 127.0.0.1:{upstream}\n}}\n"
            f"http://127.0.0.1:{other} {{\n\trespond {answer}\n}}\n"
        )

    async def reload():
        command = [CADDY, "reload", *FILE, "--address", ADMIN]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)

    configure("first")
    with open("log", "w") as log:
        caddy = subprocess.Popen([CADDY, "run", *FILE], stderr=log)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            await asyncio.sleep(0.1)
        writer.write(ASKED)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        await reload()
        writer.write(bytes([PING, 0x80, 0, 0, 0, 0]))
        assert await frame(reader) == (PONG, b"")
        print("same configuration: the WebSocket answers")
        configure("second")
        began = time.monotonic()
        await reload()
        (client, reason), (upstream, same) = await asyncio.gather(frame(reader), told)
        assert client == upstream == CLOSE
        quick = "at once" if time.monotonic() - began < 15 else "late"
        print(f"another site was changed: the client reads close code {int.from_bytes(reason, 'big')}, "
              f"the server reads close code {int.from_bytes(same, 'big')}, {quick}")
        writer.close()
    finally:
        caddy.terminate()
        caddy.wait()
        server.close()


asyncio.run(asyncio.wait_for(main(), 50))
PYTHON
diff seen - <<'SEEN'
same configuration: the WebSocket answers
another site was changed: the client reads close code 1001, the server reads close code 1001, at once
SEEN
