"""Asking Sentinels where the master is. Knows no connection of the broker.

Tested in ``tests/broker/test_sentinels.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from exporter.broker import tls_errors
from exporter.broker.addresses import Addresses
from exporter.broker.location import Location
from exporter.core.errors import Misconfigured

TIMEOUT: Final = 0.5
"""Seconds that one Sentinel may take to be found, to be reached, and to answer."""
OTHERS: Final = 0.1
"""Seconds that the others have behind the first one that knows: what it knows may be old."""

_Known = tuple[int, tuple[str, int]]

_UNKNOWN: Final = "no Sentinel knows a living master of that name"
_ABSENT: Final = "no Sentinel can be reached"
_CLOSED: Final = "the Sentinels end the connection: if they speak TLS, add sentinel_ssl=true to the URL"
_REFUSED: Final = (
    "the Sentinels refuse the user or the password; sentinel_username and sentinel_password are for them, in the URL"
)


async def master(location: Location, addresses: Addresses) -> tuple[str, int]:
    """Where the master is. All Sentinels are asked at once; of those that know one, the latest failover counts.

    One that was cut off from the others, or has just started, may still know the master before; it may be the nearest.

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
    waiting, known = set(questions), list[_Known]()
    try:
        while waiting and not known:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            known = _known(questions)
        if known:
            if waiting:
                await asyncio.wait(waiting, timeout=OTHERS)
            return max(_known(questions), key=lambda one: one[0])[1]
    finally:
        for asked in questions:
            asked.cancel()
        await asyncio.wait(questions)
    reasons = [str(question.result()) for question in questions]
    if _REFUSED in reasons:
        raise Misconfigured(_REFUSED)
    raise ConnectionError(_UNKNOWN if _UNKNOWN in reasons else reasons[0])


def _known(questions: Sequence[asyncio.Future[_Known | str]]) -> list[_Known]:
    """What has been answered until now, in the order of the URL."""
    answers = [question.result() for question in questions if question.done()]
    return [answer for answer in answers if isinstance(answer, tuple)]


async def _ask(host: tuple[str, int], name: str | None, addresses: Addresses, options: dict[str, Any]) -> _Known | str:
    """What one Sentinel answers, with the number of the failover that it is of; or why it does not."""
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
        return int(known.get("config-epoch", 0)), (str(known["ip"]), int(known["port"]))
    return _UNKNOWN


def _reason(error: Exception) -> str:
    if certificate := tls_errors.words(error, "a Sentinel"):
        return certificate
    words = str(error).lower()
    return _CLOSED if "closed" in words or "reset" in words else _ABSENT
