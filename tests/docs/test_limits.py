"""Limits stand in the documents with the numbers that the code has."""

from __future__ import annotations

import pytest

from docs.source.__main__ import ROOT
from exporter.auth.tokens import MAX_TOKEN
from exporter.core.hub import MAX_JOINED
from exporter.core.websocket_frames import MAX_FRAGMENTS
from exporter.settings.model import Limits
from exporter.web.aiohttp_seams import HANDSHAKE_TIME, READ_TIME
from exporter.web.application import MAX_BODY
from exporter.web.problems import BODY_TIME
from exporter.web.routes.conversations import MAX_BODIES, MAX_LISTS, MAX_PARTICIPANTS
from exporter.web.unreadable import MAX_LINE
from exporter.web.websocket.connection import MAX_WAITING

MIB = 1024**2


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("a TLS handshake", f"{HANDSHAKE_TIME:g} s"),
        ("a request with a body", f"{BODY_TIME:g} s, {MAX_BODY // MIB} MiB"),
        ("a header line", f"{MAX_LINE:,} bytes"),
        ("a token", f"{MAX_TOKEN:,} characters"),
        ("an answer of which nothing is read", f"{READ_TIME:g} s"),
        ("participants in one request", f"{MAX_PARTICIPANTS:,}"),
        ("bodies in one list of messages", f"{MAX_BODIES // MIB} MiB"),
        ("conversations that one connection has joined", f"{MAX_JOINED:,}"),
        ("fragments of one message", f"{MAX_FRAGMENTS:,}"),
        ("commands waiting behind a join", f"{MAX_WAITING}"),
        ("one user's lists over HTTP at once", f"{MAX_LISTS}"),
    ],
)
def test_a_limit_is_told(what: str, limit: str) -> None:
    rows = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8").splitlines()
    [row] = [row for row in rows if row.startswith(f"| {what}")]
    assert row.split(" | ")[1].startswith(limit)


def test_the_readme_has_the_defaults_of_the_limits() -> None:
    readme, limits = (ROOT / "README.md").read_text(encoding="utf-8"), Limits()
    [row] = [row for row in readme.splitlines() if row.startswith("| `--limits.*`")]
    assert row.endswith(
        f"connections {limits.connections:,}, per user {limits.connections_per_user}, "
        f"frame {limits.frame_bytes // 1024} KiB, {limits.frames_per_second} frames/s, "
        f"send buffer {limits.send_buffer_bytes // MIB} MiB |"
    )
    assert f"holds {limits.connections:,} connections by default" in readme
