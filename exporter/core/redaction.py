"""Text that may be shown: without secrets, on one line, without control characters. Knows nothing else.

Masking is the last defence; the first is not to put a secret into a text.

Tested in ``tests/test_logs.py``.
"""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"

# In group 1 what stands before a secret, which is the rest of the match. A match without that group holds none, and is
# passed over whole: were it looked at from each of its characters, a header of 8 kB would hold the process up for long.
_SECRETS: Final = (
    # userinfo: greedy up to the last @ of the word, because passwords hold unescaped @ : / and ?
    re.compile(r"(?<=://)(?:([^\s/@:?#]*:)\S*(?=@)|[^\s/@:?#]*:\S*)"),
    re.compile(r"((?:passw(?:or)?d|pwd)\s*[=:]\s*['\"]?|(?:secret|token)=)[^\s&;,'\")]+", re.IGNORECASE),
    # an option of a URL whose name is percent-encoded: it may be any, and drivers decode it
    re.compile(r"([?&][^=&\s%]*%[^=&\s]*=)[^&\s,'\")]+|[?&][^=&\s]*"),
    # JWTs: base64 of {"
    re.compile(r"\b(?:()eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?|eyJ[A-Za-z0-9_-]*)"),
    re.compile(r"(\b(?:Bearer|Basic)\s+)[A-Za-z0-9+/=._~-]{6,}", re.IGNORECASE),
)
_UNSAFE: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def mask(text: str) -> str:
    """``text`` without what looks like a password or a token. Whoever chose it, it takes time by its length alone."""
    for pattern in _SECRETS:
        text = pattern.sub(lambda match: match[0] if match[1] is None else match[1] + MASK, text)
    return text


def printable(text: str) -> str:
    """``text`` with control characters and lone surrogates as escapes; line feeds are the renderer's."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
