"""``docs/protocol.md`` and ``docs/asyncapi.json``: the WebSocket, out of the structs that encode and decode it."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from docs.source.text import wrapped
from exporter import __version__
from exporter.core import errors, events, protocol
from exporter.core.hub import MAX_JOINED
from exporter.settings.model import Limits, Settings

CLOSES = {
    protocol.CloseCode.NORMAL: "The client closed, and the server agrees.",
    protocol.CloseCode.GOING_AWAY: "The server drains: it is stopped or replaced. Connect again, after a random pause.",
    protocol.CloseCode.PROTOCOL_ERROR: "The client broke RFC 6455, by an unmasked frame for example.",
    protocol.CloseCode.INVALID_DATA: "A text frame was not UTF-8.",
    protocol.CloseCode.TOO_LARGE: "A frame was larger than `frame_bytes`, or in more than 1,024 fragments.",
    protocol.CloseCode.INTERNAL: "A defect of the server ended this connection; its log has the trace.",
    protocol.CloseCode.TOKEN_EXPIRED: "The token's `exp`, with 30 s of leeway, has passed. Connect with a new one.",
    protocol.CloseCode.ADMIN: "An admin disconnected this user.",
    protocol.CloseCode.SLOW_CONSUMER: "More than `send_buffer_bytes` waited to be read. Connect and catch up.",
    protocol.CloseCode.RATE_LIMITED: "As many frames again as `frames_per_second` allows came in a row after refusals.",
}
"""Close code to what it means for a client. A code without an entry stops the generation."""
ANSWERS = {
    "join": "`joined`; others get `participant_joined` when it is the user's first connection there.",
    "leave": "`left`; others get `participant_left` when it was the user's last connection there.",
    "typing": "None; others get `typing` when it changes, also when it times out: "
    f"{Settings().typing_timeout:g} s (`--typing.timeout`) after it was last said that it is active.",
    "send": "`ack` once the message is durable; the other connections that joined get `message`.",
    "read": "None; the other connections that joined get `read` when the mark moves forward.",
    "ping": "`pong`.",
}
HEAD = """\
# The WebSocket protocol

This page and [asyncapi.json](asyncapi.json) (AsyncAPI 3.0) are made from the server's own types, by `make docs`.

`GET /v1/messaging/ws` opens a WebSocket, subprotocol `messaging.v1`. The token comes in `Authorization: Bearer`. The
script of a page cannot set headers, so it offers a second subprotocol, `bearer.<token>`. Frames are JSON objects in
text frames, and `type` tells them apart. The server ignores fields that it does not know; so should a client.

The server refuses before the upgrade: 401 without a valid token (`detail` says why: expired, of another audience,
signed with another key…), 403 for a foreign `Origin`, 429 above the user's connections, 503 with `Retry-After` at
capacity or while draining, 400 or 426 for a bad handshake.

* **Durable means acknowledged.** `ack` is sent when the database has the message. No answer means: not known. Send it
  again with the same `id`; it is stored, counted and delivered once.
* **`seq` counts 1, 2, 3… per conversation, without holes.** A client that sees a gap asks
  `GET /v1/messaging/conversations/{id}/messages?after=SEQ`.
  Numbers are given again only where a conversation was made anew, or the database was set back, as by a promoted
  standby that lacked the latest writes: a `last_seq` below what a client has tells so, or a `message` of another `id`
  or `sender` under a number that it has.
  What it had from there on is stored no longer.
* **A refused command changes nothing**, and the connection stays open.
* **`send` and `read` wait for the database**, and what a client says after them does not wait for them: its answers may
  come first. An answer carries the `id` of what it answers, where that had one.
* **Who is silent is pinged**, by a WebSocket ping, before `heartbeat` seconds have passed. Whoever answers none is cut
  within one and a half times as many, without a close frame. Libraries answer by themselves, some only while one reads.
* **`participants` are users who joined now**; over HTTP, `participants` are a conversation's members.
"""


def text() -> str:
    """The Markdown document."""
    commands = list(typing.get_args(events.Command))
    closing = [f"| {code.value} | {CLOSES[code]} |" for code in protocol.CloseCode]
    codes = [f"| `{code.value}` | {_meaning(code)} |" for code in errors.ErrorCode]
    return "\n".join(
        (
            HEAD,
            "## What a client sends\n",
            *(_frame(command, f"Answer: {ANSWERS[_tag(command)]}") for command in commands),
            "## What the server sends\n",
            *(_frame(frame) for frame in outbound()),
            "## Error codes\n\nOf `error` frames, and the label `code` of `messaging_commands_rejected_total`; problem",
            "documents over HTTP have [more](http.md#problems).\n",
            "| code | meaning |\n| --- | --- |",
            *codes,
            "\n## Close codes\n",
            "| code | meaning |\n| --- | --- |",
            *closing,
            "\n## Limits\n",
            wrapped(
                f"Identifiers have 1 to {protocol.MAX_IDENTIFIER} characters, a client's `id` at most "
                f"{protocol.MAX_CLIENT_ID}; control characters and lone surrogates are refused. A `body` may be "
                "empty; NUL and lone surrogates are refused. `welcome` tells the others: "
                + ", ".join(f"`{name}`" for name in ("frame_bytes", "frames_per_second", "send_buffer_bytes"))
                + f" (by default {Limits().frame_bytes:,}, {Limits().frames_per_second} and "
                f"{Limits().send_buffer_bytes:,}). `joined` lists at most {protocol.MAX_LISTED:,} participants. "
                f"One connection may have joined {MAX_JOINED:,} conversations; the next join is `forbidden`."
            ),
            "",
        )
    )


def outbound() -> Iterator[type[msgspec.Struct]]:
    """Every frame of the server, in the order of the module that defines them."""
    for value in vars(protocol).values():
        if inspect.isclass(value) and issubclass(value, msgspec.Struct) and value.__module__ == protocol.__name__:
            yield value


def _tag(frame: type[msgspec.Struct]) -> str:
    return str(frame.__struct_config__.tag)


def _meaning(code: errors.ErrorCode) -> str:
    """The first sentence of the refusal that carries this code."""
    for value in vars(errors).values():
        if inspect.isclass(value) and issubclass(value, errors.Refusal) and value.__dict__.get("code") is code:
            if code is errors.ErrorCode.INTERNAL:
                break
            return _plain(value.__doc__ or "")
    return "A defect of the server: its log has the trace."


def _plain(docstring: str) -> str:
    return re.sub(r"\s+", " ", inspect.cleandoc(docstring).replace("``", "`")).strip()


def _frame(frame: type[msgspec.Struct], below: str = "") -> str:
    lines = [f"### `{_tag(frame)}`\n", wrapped(_plain(frame.__doc__ or "")), ""]
    for field in msgspec.structs.fields(frame):
        optional = "" if field.required else ", optional"
        lines.append(f"* `{field.name}`: {_kind(field.type)}{optional}")
    if below:
        lines += ["", wrapped(below)]
    return "\n".join([*lines, ""])


def _kind(kind: Any) -> str:
    words = str(kind)
    if "datetime" in words:
        return "time, RFC 3339 in UTC"
    if "Sequence" in words or "list" in words:
        return "list of text"
    if "dict" in words:
        return "object of numbers"
    for name, word in (("bool", "true or false"), ("int", "number"), ("float", "number"), ("str", "text")):
        if name in words:
            return word
    raise ValueError(f"no words for {words}")


def asyncapi() -> str:
    """The AsyncAPI 3.0 document: the server's address, one channel, what each side sends."""
    commands, frames = list(typing.get_args(events.Command)), list(outbound())
    _, schemas = msgspec.json.schema_components([*commands, *frames], ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = _plain(schema["description"])

    def messages(kinds: Iterable[type[msgspec.Struct]]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/messaging/messages/{kind.__name__}"} for kind in kinds]

    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "messaging-exporter",
            "version": __version__,
            "description": "The WebSocket of the messaging server, subprotocol messaging.v1: JSON text frames.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:8765",
                "protocol": "ws",
                "security": [{"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}],
            }
        },
        "channels": {
            "messaging": {
                "address": "/v1/messaging/ws",
                "messages": {
                    kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in (*commands, *frames)
                },
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "headers": {
                            "type": "object",
                            "properties": {"Sec-WebSocket-Protocol": {"type": "string", "examples": ["messaging.v1"]}},
                        },
                    }
                },
            }
        },
        "operations": {
            "command": {
                "action": "receive",
                "channel": {"$ref": "#/channels/messaging"},
                "messages": messages(commands),
                "summary": "What the server takes from a client.",
            },
            "frame": {
                "action": "send",
                "channel": {"$ref": "#/channels/messaging"},
                "messages": messages(frames),
                "summary": "What the server sends to a client.",
            },
        },
        "components": {
            "messages": {
                kind.__name__: {
                    "name": _tag(kind),
                    "summary": _plain(kind.__doc__ or ""),
                    "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
                }
                for kind in (*commands, *frames)
            },
            "schemas": {name: schemas[name] for name in sorted(schemas)},
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
