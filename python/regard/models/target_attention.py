"""Target attention: the candidate attends over the history (DIN; Zhou et al. 2018, arXiv:1706.06978)."""

from __future__ import annotations

import math

from regard.click_model import ClickModel
from regard.impressions import Feature
from regard.layers import Step
from regard.target_network import ITEMS, UNKNOWN_ITEM, Attention
from regard.train import check

CHOICES = {
    "pooling": ("attention", "mean"),
    "scorer": ("activation_unit", "additive", "dot"),
    "normalize": ("none", "softmax"),
    "activation": ("relu", "gelu", "silu", "sigmoid"),
    "stop_by": ("auc", "log_loss"),
    "negatives": ("uniform", "popularity"),
}


class TargetAttentionRecommender(ClickModel):
    """Probability of a click on a candidate, from the events of the history that matter for this candidate.

    With item vectors e, the candidate c and the events j: ``u = sum_j w(e_c, e_j) e_j``, then a network on
    ``[u, e_c, u * e_c, user features, context]`` gives the logit. Order within the history does not matter.

    Parameters
    ----------
    dim : int, default 32
        Width of the item vectors.
    max_len : int, default 50
        Events of a history that are looked at, the newest.
    pooling : "attention" or "mean"
        Mean is the same model without attention, to compare with.
    scorer : "activation_unit", "additive" or "dot"
        What makes w: a network on ``[q, k, q - k, q * k]`` as in DIN, ``v·tanh(W q + U k)``, or ``q·k / sqrt(dim)``.
    normalize : "softmax" or "none"
        "none" as in DIN; the dot product has softmax only.
    attention_hidden : two ints, default (32, 16)
        Widths inside the activation unit; of the additive scorer the first.
    hidden : ints, default (64, 32)
        Widths of the network on top.
    activation : "relu", "gelu", "silu" or "sigmoid"
        Of that network.
    feature_dim : int, default 8
        Width of the vector of a word of a feature column.
    dropout : float, default 0
        After each of its hidden layers.
    unknown_rate : float, default 0.02
        Share of items that a training step takes for unknown, so that the vector of unknown candidates is learnt.
    item_features : bool, default True
        Use the item features of the impressions (`Impressions.item_features`) or interactions
        (`Interactions.with_features`), if they have any: an item's vector is then the sum of its own and of what its
        features add.
    n_negatives : int, default 1
        Items drawn for each positive where `fit` gets interactions, anew in every epoch, never the user's own.
    negatives : "uniform" or "popularity"
    stop_by : "auc" or "log_loss"
        What of the validation chooses the epoch.
    optimizer, learning_rate, weight_decay, max_norm, schedule, warmup_steps, epochs, patience, random_state
        As of `SelfAttentionRecommender`.
    batch_size : int, default 256
        Impressions per step.

    Attributes
    ----------
    params_ : dict of float32 arrays
    calibration_ : (slope, shift)
        ``probability = sigmoid(slope * logit + shift)``, fitted on the validation part (Platt 1999); (1, 0) without.
    history_ : list of dict
        One entry per epoch: loss; of the validation metric, log_loss, auc, user_auc.
    best_epoch_ : int
    interrupted_ : bool
    """

    kind = "target_attention"

    def __init__(
        self,
        *,
        dim: int = 32,
        max_len: int = 50,
        pooling: str = "attention",
        scorer: str = "activation_unit",
        normalize: str = "softmax",
        attention_hidden: tuple[int, int] = (32, 16),
        hidden: tuple[int, ...] = (64, 32),
        activation: str = "relu",
        feature_dim: int = 8,
        dropout: float = 0.0,
        unknown_rate: float = 0.02,
        item_features: bool = True,
        n_negatives: int = 1,
        negatives: str = "uniform",
        stop_by: str = "auc",
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        max_norm: float | None = 5.0,
        schedule: str = "linear",
        warmup_steps: int | None = None,
        batch_size: int = 256,
        epochs: int = 10,
        patience: int = 2,
        random_state: int = 0,
    ) -> None:
        self.dim, self.max_len, self.pooling, self.scorer, self.normalize = dim, max_len, pooling, scorer, normalize
        self.attention_hidden, self.hidden, self.activation = attention_hidden, hidden, activation
        self.feature_dim, self.dropout, self.unknown_rate = feature_dim, dropout, unknown_rate
        self.item_features = item_features
        self.n_negatives, self.negatives, self.stop_by = n_negatives, negatives, stop_by
        self.optimizer, self.learning_rate, self.weight_decay = optimizer, learning_rate, weight_decay
        self.max_norm, self.schedule, self.warmup_steps = max_norm, schedule, warmup_steps
        self.batch_size, self.epochs, self.patience, self.random_state = batch_size, epochs, patience, random_state

    # ---- the model ----------------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """The network on top as a list of steps; see `regard.layers`."""
        steps: list[Step] = []
        for i in range(len(self.hidden) + 1):
            activation = self.activation if i < len(self.hidden) else None
            names = {"weight": f"hidden.{i}.weight", "bias": f"hidden.{i}.bias"}
            steps += [{"kind": "linear", "activation": activation} | names, {"kind": "dropout", "p": self.dropout}]
        return steps[:-1]

    def parameters(self, n_items: int, features: list[Feature]) -> dict[str, tuple[tuple[int, ...], float]]:
        """Shape and standard deviation at the beginning; vectors of unknown items and words begin with 0."""
        dim = self.dim
        params: dict[str, tuple[tuple[int, ...], float]] = {ITEMS: ((n_items, dim), 1 / math.sqrt(dim))}
        params[UNKNOWN_ITEM] = (1, dim), 0.0
        params |= self._attention.parameters(dim, self.attention_hidden)
        words = [feature for feature in features if feature.is_category]
        for i, feature in enumerate(words):
            params[f"feature.{i}.weight"] = (len(feature["words"]) + 1, self.feature_dim), 0.1
        width = 3 * dim + len(words) * self.feature_dim + len(features) - len(words)
        for i, n_out in enumerate((*self.hidden, 1)):
            params[f"hidden.{i}.weight"] = (n_out, width), math.sqrt((1 if n_out == 1 else 2) / width)
            params[f"hidden.{i}.bias"], width = ((n_out,), 0.0), n_out
        return params

    def _check(self) -> None:
        check(self, ("dim", "max_len", "feature_dim", "n_negatives"), CHOICES)
        for name in ("dropout", "unknown_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a rate from 0 to below 1, got {getattr(self, name)}")
        if len(self.attention_hidden) != 2 or min(*self.attention_hidden, *self.hidden) < 1:
            raise ValueError(
                f"attention_hidden, hidden: expected two widths, and widths of at least 1, "
                f"got {self.attention_hidden} and {self.hidden}"
            )
        if self.scorer == "dot" and self.normalize == "none":
            raise ValueError("normalize: expected 'softmax' with scorer='dot', got 'none'")

    @property
    def _attention(self) -> Attention:
        return Attention(self.pooling, self.scorer, self.normalize)
