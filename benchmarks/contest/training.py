"""One training step of SASRec with the loss over the whole catalogue, beside PyTorch: padded, and packed.

The same model and parameters on both sides: two blocks, one head, layer norm before each sub-layer, absolute positions,
Adam. PyTorch's attention has no dropout on its weights here: with it `scaled_dot_product_attention` leaves its fused
kernel. Histories are padded at the end, so that the causal kernel needs no mask. Both make PyTorch faster.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from contest.cases import Call, Case, Contender, Row, Sizes, Subject, relative_error
from regard import Ragged, SelfAttentionRecommender, datasets
from regard.train import Settings, Training

GRADIENTS = ("items.weight", "positions.weight", "blocks.0.attention.query.weight", "blocks.1.ffn.2.bias")


@functools.cache
def histories(dataset: str, batch: int, length: int) -> tuple[Ragged, int]:
    """The newest ``length + 1`` events of a batch of users, and the number of items."""
    if dataset == "made up":
        random = np.random.default_rng(0)
        lengths = random.integers(2, length + 2, batch)
        return Ragged.from_lengths(random.integers(0, 60, lengths.sum()).astype(np.int32), lengths), 60
    data = datasets.load(dataset)
    users = np.random.default_rng(0).choice(len(data.sequences), batch, replace=False)
    return data.sequences.take(users).tail(length + 1), len(data.item_ids)


def model_of(sizes: Sizes) -> SelfAttentionRecommender:
    return SelfAttentionRecommender(
        dim=64,
        n_blocks=2,
        n_heads=1,
        ffn_dim=64,
        activation="relu",
        max_len=sizes["length"],
        dropout=sizes["dropout"],
        positions="absolute",
        max_norm=None,
        batch_size=sizes["batch"],
        schedule="constant",
        warmup_steps=0,
        learning_rate=1e-3,
        precision="high",
    )


def batch_of(sizes: Sizes) -> tuple[Ragged, int]:
    return histories(sizes["dataset"], sizes["batch"], sizes["length"])


def with_regard(sizes: Sizes, precision: str = "high") -> Call:
    """The training loop's own step, with its shuffling and cutting."""
    sequences, n_items = batch_of(sizes)
    model = model_of(sizes)
    given = model.get_params() | {"precision": precision}
    settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__})
    params = model.initial_parameters(n_items)
    run = Training(model.steps(), params, sequences, settings, np.ones(n_items, np.int64))

    def call() -> Any:
        run.begin_epoch()
        run.batch, run.losses, run.events = 0, 0.0, 0
        run.step()
        return run.losses / run.events, *(run.grads[name] for name in GRADIENTS)

    return call


def with_torch(sizes: Sizes, packed: bool, autocast: bool = False) -> Call:
    """Packed: all but attention on real events only; else on the padded batch, as SASRec is written everywhere."""
    import torch  # noqa: PLC0415

    nn = torch.nn.functional
    sequences, n_items = batch_of(sizes)
    batch, length, p = sizes["batch"], sizes["length"], sizes["dropout"]
    w = {name: torch.from_numpy(x).requires_grad_() for name, x in model_of(sizes).initial_parameters(n_items).items()}
    optimizer = torch.optim.Adam(w.values(), lr=1e-3, fused=True)
    items, targets = np.zeros((batch, length), np.int64), np.full((batch, length), -100)
    for i, sequence in enumerate(sequences):
        items[i, : len(sequence) - 1], targets[i, : len(sequence) - 1] = sequence[:-1], sequence[1:]
    every = np.arange(batch * length)
    rows = torch.from_numpy(every[targets.reshape(-1) >= 0] if packed else every)
    read, wanted = (torch.from_numpy(x.reshape(-1))[rows] for x in (items, targets))
    places = rows % length

    def linear(x: Any, name: str) -> Any:
        return nn.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return nn.layer_norm(x, (64,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def padded(x: Any) -> Any:
        if packed:
            x = x.new_zeros(batch * length, 64).index_copy(0, rows, x)
        return x.view(batch, 1, length, 64)

    def loss() -> Any:
        x = nn.embedding(read, w["items.weight"]) * 8 + nn.embedding(places, w["positions.weight"])
        x = nn.dropout(x, p)
        for b in ("blocks.0", "blocks.1"):
            y = norm(x, f"{b}.attention_norm")
            q, k, v = (padded(linear(y, f"{b}.attention.{part}")) for part in ("query", "key", "value"))
            y = nn.scaled_dot_product_attention(q, k, v, is_causal=True).view(-1, 64)
            y = linear(y[rows] if packed else y, f"{b}.attention.out")
            x = x + nn.dropout(y, p)
            y = nn.dropout(nn.relu(linear(norm(x, f"{b}.ffn_norm"), f"{b}.ffn.1")), p)
            x = x + nn.dropout(linear(y, f"{b}.ffn.2"), p)
        return nn.cross_entropy(norm(x, "norm") @ w["items.weight"].T, wanted)

    def call() -> Any:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            value = loss()
        value.backward()
        optimizer.step()
        return value.detach(), *(w[name].grad for name in GRADIENTS)

    return call


def reference(sizes: Sizes) -> list[np.ndarray]:
    """regard in `highest`, whose layers the tests hold against float64."""
    return [np.asarray(part, np.float64) for part in with_regard(sizes | {"dropout": 0.0}, "highest")()]


def flops(sizes: Sizes) -> float:
    """Products on real events: the loss, twelve 64 x 64 maps three times, attention over allowed pairs."""
    sequences, n_items = batch_of(sizes)
    n = (sequences.lengths - 1).astype(np.float64)
    return 64 * (6 * n_items * n.sum() + 6 * 12 * 64 * n.sum() + 2 * 14 * (n * (n + 1) / 2).sum())


def torch_form(name: str, tolerance: float, **how: Any) -> Contender:
    tuned = how.pop("tuned", False)
    make: Callable[[Sizes], Call] = functools.partial(with_torch, **how)
    return Contender(name, "torch", make, tolerance, tuned)


PADDED = torch_form("torch, padded SDPA", 1e-3, packed=False)
PACKED = (
    torch_form("torch, packed, tuned allocator", 1e-3, packed=True, tuned=True),
    torch_form("torch, packed, bf16 autocast, tuned allocator", 0.1, packed=True, autocast=True, tuned=True),
)
# Gradients far below the loss are sums in which much cancels: the 5e-4 of `high` grows on the way.
OURS = Contender("regard", "regard", with_regard, 5e-3)


def sizes_of(quick: bool) -> Sizes:
    if quick:
        return {"dataset": "made up", "batch": 3, "length": 8, "dropout": 0.2}
    return {"dataset": "ml-1m", "batch": 128, "length": 200, "dropout": 0.2}


def case(quick: bool, name: str, contenders: tuple[Contender, ...]) -> Case:
    checked: Sizes = {"dropout": 0.0}
    return Case(name, sizes_of(quick), contenders, reference, relative_error, 2, flops, checked_with=checked)


def subject(quick: bool) -> Subject:
    padded_tuned = torch_form("torch, padded SDPA, tuned allocator", 1e-3, packed=False, tuned=True)
    one = case(quick, "training step", (OURS, PADDED, padded_tuned, *PACKED))
    work = "training step (`high`), MovieLens-1M, d 64, L 200, batch 128, 2 threads"
    packed = tuple(contender.name for contender in PACKED)
    return Subject(
        (one,),
        (
            Row(work, "padded eager SDPA", one.name, OURS.name, (PADDED.name,), 4, 8),
            Row(work, "best packed tuned torch", one.name, OURS.name, packed, 2, 4),
        ),
    )
