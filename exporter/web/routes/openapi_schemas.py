"""The shapes in the OpenAPI description: what goes in and out of the routes. Knows no route.

Limits are the protocol's own constants, so that description and check cannot drift apart.
"""

from __future__ import annotations

from typing import Any, Final

from exporter.core.events import ClosedReason
from exporter.core.protocol import MAX_CLIENT_ID, MAX_IDENTIFIER, MAX_SEQ

Schema = dict[str, Any]

_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_MAYBE_COUNT: Final[Schema] = {"type": ["integer", "null"], "minimum": 0}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}


def ref(name: str) -> Schema:
    """A reference to one of ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{name}"}


def listing(items: Schema, **more: Any) -> Schema:
    """An array of ``items``."""
    return {"type": "array", "items": items, **more}


def record(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), description: str = "") -> Schema:
    """An object whose properties are all there, but for the optional ones."""
    required = [name for name in properties if name not in optional]
    shape: Schema = {"type": "object", "properties": properties}
    return shape | ({"required": required} if required else {}) | ({"description": description} if description else {})


def keyed(names: list[str], value: Schema) -> Schema:
    """An object with these names, each holding a ``value``."""
    return record(dict.fromkeys(names, value))


_FIGURES: Final = [
    "active_connections",
    "connected_users",
    "active_conversations",
    "total_participants",
    "typing_users",
    "total_messages",
    "total_conversations",
    "messages_today",
    "registered_users",
]

SCHEMAS: Final[dict[str, Schema]] = {
    "Identifier": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_IDENTIFIER,
        "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        "description": "1 to 128 characters without control characters and lone surrogates.",
    },
    "Seq": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_SEQ,
        "description": "Counts 1, 2, 3… per conversation.",
    },
    "Problem": record(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "code": {"type": "string", "description": "The word that an `error` frame has for it, where there is one."},
        },
        description="RFC 9457.",
    ),
    "Conversation": record(
        {
            "id": ref("Identifier"),
            "total_messages": _COUNT,
            "last_seq": _COUNT,
            "participants": listing(ref("Identifier"), description="Its members, sorted."),
        }
    ),
    "Conversations": record({"conversations": listing(ref("Conversation"))}),
    "NewConversation": record(
        {"id": {"oneOf": [ref("Identifier"), {"type": "null"}]}, "participants": ref("Users")}, optional=("id",)
    ),
    "NewParticipants": record({"participants": ref("Users")}),
    "Users": listing(ref("Identifier"), maxItems=1_000),
    "Message": record(
        {
            "seq": ref("Seq"),
            "id": {"type": "string", "maxLength": MAX_CLIENT_ID, "description": "The sender's own."},
            "sender": ref("Identifier"),
            "body": {"type": "string"},
            "sent_at": _TIME,
        }
    ),
    "Messages": record({"messages": listing(ref("Message")), "last_seq": _COUNT}),
    "Stats": record(
        {
            **dict.fromkeys(_FIGURES[:5], _COUNT),
            **dict.fromkeys(_FIGURES[5:], _MAYBE_COUNT),
            "active_users": keyed(["1d", "7d", "30d"], _MAYBE_COUNT),
            "scope": {"enum": ["node", "cluster"]},
            "nodes": {"type": ["integer", "null"], "minimum": 1},
            "as_of": _TIME,
            "database": record(
                {"up": {"type": "boolean"}, "as_of": _MAYBE_TIME, "error": {"type": ["string", "null"]}}
            ),
        },
        description="A figure that is not known is null, with the reason in `database.error`.",
    ),
    "History": record(
        {
            "step": {"type": "number"},
            "length": _COUNT,
            "start": {"type": ["number", "null"], "description": "Unix seconds."},
            "since": _MAYBE_TIME,
            "as_of": _MAYBE_TIME,
            "figures": keyed(_FIGURES, listing(_MAYBE_COUNT)),
            "rates": keyed(
                ["messages", "deliveries", "joins", "connects"], listing({"type": ["number", "null"], "minimum": 0})
            ),
            "closed": keyed(
                [reason.value for reason in ClosedReason],
                record({"last_minute": _MAYBE_COUNT, "last_hour": _MAYBE_COUNT}),
            ),
        },
        description="The last hour: arrays of `length` entries `step` seconds apart; null is not known.",
    ),
    "SignedIn": record({"user": ref("Identifier"), "expires_at": {"type": "string"}}),
}
