"""A conversation's frames of one turn of the loop: who may have which part of them. Pure.

Tested in ``tests/node/test_fanout.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from typing import TypeVar

Q = TypeVar("Q")

Entry = tuple[int, bytes, Set[Q]]
"""A frame with its place among all that happened in this process, and who may not have it."""


def pieces(frames: Sequence[bytes], data: bytes, entries: Sequence[Entry[Q]], since: Mapping[Q, int]) -> dict[Q, bytes]:
    """For those who may not have all of it: what is left for them. ``data`` is all frames, joined.

    ``since``: of those who came later, how much had been gathered by then.
    """
    without: dict[Q, list[int]] = {queue: [] for queue in since}
    for index, (_, _, exclude) in enumerate(entries):
        for queue in exclude:
            without.setdefault(queue, []).append(index)
    offsets = [0, *accumulate(map(len, frames))]
    found = {}
    for queue, indexes in without.items():
        start = since.get(queue, 0)
        later = [index for index in indexes if index >= start]
        while later and later[0] == start:  # whoever joins may not have the news of that
            del later[0]
            start += 1
        if later:
            dropped = set(later)
            kept = [frame for index, frame in enumerate(frames[start:], start) if index not in dropped]
            found[queue] = b"".join(kept)
        else:
            found[queue] = data[offsets[start] :]
    return found
