"""channels_redis' pub/sub layer under uvicorn by itself: the least that anything on this layer costs.

Nobody writes it so: Channels' consumers (channels_pubsub.py) are how the layer is used.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from channels_redis.pubsub import RedisPubSubChannelLayer

layer = RedisPubSubChannelLayer(hosts=[sys.argv[2]], prefix="bare")


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        print("ready", flush=True)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    room = parse_qs(scope["query_string"].decode())["room"][0]
    channel = await layer.new_channel()
    await layer.group_add(room, channel)

    async def forward() -> None:
        while True:
            message = await layer.receive(channel)
            if message["sender"] != channel:
                await send({"type": "websocket.send", "text": message["text"]})

    task = asyncio.create_task(forward())
    await send({"type": "websocket.send", "text": "joined"})
    while (event := await receive())["type"] == "websocket.receive":
        await layer.group_send(room, {"type": "typing", "text": event["text"], "sender": channel})
    task.cancel()
    await layer.group_discard(room, channel)


uvicorn.run(
    app,
    host="127.0.0.1",
    port=int(sys.argv[1]),
    log_level="error",
    loop="uvloop",
    ws_ping_interval=None,  # the clients answer no heartbeats
)
