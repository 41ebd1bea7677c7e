"""A frame on its way to the people in a conversation. Knows nothing of the way that it takes.

Tested in ``tests/broker/test_redis.py``.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from exporter.core.events import ConversationId, UserId

P = TypeVar("P")


class Envelope(msgspec.Struct, Generic[P], frozen=True, gc=False):  # 1 µs less a frame than a frozen dataclass
    """A frame for everybody who joined a conversation, but one connection or one user.

    ``received`` is when the command that caused it arrived, for ``message`` frames; monotonic seconds of this node.
    ``seq`` is a message's number, 0 for other frames, ``sender`` whose message it is. ``remote``: it came from another
    node. ``lasting``: that message is no more, which other nodes need to know also after an outage.
    """

    conversation: ConversationId
    frame: bytes
    exclude: P | None = None
    exclude_user: UserId | None = None
    received: float | None = None
    seq: int = 0
    remote: bool = False
    lasting: bool = False
    sender: UserId | None = None
