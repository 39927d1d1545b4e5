"""The words of a contest: contenders meet in a case, a ratio is read off a case, a curve is a line of cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Sizes = dict[str, Any]
Call = Callable[[], Any]  # one piece of work; its result becomes arrays by `arrays`


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a case.

    Attributes
    ----------
    name : as tables show it
    library : the module it needs; without it the contender is left out. Each library has processes of its own.
    make : sizes -> call. Inputs come from fixed seeds, so every contender has the same.
    tolerance : the error of its answer that is allowed, as the case measures it
    tuned : in a process with glibc's allocator told to keep its memory, in huge pages
    threads : None for those of the case
    """

    name: str
    library: str
    make: Callable[[Sizes], Call]
    tolerance: float = 1e-4
    tuned: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Case:
    """Contenders with the same work.

    Attributes
    ----------
    reference : sizes -> what answers are compared with, in float64
    error : answer, reference -> how far off; NaN is never allowed
    flops, bytes : sizes -> what no float32 form can do without; with the machine's limits they give the floor
    checked_with : sizes that differ when the answer is asked for (no dropout, say)
    """

    name: str
    sizes: Sizes
    contenders: tuple[Contender, ...]
    reference: Callable[[Sizes], Any]
    error: Callable[[list[np.ndarray], Any], float]
    threads: int = 1
    flops: Callable[[Sizes], float] = lambda _: 0.0
    bytes: Callable[[Sizes], float] = lambda _: 0.0
    checked_with: Sizes = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table of ratios: ``ours`` against the fastest of ``peers`` that is there."""

    work: str
    against: str
    case: str
    ours: str
    peers: tuple[str, ...]
    required: float
    goal: float


@dataclass(frozen=True)
class Memory:
    """A line of the table of memory: what one call adds to the peak of a process, less its results."""

    work: str
    case: str
    contender: str
    required_mb: float = 64
    goal_mb: float = 32


@dataclass(frozen=True)
class Curve:
    """Cost along one size: ``points`` are the sizes with the names of their cases, ``file`` names the picture."""

    file: str
    name: str
    label: str  # of the horizontal axis
    points: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Subject:
    """What one file measures."""

    cases: tuple[Case, ...]
    rows: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()
    memories: tuple[Memory, ...] = ()


def normal(*shape: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers, without a float64 copy on the way."""
    x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    x *= np.float32(scale)
    return x


def arrays(result: Any) -> list[np.ndarray]:
    """The arrays of a call's result: NumPy's, PyTorch's, and numbers."""
    if isinstance(result, (list, tuple)):
        return [array for part in result for array in arrays(part)]
    if hasattr(result, "detach"):
        result = result.detach().float().numpy() if result.is_floating_point() else result.detach().numpy()
    return [np.asarray(result)]


def relative_error(answer: list[np.ndarray], reference: list[np.ndarray]) -> float:
    """The largest of the arrays' relative errors in the Frobenius norm."""
    if len(answer) != len(reference):
        return float("nan")
    errors = []
    for ours, right in zip(answer, reference, strict=True):
        off = np.linalg.norm(ours.astype(np.float64).reshape(right.shape) - right)
        errors.append(float(off / max(np.linalg.norm(right), 1e-300)))
    return float(np.max(errors))
