"""Gradient of an embedding and Adam on the rows that a batch touched, beside PyTorch's SparseAdam."""

from __future__ import annotations

from typing import Any

import numpy as np

from contest.cases import Call, Case, Contender, Row, Sizes, Subject, normal, relative_error
from regard import ops

DIM, RATE = 64, 1e-3


def ids_of(sizes: Sizes) -> np.ndarray:
    """By Zipf's law: rank r with probability about 1 / r, ranks anywhere in the table; (n,) int32."""
    n_items, random = sizes["n_items"], np.random.default_rng(0)
    ranks = np.minimum(n_items ** random.random(sizes["n"]), n_items - 1).astype(np.int64)
    ids: np.ndarray = random.permutation(n_items).astype(np.int32)[ranks]
    return ids


def inputs(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, the gradient of their vectors (n, DIM), the table (n_items, DIM)."""
    return ids_of(sizes), normal(sizes["n"], DIM, seed=2), normal(sizes["n_items"], DIM, seed=3)


def with_regard(sizes: Sizes) -> Call:
    """As `regard.train` does it."""
    ids, dy, weight = inputs(sizes)
    m, v, ws = np.zeros_like(weight), np.zeros_like(weight), ops.Workspace()
    touched, step = np.unique(ids), 0

    def call() -> Any:
        nonlocal step
        ws.reset()
        step += 1
        rows, place = np.unique(ids, return_inverse=True)
        grad = ws.zeros((len(rows), DIM))
        ops.embedding_backward(dy, place.astype(np.int32), grad)
        ops.adam(weight, grad, m, v, step=step, learning_rate=RATE, rows=rows)

    def answer() -> Any:
        call()
        return weight[touched]

    return answer if sizes.get("rows") else call


def with_torch(sizes: Sizes) -> Call:
    import torch  # noqa: PLC0415

    ids, dy, weight = (torch.from_numpy(x) for x in inputs(sizes))
    table = torch.nn.Embedding.from_pretrained(weight, freeze=False, sparse=True)
    optimizer = torch.optim.SparseAdam(list(table.parameters()), lr=RATE)
    out, touched = table(ids), ids.unique()

    def call() -> Any:
        optimizer.zero_grad()
        out.backward(dy, retain_graph=True)
        optimizer.step()

    def answer() -> Any:
        call()
        return table.weight[touched]

    return answer if sizes.get("rows") else call


def reference(sizes: Sizes) -> list[np.ndarray]:
    """Touched rows after the first step, in float64: the moments' corrections cancel, the step is g / (|g| + eps)."""
    ids, dy, weight = inputs(sizes)
    rows, place = np.unique(ids, return_inverse=True)
    grad = np.zeros((len(rows), DIM))
    np.add.at(grad, place, dy.astype(np.float64))
    return [weight[rows] - RATE * grad / (np.abs(grad) + 1e-8)]


def size_in_bytes(sizes: Sizes) -> float:
    """Gradients once; touched rows of the table and two moments, read and written."""
    ids = ids_of(sizes)
    return 4.0 * DIM * (len(ids) + 6 * len(np.unique(ids)))


def case(n: int, n_items: int) -> Case:
    sizes, checked = {"n": n, "n_items": n_items}, {"rows": True}
    contenders = (
        Contender("regard", "regard", with_regard, 1e-6),
        Contender("torch SparseAdam", "torch", with_torch, 1e-6),
        Contender("torch SparseAdam, tuned allocator", "torch", with_torch, 1e-6, tuned=True),
    )
    name = "embedding, touched rows"
    return Case(name, sizes, contenders, reference, relative_error, bytes=size_in_bytes, checked_with=checked)


def subject(quick: bool) -> Subject:
    one = case(50, 400) if quick else case(25_600, 1_000_000)
    peers = tuple(contender.name for contender in one.contenders[1:])
    work = "embedding backward and Adam on touched rows, V 1,000,000, N 25,600"
    return Subject((one,), (Row(work, "SparseAdam", one.name, "regard", peers, 2, 3),))
