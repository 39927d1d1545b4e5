"""Exact top 10 by inner product, beside NumPy, PyTorch, implicit and faiss."""

from __future__ import annotations

from typing import Any

import numpy as np

from contest.cases import Call, Case, Contender, Curve, Row, Sizes, Subject, normal
from regard import ops

DIM, K = 64, 10


def inputs(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Queries (n, DIM) and items (n_items, DIM): normal numbers, the hard case for a bound."""
    return normal(sizes["n"], DIM, seed=0), normal(sizes["n_items"], DIM, seed=1)


def with_regard(sizes: Sizes) -> Call:
    h, items = inputs(sizes)
    return lambda: ops.topk(h, items, K)


def with_regard_quantized(sizes: Sizes) -> Call:
    h, items = inputs(sizes)
    quantized = ops.quantize_items(items)
    return lambda: ops.topk(h, items, K, quantized=quantized)


def with_numpy(sizes: Sizes) -> Call:
    h, items = inputs(sizes)

    def call() -> Any:
        scores = h @ items.T
        part = np.argpartition(scores, -K, axis=1)[:, -K:]
        order = np.argsort(-np.take_along_axis(scores, part, 1), axis=1)
        return np.take_along_axis(part, order, 1)

    return call


def with_torch(sizes: Sizes, kind: str = "float32") -> Call:
    import torch  # noqa: PLC0415

    h, items = (torch.from_numpy(x).to(getattr(torch, kind)) for x in inputs(sizes))
    return lambda: (h @ items.T).topk(K, dim=1).indices


def with_torch_bf16(sizes: Sizes) -> Call:
    return with_torch(sizes, "bfloat16")


def with_implicit(sizes: Sizes) -> Call:
    from implicit.cpu.topk import topk  # noqa: PLC0415

    h, items = inputs(sizes)
    threads = sizes.get("threads", 1)
    return lambda: topk(items, h, K, num_threads=threads)[0]


def with_faiss(sizes: Sizes, half: bool = False) -> Call:
    import faiss  # noqa: PLC0415

    h, items = inputs(sizes)
    index = faiss.IndexFlatIP(DIM)
    if half:
        index = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.train(items[:1000])
    index.add(items)
    return lambda: index.search(h, K)[1]


def with_faiss_half(sizes: Sizes) -> Call:
    return with_faiss(sizes, half=True)


def reference(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best scores in float64 (n, K), best first; queries and items."""
    h, items = (x.astype(np.float64) for x in inputs(sizes))
    best = np.full((len(h), K), -np.inf)
    for begin in range(0, len(items), 65_536):
        scores = np.concatenate([best, h @ items[begin : begin + 65_536].T], axis=1)
        best = -np.sort(-np.partition(scores, -K, axis=1)[:, -K:], axis=1)
    return best, h, items


def error(answer: list[np.ndarray], right: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """By how much the chosen items score less than the best, place by place, relative to the best; NaN for a repeat."""
    best, h, items = right
    chosen = answer[0].reshape(best.shape)
    if any(len(set(row)) < K for row in chosen.tolist()):
        return float("nan")
    scores = np.einsum("nd,nkd->nk", h, items[chosen])
    return float(np.abs((best - scores) / best).max())


# Two float32 sums of 64 products may put two items that are this near in another order; fewer bits do more.
EXACT, FEWER_BITS = 1e-6, 1e-2

OURS = (
    Contender("regard", "regard", with_regard, EXACT),
    Contender("regard, int8 bounds", "regard", with_regard_quantized, EXACT),
)
EXACT_PEERS = (
    Contender("numpy", "numpy", with_numpy, EXACT),
    Contender("torch", "torch", with_torch, EXACT),
    Contender("implicit", "implicit", with_implicit, EXACT),
    Contender("faiss Flat", "faiss", with_faiss, EXACT),
)
HALF = Contender("faiss SQfp16", "faiss", with_faiss_half, FEWER_BITS)  # half the bytes; the answer may differ
BF16 = Contender("torch bf16", "torch", with_torch_bf16, FEWER_BITS)
BF16_TUNED = Contender("torch bf16, tuned allocator", "torch", with_torch_bf16, FEWER_BITS, tuned=True)


def size_in_bytes(sizes: Sizes) -> float:
    """The items once, in float32; int8 bounds read a quarter of it."""
    return 4.0 * DIM * sizes["n_items"]


def flops(sizes: Sizes) -> float:
    return 2.0 * DIM * sizes["n"] * sizes["n_items"]


def case(n: int, n_items: int, contenders: tuple[Contender, ...]) -> Case:
    name = f"top 10 of {n_items:,}, batch {n}"
    return Case(name, {"n": n, "n_items": n_items}, contenders, reference, error, 1, flops, size_in_bytes)


def row(one: Case, against: str, peers: tuple[Contender, ...], required: float, goal: float) -> Row:
    return Row(one.name, against, one.name, OURS[-1].name, tuple(peer.name for peer in peers), required, goal)


def subject(quick: bool) -> Subject:
    few, many, most = (50, 300, 700) if quick else (3_416, 100_000, 1_000_000)
    small, large = (3, 20) if quick else (16, 256)
    single = [case(1, n_items, (*OURS, *EXACT_PEERS, HALF)) for n_items in (few, many, most)]
    batched = [
        case(n, n_items, (*OURS, EXACT_PEERS[1], BF16, BF16_TUNED)) for n in (small, large) for n_items in (many, most)
    ]
    table = [
        row(one, "best exact peer", EXACT_PEERS, *wanted)
        for one, wanted in zip(single, ((2, 2.5), (3, 3.5), (3.3, 4)), strict=True)
    ] + [row(one, "torch bf16, not exact", (BF16, BF16_TUNED), 2.5, 8) for one in batched]
    beside = (*OURS, *EXACT_PEERS[1:3])
    more = [case(1, n_items, beside) for n_items in ((100, 200) if quick else (1_000, 10_000, 30_000, 300_000))]
    by_batch = [case(n, many, (*beside, BF16)) for n in ((2, 5) if quick else (4, 64))]
    by_items = sorted((one.sizes["n_items"], one.name) for one in single + more)
    batches = sorted((one.sizes["n"], one.name) for one in [single[1], *batched[::2], *by_batch])
    return Subject(
        (*single, *batched, *more, *by_batch),
        tuple(table),
        (
            Curve("topk-items", "top 10, one query", "items", tuple(by_items)),
            Curve("topk-batch", "top 10 of 100,000 items", "queries", tuple(batches)),
        ),
    )
