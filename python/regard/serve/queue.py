"""The queue between the connections and the model.

The event loop both reads requests and computes answers, so a queue forms only of what arrived together. It is worked
off piece by piece, so that between two pieces answers go out and new requests come in; what arrived together and asks
alike is answered as one ragged batch. A request beside which nothing waits is answered at once. How much may wait is
decided by `load`; what waited beyond its own deadline is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .problems import late

if TYPE_CHECKING:
    from .messages import Answer

_TOGETHER = 32  # requests of a batch at most
_PAYS_FROM = 8  # from which a batch is faster than one by one


@dataclass(slots=True)
class Job:
    """One request that waits: ``alike`` is None, or equal for jobs that may share a batch."""

    alone: Callable[[], Answer]
    together: Callable[[list[Job]], list[Answer]] | None
    alike: Hashable
    past: Any
    deadline: float
    future: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Queue:
    """Answers jobs on the event loop, in their order.

    Parameters
    ----------
    batched : told the size of each piece
    """

    def __init__(self, *, batched: Callable[[int], object]) -> None:
        self._batched = batched
        self._jobs: deque[Job] = deque()

    async def answer(self, job: Job) -> Answer:
        """The answer of a job, when its turn has come."""
        self._jobs.append(job)
        if len(self._jobs) == 1:
            # After the other requests that were read together with this one, which are on the loop already.
            asyncio.get_running_loop().call_soon(self._work)
        return await job.future

    def _work(self) -> None:
        """Answer one piece."""
        piece = self._piece()
        now = time.monotonic()
        for job in piece:
            if job.deadline < now and not job.future.done():
                job.future.set_exception(late())
        left = [job for job in piece if not job.future.done()]  # neither late nor given up by its client
        if left:
            self._batched(len(left))
            self._settle(left)
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._work)

    def _piece(self) -> list[Job]:
        """The first job, with those right after it that are alike where they are enough."""
        first = self._jobs.popleft()
        if first.alike is None:
            return [first]
        n = 0
        while n < min(len(self._jobs), _TOGETHER - 1) and self._jobs[n].alike == first.alike:
            n += 1
        return [first, *(self._jobs.popleft() for _ in range(n if n + 1 >= _PAYS_FROM else 0))]

    def _settle(self, jobs: list[Job]) -> None:
        if len(jobs) > 1:
            assert jobs[0].together is not None
            try:
                answers = jobs[0].together(jobs)
            except Exception:
                answers = []  # one by one: what is wrong with one is no matter of the others
            for job, answer in zip(jobs, answers, strict=False):
                job.future.set_result(answer)
        for job in jobs:
            if not job.future.done():
                try:
                    job.future.set_result(job.alone())
                except Exception as error:
                    job.future.set_exception(error)
