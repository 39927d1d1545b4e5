"""Settings chosen on the validation part."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from regard.metrics import evaluate
from regard.recommender import Recommender

if TYPE_CHECKING:
    from regard.splits import Split


def tune(
    candidates: type[Recommender] | Iterable[Recommender],
    split: Split,
    *,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
) -> Recommender:
    """Fit each candidate on the training part and return the best on the validation part, fitted.

    The test part is not looked at. Of equal candidates the first wins.

    Parameters
    ----------
    candidates : a class of this module, for its own ``grid``; or models, not fitted
        Candidates that differ only in what they do with a history (``decay``, ``history``) share one fit.
    split : Split
    metric : str, default "ndcg@10"
    exclude_seen : bool, default True
        As in `regard.evaluate`.

    Examples
    --------
    >>> model = tune(SequentialRules, split)  # doctest: +SKIP
    >>> model = tune([EASE(decay=decay) for decay in (1.0, 0.9, 0.8)], split)  # doctest: +SKIP
    """
    if split.validation is None:
        raise ValueError("split: expected one with a validation part to choose by")
    if isinstance(candidates, type):
        grid = getattr(candidates, "grid", {})
        candidates = [candidates(**dict(zip(grid, values, strict=True))) for values in product(*grid.values())]
    cutoff = int(metric.partition("@")[2] or 10)
    winner, highest = None, -np.inf
    fitted: dict[tuple[object, ...], Recommender] = {}
    for candidate in candidates:
        params = candidate.get_params()
        query = getattr(candidate, "query_params", ())
        key = (type(candidate), *((name, value) for name, value in params.items() if name not in query))
        if key not in fitted:
            fitted = {key: candidate.fit(split.train)}  # one at a time: tables are large
        model = copy.copy(fitted[key]).set_params(**params)
        value = evaluate(model, split.validation, k=cutoff, exclude_seen=exclude_seen, coverage=False)[metric]
        if winner is None or value > highest:
            winner, highest = model, value
    if winner is None:
        raise ValueError("candidates: expected at least one model")
    return winner
