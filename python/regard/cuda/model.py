"""A model's answers from the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regard import ops
from regard.cuda.array import asarray
from regard.layers import Run, Step, forward, item_tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.ragged import Ragged

    Parameters = dict[str, NDArray[np.float32]]


def to_device(params: Parameters) -> dict[str, Any]:
    """A copy of the parameters there."""
    return {name: asarray(weight) for name, weight in params.items()}


class DeviceModel:
    """The steps of a model, and a copy of its parameters on the device."""

    def __init__(self, steps: list[Step], params: Parameters, max_len: int) -> None:
        self.steps, self.params, self.max_len = steps, to_device(params), max_len
        self.items = self.params[item_tables(steps)[1]]

    def encode(self, histories: Ragged) -> Any:
        """What is compared with the item vectors, (n, dim) on the device; no history is empty."""
        windows = histories.tail(self.max_len)
        run = Run(np.ascontiguousarray(windows.values, np.int32), windows.offsets, self.params)
        x, _ = forward(self.steps, run)
        return ops.embedding_forward(x, (windows.offsets[1:] - 1).astype(np.int32))

    def scores(self, histories: Ragged) -> NDArray[np.float32]:
        """Of all items."""
        found: Any = ops.linear_forward(self.encode(histories), self.items)[0]
        scores: NDArray[np.float32] = found.numpy()
        return scores

    def top_k(
        self, histories: Ragged, k: int, allow: Ragged | None, deny: Ragged | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return ops.topk(self.encode(histories), self.items, k, allow, deny)

    def rank_counts(
        self, histories: Ragged, targets: Ragged, deny: Ragged | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return ops.rank_counts(self.encode(histories), self.items, targets, deny)
