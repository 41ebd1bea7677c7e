"""When what has been gathered leaves: at the end of a turn of the loop. Knows nothing of what is gathered.

Usually that is when the loop has run its other callbacks. While frames come together, two and more in a turn, it ends
when nothing more comes: the loop looks at its sockets again, and again, but no longer than ``GATHERING``. Where 32
people send that saves half of the writes, and each delivery comes sooner than behind those. Where one sends, and waits,
there is never more, and no second look is taken. While each frame comes alone, it is not gathered either: it leaves
when it comes, and what else its read has brought when that is handled, without another round of the loop. One turn of
``SEVERAL`` is as usual, to see whether that is still so; and the next time one of one more, because where as many reads
come in each round as divide ``SEVERAL``, the turn that is looked at would always be the last of its round, and alone.

Tested in ``tests/node/test_fanout.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

SEVERAL: Final = 8
"""Turns after which it is judged whether frames come together; or twice as many frames, if they come before."""
GATHERING: Final = 0.001
"""Seconds from the first look at the sockets until a turn ends, whatever comes."""
LEFT: Final = -1
"""``Turn.reading``, when what may leave at once has left."""


class Turn:
    """``end`` is called at the end of each turn that was begun, and tells ``ended``.

    ``frames`` answers how many there have been until now; ``now`` is monotonic seconds. Whoever reads a socket sets
    ``reading`` to ``alone`` before what was read is handled, and says ``has_read`` behind that. A frame may leave at
    once while ``reading`` is above 0 and nothing has been gathered: whoever writes it sets ``LEFT``. Numbers instead of
    calls, because each call is 0.5 µs where a frame comes alone, and finds nothing in the processor's caches.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        now: Callable[[], float],
        frames: Callable[[], int],
        end: Callable[[], None],
    ) -> None:
        self._call_soon, self._now, self._frames, self._end = call_soon, now, frames, end
        self._next: Callable[[], None] = end
        self._counted = self._turns = 0  # frames until the latest judgement, and turns since then
        self._seen = 0  # frames, when the loop looked at its sockets again
        self._until = 0.0
        self._ends_with_read = False
        self._period = SEVERAL  # turns until the next judgement
        self.alone = 0  # turns that may end with their read, because frames come alone
        self.begun = False
        self.reading = 0

    def begin(self) -> None:
        """Something is to leave at the end of this turn."""
        self.begun = True
        if self.reading:
            self._ends_with_read = True
        else:
            self._call_soon(self._next)

    def has_read(self) -> None:
        """All that came with one read is handled."""
        reading, self.reading = self.reading, 0
        if self._ends_with_read:
            self._ends_with_read = False
            self.alone -= 1
            try:
                self._end()
            except Exception as error:  # a defect of what leaves is not the reader's: the loop's handler logs it
                self._call_soon(partial(_raise, error))
        elif reading == LEFT:
            self.alone -= 1
            self._turns += 1

    def go_on(self) -> None:
        """Something has been left for a turn that ends without waiting for more."""
        self.begun = True
        self._call_soon(self._end)

    def ended(self, frames: int) -> None:
        """What has been gathered leaves now."""
        self.begun = False
        self._turns += 1
        fresh = frames - self._counted
        if self._turns >= self._period or fresh >= 2 * SEVERAL:
            self._next = self._gather if fresh >= 2 * self._turns else self._end
            self._period = 2 * SEVERAL + 1 - self._period  # by turns SEVERAL and one more
            self.alone = self._period - 1 if fresh <= self._turns else 0
            self._counted, self._turns = frames, 0

    def _gather(self) -> None:
        self._until = self._now() + GATHERING
        self._look_again()

    def _look_again(self) -> None:
        self._seen = self._frames()
        self._call_soon(self._looked)

    def _looked(self) -> None:
        """The loop has looked at its sockets since."""
        if self._frames() == self._seen or self._now() > self._until:
            self._end()
        else:
            self._look_again()


def _raise(error: Exception) -> None:
    raise error
