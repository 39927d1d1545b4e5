"""Losses of a next-item model: from the vectors at every place to the loss and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from regard import ops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.ragged import Ragged
    from regard.workspace import Workspace

    Array = NDArray[np.float32]
    Ints = NDArray[np.int32]
    Loss = Callable[..., tuple[float, Array]]


class Negatives(NamedTuple):
    """Items drawn once for a batch, against which every place of it is compared.

    Attributes
    ----------
    rows : (n_negatives,) int32
    log_expected : (n_negatives,) float32 or None
        Log of how often each is expected among the draws: the logQ correction of the sampled softmax.
    beta : float
        Exponent on the positive's probability in gBCE.
    """

    rows: Ints
    log_expected: Array | None
    beta: float


class Sampler:
    """Draws the negatives of each step, with replacement; the same for the same seed and step.

    Parameters
    ----------
    popularity : (n_items,) counts
    n_negatives : int
    distribution : "uniform" or "popularity"
        All items alike, or in proportion to their events (at least one each, so that new items are drawn too).
    logq_correction : bool
    gbce_t : float from 0 to 1
        0 makes gBCE plain BCE; 1 calibrates it fully.
    """

    def __init__(
        self,
        popularity: NDArray[np.int64],
        *,
        n_negatives: int,
        distribution: str,
        logq_correction: bool,
        gbce_t: float,
    ) -> None:
        n_items = len(popularity)
        self.n_items, self.n_negatives, self.logq_correction = n_items, n_negatives, logq_correction
        self.cumulative = np.cumsum(np.maximum(popularity, 1)) if distribution == "popularity" else None
        # Petrov and Macdonald 2023, eq. 10: alpha is the share of the other items that is drawn.
        alpha = min(1.0, n_negatives / max(1, n_items - 1))
        self.beta = alpha * (gbce_t * (1 - 1 / alpha) + 1 / alpha)

    def draw(self, seed: int, step: int) -> Negatives:
        """The negatives of one step."""
        rng = np.random.default_rng([seed, step, _STREAM])
        if self.cumulative is None:
            rows = rng.integers(0, self.n_items, self.n_negatives, np.int32)
            share = np.full(self.n_negatives, 1 / self.n_items)
        else:
            total = self.cumulative[-1]
            rows = np.searchsorted(self.cumulative, rng.integers(0, total, self.n_negatives), "right").astype(np.int32)
            share = (self.cumulative[rows] - np.where(rows > 0, self.cumulative[rows - 1], 0)) / total
        log_expected = np.log(self.n_negatives * share).astype(np.float32) if self.logq_correction else None
        return Negatives(rows, log_expected, self.beta)


_STREAM = 1  # keeps these random numbers apart from those of the batches


def softmax(
    h: Array,
    items: Array,
    targets: Ints,
    negatives: None,
    ditems: Array,
    *,
    precision: ops.Precision,
    ws: Workspace,
    seen: Ragged | None = None,
    cu_seqlens: NDArray[np.int64] | None = None,
) -> tuple[float, Array]:
    """Mean cross-entropy over the whole catalogue at every place.

    Parameters
    ----------
    h : (n, dim) float32
    items, ditems : (n_items, dim) float32
        The item table, and where its gradient is added.
    targets : (n,) int32
    negatives : None here, `Negatives` in the losses that sample
    seen, cu_seqlens : Ragged of int32 rows, (batch + 1,) int64, optional
        Histories whose last events are at the places, if a place leaves out the items of its history up to there that
        are not its target.

    Returns
    -------
    loss, dh

    Notes
    -----
    Klenitskiy and Vasilev 2023, "Turning Dross Into Gold Loss": SASRec with this loss instead of one negative per
    event.
    """
    loss, dh, _ = ops.cross_entropy_value_and_grad(
        h, items, targets, precision=precision, seen=seen, cu_seqlens=cu_seqlens, ditem_vectors=ditems, workspace=ws
    )
    return loss, dh


def sampled_softmax(
    h: Array, items: Array, targets: Ints, negatives: Negatives, ditems: Array, *, precision: object, ws: Workspace
) -> tuple[float, Array]:
    """Cross-entropy over the target and the negatives; with the logQ correction the sum over them estimates that over
    the whole catalogue (Bengio and Senécal 2008, "Adaptive Importance Sampling")."""
    loss, dh, _ = ops.sampled_loss_value_and_grad(
        h,
        items,
        targets,
        negatives.rows,
        log_expected=negatives.log_expected,
        ditem_vectors=ditems,
        workspace=ws,
    )
    return loss, dh


def bce(
    h: Array, items: Array, targets: Ints, negatives: Negatives, ditems: Array, *, precision: object, ws: Workspace
) -> tuple[float, Array]:
    """Binary cross-entropy: the target is 1, each negative 0 (Kang and McAuley 2018, eq. 6, with more negatives)."""
    return gbce(h, items, targets, negatives._replace(beta=1.0), ditems, precision=precision, ws=ws)


def gbce(
    h: Array, items: Array, targets: Ints, negatives: Negatives, ditems: Array, *, precision: object, ws: Workspace
) -> tuple[float, Array]:
    """BCE with the positive's probability to the power ``beta``, against the overconfidence that sampling brings
    (Petrov and Macdonald 2023, "gSASRec", arXiv:2308.07192)."""
    loss, dh, _ = ops.sampled_loss_value_and_grad(
        h, items, targets, negatives.rows, loss="bce", beta=negatives.beta, ditem_vectors=ditems, workspace=ws
    )
    return loss, dh


def pointed(
    h: Array,
    items: Array,
    targets: Ints,
    negatives: Negatives | None,
    ditems: Array,
    events: Ints,
    by_age: Array,
    cu_seqlens: NDArray[np.int64],
    *,
    precision: ops.Precision,
    ws: Workspace,
) -> tuple[float, Array, Array]:
    """`softmax`, or with negatives `sampled_softmax`, where the events' items have a second way to be the answer; see
    `regard.ops.pointer_loss_value_and_grad`. Gives loss, dh and the gradient of ``by_age``."""
    loss, dh, _, dby_age = ops.pointer_loss_value_and_grad(
        h,
        items,
        targets,
        events,
        by_age,
        cu_seqlens,
        negatives=None if negatives is None else negatives.rows,
        log_expected=None if negatives is None else negatives.log_expected,
        precision=precision,
        ditem_vectors=ditems,
        workspace=ws,
    )
    return loss, dh, dby_age


def smoothing(h: Array, items: Array, targets: Ints, share: float, dh: Array, ditems: Array, *, ws: Workspace) -> float:
    """What it adds to the mean cross-entropy that a part of every target goes to all items alike.

    With the target ``(1 - share) [v = target] + share / n_items`` in place of ``[v = target]`` the cross-entropy rises
    by ``share * h·(items[target] - mean of items)``, in which the softmax does not occur. Label smoothing: Szegedy et
    al. 2016, arXiv:1512.00567, section 7.

    Parameters
    ----------
    h, items, targets
        As of `softmax`.
    share : float
    dh, ditems
        The gradients are added here.
    """
    each = share / len(targets)
    apart, product = ops.embedding_forward(items, targets, workspace=ws), ws.empty(h.shape)
    apart -= items.mean(axis=0)
    value = each * float(np.multiply(h, apart, out=product).sum(dtype=np.float64))
    dh += np.multiply(apart, np.float32(each), out=product)
    ops.embedding_backward(h, targets, ditems, scale=each)
    ditems -= np.float32(each / len(items)) * h.sum(axis=0)
    return value


LOSSES: dict[str, Loss] = {"softmax": softmax, "sampled_softmax": sampled_softmax, "bce": bce, "gbce": gbce}
SAMPLED = ("sampled_softmax", "bce", "gbce")
POINTED = ("softmax", "sampled_softmax")  # that a pointer goes with
