"""The machine's own limits, as NumPy reaches them: floors are drawn from these."""

from __future__ import annotations

from typing import Any

import numpy as np

from contest.cases import Call, Case, Contender, Sizes, Subject, normal, relative_error


def multiply(sizes: Sizes) -> Call:
    """A large float32 product: the arithmetic that the best library here gets out of the machine."""
    a, b = normal(sizes["n"], sizes["n"], seed=0), normal(sizes["n"], sizes["n"], seed=1)
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def product(sizes: Sizes) -> list[np.ndarray]:
    a, b = normal(sizes["n"], sizes["n"], seed=0), normal(sizes["n"], sizes["n"], seed=1)
    return [a.astype(np.float64) @ b]


def read(sizes: Sizes) -> Call:
    """An inner product of an array with itself: two operations for four bytes, so that reading decides."""
    x = normal(sizes["bytes"] // 4, seed=0)
    return lambda: np.dot(x, x)


def square(sizes: Sizes) -> list[np.ndarray]:
    x = normal(sizes["bytes"] // 4, seed=0)
    return [np.asarray(np.dot(x.astype(np.float64), x))]


def case(name: str, sizes: Sizes, make: Any, right: Any, threads: int) -> Case:
    contender = Contender("numpy", "numpy", make, 1e-2)  # a float32 sum of 134 million squares keeps three digits
    return Case(f"{name}, {threads} thread{'s' * (threads > 1)}", sizes, (contender,), right, relative_error, threads)


def subject(quick: bool) -> Subject:
    n, scale = (64, 1024) if quick else (2048, 1)
    cases = [case("product", {"n": n}, multiply, product, threads) for threads in (1, 2)]
    for megabytes in (1, 16, 512):
        sizes = {"bytes": megabytes * 2**20 // scale, "megabytes": megabytes}
        cases.append(case(f"read {megabytes} MB", sizes, read, square, 1))
    return Subject(tuple(cases))


def measured(results: dict[str, Any], subject_cases: tuple[Case, ...]) -> dict[str, float]:
    """GFLOP/s by number of threads, and GB/s by the megabytes that were read."""
    limits = {}
    for one in subject_cases:
        if one.name not in results:
            continue
        ms = min(results[one.name]["contenders"]["numpy"]["rounds"])  # a limit is what the quietest round shows
        if "n" in one.sizes:
            limits[f"gflops_{one.threads}"] = 2 * one.sizes["n"] ** 3 / ms / 1e6
        else:
            limits[f"gb_per_second_{one.sizes['megabytes']}_mb"] = one.sizes["bytes"] / ms / 1e6
    return limits
