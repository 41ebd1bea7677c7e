"""Why a server is not reached: a connection to each of its addresses, and what that comes to.

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from exporter.core.errors import os_reason

WAIT = 3.0
"""Seconds for one address: a packet that is lost is sent again after one, and after two more."""


async def unreached(addresses: Iterable[tuple[str, int]]) -> str:
    """Each address with what is in the way, in a sentence; empty where all can be reached, or there are none."""
    found = [(f"{host}:{port}", await _reason(host, port)) for host, port in addresses]
    return "; ".join(f"{address}: {reason}" for address, reason in found if reason)


async def _reason(host: str, port: int) -> str:
    try:
        async with asyncio.timeout(WAIT):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer within {WAIT:g} s, as where a firewall is in between"
    except ConnectionRefusedError:
        return "nothing listens there"
    except (socket.gaierror, UnicodeError):
        return "the name is unknown here"
    except OSError as error:
        return os_reason(error)
    writer.close()
    return ""
