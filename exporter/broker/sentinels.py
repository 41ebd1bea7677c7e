"""Asking Sentinels where the master is. Knows no connection of the broker.

Tested in ``tests/broker/test_sentinels.py``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from exporter.broker import tls_errors
from exporter.broker.addresses import Addresses
from exporter.broker.location import Location
from exporter.core.errors import Misconfigured

TIMEOUT: Final = 0.5
"""Seconds that one Sentinel may take to be found, to be reached, and to answer."""

_UNKNOWN: Final = "no Sentinel knows a living master of that name"
_ABSENT: Final = "no Sentinel can be reached"
_CLOSED: Final = "the Sentinels end the connection: if they speak TLS, add sentinel_ssl=true to the URL"
_REFUSED: Final = (
    "the Sentinels refuse the user or the password; sentinel_username and sentinel_password are for them, in the URL"
)


async def master(location: Location, addresses: Addresses) -> tuple[str, int]:
    """Where the master is, by the first Sentinel to say that it knows one that lives. All are asked at once.

    Raises:
        Misconfigured: they refuse to answer.
        ConnectionError: nobody knows; with the reason.
    """
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # By itself redis-py asks one that is not there for longer than all of them may take.
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        **location.sentinel_options(),
    }
    questions = [asyncio.ensure_future(_ask(host, location.master, addresses, options)) for host in location.hosts]
    try:
        for question in asyncio.as_completed(questions):
            answer = await question
            if isinstance(answer, tuple):
                return answer
    finally:
        for asked in questions:
            asked.cancel()
        await asyncio.wait(questions)
    reasons = [str(question.result()) for question in questions]
    if _REFUSED in reasons:
        raise Misconfigured(_REFUSED)
    raise ConnectionError(_UNKNOWN if _UNKNOWN in reasons else reasons[0])


async def _ask(
    host: tuple[str, int], name: str | None, addresses: Addresses, options: dict[str, Any]
) -> tuple[str, int] | str:
    """What one Sentinel answers, or why it does not."""
    from redis.asyncio import Redis
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

    sentinel = Redis(host=host[0], port=host[1], **options)
    try:
        await asyncio.wait_for(addresses.of(*host), TIMEOUT)  # it would leave a question behind each time
        masters: Any = await sentinel.sentinel_masters()
        known = masters.get(name)
    except (AuthenticationError, NoPermissionError):
        return _REFUSED
    except (RedisError, OSError) as error:
        return _reason(error)
    finally:
        await sentinel.aclose()
    if known and known["is_master"] and not known["is_sdown"] and not known["is_odown"]:
        return str(known["ip"]), int(known["port"])
    return _UNKNOWN


def _reason(error: Exception) -> str:
    if certificate := tls_errors.words(error, "a Sentinel"):
        return certificate
    words = str(error).lower()
    return _CLOSED if "closed" in words or "reset" in words else _ABSENT
