"""Losses of a next-item model: from the vectors at every place to the loss and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from regard import ops

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from regard.workspace import Workspace

    Array = NDArray[np.float32]
    Loss = Callable[..., tuple[float, Array]]


def softmax(
    h: Array, items: Array, targets: NDArray[np.int32], ditems: Array, *, precision: ops.Precision, ws: Workspace
) -> tuple[float, Array]:
    """Mean cross-entropy over the whole catalogue at every place.

    Parameters
    ----------
    h : (n, dim) float32
    items, ditems : (n_items, dim) float32
        The item table, and where its gradient is added.
    targets : (n,) int32

    Returns
    -------
    loss, dh

    Notes
    -----
    Klenitskiy and Vasilev 2023, "Turning Dross Into Gold Loss": SASRec with this loss instead of one negative per
    event.
    """
    loss, dh, _ = ops.cross_entropy_value_and_grad(
        h, items, targets, precision=precision, ditem_vectors=ditems, workspace=ws
    )
    return loss, dh


LOSSES: dict[str, Loss] = {"softmax": softmax}
