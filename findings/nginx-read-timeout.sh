#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12); nothing of this project.
#
# Guess: proxy_read_timeout ends a WebSocket when the server behind nginx has said nothing for so long, whatever the
# client does; nginx's page on WebSockets says so ("does not transmit any data within 60 seconds", of the server).
#
# Seen: what the client says starts that time anew. With a proxy_read_timeout of 2 s, a server that never says a word
# and a client that says something every half second keep the connection for as long as was looked at, 6 s. When both
# are quiet it ends. So it finds two sides that are quiet, not a server that hangs while its client goes on talking.
#   both are quiet: ended after 2 s
#   the client talks, the server does not: open after 6 s
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root 'nginx=1.22.1-*'
dpkg -x nginx_*.deb unpacked
python3 - <<'PYTHON' | tee seen
import asyncio
import contextlib
import pathlib
import socket
import subprocess
import time

ASKED = b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
AGREED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
here = pathlib.Path.cwd()


async def silent(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(AGREED)
    while await reader.read(1000):
        pass
    writer.close()


async def connect(port):
    for _ in range(200):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ASKED)
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            return reader, writer
        await asyncio.sleep(0.1)
    raise SystemExit("nginx does not start")


async def main():
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {here}/{kind}; " for kind in kinds)
    pathlib.Path("nginx.conf").write_text(f"""
        daemon off; worker_processes 1; pid {here}/pid; error_log {here}/log; events {{}}
        http {{
            access_log off; {paths}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://127.0.0.1:{server.sockets[0].getsockname()[1]};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection "upgrade";
                    proxy_read_timeout 2s;
                }}
            }}
        }}""")
    nginx = subprocess.Popen(["unpacked/usr/sbin/nginx", "-p", here, "-c", here / "nginx.conf", "-e", here / "log"])
    try:
        reader, writer = await connect(port)
        began = time.monotonic()
        assert await asyncio.wait_for(reader.read(1), 30) == b""
        print(f"both are quiet: ended after {'2 s' if 1.8 < time.monotonic() - began < 5 else 'another time'}")
        writer.close()
        reader, writer = await connect(port)
        ended = asyncio.ensure_future(reader.read(1))
        began = time.monotonic()
        while not ended.done() and time.monotonic() - began < 6:
            writer.write(b"x")
            await asyncio.wait({ended}, timeout=0.5)
        print(f"the client talks, the server does not: {'ended' if ended.done() else 'open after 6 s'}")
        writer.close()
    finally:
        nginx.terminate()
        nginx.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}  # silent() ends, now that nginx is gone
        await asyncio.gather(*others, return_exceptions=True)


asyncio.run(main())
PYTHON
diff seen - <<'SEEN'
both are quiet: ended after 2 s
the client talks, the server does not: open after 6 s
SEEN
