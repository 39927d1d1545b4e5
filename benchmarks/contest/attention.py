"""Softmax attention, beside PyTorch's `scaled_dot_product_attention`; padded with a mask where lengths differ."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from contest.cases import Call, Case, Contender, Curve, Row, Sizes, Subject, normal, relative_error
from regard import datasets, ops
from regard.workspace import NEW

DIM = 64


@functools.cache
def real_lengths(name: str, longest: int, batch: int) -> np.ndarray:
    """Lengths of the newest ``longest`` events of ``batch`` users of a data set."""
    lengths = np.minimum(datasets.load(name).sequences.lengths, longest)
    return np.random.default_rng(0).choice(lengths, batch, replace=False)


def lengths_of(sizes: Sizes) -> np.ndarray:
    """Of a case: those of a data set, drawn with a mean, or all alike."""
    if "dataset" in sizes:
        return real_lengths(sizes["dataset"], sizes["length"], sizes["batch"])
    if "mean" in sizes:
        drawn = np.random.default_rng(0).geometric(1 / sizes["mean"], sizes["batch"])
        return np.minimum(drawn, sizes["length"])
    return np.full(sizes["batch"], sizes["length"])


def inputs(sizes: Sizes) -> tuple[np.ndarray, list[np.ndarray]]:
    """Offsets, and q, k, v, dout (rows, 1, DIM)."""
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths_of(sizes))]).astype(np.int64)
    return cu_seqlens, [normal(int(cu_seqlens[-1]), 1, DIM, seed=seed) for seed in range(4)]


def with_regard(sizes: Sizes) -> Call:
    cu, (q, k, v, dout) = inputs(sizes)
    # One history stands for a request: results in memory of their own, as PyTorch's.
    ws, causal = ops.Workspace() if sizes["batch"] > 1 else NEW, sizes["causal"]

    def forward() -> Any:
        if ws is not NEW:
            ws.reset()
        return ops.attention_forward(q, k, v, cu, cu, causal=causal, workspace=ws)

    def both() -> Any:
        out, lse = forward()
        return ops.attention_backward(dout, q, k, v, out, lse, cu, cu, causal=causal, workspace=ws)[:3]

    out, lse = ops.attention_forward(q, k, v, cu, cu, causal=causal)  # of the backward pass alone

    def backward() -> Any:
        return ops.attention_backward(dout, q, k, v, out, lse, cu, cu, causal=causal)[:3]

    return {"forward": lambda: forward()[0], "both": both, "backward": backward}[sizes["pass"]]


def with_torch(sizes: Sizes) -> Call:
    """Padded at the end where lengths differ: a boolean mask hides the padding and, if causal, the future."""
    import torch  # noqa: PLC0415

    cu, ragged = inputs(sizes)
    lengths, longest, causal = np.diff(cu), sizes["length"], sizes["causal"]
    real = np.arange(longest) < lengths[:, None]
    padded = []
    for x in ragged:
        dense = np.zeros((len(lengths), longest, DIM), np.float32)
        dense[real] = x[:, 0]
        padded.append(torch.from_numpy(dense[:, None]))
    *qkv, dout = padded
    how: dict[str, Any] = {"is_causal": causal}
    if not real.all():
        mask = real[:, None, None, :] & np.tri(longest, dtype=bool) if causal else real[:, None, None, :]
        how = {"attn_mask": torch.from_numpy(np.ascontiguousarray(mask))}
    leaves = [x.requires_grad_(sizes["pass"] != "forward") for x in qkv]
    attend = functools.partial(torch.nn.functional.scaled_dot_product_attention, *leaves, **how)
    keep = torch.from_numpy(real)
    once = attend() if sizes["pass"] == "backward" else None

    def call() -> Any:
        if sizes["pass"] == "forward":
            return attend()
        out = attend() if once is None else once
        return torch.autograd.grad(out, leaves, dout, retain_graph=once is not None)

    def answer() -> Any:
        result = call()
        if real.all():
            return result
        parts = [result] if sizes["pass"] == "forward" else list(result)
        return [part[:, 0][keep] for part in parts]

    return answer if sizes.get("rows_only") else call


def reference(sizes: Sizes) -> list[np.ndarray]:
    """The formula in float64, one sequence at a time."""
    cu, ragged = inputs(sizes)
    out, dq, dk, dv = (np.zeros((len(x), DIM)) for x in ragged)
    for begin, end in itertools.pairwise(cu.tolist()):
        q, k, v, dout = (x[begin:end, 0].astype(np.float64) for x in ragged)
        z = q @ k.T / np.sqrt(DIM)
        if sizes["causal"]:
            z[~np.tri(len(z), dtype=bool)] = -np.inf
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        out[begin:end] = p @ v
        dp = dout @ v.T
        ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) / np.sqrt(DIM)
        dq[begin:end], dk[begin:end], dv[begin:end] = ds @ k, ds.T @ q, p.T @ dout
    return [out] if sizes["pass"] == "forward" else [dq, dk, dv]


def flops(sizes: Sizes) -> float:
    """Two products over the pairs that are allowed, five more backward; padding is no work."""
    lengths = lengths_of(sizes).astype(np.float64)
    pairs = float((lengths * (lengths + 1) / 2 if sizes["causal"] else lengths**2).sum())
    return {"forward": 4, "both": 14, "backward": 10}[sizes["pass"]] * DIM * pairs


CONTENDERS = (
    Contender("regard", "regard", with_regard),
    Contender("torch SDPA", "torch", with_torch),
    Contender("torch SDPA, tuned allocator", "torch", with_torch, tuned=True),
)
PEERS = ("torch SDPA", "torch SDPA, tuned allocator")


def case(name: str, sizes: Sizes, contenders: tuple[Contender, ...] = CONTENDERS, threads: int = 1) -> Case:
    checked: Sizes = {"rows_only": True}
    return Case(name, sizes, contenders, reference, relative_error, threads, flops, checked_with=checked)


CURVE = (5, 10, 20, 50, 100, 200, 500, 1024)
RAGGED = (5, 7, 10)
ROWS = 25_600


def row(work: str, name: str, required: float, goal: float) -> Row:
    return Row(work, "torch SDPA", name, "regard", PEERS, required, goal)


def subject(quick: bool) -> Subject:
    """The rows of the table, then cost by length at the same number of events."""
    batch, length, events = (4, 20, 40) if quick else (128, 200, 25_600)
    full: Sizes = {"batch": batch, "length": length, "causal": True}
    ml_1m, beauty = ({"mean": 9}, {"mean": 5}) if quick else ({"dataset": "ml-1m"}, {"dataset": "amazon-beauty"})
    table = (
        case("attention, causal, forward", full | {"pass": "forward"}),
        case("attention, causal, both ways", full | {"pass": "both"}),
        case("attention, dense, forward", full | {"pass": "forward", "causal": False}),
        case("attention, dense, both ways", full | {"pass": "both", "causal": False}),
        case("attention, MovieLens-1M", full | {"pass": "both"} | ml_1m),
        case("attention, Beauty", full | {"pass": "both", "length": min(length, 50)} | beauty),
        case("attention, one history, forward", full | {"pass": "forward", "batch": 1, "length": 50}),
        case("attention, one history, backward", full | {"pass": "backward", "batch": 1, "length": 50}),
    )
    rows = (
        row("attention, causal (128, 1, 200, 64), forward", table[0].name, 1.7, 2.5),
        row("attention, causal (128, 1, 200, 64), forward and backward", table[1].name, 1.7, 2.5),
        row("attention, dense, not causal, forward", table[2].name, 1.1, 1.3),
        row("attention, dense, not causal, forward and backward", table[3].name, 1.1, 1.3),
        row("attention, 128 MovieLens-1M histories cut to 200, forward and backward", table[4].name, 2.5, 4),
        row("attention, 128 Beauty histories cut to 50, forward and backward", table[5].name, 12, 20),
        row("attention, one history (1, 1, 50, 64), forward", table[6].name, 2.2, 3),
        row("attention, one history (1, 1, 50, 64), backward", table[7].name, 4, 5),
    )
    whole = {
        n: case(f"attention, length {n}", full | {"pass": "both", "length": n, "batch": events // n})
        for n in (5, 10, 20, 50, 100, 200, 500, 1024)
        if n <= events
    }
    ragged = {
        n: case(f"attention, mean {n}", full | {"pass": "both", "length": 50, "batch": events // n, "mean": n})
        for n in (5, 7, 10)
    }
    return Subject(
        (*table, *whole.values(), *ragged.values()),
        rows,
        (
            curve("attention-length", "attention both ways, 25,600 events, histories of one length", whole),
            curve("attention-ragged", "attention both ways, 25,600 events, ragged, at most 50", ragged),
        ),
    )


def curve(file: str, name: str, by_length: dict[int, Case]) -> Curve:
    return Curve(file, name, "events in a history", tuple((n, one.name) for n, one in by_length.items()))
