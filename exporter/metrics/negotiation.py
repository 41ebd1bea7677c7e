"""What a scraper wants: format and encoding out of ``Accept``, ``Accept-Encoding`` and the time-out header.

RFC 9110 section 12 without its corners: each header is a list of ranges with a weight. Whatever cannot be read is
passed over, because a scrape must not fail for a header.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# The budget covers the rendered answer, not only the query: a quarter is kept for a busy loop and the network.
SHARE: Final = 0.75
# Characters of a header that are read: one whole line. Prometheus sends 270; a megabyte would take half a second, in
# which nobody else is served.
MAX_READ: Final = 8_190


def ranges(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, parameters and weight of each range that can be read; names are in lower case."""
    for part in header[:MAX_READ].split(","):
        name, *rest = (piece.strip() for piece in part.split(";"))
        parameters = {
            key.strip().lower(): value.strip().strip('"')
            for key, mark, value in (p.partition("=") for p in rest)
            if mark
        }
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if 0.0 <= weight <= 1.0:
            yield name.lower(), parameters, weight


def content_type(accept: str) -> str:
    """OpenMetrics 1.0.0 when it is preferred to the text format, else text 0.0.4."""
    openmetrics = 0.0
    text: dict[str, float] = {}
    for name, parameters, weight in ranges(accept):
        version = parameters.get("version")
        if name == "application/openmetrics-text" and version in (None, "1.0.0", "0.0.1"):
            openmetrics = max(openmetrics, weight)
        elif name == "text/plain" and version in (None, "0.0.4"):
            text["text/plain"] = max(text.get("text/plain", 0.0), weight)
        elif name in ("text/*", "*/*"):
            text[name] = weight
    # The most specific range counts for text (section 12.5.1).
    for name in ("text/plain", "text/*", "*/*"):
        if name in text:
            return OPENMETRICS if openmetrics > text[name] else TEXT
    return OPENMETRICS if openmetrics > 0 else TEXT


def wants_gzip(accept_encoding: str) -> bool:
    """Is gzip acceptable?"""
    weights = {name: weight for name, _, weight in ranges(accept_encoding)}
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def budget(header: str | None, longest: float) -> float:
    """Seconds for the database: what the scraper waits (at most ``longest``), less the time to answer."""
    try:
        seconds = float(header) if header is not None else longest
    except ValueError:
        seconds = longest
    if not math.isfinite(seconds) or seconds <= 0:
        seconds = longest
    return min(seconds, longest) * SHARE
