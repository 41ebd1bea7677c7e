"""Variables of the environment that were meant for a setting and set none. Knows names, and no value.

They are called otherwise, or empty: a compose file has left them open, or a variable that it takes them from is not
set. Empty counts as not set, so that a default may be in force that nobody meant: another database, any audience.

A flag or a key that is not known is an error. A variable that is not known may be another program's, so only those are
told whose name is close to one of ours: nothing reads them, and whoever has set them believes that they are in force.

Tested in ``tests/settings/test_options.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from exporter.settings.options import CONFIG_FILE
from exporter.settings.table import OPTIONS, PREFIX, variable

CLOSE: Final = 0.81
"""Of difflib's ratio, without the prefix: SECRET_FILE for AUTH_SECRET_FILE is within, BASE_URL for DATABASE_URL not."""
_KNOWN: Final = frozenset(variable(name) for name in (CONFIG_FILE, *(option.name for option in OPTIONS)))
_ENDINGS: Final = tuple(name.removeprefix(PREFIX) for name in sorted(_KNOWN))
_SERVICE_LINK: Final = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z", re.ASCII
)
"""What Kubernetes puts into each container of a namespace that has a Service called messaging or messaging-exporter."""


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Names in ``environ`` that nothing reads, and the setting's name that each is closest to."""
    found = {}
    for name, value in environ.items():
        # The first letter, because a look at every name costs a start more than a mistake in that letter is worth; an
        # empty variable is one that a compose file left open.
        if name[:1] in ("M", "m") and name not in _KNOWN and value.strip() and (nearest := _nearest(name.upper())):
            found[name] = nearest
    return found


def left_empty(environ: Mapping[str, str]) -> list[str]:
    """Names in ``environ`` of settings, with nothing in them."""
    return sorted(name for name in _KNOWN & environ.keys() if not environ[name].strip())


def _nearest(name: str) -> str | None:
    head, mark, ending = name.partition("_")
    if not mark or _SERVICE_LINK.search(name):
        return None
    from difflib import SequenceMatcher, get_close_matches  # here, because most starts have no such variable

    if SequenceMatcher(None, f"{head}_", PREFIX).ratio() < CLOSE:
        return None
    matches = get_close_matches(ending.removeprefix("EXPORTER_"), _ENDINGS, 1, CLOSE)  # the program's whole name
    return PREFIX + matches[0] if matches else None
