"""Telling whoever started this process how it stands: the protocol of sd_notify(3), without systemd's library.

Without ``NOTIFY_SOCKET`` in the environment nothing happens.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress


def ready(urls: Sequence[str], metrics_urls: Sequence[str]) -> None:
    """The server listens. ``X_MESSAGING_URLS`` says where, as JSON: with port 0 nobody else knows."""
    where = json.dumps({"urls": list(urls), "metrics_urls": list(metrics_urls)})
    _send("READY=1", f"STATUS=listening on {', '.join(urls)}", f"X_MESSAGING_URLS={where}")


def stopping() -> None:
    """The server drains."""
    _send("STOPPING=1", "STATUS=draining")


def _send(*lines: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract name space
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # a full queue is the reader's affair
        sender.sendto("\n".join(lines).encode(), address)
