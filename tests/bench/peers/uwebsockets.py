"""uWebSockets (C++) through socketify: its own publish/subscribe, a Python call per inbound frame."""

from __future__ import annotations

import sys

from socketify import App, CompressOptions


def opened(ws) -> None:
    ws.subscribe("room")
    ws.send("joined")


def message(ws, data, opcode) -> None:
    ws.publish("room", data, opcode)


app = App()
app.ws(
    "/*",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 1 << 20,
        "idle_timeout": 0,
        "max_backpressure": 64 << 20,
        "open": opened,
        "message": message,
    },
)
app.listen({"host": "127.0.0.1", "port": int(sys.argv[1])}, lambda config: print("ready", flush=True))
app.run()
