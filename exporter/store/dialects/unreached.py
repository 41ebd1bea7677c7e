"""What is told of a server to which no connection could be made, out of the error alone: nothing is tried for it.

Tested in ``tests/store/test_libpq.py``.
"""

from __future__ import annotations

import os
import re
import socket
import ssl

from exporter.core.errors import os_reason


def unreached(place: str, error: BaseException) -> str:
    """Where a connection was tried and what was in the way, in the system's words: the driver's are not repeated.

    Of several hosts the driver tells what was in the way of the last. A name with several addresses comes as one error
    with the numbers of all.
    """
    reason = ""
    if isinstance(error, socket.gaierror):
        reason = os_reason(error)
    elif isinstance(error, OSError) and not isinstance(error, (ssl.SSLError, TimeoutError)):
        numbers = [error.errno] if error.errno else map(int, re.findall(r"\[Errno (\d+)\]", str(error)))
        reason = ", ".join(os.strerror(number).lower() for number in dict.fromkeys(numbers))
        if not reason and isinstance(error, ConnectionError):  # the driver's own, as where it is no PostgreSQL
            reason = "what answers there hung up"
    if not (place and reason):
        return place or reason
    return f"{place}; the last: {reason}" if "," in place else f"{place}: {reason}"
