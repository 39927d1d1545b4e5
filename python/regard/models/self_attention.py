"""Causal self-attention over the history (SASRec; Kang and McAuley 2018, arXiv:1808.09781).

Differences from the paper: layer norm before each sub-layer and once more at the end, cross-entropy over the whole
catalogue at every place instead of one sampled negative, places counted from the start of the window.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

from regard.losses import POINTED, SAMPLED
from regard.recipes import recipe
from regard.sequence_model import Identity, SequenceModel
from regard.train import check

if TYPE_CHECKING:
    from regard.data import Interactions
    from regard.layers import Step
    from regard.sequence_model import Beginning, Initial

_MOST_BLOCKS = 1000  # else a hostile file has names of parameters made without end
_DOUBLINGS = 32  # of the seconds that a time bias tells apart, each in four steps
_ITEMS, _OUTPUT = "items.weight", "output.weight"

CHOICES = {
    "norm": ("layer", "rms"),
    "ffn": ("plain", "gated"),
    "activation": ("relu", "gelu", "silu"),
    "residual": ("add", "gate"),
    "positions": ("absolute", "relative", "none"),
    "attention_init": ("normal", "identity"),
    "output_table": ("tied", "separate"),
    "precision": ("highest", "high", "medium"),
}
_ON_CUDA = {  # what is written for it
    "loss": ("softmax",),
    "optimizer": ("adam", "sgd"),
    "time_bias": (False,),
    "pointer": (False,),
    "label_smoothing": (0.0,),
    "mask_seen": (False,),
}


def refused(loss: str, device: str, *, ranks_seen: bool) -> dict[str, Any]:
    """Settings that do not go with any value with these, each with one that does."""
    values: dict[str, Any] = {}
    if device == "cuda":
        values |= {name: allowed[0] for name, allowed in _ON_CUDA.items()}
    if loss not in POINTED:
        values["pointer"] = False
    if loss in SAMPLED:
        values |= {"label_smoothing": 0.0, "mask_seen": False}
    if ranks_seen:
        values["mask_seen"] = False
    return values


class SelfAttentionRecommender(SequenceModel):
    """Next-item recommendation by self-attention over a user's history.

    Parameters
    ----------
    dim : int, default 64
        Width of the item vectors and of every layer.
    n_blocks : int, default 2
        Blocks of attention and feed-forward layer, one after the other.
    n_heads : int, default 1
        Of attention; divides ``dim``.
    ffn_dim : int, default None
        Width inside the feed-forward layer; None is ``dim``, as in SASRec.
    max_len : int, default 200
        Events of a history that are looked at, the newest.
    dropout : float, default 0.2
        After the embedding, on attention weights and in both sub-layers.
    norm : "layer" or "rms"
        Layer norm, or root mean square norm (no mean, no bias).
    ffn : "plain" or "gated"
        ``W2 act(W1 x)``, or ``W2 (act(V x) * W1 x)``: SwiGLU with ``activation="silu"``.
    activation : "relu", "gelu" or "silu"
        Of the feed-forward layer.
    residual : "add" or "gate"
        ``x + y`` around each sub-layer, or ``x + sigmoid(W x + b) * y``.
    positions : "relative", "absolute" or "none"
        A learned score per head and distance, or a learned vector per place counted from the window's start.
    attention_init : "normal" or "identity"
        How the maps of attention begin: drawn like every matrix, or, value and output, as the identity, query and key
        as half of it: attention then begins as the sum of the events' own vectors, weighted by their likeness to the
        newest; with few events that is hard to learn (compare Trockman and Kolter 2023, arXiv:2305.09828).
    time_bias : bool, default False
        A learned score per head and time from an event to the one that is foretold, four steps to a doubling of the
        seconds (the bias of HSTU; Zhai et al. 2024, arXiv:2402.17152), and a learned vector for the time from each
        event to the one after it, one to a doubling: a score that all events share is lost in the softmax, so without
        it the model would not know how long ago the last event was. Needs times in the data, and tells the model when
        the next event happens: compare it with models of its kind alone.
    output_table : "tied" or "separate"
        Whether items are scored with the vectors that histories are read with, or with vectors of their own.
    pointer : bool, default False
        Whether items of the history have a second way to be the answer: a last attention over the events, whose weights
        do not sum vectors but go to the events' items: to exp of an item's score come those of ``w_a·h + b_a`` for the
        ages a at which it occurred, counted in events (Vinyals et al. 2015, arXiv:1506.03134; See et al. 2017,
        arXiv:1704.04368). For data where people come back to the same items, with the losses "softmax" and
        "sampled_softmax".
    normalize_items : bool, default False
        Whether item vectors have length 1, so that how often an item occurred in the training part is not learned as
        the length of its vector (NISER; Gupta et al. 2019, arXiv:1909.04276): for answers about a later time. The
        last norm learns the temperature of the softmax.
    item_features : bool, default True
        Whether item vectors are made of the features that the data have, too; see `Interactions.with_features`.
    windows : "random" or "last"
        Which ``max_len`` successive events of a longer history an epoch trains on.
    loss : "softmax", "sampled_softmax", "bce" or "gbce"
        Cross-entropy over the whole catalogue, or losses against drawn items, for large catalogues: cross-entropy over
        them, binary cross-entropy, or gBCE; see `regard.losses`. With the latter three only the item vectors that a
        batch has are touched by a step.
    n_negatives : int, default 1024
        Items drawn for a batch, shared by all of its places.
    negatives : "uniform" or "popularity"
        How they are drawn.
    logq_correction : bool, default True
        Whether the sampled softmax corrects for how often each is drawn.
    gbce_t : float, default 0.75
        Calibration of gBCE, from 0 (plain BCE) to 1.
    label_smoothing : float, default 0
        The part of every target that goes to all items alike, from 0 to below 1, with ``loss="softmax"``: what is next
        is seldom certain (Szegedy et al. 2016, arXiv:1512.00567). With a pointer it is about the items' own scores.
    mask_seen : bool, default False
        Whether the softmax of a place leaves out the items of its whole history, as `recommend` does, with
        ``loss="softmax"`` and without a pointer: the model need not learn that they do not come again, and may find
        what is next by its likeness to them. The answer itself always counts. Such a model ranks seen items first
        where they are not left out.
    optimizer : "adam", "adagrad" or "sgd"
    learning_rate : float, default 0.002
        Its peak; ``schedule`` and ``warmup_steps`` say how it changes.
    batch_size : int, default 64
        Users per step.
    epochs : int, default 40
        At most so many passes over the users.
    patience : int, default 10
        Epochs without a better validation NDCG@10 until training ends.
    schedule : "cosine", "linear" or "constant"
        How the learning rate falls until the last of ``epochs``.
    warmup_steps : int, default None
        Steps in which it rises first; None is 100, but at most a twentieth of all steps.
    weight_decay : float, default 0
        Decoupled (AdamW), on matrices.
    max_norm : float or None, default 5
        Gradients are scaled down to this norm.
    weight_averaging : bool, default False
        Whether the model is the mean of its weights over the last steps, about a ninth of those taken (Shamir and Zhang
        2013, arXiv:1212.1824): fewer epochs to the best one. A step then passes over all weights.
    precision : "highest", "high" or "medium"
        Of the loss while training; see `regard.ops.cross_entropy_value_and_grad`.
    random_state : int, default 0
        Same seed, same data: same bits, whatever the number of threads.
    device : "cpu" or "cuda"
        Where the model is trained and answers from. "cuda" needs the optional CUDA build (docs/cuda.md) and computes in
        float32; with ``loss="softmax"`` and ``optimizer="adam"`` or ``"sgd"``, without ``time_bias``, ``pointer``,
        ``label_smoothing``, ``mask_seen`` and features of items. A model file does not hold it.

    Attributes
    ----------
    params_ : dict of float32 arrays
    history_ : list of dict
        One entry per epoch: loss, metric, events_per_second, seconds.
    best_epoch_ : int
    interrupted_ : bool
        Whether Ctrl-C ended the training.
    """

    kind = "self_attention"

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
        ffn: str = "plain",
        activation: str = "relu",
        residual: str = "add",
        positions: str = "relative",
        attention_init: str = "normal",
        time_bias: bool = False,
        output_table: str = "tied",
        pointer: bool = False,
        normalize_items: bool = False,
        item_features: bool = True,
        windows: str = "random",
        loss: str = "softmax",
        n_negatives: int = 1024,
        negatives: str = "uniform",
        logq_correction: bool = True,
        gbce_t: float = 0.75,
        label_smoothing: float = 0.0,
        mask_seen: bool = False,
        optimizer: str = "adam",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        max_norm: float | None = 5.0,
        schedule: str = "cosine",
        warmup_steps: int | None = None,
        batch_size: int = 64,
        epochs: int = 40,
        patience: int = 10,
        weight_averaging: bool = False,
        precision: str = "high",
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.dim, self.n_blocks, self.n_heads, self.ffn_dim = dim, n_blocks, n_heads, ffn_dim
        self.max_len, self.dropout, self.norm, self.ffn, self.activation = max_len, dropout, norm, ffn, activation
        self.residual, self.positions, self.attention_init = residual, positions, attention_init
        self.time_bias, self.output_table, self.pointer = time_bias, output_table, pointer
        self.normalize_items, self.item_features = normalize_items, item_features
        self.windows, self.loss, self.n_negatives, self.negatives = windows, loss, n_negatives, negatives
        self.logq_correction, self.gbce_t, self.label_smoothing = logq_correction, gbce_t, label_smoothing
        self.mask_seen, self.optimizer = mask_seen, optimizer
        self.learning_rate, self.weight_decay, self.max_norm = learning_rate, weight_decay, max_norm
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.batch_size, self.epochs, self.patience = batch_size, epochs, patience
        self.weight_averaging, self.precision = weight_averaging, precision
        self.random_state, self.device = random_state, device

    @classmethod
    def for_data(cls, data: Interactions, preset: str = "best", *, exclude_seen: bool = True, **changes: Any) -> Self:
        """A model with the settings that `regard.recipes.recipe` has for these data; ``changes`` go before them.

        Parameters
        ----------
        data : Interactions
            What will be trained on.
        preset : "best" or "fast"
        exclude_seen : bool, default True
            Whether answers will leave out what the history holds, as in `recommend`; False where people come back to
            the same items and are to be shown them.
        **changes
            Any argument of the constructor.
        """
        settings: dict[str, Any] = {**recipe(data, preset, exclude_seen=exclude_seen)}
        ranks_seen = not exclude_seen or changes.get("pointer", settings["pointer"])
        without = refused(changes.get("loss", "softmax"), changes.get("device", "cpu"), ranks_seen=ranks_seen)
        return cls(**settings | {name: value for name, value in without.items() if name in settings} | changes)

    # ---- the model ----------------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """The model as a list of steps; see `regard.layers`."""
        drop: Step = {"kind": "dropout", "p": self.dropout}

        def norm(name: str) -> Step:
            if self.norm == "rms":
                return {"kind": "rms_norm", "weight": f"{name}.weight", "eps": 1e-6}
            return {"kind": "norm", "weight": f"{name}.weight", "bias": f"{name}.bias", "eps": 1e-6}

        def linear(name: str, activation: str | None = None) -> Step:
            return {"kind": "linear", "weight": f"{name}.weight", "bias": f"{name}.bias", "activation": activation}

        def add(name: str) -> Step:
            if self.residual == "gate":
                return {"kind": "gate_add", "weight": f"{name}.weight", "bias": f"{name}.bias"}
            return {"kind": "add"}

        def hidden(name: str) -> Step:
            if self.ffn == "gated":
                return {"kind": "gated", "gate": f"{name}.gate", "value": f"{name}.1", "activation": self.activation}
            return linear(f"{name}.1", self.activation)

        steps: list[Step] = [{"kind": "embed", "table": _ITEMS, "scale": math.sqrt(self.dim)}]
        if self.positions == "absolute":
            steps.append({"kind": "position", "weight": "positions.weight"})
        if self.time_bias:
            steps.append({"kind": "gap", "weight": "gaps.weight"})
        steps.append(drop)
        for i in range(self.n_blocks):
            b = f"blocks.{i}"
            attention: Step = {"kind": "attention", "heads": self.n_heads, "dropout": self.dropout}
            attention["newest"] = i == self.n_blocks - 1  # from there on rows do not meet
            attention |= {part: f"{b}.attention.{part}" for part in ("query", "key", "value")}
            if self.positions == "relative":
                attention["distance_bias"] = f"{b}.attention.distance_bias"
            if self.time_bias:
                attention["time_bias"] = f"{b}.attention.time_bias"
            steps += [{"kind": "save"}, norm(f"{b}.attention_norm"), attention]
            steps += [linear(f"{b}.attention.out"), drop, add(f"{b}.attention_gate")]
            steps += [{"kind": "save"}, norm(f"{b}.ffn_norm"), hidden(f"{b}.ffn"), drop]
            steps += [linear(f"{b}.ffn.2"), drop, add(f"{b}.ffn_gate")]
        score: Step = {"kind": "score", "table": _OUTPUT if self.output_table == "separate" else _ITEMS}
        return [*steps, norm("norm"), score | ({"pointer": "pointer"} if self.pointer else {})]

    def parameters(self, n_items: int) -> dict[str, Initial]:
        """Matrices from N(0, 1 / fan in) or the identity, item vectors from N(0, 1 / dim^2), biases 0, norms 1."""
        dim, ffn = self.dim, self.ffn_dim or self.dim
        params: dict[str, Initial] = {}

        def linear(name: str, n_out: int, n_in: int, begins: Beginning = None) -> None:
            params[f"{name}.weight"] = (n_out, n_in), 1 / math.sqrt(n_in) if begins is None else begins
            params[f"{name}.bias"] = (n_out,), 0.0

        def norm(name: str) -> None:
            params[f"{name}.weight"] = (dim,), None
            if self.norm == "layer":
                params[f"{name}.bias"] = (dim,), 0.0

        params[_ITEMS] = (n_items, dim), 1 / dim
        if self.output_table == "separate":
            params[_OUTPUT] = (n_items, dim), 1 / dim
        if self.positions == "absolute":
            params["positions.weight"] = (self.max_len, dim), 1 / math.sqrt(dim)
        if self.time_bias:
            params["gaps.weight"] = (_DOUBLINGS, dim), 0.0
        for i in range(self.n_blocks):
            b = f"blocks.{i}"
            norm(f"{b}.attention_norm")
            for part, factor in {"query": 0.5, "key": 0.5, "value": 1, "out": 1}.items():
                identity = Identity(factor) if self.attention_init == "identity" else None
                linear(f"{b}.attention.{part}", dim, dim, identity)
            if self.positions == "relative":
                params[f"{b}.attention.distance_bias"] = (self.n_heads, self.max_len), 0.0
            if self.time_bias:
                params[f"{b}.attention.time_bias"] = (self.n_heads, 4 * _DOUBLINGS), 0.0
            norm(f"{b}.ffn_norm")
            for part in ("1", *(["gate"] if self.ffn == "gated" else [])):
                linear(f"{b}.ffn.{part}", ffn, dim)
            linear(f"{b}.ffn.2", dim, ffn)
            for part in ("attention_gate", "ffn_gate") if self.residual == "gate" else ():
                linear(f"{b}.{part}", dim, dim)
        norm("norm")
        if self.pointer:
            params["pointer.weight"], params["pointer.bias"] = ((self.max_len, dim), 0.0), ((self.max_len,), 0.0)
        return params

    def _check(self) -> None:
        counts = ("dim", "n_blocks", "n_heads", "max_len", *(["ffn_dim"] if self.ffn_dim is not None else []))
        check(self, counts, {})
        if self.n_blocks > _MOST_BLOCKS:
            raise ValueError(f"n_blocks: expected at most {_MOST_BLOCKS}, got {self.n_blocks}")
        if self.dim % self.n_heads or self.dim // self.n_heads > 256:
            raise ValueError(
                f"n_heads: expected a divisor of dim={self.dim}, heads at most 256 wide, got {self.n_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a rate from 0 to below 1, got {self.dropout}")
        if self.pointer and self.mask_seen:
            raise ValueError("mask_seen: expected False with a pointer, which is for items that come again, got True")
        if self.pointer and self.loss not in POINTED:
            raise ValueError(f"loss: expected {' or '.join(map(repr, POINTED))} with a pointer, got {self.loss!r}")
        check(self, (), CHOICES | {"device": ("cpu", "cuda")})
        if self.device == "cuda":
            from regard.cuda import device_name  # noqa: PLC0415

            try:
                device_name()
            except RuntimeError as error:  # no such build, or no device: here the setting cannot be used
                raise ValueError(str(error)) from None
            for name, values in _ON_CUDA.items():
                if (got := getattr(self, name)) not in values:
                    expected = " or ".join(map(repr, values))
                    raise ValueError(f"{name}: expected {expected} with device='cuda', got {got!r}")
            if self.dim > 256:
                raise ValueError(f"dim: expected at most 256 with device='cuda', got {self.dim}")
