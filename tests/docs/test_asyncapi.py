"""docs/asyncapi.json: AsyncAPI's own schema takes it, and what a real server sends is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.servers.exporter import ROOT, running
from tests.servers.npm import install

DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "asyncapi.json").read_text())
OF_FRAMES = {
    message["name"]: name
    for name, message in DOCUMENT["components"]["messages"].items()
    if {"$ref": f"#/channels/messaging/messages/{name}"} in DOCUMENT["operations"]["frame"]["messages"]
}
"""Type of a frame that the server sends, to its schema."""


def check(frame: dict[str, Any]) -> None:
    """It is what the document says of its type."""
    reference = {"$ref": f"#/components/schemas/{OF_FRAMES[frame['type']]}"}
    jsonschema.validate(frame, {**reference, "components": DOCUMENT["components"]})


@pytest.mark.needs("node")
def test_the_document_is_what_asyncapi_says(tmp_path: Path) -> None:
    install(tmp_path, "@asyncapi/specs@6.11.1")
    found = tmp_path / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    jsonschema.validate(DOCUMENT, json.loads(found.read_text()))


async def test_every_frame_of_a_real_server_is_as_described(tmp_path: Path) -> None:
    async with running(tmp_path) as exporter:
        await exporter.conversation("room", "ann", "bob")
        ann = await exporter.connect("ann", welcome=False)
        bob = await exporter.connect("bob", welcome=False)
        seen = [await ann.frame("welcome"), await bob.frame("welcome")]
        seen += [await ann.join("room"), await bob.join("room"), await ann.frame("participant_joined")]
        await ann.send("typing", conversation="room", active=True)
        seen.append(await bob.frame("typing"))
        seen += [await ann.say("room", "hello", "1"), await bob.frame("message")]
        await bob.send("read", conversation="room", seq=1)
        seen.append(await ann.frame("read"))
        seen += [await ann.ask("ping", "pong", id="2"), await ann.ask("leave", "error", conversation="nowhere", id="3")]
        await exporter.request("DELETE", "/v1/messaging/conversations/room/messages/1", user="ann")
        seen.append(await bob.frame("deleted"))
        seen += [await bob.leave("room"), await ann.frame("participant_left")]
        for frame in seen:
            check(frame)
        assert {frame["type"] for frame in seen} == set(OF_FRAMES)
        with pytest.raises(jsonschema.ValidationError):
            check({**seen[0], "user": 1})
        await ann.close()
        await bob.close()
