"""What may stand for a user, a connection, a room, a command. Knows no state.

Tested in ``tests/embed/test_live.py``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeAlias
from uuid import UUID

User: TypeAlias = str | int | UUID
"""What identifies a user, as a host has it."""
Handle: TypeAlias = Hashable | Mapping[str, Any]
"""What a host knows a connection by. It has to be hashable; Starlette's WebSocket is, and pyright sees a mapping."""


def identifier(user: object) -> str:
    """The text that stands for a user. TypeError for what identifies nobody."""
    if isinstance(user, str):
        return user
    if isinstance(user, int | UUID) and not isinstance(user, bool):
        return str(user)
    kind = "None" if user is None else type(user).__name__
    raise TypeError(
        f"a user is an identifier (text, a whole number, a UUID), not {kind}; a connection whose user is not known yet "
        f"is live.open_anonymous(), and connection.identify(user) says later whose it is"
    )


def is_hashable(thing: object) -> bool:
    """May it be a room, a command? A list out of a client's frame may not."""
    try:
        hash(thing)
    except TypeError:
        return False
    return True
