"""The host's decision who may see JSON and page: yes is True, and whatever is in doubt is no.

Tested in ``tests/embed/test_frameworks.py``.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

DENIED: Final = "this is for the host's administrators"
BROKEN: Final = "the host's admin check failed: its log says why"
_KEPT: Final = ("location", "retry-after", "set-cookie", "www-authenticate")


@dataclass(frozen=True)
class Refusal:
    """Why somebody sees nothing."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


class AdminCheck:
    """``admin(subject)`` as the host wrote it; a function or a coroutine function. Without it nobody is an admin."""

    def __init__(self, admin: Callable[[Any], Any] | None) -> None:
        if admin is not None and not callable(admin):
            raise TypeError(f"admin is a function that says True or False of a request, not {type(admin).__name__}")
        self._admin = admin

    async def refusal(self, subject: Any) -> Refusal | None:
        """None for an admin.

        An HTTP exception of the host's framework is answered as such: ``HTTPException(401)``, a redirect to its sign-in
        page. Any other exception is logged with its trace and answered 500, and so is a decision that is none (a
        response, a function that was not called): it must not open the page because it happens to be true.
        """
        if self._admin is None:
            return Refusal(403, DENIED)
        log = logging.getLogger("exporter.embed")
        try:
            decision = self._admin(subject)
            if inspect.isawaitable(decision):
                decision = await decision
        except Exception as error:  # the host's
            if (deliberate := _deliberate(error)) is not None:
                return deliberate
            log.exception("the admin check failed")
            return Refusal(500, BROKEN)
        if decision is None or isinstance(decision, int):  # a bool is one, and databases have 0 and 1
            return None if decision else Refusal(403, DENIED)
        log.error("the admin check answered %s: True or False is expected", type(decision).__name__)
        return Refusal(500, BROKEN)


def _deliberate(error: Exception) -> Refusal | None:
    """What an HTTP exception asks for: those of Starlette, Litestar and Django REST have ``status_code``, aiohttp's
    ``status``."""
    if isinstance(error, OSError) and not isinstance(error, PermissionError):
        return None  # urllib's and requests': what another server answered to the check is nothing for this visitor
    if any(kind.__name__ == "ClientError" for kind in type(error).__mro__):  # aiohttp's: likewise
        return None
    status = getattr(error, "status_code", getattr(error, "status", None))
    if isinstance(error, PermissionError) or type(error).__name__ == "PermissionDenied":  # Django's
        status = 403
    if not isinstance(status, int) or not 300 <= status <= 599:
        return None
    headers = {str(name).lower(): str(value) for name, value in dict(getattr(error, "headers", None) or {}).items()}
    detail = getattr(error, "detail", None) or getattr(error, "reason", None)
    return Refusal(
        status,
        str(detail or (HTTPStatus(status).phrase if status in set(HTTPStatus) else DENIED)),
        {name: value for name, value in headers.items() if name in _KEPT},
    )
