"""The network of target attention, forward and backward, and its training on labelled impressions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regard import ops
from regard.click_metrics import sigmoid
from regard.layers import Run, Step, forward
from regard.ragged import Ragged
from regard.ranking import union
from regard.train import RunSettings, TrainingRun
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.data import Interactions
    from regard.features import EncodedFeatures

    Array = NDArray[np.float32]
    Ints = NDArray[np.int32]
    Parameters = dict[str, Array]

ITEMS, UNKNOWN_ITEM = "items.weight", "unknown_item.weight"  # the latter stands for every item that is not known
_UNKNOWN, _DRAWN = 2, 3  # keep these random numbers apart from others of the same seed


class Batch(NamedTuple):
    """Impressions in rows of the catalogue, one past the last for an unknown item; facts: one row per impression."""

    histories: Ragged
    candidates: Ragged
    codes: Ints
    numbers: Array

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """The given impressions."""
        return Batch(self.histories.take(rows), self.candidates.take(rows), self.codes[rows], self.numbers[rows])


class Attention(NamedTuple):
    """How a candidate attends over the history; the names are those of the recommender's arguments."""

    pooling: str
    scorer: str
    normalize: Any

    def parameters(self, dim: int, hidden: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], float]]:
        """Shape and standard deviation at the beginning of what the scorer learns."""
        if self.pooling == "mean" or self.scorer == "dot":
            return {}
        first, second = hidden
        if self.scorer == "additive":
            widths = {"query.weight": (first, dim), "query.bias": (first,), "key.weight": (first, dim)}
            widths["value"] = (first,)
        else:
            shapes = ((first, 4 * dim), (first,), (second, first), (second,), (second,), (1,))
            widths = dict(zip(ops.ActivationUnit._fields, shapes, strict=True))
        return {
            f"attention.{name}": (shape, 0.0 if "bias" in name else 1 / math.sqrt(shape[-1]))
            for name, shape in widths.items()
        }

    def scores(self, params: Parameters, q: Array, k: Array, cu: tuple[Any, Any], ws: Workspace) -> tuple[Array, Any]:
        """Score of every pair, and the function of its gradient: ``dz, grads -> dq, dk``."""
        if self.scorer == "activation_unit":
            unit = ops.ActivationUnit(*(params[f"attention.{name}"] for name in ops.ActivationUnit._fields))

            def unit_backward(dz: Array, grads: Parameters) -> tuple[Array, Array]:
                dunit = ops.ActivationUnit(*(grads[f"attention.{name}"] for name in unit._fields))
                return ops.activation_unit_backward(dz, q, k, unit, *cu, dunit=dunit, workspace=ws)[:2]

            return ops.activation_unit_forward(q, k, unit, *cu, workspace=ws), unit_backward
        names = ("attention.query.weight", "attention.query.bias", "attention.key.weight", "attention.value")
        query, bias, key, v = (params[name] for name in names)
        q_part, k_part = (
            ops.linear_forward(q, query, bias, workspace=ws)[0],
            ops.linear_forward(k, key, workspace=ws)[0],
        )

        def additive_backward(dz: Array, grads: Parameters) -> tuple[Array, Array]:
            of_query, of_bias, of_key, of_v = (grads[name] for name in names)
            dq, dk, _ = ops.additive_scores_backward(dz, q_part, k_part, v, *cu, dv=of_v, workspace=ws)
            return (
                ops.linear_backward(dq, q, query, dweight=of_query, dbias=of_bias, workspace=ws)[0],
                ops.linear_backward(dk, k, key, dweight=of_key, workspace=ws)[0],
            )

        return ops.additive_scores_forward(q_part, k_part, v, *cu, workspace=ws), additive_backward

    def pool(self, params: Parameters, q: Array, k: Array, cu: tuple[Any, Any], ws: Workspace) -> tuple[Array, Any]:
        """``u`` (total_q, dim), and the function of its gradient: ``du, grads -> dq or None, dk``."""
        if self.pooling == "attention" and self.scorer == "dot":
            q3, k3 = q[:, None], k[:, None]
            out, lse = ops.attention_forward(q3, k3, k3, *cu, workspace=ws)

            def dot_backward(du: Array, grads: Parameters) -> tuple[Array | None, Array]:
                dq, dk, dv = ops.attention_backward(du[:, None], q3, k3, k3, out, lse, *cu, workspace=ws)[:3]
                return dq[:, 0], np.ascontiguousarray((dk + dv)[:, 0])

            return out[:, 0], dot_backward
        if self.pooling == "mean":  # softmax of equal scores
            z, scores_backward = ws.zeros((int(np.diff(cu[0]) @ np.diff(cu[1])),)), None
        else:
            z, scores_backward = self.scores(params, q, k, cu, ws)
        how: dict[str, Any] = {"normalize": "softmax" if self.pooling == "mean" else self.normalize, "workspace": ws}

        def backward(du: Array, grads: Parameters) -> tuple[Array | None, Array]:
            dz, dk = ops.weighted_sum_backward(du, z, k, *cu, **how)
            if scores_backward is None:
                return None, dk
            dq, dk_of_scores = scores_backward(dz, grads)
            dk += dk_of_scores
            return dq, dk

        return ops.weighted_sum_forward(z, k, *cu, **how), backward

    def weights(self, params: Parameters, q: Array, k: Array) -> Array:
        """(n_q, n_k): what each candidate takes of each event."""
        cu = (np.array([0, len(q)]), np.array([0, len(k)]))
        if self.pooling == "mean":
            return np.full((len(q), len(k)), 1 / max(len(k), 1), np.float32)
        if self.scorer == "dot":
            dense: Array = ops.attention_weights(q[:, None], k[:, None], *cu)[0][0]
            return dense
        z = self.scores(params, q, k, cu, NEW)[0].reshape(len(q), len(k))
        if self.normalize == "softmax" and len(k):
            z = np.exp(z - z.max(axis=1, keepdims=True))
            z /= z.sum(axis=1, keepdims=True)
        return np.asarray(z, np.float32)


def item_vectors(params: Parameters, rows: Ints, ws: Workspace = NEW) -> Array:
    """(n, dim) for rows (n,) of the item table, one past its last for an unknown item."""
    n = len(params[ITEMS])  # 0 where a training step took everything for unknown
    table = params[ITEMS] if n else params[UNKNOWN_ITEM]
    x = ops.embedding_forward(table, np.minimum(rows, np.int32(len(table) - 1)), workspace=ws)
    x[rows == n] = params[UNKNOWN_ITEM]
    return x


def _add_gradient(dx: Array, rows: Ints, run: Run) -> None:
    """Of `item_vectors`; ``dx`` is changed."""
    table = run.add_grad(ITEMS)
    unknown = np.flatnonzero(rows == len(table))
    run.add_grad(UNKNOWN_ITEM)[...] += dx[unknown].sum(axis=0)
    if len(unknown) == len(rows):
        return
    dx[unknown] = 0
    ops.embedding_backward(dx, np.minimum(rows, np.int32(len(table) - 1)), table)


def logits(
    attention: Attention, steps: list[Step], run: Run, batch: Batch
) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], None]]:
    """Logit of every candidate, and the function that adds the gradients of all parameters to ``run.grads``.

    ``batch`` has rows of ``run.params["items.weight"]`` (see `item_vectors`). The events of an impression are read once
    for all of its candidates.
    """
    params, ws, row = run.params, run.ws, batch.candidates.row_of
    events, shown = batch.histories.values, batch.candidates.values
    cu = (batch.candidates.offsets, batch.histories.offsets)
    k, q = item_vectors(params, events, ws), item_vectors(params, shown, ws)
    u, pool_backward = attention.pool(params, q, k, cu, ws)
    codes = [np.ascontiguousarray(column[row]) for column in batch.codes.T]
    facts = [ops.embedding_forward(params[f"feature.{i}.weight"], code, workspace=ws) for i, code in enumerate(codes)]
    x = np.concatenate([u, q, u * q, *facts, batch.numbers[row]], axis=1)
    y, steps_backward = forward(steps, run, x)
    dim = q.shape[1]

    def backward(dlogits: NDArray[np.float64]) -> None:
        dx = steps_backward(dlogits.astype(np.float32)[:, None])
        product = dx[:, 2 * dim : 3 * dim]
        dq = dx[:, dim : 2 * dim] + product * u
        of_pool, dk = pool_backward(dx[:, :dim] + product * q, run.grads or {})
        if of_pool is not None:
            dq += of_pool
        _add_gradient(dq, shown, run)
        _add_gradient(dk, events, run)
        at = 3 * dim
        for i, code in enumerate(codes):
            table = run.add_grad(f"feature.{i}.weight")
            part = np.ascontiguousarray(dx[:, at : at + table.shape[1]])
            ops.embedding_backward(part, code, table)
            at += table.shape[1]

    return y[:, 0].astype(np.float64), backward


class Negatives:
    """Drawn items beside each positive: never one of the user's own, anew in every epoch.

    Parameters
    ----------
    data : Interactions
    n : int
        For each positive; one that cannot be found in twenty draws is left out.
    distribution : "uniform" or "popularity"
    seed : int
    """

    def __init__(self, data: Interactions, n: int, distribution: str, seed: int) -> None:
        self.sequences, self.n_items, self.n, self.seed = data.sequences, data.n_items, n, seed
        self.users = data.sequences.row_of
        own = union(data.n_items, data.sequences)
        self.own = own.row_of * data.n_items + own.values
        counts = data.popularity() if distribution == "popularity" else np.ones(data.n_items, np.int64)
        self.cumulative = np.cumsum(np.maximum(counts, 1))

    def places(self, hold_last: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Events that have one before them, and (of them, if asked for) the last ones of users with three or more."""
        place = np.arange(len(self.users)) - self.sequences.offsets[self.users]
        last = (place == self.sequences.lengths[self.users] - 1) & (place >= 2) & hold_last
        return np.flatnonzero((place > 0) & ~last), np.flatnonzero(last)

    def batch(self, at: NDArray[np.int64], max_len: int, candidates: Ragged) -> Batch:
        """The events at these places of the data, with what the user had before."""
        n = np.minimum(at - self.sequences.offsets[self.users[at]], max_len)
        nothing = np.empty((len(at), 0))
        histories = self.sequences.pieces(at - n, n)
        return Batch(histories, candidates, nothing.astype(np.int32), nothing.astype(np.float32))

    def beside(self, at: NDArray[np.int64], *, epoch: int) -> tuple[Ragged, Array]:
        """Candidates, the positive first, and their labels; epoch 0 is that of the validation."""
        rng = np.random.default_rng([self.seed, epoch, _DRAWN])
        drawn = np.full((len(at), 1 + self.n), -1, np.int32)
        drawn[:, 0] = self.sequences.values[at]
        for _ in range(20):
            row, column = np.nonzero(drawn < 0)
            rows = np.searchsorted(self.cumulative, rng.integers(0, self.cumulative[-1], len(row)), "right")
            wanted = self.users[at[row]] * self.n_items + rows
            free = self.own[np.minimum(np.searchsorted(self.own, wanted), len(self.own) - 1)] != wanted
            drawn[row[free], column[free]] = rows[free]
        labels = np.zeros(drawn.shape, np.float32)
        labels[:, 0] = 1
        found = drawn >= 0
        return Ragged.from_lengths(drawn[found], found.sum(axis=1)), labels[found]


def fingerprint(batch: Batch, labels: Any, held: Any, features: EncodedFeatures | None) -> str:
    """SHA-256 over what a run is trained and validated on; labels that are drawn follow from the seed."""
    text = hashlib.sha256()
    for part, of in ((batch, labels), *([] if held is None else [held[:2]])):
        arrays = [part.histories.values, part.histories.offsets, part.candidates.values, part.candidates.offsets]
        for array in (*arrays, part.codes, part.numbers, *([] if callable(of) else [of])):
            text.update(np.ascontiguousarray(array).tobytes())
    if features is not None:
        features.add_to(text)
    return text.hexdigest()


class ClickTraining(TrainingRun):
    """A run on labelled impressions with binary cross-entropy."""

    def __init__(
        self,
        attention: Attention,
        steps: list[Step],
        params: Parameters,
        settings: RunSettings,
        batch: Batch,
        labels: Array | Callable[[int], tuple[Ragged, Array]],
        *,
        unknown_rate: float = 0.0,
        features: EncodedFeatures | None = None,
        report: dict[str, float] | None = None,
    ) -> None:
        if not len(batch.candidates):
            raise ValueError("training data: expected at least one impression, got none")
        super().__init__(steps, params, settings, len(batch.candidates), cut=(ITEMS,))
        self.attention, self.data, self.labels, self.unknown_rate = attention, batch, labels, unknown_rate
        self.features = features
        self.report = {} if report is None else report  # what validation writes beside the metric

    def _identity(self) -> dict[str, Any]:
        identity = super()._identity()
        more = self.attention._asdict() | {"unknown_rate": self.unknown_rate}
        return identity | {"settings": identity["settings"] | more}

    def _draw(self, rng: np.random.Generator) -> None:
        """Negatives of the epoch, where positives alone are given."""
        candidates, labels = self.labels(self.epoch) if callable(self.labels) else (self.data.candidates, self.labels)
        self.shown, self.clicked = self.data._replace(candidates=candidates), Ragged(labels, candidates.offsets)

    def _gradients(self, examples: NDArray[np.int64], number: int) -> Any:
        settings, batch = self.settings, self.shown.take(examples)
        labels = self.clicked.take(examples).values
        n_events, n_items = len(batch.histories.values), len(self.params[ITEMS])
        ids = np.concatenate([batch.histories.values, batch.candidates.values])
        rng = np.random.default_rng([settings.random_state, number, _UNKNOWN])
        ids[rng.random(len(ids)) < self.unknown_rate] = n_items
        rows, inverse = np.unique(np.append(ids, np.int32(n_items)), return_inverse=True)
        rows, place = rows[:-1], inverse.astype(np.int32)
        batch = batch._replace(
            histories=Ragged(place[:n_events], batch.histories.offsets),
            candidates=Ragged(place[n_events:-1], batch.candidates.offsets),
        )
        params, grads = dict(self.params), dict(self.grads)
        params[ITEMS] = ops.embedding_forward(self.params[ITEMS], rows, workspace=self.ws)
        grads[ITEMS] = self.ws.zeros(params[ITEMS].shape)
        features = None if self.features is None else self.features.take(rows)
        if features is not None:
            params[ITEMS] = features.vectors(params[ITEMS], params, ITEMS, workspace=self.ws)
        run = Run(place, batch.histories.offsets, params, grads, settings.random_state, number, self.ws)
        z, backward = logits(self.attention, self.steps, run, batch)
        n = max(len(z), 1)
        backward((sigmoid(z) - labels) / n)
        if features is not None:
            features.backward(grads[ITEMS], params, grads, ITEMS, workspace=self.ws)
        loss = float((np.logaddexp(0, z) - labels * z).sum()) / n
        return loss, len(z), grads, {ITEMS: rows}

    def end_epoch(self, validate: Any) -> dict[str, Any]:
        """As of `TrainingRun`, with log-loss and both AUC in the entry."""
        entry = super().end_epoch(validate)
        entry |= self.report
        return entry
