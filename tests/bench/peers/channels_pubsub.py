"""Django Channels as its tutorial has it, on uvicorn: a consumer, a group a room, channels_redis' pub/sub layer.

No database is configured and no middleware is in the way; DEBUG is off.
"""

from __future__ import annotations

import sys
from typing import Any

import django
import uvicorn
from django.conf import settings

settings.configure(
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [sys.argv[2]]},
        }
    }
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402  # wants the settings
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  # as above
from django.urls import path  # noqa: E402  # as above


class Consumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send(text_data="joined")

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        event = {"type": "typing.event", "text": text_data, "sender": self.channel_name}
        await self.channel_layer.group_send(self.room, event)

    async def typing_event(self, event: dict[str, Any]) -> None:
        if event["sender"] != self.channel_name:
            await self.send(text_data=event["text"])


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/<room>", Consumer.as_asgi())])})


class Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        print("ready", flush=True)


Server(
    uvicorn.Config(
        application,
        "127.0.0.1",
        int(sys.argv[1]),
        log_level="error",
        loop="uvloop",
        lifespan="off",
        ws_ping_interval=None,  # the clients answer no heartbeats
    )
).run()
