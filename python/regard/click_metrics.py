"""How good probabilities of clicks are: log-loss, AUC, AUC within users, calibration, and intervals of differences.

All take flat arrays, one entry per shown candidate, and work in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Doubles = NDArray[np.float64]
    Labels = NDArray[np.bool_]

__all__ = ["Calibration", "auc", "auc_difference", "calibration", "log_loss", "platt", "user_auc"]

_SMALLEST = 1e-15  # probability: a certain error costs 34.5, not infinity


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of ``-log p`` over clicked and ``-log(1 - p)`` over other candidates.

    Parameters
    ----------
    labels : (n,) 0 or 1
    probabilities : (n,) from 0 to 1
    """
    clicked, p = _pair(labels, probabilities, "probabilities")
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"probabilities: expected numbers from 0 to 1, got from {p.min()} to {p.max()}")
    return float(-np.log(np.maximum(np.where(clicked, p, 1 - p), _SMALLEST)).mean())


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a clicked candidate has a higher score than another one; equal scores count half.

    Parameters
    ----------
    labels : (n,) 0 or 1
    scores : (n,) finite numbers

    Returns
    -------
    float
        NaN where all labels are the same. From ranks, in O(n log n).
    """
    clicked, values = _pair(labels, scores, "scores")
    return float(_auc_of_groups(clicked, values, np.zeros(len(values), np.int64))[0][0]) if len(values) else np.nan


def user_auc(labels: ArrayLike, scores: ArrayLike, users: ArrayLike) -> float:
    """AUC within each user, averaged with their numbers of candidates as weights ("gAUC").

    Zhu et al. 2017, "Optimized Cost per Click in Taobao Display Advertising". It does not change when a user's scores
    are all shifted, so it judges the order that each user sees.

    Parameters
    ----------
    labels : (n,) 0 or 1
    scores : (n,) finite numbers
    users : (n,) ids
        Or impressions, or anything else within which candidates are compared.

    Returns
    -------
    float
        Over the users who have both labels; NaN if nobody has.
    """
    clicked, values = _pair(labels, scores, "scores")
    ids = np.asarray(users)
    if ids.shape != values.shape:
        raise ValueError(f"users: expected shape {values.shape} (as scores), got {ids.shape}")
    _, group = np.unique(ids, return_inverse=True)
    of_users, n = _auc_of_groups(clicked, values, group)
    known = ~np.isnan(of_users)
    return float(np.average(of_users[known], weights=n[known])) if known.any() else np.nan


class Calibration(NamedTuple):
    """Probabilities beside what happened, in bins.

    Attributes
    ----------
    predicted, observed : (n_bins,) float64
        Mean probability and share of clicks of each bin.
    counts : (n_bins,) int64
    error : float
        Expected calibration error: mean of ``|predicted - observed|``, weighted by the counts.
    """

    predicted: Doubles
    observed: Doubles
    counts: NDArray[np.int64]
    error: float


def calibration(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 10) -> Calibration:
    """How far probabilities are from the shares of clicks.

    Parameters
    ----------
    labels : (n,) 0 or 1
    probabilities : (n,)
    n_bins : int, default 10
        Bins have the same number of candidates, in the order of the probability, one more or less.
    """
    clicked, p = _pair(labels, probabilities, "probabilities")
    if n_bins < 1 or not len(p):
        raise ValueError(f"n_bins: expected at least 1, and a candidate, got {n_bins} and {len(p)} candidates")
    _, alike, n_alike = np.unique(p, return_inverse=True, return_counts=True)
    share = (np.bincount(alike, clicked) / n_alike)[alike]  # of equal probabilities each has the share of all
    parts = np.array_split(np.argsort(p, kind="stable"), min(n_bins, len(p)))
    counts = np.array([len(part) for part in parts])
    predicted, observed = (np.array([values[part].mean() for part in parts]) for values in (p, share))
    return Calibration(predicted, observed, counts, float(np.average(np.abs(predicted - observed), weights=counts)))


def auc_difference(
    labels: ArrayLike,
    scores: ArrayLike,
    other_scores: ArrayLike,
    *,
    users: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """AUC of one model less that of another on the same candidates, with a paired bootstrap interval.

    Parameters
    ----------
    labels, scores, other_scores : (n,)
    users : (n,) ids, optional
        Whole users are drawn, since the candidates of one user are no independent draws; default: candidates.
    level : float, default 0.95
    n_resamples : int, default 1000
    seed : int, default 0

    Returns
    -------
    difference, low, high
        Percentile interval. It tells how far the difference would move with other users, not with another training.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    clicked, first = _pair(labels, scores, "scores")
    second = _pair(labels, other_scores, "other_scores")[1]
    ids = np.arange(len(first)) if users is None else np.unique(np.asarray(users), return_inverse=True)[1]
    n_groups, rng = int(ids.max()) + 1, np.random.default_rng(seed)
    sides = [_Weighted(clicked, values) for values in (first, second)]

    def difference(weights: Doubles) -> float:
        return sides[0].auc(weights) - sides[1].auc(weights)

    drawn = [
        difference(np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[ids].astype(float))
        for _ in range(n_resamples)
    ]
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return difference(np.ones(len(first))), float(low), float(high)


def platt(z: Doubles, labels: NDArray[Any]) -> tuple[float, float]:
    """Slope and shift of ``sigmoid(slope * z + shift)`` with the least log-loss, by Newton's method.

    Platt 1999, with his targets short of 0 and 1, so that labels of one kind have an end too. A slope that is not
    positive would turn the order round: it is 1 then, and the shift alone is fitted.
    """
    n = labels.sum()
    t = np.where(labels == 1, (n + 1) / (n + 2), 1 / (len(labels) - n + 2))
    for columns in (np.stack([z, np.ones_like(z)]), np.ones((1, len(z)))):
        base = np.zeros_like(z) if len(columns) == 2 else z
        w = np.zeros(len(columns))

        def loss(w: Doubles, base: Doubles = base, columns: Doubles = columns) -> float:
            scores = base + w @ columns
            return float((np.logaddexp(0, scores) - t * scores).sum())

        for _ in range(50):
            p = sigmoid(base + (w[:, None] * columns).sum(axis=0))
            gradient = (columns * (p - t)).sum(axis=1)
            hessian = np.einsum("in,jn,n->ij", columns, columns, p * (1 - p)) + 1e-6 * np.eye(len(columns))
            step = np.linalg.solve(hessian, gradient)
            step *= min(1.0, 5 / max(np.abs(step).max(), 1e-12))
            while loss(w - step) > loss(w) and np.abs(step).max() > 1e-10:
                step /= 2
            w -= step
            if np.abs(step).max() < 1e-10:
                break
        if len(columns) == 2 and w[0] > 0:
            return float(w[0]), float(w[1])
    return 1.0, float(w[0])


def sigmoid(z: Doubles) -> Doubles:
    """Without overflow."""
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1, e) / (1 + e))


class _Weighted:
    """AUC for many sets of weights with one sort."""

    def __init__(self, clicked: Labels, scores: Doubles) -> None:
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self.starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)  # of equal scores
        self.clicked = clicked[self.order]

    def auc(self, weights: Doubles) -> float:
        weights = weights[self.order]
        positive = np.add.reduceat(weights * self.clicked, self.starts)
        negative = np.add.reduceat(weights * ~self.clicked, self.starts)
        total = positive.sum() * negative.sum()
        return float((positive * (np.cumsum(negative) - negative / 2)).sum() / total) if total else np.nan


def _pair(labels: ArrayLike, values: ArrayLike, name: str) -> tuple[Labels, Doubles]:
    given, numbers = np.asarray(labels), np.asarray(values, np.float64)
    if given.ndim != 1 or numbers.shape != given.shape:
        raise ValueError(f"{name}: expected shape ({given.size},) (as labels), got {numbers.shape}")
    if not ((given == 0) | (given == 1)).all():
        raise ValueError(f"labels: expected 0 or 1, got {given[(given != 0) & (given != 1)][0]}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers, got {numbers[~np.isfinite(numbers)][0]}")
    return given == 1, numbers


def _auc_of_groups(clicked: Labels, scores: Doubles, group: NDArray[np.int64]) -> tuple[Doubles, NDArray[np.int64]]:
    """AUC (NaN with one label only) and size of each group."""
    order = np.lexsort((scores, group))
    group, scores, clicked = group[order], scores[order], clicked[order]
    new = (np.diff(group, prepend=-1) != 0) | (np.diff(scores, prepend=np.nan) != 0)
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(scores))
    rank = ((starts + ends + 1) / 2)[np.cumsum(new) - 1]  # from 1, equal scores share their mean
    n = np.bincount(group)
    positives = np.bincount(group, clicked, len(n))
    first = np.cumsum(n) - n
    above = np.bincount(group, clicked * (rank - first[group]), len(n)) - positives * (positives + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / (positives * (n - positives)), n
