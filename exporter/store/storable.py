"""What both databases can hold, so that what cannot be stored is refused before it is queued.

Tested in ``tests/store/test_store.py``.
"""

from __future__ import annotations

from exporter.core.errors import BadFrame


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
    """Whoever asks for a number beyond what a database can hold asks for one that is not there."""
    return max(-1, min(seq, 2**62))
