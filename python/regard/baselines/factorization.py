"""Matrix factorisation by the package implicit (extra ``compare``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regard import ops
from regard.ragged import Ragged
from regard.recommender import Recommender

if TYPE_CHECKING:
    from regard.data import Interactions


class MatrixFactorization(Recommender):
    """Users and items as vectors whose products tell who had what: alternating least squares, without order.

    A user's vector is computed from the history that is given, with the item vectors held fixed: one step of the same
    least squares. So users who were not seen in training are answered like those who were, and events that came after
    training count.

    Parameters
    ----------
    factors : int, default 64
        Width of the vectors.
    regularization : float, default 0.1
    alpha : float, default 10.0
        How much more an event of a user and an item says than that there is none, times the number of events.
    iterations : int, default 15
    random_state : int, default 0
        Of the first vectors. One thread is used, so that the same seed gives the same vectors.

    Attributes
    ----------
    item_vectors_ : (n_items, factors) float32

    Raises
    ------
    ModuleNotFoundError
        In ``fit``: implicit is not installed.

    Notes
    -----
    Hu, Koren and Volinsky 2008, Collaborative filtering for implicit feedback datasets; the class
    ``AlternatingLeastSquares`` of https://github.com/benfred/implicit.
    """

    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"alpha": (10.0, 1.0, 40.0)}

    def __init__(
        self,
        *,
        factors: int = 64,
        regularization: float = 0.1,
        alpha: float = 10.0,
        iterations: int = 15,
        random_state: int = 0,
    ) -> None:
        self.factors = factors
        self.regularization = regularization
        self.alpha = alpha
        self.iterations = iterations
        self.random_state = random_state

    def fit(self, data: Interactions) -> Self:
        """Factorise the counts of users by items."""
        try:
            als = import_module("implicit.cpu.als")
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "MatrixFactorization needs the package implicit: pip install 'regard[compare]'"
            ) from None
        self._set_catalogue(data)
        with _one_thread():
            self._als = als.AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                num_threads=1,
                random_state=self.random_state,
            )
            self._als.fit(_counts(data.sequences, data.n_items), show_progress=False)
        self.item_vectors_ = np.ascontiguousarray(self._als.item_factors, np.float32)
        return self

    def _scores(self, histories: Ragged) -> np.ndarray:
        with _one_thread():
            counts = _counts(histories, len(self.item_ids_))
            users = self._als.recalculate_user(np.arange(len(histories)), counts)
        return ops.linear_forward(np.ascontiguousarray(users, np.float32), self.item_vectors_)[0]

    def _item_similarities(self, rows: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(self.item_vectors_, axis=1, keepdims=True)
        vectors = self.item_vectors_ / np.maximum(lengths, np.finfo(np.float32).tiny)
        scores = ops.linear_forward(np.ascontiguousarray(vectors[rows]), vectors)[0]
        scores[:, lengths[:, 0] == 0] = -np.inf  # no event in training
        return scores


def _one_thread() -> AbstractContextManager[Any]:
    """While it is open the linear algebra of SciPy has one thread, which is what implicit asks for."""
    limit: AbstractContextManager[Any] = import_module("threadpoolctl").threadpool_limits(1, "blas")
    return limit


def _counts(histories: Ragged, n_items: int) -> Any:
    """Events of each row with each item, (n, n_items) in SciPy's compressed rows."""
    sparse = import_module("scipy.sparse")
    ones = np.ones(len(histories.values), np.float32)
    parts = (ones, histories.values, histories.offsets)
    matrix = sparse.csr_matrix(parts, shape=(len(histories), n_items), copy=True)  # the next line sorts in place
    matrix.sum_duplicates()
    return matrix
