"""What both databases can hold, so that what cannot be stored is refused before it is queued.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

from exporter.core.errors import BadFrame
from exporter.store.transaction import LAST_SEQ


def require_storable(*texts: str) -> None:
    """Raises BadFrame for what JSON allows and no database takes."""
    for text in texts:
        if "\0" in text:
            raise BadFrame("a NUL character cannot be stored")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise BadFrame("a lone surrogate cannot be stored") from None


def number(seq: int) -> int:
    """The nearest that a column holds: any number below that may be another program's message, and is left alone."""
    return max(-1, min(seq, LAST_SEQ))
