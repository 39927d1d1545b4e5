"""Causal self-attention over the history (SASRec; Kang and McAuley 2018, arXiv:1808.09781).

Differences from the paper: layer norm before each sub-layer and once more at the end, cross-entropy over the whole
catalogue at every place instead of one sampled negative, places counted from the start of the window.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regard import model_file, ops
from regard.layers import Run, Step, forward
from regard.metrics import evaluate
from regard.ragged import Ragged
from regard.recommender import Recommender
from regard.splits import leave_last_out
from regard.train import Callback, Settings, train

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.data import Interactions
    from regard.splits import Holdout

    Parameters = dict[str, NDArray[np.float32]]

_ITEMS = "items.weight"
_BLOCK = 512  # histories encoded together


class SelfAttentionRecommender(Recommender):
    """Next-item recommendation by self-attention over a user's history.

    Parameters
    ----------
    dim : int, default 64
        Width of the item vectors and of every layer.
    n_blocks, n_heads : int, default 2, 1
        ``n_heads`` divides ``dim``.
    ffn_dim : int, default None
        Width inside the feed-forward layer; None is ``dim``, as in SASRec.
    max_len : int, default 200
        Events of a history that are looked at, the newest.
    dropout : float, default 0.2
        After the embedding, on attention weights and in both sub-layers.
    norm : "layer"
    activation : "relu" or "gelu"
    positions : "relative", "absolute" or "none"
        A learned score per head and distance, or a learned vector per place counted from the window's start.
    windows : "random" or "last"
        Which ``max_len`` successive events of a longer history an epoch trains on.
    loss : "softmax"
        Cross-entropy over the whole catalogue.
    learning_rate, batch_size, epochs, patience
        Adam; users per batch; at most so many epochs, and so many without a better validation NDCG@10.
    schedule : "cosine", "linear" or "constant"
        How the learning rate falls until the last of ``epochs``.
    warmup_steps : int, default None
        Steps in which it rises first; None is 100, but at most a twentieth of all steps.
    weight_decay : float, default 0
        Decoupled (AdamW), on matrices.
    max_norm : float or None, default 5
        Gradients are scaled down to this norm.
    precision : "highest", "high" or "medium"
        Of the loss while training; see `regard.ops.cross_entropy_value_and_grad`.
    random_state : int, default 0
        Same seed, same data: same bits, whatever the number of threads.

    Attributes
    ----------
    params_ : dict of float32 arrays
    history_ : list of dict
        One entry per epoch: loss, metric, events_per_second, seconds.
    best_epoch_ : int
    interrupted_ : bool
        Whether Ctrl-C ended the training.
    """

    def __init__(
        self,
        *,
        dim: int = 64,
        n_blocks: int = 2,
        n_heads: int = 1,
        ffn_dim: int | None = None,
        max_len: int = 200,
        dropout: float = 0.2,
        norm: str = "layer",
        activation: str = "relu",
        positions: str = "relative",
        windows: str = "random",
        loss: str = "softmax",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        max_norm: float | None = 5.0,
        schedule: str = "cosine",
        warmup_steps: int | None = None,
        batch_size: int = 64,
        epochs: int = 40,
        patience: int = 10,
        precision: str = "high",
        random_state: int = 0,
    ) -> None:
        self.dim, self.n_blocks, self.n_heads, self.ffn_dim = dim, n_blocks, n_heads, ffn_dim
        self.max_len, self.dropout, self.norm, self.activation = max_len, dropout, norm, activation
        self.positions, self.windows, self.loss = positions, windows, loss
        self.learning_rate, self.weight_decay, self.max_norm = learning_rate, weight_decay, max_norm
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.batch_size, self.epochs, self.patience = batch_size, epochs, patience
        self.precision, self.random_state = precision, random_state

    # ---- the model ----------------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """The model as a list of steps; see `regard.layers`."""
        drop: Step = {"kind": "dropout", "p": self.dropout}

        def norm(name: str) -> Step:
            return {"kind": "norm", "weight": f"{name}.weight", "bias": f"{name}.bias", "eps": 1e-6}

        def linear(name: str, activation: str | None = None) -> Step:
            return {"kind": "linear", "weight": f"{name}.weight", "bias": f"{name}.bias", "activation": activation}

        steps: list[Step] = [{"kind": "embed", "table": _ITEMS, "scale": math.sqrt(self.dim)}]
        if self.positions == "absolute":
            steps.append({"kind": "position", "weight": "positions.weight"})
        steps.append(drop)
        for i in range(self.n_blocks):
            b = f"blocks.{i}"
            attention: Step = {"kind": "attention", "heads": self.n_heads, "dropout": self.dropout}
            attention |= {part: f"{b}.attention.{part}" for part in ("query", "key", "value")}
            if self.positions == "relative":
                attention["distance_bias"] = f"{b}.attention.distance_bias"
            steps += [{"kind": "save"}, norm(f"{b}.attention_norm"), attention]
            if i == self.n_blocks - 1:  # from here on rows do not meet: only the newest is needed
                steps.append({"kind": "last"})
            steps += [linear(f"{b}.attention.out"), drop, {"kind": "add"}, {"kind": "save"}, norm(f"{b}.ffn_norm")]
            steps += [linear(f"{b}.ffn.1", self.activation), drop, linear(f"{b}.ffn.2"), drop, {"kind": "add"}]
        return [*steps, norm("norm")]

    def initial_parameters(self, n_items: int) -> Parameters:
        """Matrices from N(0, 1 / sqrt(fan in)), item vectors from N(0, 1 / dim), biases 0, norms 1."""
        rng = np.random.default_rng(self.random_state)
        dim, ffn = self.dim, self.ffn_dim or self.dim
        params: Parameters = {}

        def normal(name: str, shape: tuple[int, ...], scale: float) -> None:
            params[name] = (rng.standard_normal(shape) * scale).astype(np.float32)

        def linear(name: str, n_out: int, n_in: int) -> None:
            normal(f"{name}.weight", (n_out, n_in), 1 / math.sqrt(n_in))
            params[f"{name}.bias"] = np.zeros(n_out, np.float32)

        def norm(name: str) -> None:
            params[f"{name}.weight"], params[f"{name}.bias"] = np.ones(dim, np.float32), np.zeros(dim, np.float32)

        normal(_ITEMS, (n_items, dim), 1 / dim)
        if self.positions == "absolute":
            normal("positions.weight", (self.max_len, dim), 1 / math.sqrt(dim))
        for i in range(self.n_blocks):
            norm(f"blocks.{i}.attention_norm")
            for part in ("query", "key", "value", "out"):
                linear(f"blocks.{i}.attention.{part}", dim, dim)
            if self.positions == "relative":
                params[f"blocks.{i}.attention.distance_bias"] = np.zeros((self.n_heads, self.max_len), np.float32)
            norm(f"blocks.{i}.ffn_norm")
            linear(f"blocks.{i}.ffn.1", ffn, dim)
            linear(f"blocks.{i}.ffn.2", dim, ffn)
        norm("norm")
        return params

    def _check(self) -> None:
        for name in ("dim", "n_blocks", "n_heads", "max_len", *(["ffn_dim"] if self.ffn_dim is not None else [])):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.dim % self.n_heads or self.dim // self.n_heads > 256:
            raise ValueError(
                f"n_heads: expected a divisor of dim={self.dim}, heads at most 256 wide, got {self.n_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a rate from 0 to below 1, got {self.dropout}")
        choices = {
            "norm": ("layer",),
            "activation": ("relu", "gelu"),
            "positions": ("absolute", "relative", "none"),
            "precision": ("highest", "high", "medium"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    # ---- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Interactions,
        *,
        validation: Holdout | str | None = "last",
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
    ) -> Self:
        """Train.

        Parameters
        ----------
        data : Interactions
        validation : Holdout, "last" or None
            Where NDCG@10 decides when to stop and which epoch is kept. "last": each user's last event is held out of
            ``data`` for it. None: all epochs on all of ``data``.
        callbacks : functions of the epoch's history entry; a true result stops the training
        progress : bool, default None
            The progress line; None shows it when standard error is a terminal.

        Notes
        -----
        Ctrl-C ends the training early and keeps the best weights so far.
        """
        self._check()
        settings = Settings(
            self.max_len,
            self.windows,
            self.loss,
            self.learning_rate,
            self.weight_decay,
            self.max_norm,
            self.schedule,
            self.warmup_steps,
            self.batch_size,
            self.epochs,
            self.patience,
            self.precision,
            self.random_state,
        )
        if isinstance(validation, str):
            if validation != "last":
                raise ValueError(f"validation: expected a Holdout, 'last' or None, got {validation!r}")
            data, validation = leave_last_out(data)
        self._set_catalogue(data)
        holdout = validation

        def ndcg(params: Parameters) -> float:
            assert holdout is not None
            self.params_ = params
            return evaluate(self, holdout, k=10, coverage=False)["ndcg@10"]

        outcome = train(
            self.steps(),
            self.initial_parameters(len(self.item_ids_)),
            data.sequences,
            settings,
            validate=ndcg if holdout is not None and len(holdout) else None,
            callbacks=callbacks,
            progress=progress,
        )
        self.params_, self.history_, self.best_epoch_ = outcome.params, outcome.history, outcome.best_epoch
        self.interrupted_ = outcome.interrupted
        return self

    # ---- answering ----------------------------------------------------------------------------------------------

    def _encode(self, histories: Ragged) -> NDArray[np.float32]:
        windows = histories.tail(self.max_len)
        h = np.empty((len(windows), self.dim), np.float32)
        steps = self.steps()
        for start in range(0, len(windows), _BLOCK):
            block = windows[start : start + _BLOCK]
            h[start : start + _BLOCK], _ = forward(steps, Run(block.values, block.offsets, self.params_))
        return h

    def encode(self, histories: Any) -> NDArray[np.float32]:
        """What is compared with the item vectors: (n, dim) float32, zeros for a history without known events.

        Parameters
        ----------
        histories
            As in `recommend`.
        """
        rows, _ = self._rows_of_histories(histories)
        known = np.flatnonzero(rows.lengths)
        h = np.zeros((len(rows), self.dim), np.float32)
        h[known] = self._encode(rows.take(known))
        return h

    def _scores(self, histories: Ragged) -> NDArray[np.float32]:
        h, items = self._encode(histories), self.params_[_ITEMS]
        return ops.linear_forward(h, items)[0]

    def _top_k(
        self, histories: Ragged, k: int, allow: Ragged | None, deny: Ragged | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return ops.topk(self._encode(histories), self.params_[_ITEMS], k, allow, deny)

    def _ranks(self, histories: Ragged, targets: Ragged, deny: Ragged | None) -> NDArray[np.float64]:
        above, equal = ops.rank_counts(self._encode(histories), self.params_[_ITEMS], targets, deny)
        return 1 + above + equal / 2

    def _item_similarities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Cosine of the item vectors."""
        items = self.params_[_ITEMS]
        lengths = np.sqrt((items * items).sum(axis=1, keepdims=True))
        unit = items / np.maximum(lengths, np.float32(1e-12))
        return ops.linear_forward(np.ascontiguousarray(unit[rows]), unit)[0]

    # ---- file ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one safetensors file: to a temporary name beside it, synced, renamed."""
        if not hasattr(self, "params_"):
            raise RuntimeError("save: this model is not fitted yet: call fit first")
        header = {
            "kind": "self_attention",
            "settings": self.get_params(),
            "steps": self.steps(),
            "best_epoch": self.best_epoch_,
            "history": self.history_,
        }
        model_file.write(
            path,
            header,
            params=self.params_,
            item_ids=self.item_ids_,
            titles=self.titles_,
            popularity=self.popularity_,
        )

    @classmethod
    def _from_file(cls, content: model_file.Content) -> Self:
        model = cls(**content.header["settings"])
        model._check()
        expected = model.initial_parameters(len(content.item_ids))
        model_file.check_shapes(content, {name: weight.shape for name, weight in expected.items()})
        if json.loads(json.dumps(model.steps())) != content.header["steps"]:
            raise ValueError(f"{content.path}: the list of steps does not belong to the settings")
        model.item_ids_, model.titles_, model.popularity_ = content.item_ids, content.titles, content.popularity
        model.params_ = content.params
        model.best_epoch_, model.history_ = content.header["best_epoch"], content.header["history"]
        model.interrupted_ = False
        return model
