"""Softmax cross-entropy over the catalogue with both gradients, beside PyTorch: dense, and in chunks of rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from contest.cases import Call, Case, Contender, Curve, Memory, Row, Sizes, Subject, normal, relative_error
from regard import ops

DIM = 64


def inputs(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h (n, DIM), item vectors (n_items, DIM), targets (n,) int32."""
    n, n_items = sizes["n"], sizes["n_items"]
    targets = np.random.default_rng(2).integers(0, n_items, n).astype(np.int32)
    return normal(n, DIM, seed=0, scale=0.3), normal(n_items, DIM, seed=1, scale=0.3), targets


def with_regard(sizes: Sizes, precision: ops.Precision) -> Call:
    h, items, targets = inputs(sizes)
    ws = ops.Workspace()

    def call() -> Any:
        ws.reset()
        return ops.cross_entropy_value_and_grad(h, items, targets, precision=precision, workspace=ws)

    return call


def tensors(sizes: Sizes) -> tuple[Any, Any, Any]:
    import torch  # noqa: PLC0415

    h, items, targets = (torch.from_numpy(x) for x in inputs(sizes))
    return h, items, targets.long()


def dense_torch(sizes: Sizes) -> Call:
    """What a user writes."""
    import torch  # noqa: PLC0415

    h, items, targets = tensors(sizes)
    leaves = h.requires_grad_(), items.requires_grad_()

    def call() -> Any:
        loss = torch.nn.functional.cross_entropy(h @ items.T, targets)
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    return call


def chunked_torch(sizes: Sizes, megabytes: int, precision: str = "highest") -> Call:
    """Rows a chunk at a time, the backward pass by hand: one softmax, the logits' memory kept and used again."""
    import torch  # noqa: PLC0415

    h, items, targets = tensors(sizes)
    n, step = len(h), max(1, megabytes * 2**18 // len(items))
    logits, probabilities = torch.empty(step, len(items)), torch.empty(step, len(items))
    less = torch.full((step, 1), -1.0 / n)

    def call() -> Any:
        torch.set_float32_matmul_precision(precision)
        dh, ditems, loss = torch.empty_like(h), torch.zeros_like(items), torch.zeros(())
        for begin in range(0, n, step):
            rows, target = h[begin : begin + step], targets[begin : begin + step, None]
            z, p = logits[: len(rows)], probabilities[: len(rows)]
            torch.mm(rows, items.T, out=z)
            torch.softmax(z, 1, out=p)
            loss -= p.gather(1, target).log().sum()
            p.mul_(1.0 / n).scatter_add_(1, target, less[: len(rows)])
            torch.mm(p, items, out=dh[begin : begin + step])
            ditems.addmm_(p.T, rows)
        return loss / n, dh, ditems

    return call


def reference(sizes: Sizes) -> list[np.ndarray]:
    """Loss and gradients in float64, 256 rows at a time."""
    h, items, targets = inputs(sizes)
    h, items, n = h.astype(np.float64), items.astype(np.float64), len(h)
    loss, dh, ditems = 0.0, np.zeros_like(h), np.zeros_like(items)
    for begin in range(0, n, 256):
        rows, target = h[begin : begin + 256], targets[begin : begin + 256]
        z = rows @ items.T
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        total = p.sum(axis=1, keepdims=True)
        place = np.arange(len(rows)), target
        loss += float((np.log(total[:, 0]) - z[place]).sum()) / n
        p /= total
        p[place] -= 1
        p /= n
        dh[begin : begin + 256] = p @ items
        ditems += p.T @ rows
    return [np.asarray(loss), dh, ditems]


def regard_in(precision: ops.Precision, tolerance: float) -> Contender:
    return Contender(f"regard {precision}", "regard", functools.partial(with_regard, precision=precision), tolerance)


# The bounds that `high` promises; `medium` has the bits of bfloat16.
HIGHEST, HIGH, MEDIUM = regard_in("highest", 1e-5), regard_in("high", 5e-4), regard_in("medium", 1e-2)


def peers(chunks: tuple[int, ...], *, dense: bool) -> tuple[Contender, ...]:
    """PyTorch with both allocators: dense, and in chunks of these megabytes, in float32 and in `medium`."""
    found = []
    for tuned in (False, True):
        suffix = ", tuned allocator" if tuned else ""
        if dense:
            found.append(Contender(f"torch dense{suffix}", "torch", dense_torch, tuned=tuned))
        for size in chunks:
            make = functools.partial(chunked_torch, megabytes=size)
            found.append(Contender(f"torch chunks of {size} MB{suffix}", "torch", make, tuned=tuned))
    for size in chunks:
        make = functools.partial(chunked_torch, megabytes=size, precision="medium")
        found.append(Contender(f"torch medium, chunks of {size} MB, tuned allocator", "torch", make, 1e-2, tuned=True))
    return tuple(found)


ALL = (HIGHEST, HIGH, MEDIUM, *peers((4, 16), dense=True))


def flops(sizes: Sizes) -> float:
    """Three products."""
    return 6.0 * DIM * sizes["n"] * sizes["n_items"]


def case(name: str, n: int, n_items: int, contenders: tuple[Contender, ...], threads: int = 1) -> Case:
    sizes = {"n": n, "n_items": n_items}
    return Case(name, sizes, contenders, reference, relative_error, threads, flops)


def rows(
    one: Case, lines: list[tuple[str, str, Contender, str | tuple[str, ...], bool, float, float]]
) -> tuple[Row, ...]:
    """A line: work, against whom, ours, how the peers' names begin, whether tuned ones count, required, goal."""
    found = []
    for work, against, ours, start, tuned, required, goal in lines:
        names = [c.name for c in one.contenders if c.name.startswith(start)]
        chosen = tuple(name for name in names if tuned or not name.endswith("tuned allocator"))
        found.append(Row(work, against, one.name, ours.name, chosen, required, goal))
    return tuple(found)


def subject(quick: bool) -> Subject:
    small, large = ((40, 300), (20, 700)) if quick else ((25_600, 3_416), (6_400, 54_542))
    one = case("cross-entropy", *small, ALL)
    fit = peers((16, 64), dense=True)
    two = case("cross-entropy, large, 2 threads", *large, (HIGHEST, HIGH, MEDIUM, *fit), threads=2)
    million = case("cross-entropy, a million items", *((10, 900) if quick else (256, 1_000_000)), (HIGH,))
    work, big = "cross-entropy, N 25,600, V 3,416", "cross-entropy, N 6,400, V 54,542, 2 threads"
    dense, plain, best = "dense torch", "best of chunked torch", "best of torch, dense and tuned too"
    float32 = "torch dense", "torch chunks"
    table = rows(
        one,
        [
            (f"{work}, `high`", dense, HIGH, "torch dense", False, 7, 10),
            (f"{work}, `high`", plain, HIGH, "torch chunks", False, 3, 4),
            (f"{work}, `high`", best, HIGH, float32, True, 3, 4),
            (f"{work}, `highest`", dense, HIGHEST, "torch dense", False, 3, 5),
            (f"{work}, `highest`", plain, HIGHEST, "torch chunks", False, 1.3, 2),
            (f"{work}, `highest`", best, HIGHEST, float32, True, 1.3, 2),
            (f"{work}, `medium`", "best of chunked torch `medium`, tuned", MEDIUM, "torch medium", True, 2, 3),
        ],
    ) + rows(
        two,
        [
            (f"{big}, `high`", dense, HIGH, "torch dense", False, 4, 7),
            (f"{big}, `high`", best, HIGH, float32, True, 2, 3),
        ],
    )
    memories = tuple(
        Memory(f"cross-entropy, `high`, {one.sizes['n']:,} rows, {one.sizes['n_items']:,} items", one.name, HIGH.name)
        for one in (one, two, million)
    )
    against = (HIGHEST, HIGH, MEDIUM, *peers((4, 16), dense=False)[2:4])
    n, catalogue = (20, (100, 300)) if quick else (1_024, (1_000, 3_416, 10_000, 30_000, 100_000, 200_000))
    by_items = {v: case(f"cross-entropy, {v} items", n, v, against) for v in catalogue}
    n_items, batches = (300, (10, 40)) if quick else (3_416, (64, 256, 1_024, 4_096, 16_384))
    by_rows = {b: case(f"cross-entropy, {b} rows", b, n_items, against) for b in batches}
    return Subject(
        (one, two, million, *by_items.values(), *by_rows.values()),
        table,
        (
            Curve(
                "cross-entropy-items",
                "cross-entropy of 1,024 rows",
                "items",
                tuple((v, c.name) for v, c in by_items.items()),
            ),
            Curve(
                "cross-entropy-rows",
                "cross-entropy over 3,416 items",
                "rows",
                tuple((b, c.name) for b, c in by_rows.items()),
            ),
        ),
        memories,
    )
