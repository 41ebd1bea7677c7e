"""Families rendered as text, in slices. Knows no HTTP and no value.

prometheus_client renders some 400 series in 5 ms; done in one piece, every message waits for it. So rendering gives way
after each millisecond.

Tested in ``tests/integration/test_exposition.py`` and ``tests/metrics/test_negotiation.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.samples import Sample

from exporter.metrics.negotiation import OPENMETRICS, wants_gzip

__all__ = ["Family", "encoded", "render", "restricted"]

SLICE: Final = 0.001  # seconds of rendering in one piece
COMPRESSING: Final = 0.5
"""Seconds; it takes 2 ms in a thread, and a scrape does not wait until others give one back."""
_EOF: Final = b"# EOF\n"


class _Single:
    """A registry of one family, which is what prometheus_client's renderers ask for."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


async def render(families: Iterable[Family], kind: str) -> bytes:
    """The exposition in the format ``kind``, a content type of ``negotiation``."""
    generate: Callable[[_Single], bytes] = generate_openmetrics if kind == OPENMETRICS else generate_text
    parts: list[bytes] = []
    begun = time.perf_counter()
    for family in families:
        parts.append(generate(_Single([family])).removesuffix(_EOF))
        if time.perf_counter() - begun > SLICE:
            await asyncio.sleep(0)
            begun = time.perf_counter()
    if kind == OPENMETRICS:
        parts.append(_EOF)
    return b"".join(parts)


async def encoded(text: bytes, kind: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """An exposition of that content type as it is sent, compressed where that is accepted, and its headers."""
    headers = {"Content-Type": kind, "Vary": "Accept, Accept-Encoding"}
    if wants_gzip(accept_encoding):
        # Whoever takes it compressed takes it plain. RuntimeError: no thread can be started, as below a limit of tasks.
        with contextlib.suppress(TimeoutError, RuntimeError):
            work = asyncio.get_running_loop().run_in_executor(None, gzip.compress, text, 4)
            text = await asyncio.wait_for(work, COMPRESSING)
            headers["Content-Encoding"] = "gzip"
    return text, headers


def restricted(families: Iterable[Family], names: set[str]) -> Iterator[Family]:
    """The families or single series named by ``?name[]=``, as prometheus_client's restricted registry does.

    All of them where none is named.
    """
    for family in families:
        if not names or family.name in names:
            yield family
            continue
        samples = [sample for sample in family.samples if sample.name in names]
        if family.type == "histogram":
            # A part of a histogram is none: OpenMetrics' parsers refuse one without all of its parts.
            for name in sorted({sample.name for sample in samples}):
                yield _part(name, "unknown", family, [sample for sample in samples if sample.name == name])
        elif samples:
            yield _part(family.name, family.type, family, samples)


def _part(name: str, kind: str, family: Family, samples: list[Sample]) -> Family:
    part = Family(name, family.documentation, kind, family.unit)
    part.samples = samples
    return part
