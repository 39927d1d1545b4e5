"""Processes that contenders live in: one for each library, allocator and number of threads.

Libraries with thread pools of their own disturb each other inside one process, and the allocator's settings must be
there before a process starts. So the parent asks in turns, through pipes, and every round of a contest has each
contender once. `python -m contest.workers` is the other end.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from contest.cases import Call, Case, Contender, arrays

# glibc keeps what it is given back, in huge pages: worth up to twice the speed to PyTorch, whose steps allocate.
TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184",
    "THP_MEM_ALLOC_ENABLE": "1",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "REGARD_NUM_THREADS")


class Worker:
    """The parent's end."""

    def __init__(self, threads: int, tuned: bool) -> None:
        import regard  # noqa: PLC0415

        paths = [str(Path(__file__).parents[1]), str(Path(regard.__file__).parents[1])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict.fromkeys(THREADS, str(threads))
        if tuned:
            environment |= TUNED
        self.process = subprocess.Popen(
            [sys.executable, "-m", "contest.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{request}: the process ended with {self.process.wait()}; its message is above")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the process: it stops at the end of its input."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def load(path: str) -> list[np.ndarray]:
    """The answer that a worker wrote."""
    with np.load(path) as file:
        return [file[name] for name in file.files]


# ---- the other end ---------------------------------------------------------------------------------------------------


def find(request: dict[str, Any]) -> tuple[Case, Contender]:
    """The case and the contender of a request, by name."""
    cases = importlib.import_module(f"contest.{request['subject']}").subject(request["quick"]).cases
    case = next(case for case in cases if case.name == request["case"])
    return case, next(one for one in case.contenders if one.name == request["contender"])


def prepare(request: dict[str, Any], calls: dict[str, Call]) -> dict[str, Any]:
    """Make the call, write its answer to a file, time one more."""
    case, contender = find(request)
    call = contender.make(case.sizes | case.checked_with)
    np.savez(request["answer"], *arrays(call()))
    if case.checked_with:
        call = contender.make(case.sizes)
        call()
    calls[contender.name] = call
    return sample(call, 1)


def sample(call: Call, n: int) -> dict[str, Any]:
    """Seconds and page faults of a call, mean of n in a row."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start = time.perf_counter()
    for _ in range(n):
        call()
    seconds = (time.perf_counter() - start) / n
    return {"seconds": seconds, "faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / n}


def memory(request: dict[str, Any]) -> dict[str, Any]:
    """Megabytes that the first call of this process adds to its peak, less the results that it returns."""
    case, contender = find(request)
    call = contender.make(case.sizes)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status_mb("VmRSS")
    results = arrays(call())
    return {"mb": status_mb("VmHWM") - before - sum(array.nbytes for array in results) / 2**20}


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply
    calls: dict[str, Call] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "prepare":
            reply = prepare(request, calls)
        elif request["do"] == "time":
            reply = sample(calls[request["contender"]], request["calls"])
        elif request["do"] == "memory":
            reply = memory(request)
        else:
            calls.clear()
            reply = {"mb": status_mb("VmRSS")}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
