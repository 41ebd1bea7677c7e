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
"""Seconds that one Sentinel may take; then the next is asked."""

_UNKNOWN: Final = "no Sentinel knows a living master of that name"
_ABSENT: Final = "no Sentinel can be reached"
_CLOSED: Final = "the Sentinels end the connection: if they speak TLS, add sentinel_ssl=true to the URL"
_REFUSED: Final = (
    "the Sentinels refuse the user or the password; sentinel_username and sentinel_password are for them, in the URL"
)


async def master(location: Location, addresses: Addresses) -> tuple[str, int]:
    """Where the master is, by the first Sentinel that knows one that lives.

    Raises:
        Misconfigured: they refuse to answer.
        ConnectionError: nobody knows; with the reason.
    """
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

    # By itself redis-py asks one that is not there for longer than all of them may take.
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        **location.sentinel_options(),
    }
    reasons = []
    for host, port in location.hosts:
        sentinel = Redis(host=host, port=port, **options)
        try:
            await asyncio.wait_for(addresses.of(host, port), TIMEOUT)  # it would leave a question behind each time
            masters: Any = await sentinel.sentinel_masters()
            known = masters.get(location.master)
        except (AuthenticationError, NoPermissionError):
            raise Misconfigured(_REFUSED) from None
        except (RedisError, OSError) as error:
            reasons.append(_reason(error))
            continue
        finally:
            await sentinel.aclose()
        if known and known["is_master"] and not known["is_sdown"] and not known["is_odown"]:
            return str(known["ip"]), int(known["port"])
        reasons.append(_UNKNOWN)
    raise ConnectionError(_UNKNOWN if _UNKNOWN in reasons else reasons[0])


def _reason(error: Exception) -> str:
    if certificate := tls_errors.words(error, "a Sentinel"):
        return certificate
    words = str(error).lower()
    return _CLOSED if "closed" in words or "reset" in words else _ABSENT
