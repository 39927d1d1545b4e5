"""How much may wait: the bound of the queue, in time.

Requests are computed one after another, so a request waits for those in flight before it. It is admitted if they are
expected to take no longer than ``max_wait``. That lets a burst pass. While more arrives than can be answered, waiting
is worth nothing: it makes every answer late and none more. Then a quarter of that wait is allowed, which keeps the
processor busy, and what is admitted is answered about as fast as without load (compare controlled delay: Nichols and
Jacobson 2012, "Controlling Queue Delay"). Whether that is so is looked at every 20 ms, by what arrived and what an
answer takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_WINDOW = 0.02  # seconds
_BEGINS, _ENDS = 1.2, 1.0  # load at which the tight bound begins and ends to hold: arrivals times seconds of each
_TIGHT = 0.25  # of the wait that is allowed else
_MEMORY = 0.9  # how much of the estimate of a request's seconds stays after a window
_ENOUGH = 8  # requests in a window for an estimate
_REFUSAL = 0.1  # of what an answer takes


class Load:
    """Counts what is in flight and decides what may join.

    Parameters
    ----------
    max_wait : seconds
    changed : function of the number in flight, optional
        Called whenever it changes.
    """

    def __init__(self, max_wait: float, changed: Callable[[int], object] | None = None) -> None:
        self._max_wait, self._changed = max_wait, changed
        self.in_flight = 0
        self.tight = False
        self._seconds = 0.0  # of processor time for an answer, as far as is known
        self._arrived = self._refused = 0
        self._since = self._used = 0.0  # the window that is looked at; none yet

    def admit(self) -> bool:
        """Whether a request that just arrived may join; if so, `done` has to be called at its end."""
        self._arrived += 1
        now = time.perf_counter()
        if now - self._since > _WINDOW:
            self._look(now)
        most = self._max_wait * (_TIGHT if self.tight else 1.0)
        if self.in_flight and self.in_flight * self._seconds > most:
            self._refused += 1
            return False
        self._count(1)
        return True

    def done(self) -> None:
        """A request has its answer, or none."""
        self._count(-1)

    def _count(self, change: int) -> None:
        self.in_flight += change
        if self._changed is not None:
            self._changed(self.in_flight)

    def _look(self, now: float) -> None:
        """End a window. The processor time that it took is that of its answers and refusals."""
        used = time.process_time()
        answers = self._arrived - self._refused + _REFUSAL * self._refused
        if answers >= _ENOUGH and self._since:
            took = (used - self._used) / answers
            self._seconds = took if not self._seconds else _MEMORY * self._seconds + (1 - _MEMORY) * took
            load = self._arrived * self._seconds / (now - self._since)
            self.tight = self._refused > 0 and load > (_ENDS if self.tight else _BEGINS)
        else:
            self.tight = False
        self._since, self._used, self._arrived, self._refused = now, used, 0, 0
