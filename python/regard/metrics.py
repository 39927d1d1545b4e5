"""How good recommendations are: full ranking, ties by expected rank, intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import html
from .ids import drop_unknown, rows_of
from .ragged import Ragged
from .ranking import BLOCK, best, blocks, expected_ranks, masked, union

if TYPE_CHECKING:
    from .data import Interactions
    from .splits import Holdout

__all__ = ["Report", "evaluate"]


class Report(Mapping[str, float]):
    """Metrics of one model on one holdout: ``report["ndcg@10"]``, ``report.interval("ndcg@10")``; prints as a table.

    Attributes
    ----------
    n_users, n_items, n_targets : int
    n_cold_targets : int or None
        Targets with no event in training, counted like any other; None if training counts are not known.
    n_seen_targets : int
        Targets that are in their own history: misses where ``exclude_seen``.
    exclude_seen : bool
    sampled_negatives : int or None
        How many drawn items the targets were ranked among; None: the whole catalogue.
    fingerprint : str or None
        That of the holdout: two reports compare only where these are equal. None if the holdout has none.
    """

    def __init__(
        self,
        per_user: dict[str, np.ndarray],
        totals: dict[str, float],
        *,
        n_users: int,
        n_items: int,
        n_targets: int,
        n_cold_targets: int | None,
        n_seen_targets: int,
        exclude_seen: bool,
        fingerprint: str | None,
        sampled_negatives: int | None = None,
    ) -> None:
        self._per_user = per_user
        self._values = {name: _mean(values) for name, values in per_user.items()} | totals
        self.n_users = n_users
        self.n_items = n_items
        self.n_targets = n_targets
        self.n_cold_targets = n_cold_targets
        self.n_seen_targets = n_seen_targets
        self.exclude_seen = exclude_seen
        self.fingerprint = fingerprint
        self.sampled_negatives = sampled_negatives

    def __getitem__(self, name: str) -> float:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(f"{name}: not among the metrics {', '.join(self._values)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def per_user(self, name: str) -> np.ndarray:
        """(n_users,) float64: the metric of each user, in the order of the holdout.

        Raises
        ------
        KeyError
            An unknown metric, or one that only the whole has (coverage).
        """
        if name not in self._per_user and name in self:
            raise KeyError(f"{name} describes all users together: it has no value per user")
        return self._per_user[name] if name in self else np.array([self[name]])  # the latter raises

    def interval(
        self, name: str, level: float = 0.95, seed: int | np.random.Generator = 0, n_resamples: int = 1000
    ) -> tuple[float, float]:
        """Bootstrap interval (percentiles) of the mean over users, resampled with replacement.

        It tells how far the number would move with other users, not with another seed of the training.
        """
        return bootstrap(self.per_user(name), level, seed, n_resamples)

    def difference(
        self,
        other: Report,
        name: str,
        level: float = 0.95,
        seed: int | np.random.Generator = 0,
        n_resamples: int = 1000,
    ) -> tuple[float, float, float]:
        """How much higher a metric is than in another report, and the paired bootstrap interval of that.

        Both models are judged by the same resampled users, so that what makes a user easy or hard for both cancels.

        Returns
        -------
        difference, low, high : float

        Raises
        ------
        ValueError
            A report on another holdout, or one that treats seen items otherwise or ranks among other items.
        """
        ours, theirs = ((r.fingerprint, r.exclude_seen, r.sampled_negatives) for r in (self, other))
        if ours != theirs:
            raise ValueError(
                "other: expected a report on the same holdout with the same exclude_seen and sampled_negatives"
            )
        pairs = self.per_user(name) - other.per_user(name)
        return (_mean(pairs), *bootstrap(pairs, level, seed, n_resamples))

    def to_dict(self) -> dict[str, Any]:
        """Metrics and counts in one flat dictionary of plain Python values, ready for JSON."""
        names = ("n_users", "n_items", "n_targets", "n_cold_targets", "n_seen_targets", "exclude_seen", "fingerprint")
        return {**self._values, **{name: getattr(self, name) for name in (*names, "sampled_negatives")}}

    def _repr_html_(self) -> str:
        return html.table(f"{self.n_users:,} users, {self.n_items:,} items", self._values.items(), ["metric", "mean"])

    def __repr__(self) -> str:
        cutoffs = list(dict.fromkeys(name.partition("@")[2] for name in self._values))
        names = list(dict.fromkeys(name.partition("@")[0] for name in self._values))
        lines = [" " * 10 + "".join(f"{'@' + cutoff if cutoff else 'all':>9}" for cutoff in cutoffs)]
        for name in names:
            values = (self._values.get(f"{name}@{cutoff}" if cutoff else name) for cutoff in cutoffs)
            cells = ("" if value is None else f"{value:.4f}" for value in values)
            lines.append(f"{name:10}" + "".join(f"{cell:>9}" for cell in cells).rstrip())
        lines.append(
            f"{self.n_users:,} users, {self.n_targets:,} targets "
            f"({'unknown' if self.n_cold_targets is None else f'{self.n_cold_targets:,}'} cold, "
            f"{self.n_seen_targets:,} seen), {self.n_items:,} items, "
            f"seen items {'excluded' if self.exclude_seen else 'ranked like others'}"
        )
        if self.sampled_negatives is not None:
            lines.append(f"not comparable with full ranking: targets among {self.sampled_negatives} drawn items")
        return "\n".join(lines)


def evaluate(
    model: Any,
    holdout: Holdout,
    *,
    k: int | Iterable[int] = (5, 10, 20),
    exclude_seen: bool = True,
    batch_size: int = BLOCK,
    coverage: bool = True,
    train: Interactions | None = None,
    sampled_negatives: int | None = None,
    seed: int = 0,
) -> Report:
    """Rank the whole catalogue for each user of the holdout and see where the targets land.

    Parameters
    ----------
    model
        A `Recommender`; or any object with ``scores(histories) -> (n, n_items)``, columns in the order of its
        ``item_ids_`` or, without that, of ``holdout.item_ids``; or any object with
        ``recommend(histories, k=..., exclude_seen=...)`` that returns the item ids (n, k), alone or first in a tuple.
        Histories are handed over as a `Ragged` of ids.
    holdout : Holdout
    k : int or several, default (5, 10, 20)
    exclude_seen : bool, default True
        Rank only items that are not in the history; a target that is in it counts as a miss.
    batch_size : int, default 256
        Users per call of the model.
    coverage : bool, default True
        Also ask for lists of recommendations, for coverage and popularity; costs about as much again.
    train : Interactions, optional
        Where training counts are taken from; the default is the model's ``popularity_``.
    sampled_negatives : int, optional
        Only to compare with papers that rank the target among so many drawn items (100 in SASRec's): metrics are about
        three times those of full ranking, and models may change places. Drawn uniformly for each user, without
        repeats, from the items that are neither in the history nor targets; all of them if there are fewer. There is
        then no coverage and no popularity.
    seed : int, default 0
        Of these draws, which depend on nothing but it, the place of the user and the user's items.

    Returns
    -------
    Report
        Means over users of, at each k:

        - ``hr``: 1 if any target is among the first k
        - ``recall``: found targets / all targets of the user
        - ``precision``: found targets / k
        - ``ndcg``: sum of 1 / log2(1 + rank) over found targets, divided by that of the best order, in which the first
          min(k, targets) places are targets
        - ``mrr``: 1 / rank of the best target if found; ``mrr`` alone is without a limit (not for lists)
        - ``map``: sum over found targets of (targets up to this one / its rank), divided by all targets of the user
        - ``coverage``: part of the catalogue that stands in at least one list (of all users, so no value per user)
        - ``popularity``: mean percentile of the recommended items when the catalogue is ordered by training events:
          0 the least, 1 the most popular, 0.5 what random lists would have. Missing if training counts are not known

    Raises
    ------
    ValueError
        ``k``, ``batch_size`` or ``sampled_negatives`` below 1; a holdout without users, or with a user who has no
        target; negatives for an object with only ``recommend``.
    TypeError
        Item ids of another type than the model's; an object with neither ``scores`` nor ``recommend``.

    Notes
    -----
    A rank is ``1 + above + equal / 2``, with ``equal`` the other items of the same score, so that a model that scores
    everything alike gains nothing from the order of the ids. Objects with only ``recommend`` are taken at their word:
    the place in the list is the rank. NaN ranks last. An item that is several times a user's target counts once.
    A history without an event that the model knows is ranked by popularity, as in `Recommender.recommend`.
    Targets that the model does not know are misses.
    """
    cutoffs = [int(k)] if isinstance(k, int | np.integer) else sorted({int(cutoff) for cutoff in k})
    if not cutoffs or cutoffs[0] < 1:
        raise ValueError(f"k: expected numbers of at least 1, got {k!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    n_users, n_items = len(holdout.targets), len(holdout.item_ids)
    targets = union(n_items, holdout.targets)
    if not n_users:
        raise ValueError("holdout: no users to evaluate")
    if not targets.lengths.all():
        user = holdout.user_ids[np.argmin(targets.lengths)]
        raise ValueError(f"holdout: user {user} has no target")

    judge = _judge(model)(model, holdout.item_ids)
    among = None
    if sampled_negatives is not None:
        if sampled_negatives < 1 or isinstance(judge, _Lists):
            raise ValueError(
                f"sampled_negatives: expected at least 1, and a model with scores, "
                f"got {sampled_negatives} and {type(model).__name__}"
            )
        among, coverage = _with_negatives(holdout, targets, sampled_negatives, seed), False
    ranks = np.empty(len(targets.values))
    was_seen = contains(holdout.histories, targets, n_items)
    lists = np.full((n_users, cutoffs[-1]), -1, np.int32)
    for block in blocks(n_users, batch_size):
        place = slice(targets.offsets[block.start], targets.offsets[block.stop])
        ranks[place], lists[block] = judge(
            holdout.histories[block],
            targets[block],
            cutoffs[-1],
            exclude_seen,
            coverage,
            None if among is None else among[block],
        )
    if exclude_seen:
        ranks[was_seen] = np.inf
    counts = _training_counts(model, holdout.item_ids, train)
    per_user = user_metrics(ranks, targets, cutoffs)
    if not isinstance(judge, _Lists):
        per_user["mrr"] = np.maximum.reduceat(1 / ranks, targets.offsets[:-1])
    totals = {}
    if coverage:
        for cutoff in cutoffs:
            shown = lists[:, :cutoff]
            totals[f"coverage@{cutoff}"] = len(np.unique(shown[shown >= 0])) / n_items
            if counts is not None:
                percentile = np.append(_percentiles(counts), np.nan)  # NaN for the padding, -1
                filled = np.maximum((shown >= 0).sum(axis=1), 1)
                mean = np.nansum(percentile[shown], axis=1) / filled
                per_user[f"popularity@{cutoff}"] = np.where(shown[:, 0] >= 0, mean, np.nan)
    return Report(
        per_user,
        totals,
        n_users=n_users,
        n_items=n_items,
        n_targets=len(ranks),
        n_cold_targets=None if counts is None else int((counts[targets.values] == 0).sum()),
        n_seen_targets=int(was_seen.sum()),
        exclude_seen=exclude_seen,
        fingerprint=holdout.fingerprint() if hasattr(holdout, "fingerprint") else None,
        sampled_negatives=sampled_negatives,
    )


def _with_negatives(holdout: Holdout, targets: Ragged, n: int, seed: int) -> Ragged:
    """The targets of each user and n drawn items, sorted."""
    n_items, drawn = len(holdout.item_ids), []
    for user, taken in enumerate(union(n_items, holdout.histories, targets)):
        n_free = n_items - len(taken)
        free = np.random.default_rng([seed, user]).choice(n_free, min(n, n_free), replace=False)
        # the i-th item that is not taken is i plus the taken items before it
        drawn.append(free + np.searchsorted(taken - np.arange(len(taken)), free, side="right"))
    return union(n_items, targets, Ragged.from_lengths(np.concatenate(drawn), [len(rows) for rows in drawn]))


def _others(n_items: int, rows: Ragged) -> Ragged:
    """All items but the given ones, row by row."""
    rest = np.ones((len(rows), n_items), bool)
    rest[rows.row_of, rows.values] = False
    return Ragged.from_lengths(np.nonzero(rest)[1].astype(np.int32), rest.sum(axis=1))


# ---- asking a model: ranks of the targets, and the lists, in rows of the holdout ------------------------------------


class _Scores:
    """An object with ``scores``."""

    def __init__(self, model: Any, item_ids: np.ndarray) -> None:
        self.model, self.item_ids = model, item_ids
        self.own_ids = getattr(model, "item_ids_", item_ids)
        _check_alike(item_ids, self.own_ids)
        same = self.own_ids is item_ids or np.array_equal(self.own_ids, item_ids)
        self.to_own = None if same else rows_of(item_ids, self.own_ids)

    def __call__(
        self, histories: Ragged, targets: Ragged, k: int, exclude_seen: bool, lists: bool, among: Ragged | None
    ) -> tuple[np.ndarray, np.ndarray]:
        seen, known = self._own(histories), self._own(targets)
        deny = union(len(self.own_ids), seen) if exclude_seen else None
        if among is not None:
            deny = _others(len(self.own_ids), self._own(among))
        ranks = np.full(len(targets.values), np.inf)
        found, rows = self._ask(seen, known, k, deny, lists)
        ranks[slice(None) if self.to_own is None else self.to_own[targets.values] >= 0] = found
        if rows is None:
            rows = np.full((len(histories), k), -1, np.int32)
        elif self.to_own is not None:
            rows = np.append(rows_of(self.own_ids, self.item_ids), np.int32(-1))[rows]
        return ranks, rows

    def _own(self, rows: Ragged) -> Ragged:
        """Rows of the holdout as rows of the model."""
        return rows if self.to_own is None else drop_unknown(rows.with_values(self.to_own[rows.values]))

    def _ask(
        self, seen: Ragged, targets: Ragged, k: int, deny: Ragged | None, lists: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        scores = np.array(self.model.scores(seen.with_values(self.own_ids[seen.values])), np.float32)
        if scores.shape != (expected := (len(seen), len(self.own_ids))):
            raise ValueError(f"scores: expected shape {expected}, got {scores.shape}")
        scores = masked(scores, None, deny)
        return expected_ranks(scores, targets), best(scores, k)[0] if lists else None


class _Hooks(_Scores):
    """A `Recommender`: asked in rows, without a matrix of scores where it can do without."""

    def _ask(
        self, seen: Ragged, targets: Ragged, k: int, deny: Ragged | None, lists: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        found = self.model._ranks_for(seen, targets, deny)
        return found, self.model._top_k_for(seen, k, None, deny)[0] if lists else None


class _Lists:
    """An object with only ``recommend``: the place in the list is the rank."""

    def __init__(self, model: Any, item_ids: np.ndarray) -> None:
        self.model, self.item_ids = model, item_ids

    def __call__(
        self, histories: Ragged, targets: Ragged, k: int, exclude_seen: bool, lists: bool, among: Ragged | None
    ) -> tuple[np.ndarray, np.ndarray]:
        ids = histories.with_values(self.item_ids[histories.values])
        result = self.model.recommend(ids, k=k, exclude_seen=exclude_seen)
        items = np.asarray(result[0] if isinstance(result, tuple) else result)
        if items.shape != (len(histories), k):
            raise ValueError(f"recommend: expected items of shape {(len(histories), k)}, got {items.shape}")
        _check_alike(self.item_ids, items)
        rows = rows_of(items.ravel(), self.item_ids).reshape(items.shape)
        found = rows[targets.row_of] == targets.values[:, None]
        return np.where(found.any(axis=1), 1.0 + found.argmax(axis=1), np.inf), rows


def _check_alike(item_ids: np.ndarray, own_ids: np.ndarray) -> None:
    """NumPy finds no number among texts, and says nothing."""
    own_ids = np.asarray(own_ids)
    if (item_ids.dtype.kind == "U") != (own_ids.dtype.kind == "U") and own_ids.size:
        raise TypeError(f"holdout: expected item ids of the model's type, {own_ids.dtype}, got {item_ids.dtype}")


def _judge(model: Any) -> type[_Scores] | type[_Lists]:
    if hasattr(model, "_ranks_for"):
        return _Hooks
    if hasattr(model, "scores"):
        return _Scores
    if hasattr(model, "recommend"):
        return _Lists
    raise TypeError(f"model: expected an object with scores or recommend, got {type(model).__name__}")


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def user_metrics(ranks: np.ndarray, targets: Ragged, cutoffs: list[int]) -> dict[str, np.ndarray]:
    """Metrics of each user from the ranks of the targets, inf for a miss; no user is without target."""
    user, first, n_targets = targets.row_of, targets.offsets[:-1], targets.lengths
    order = np.lexsort((ranks, user))
    nth = np.empty(len(ranks))  # a target is the nth of its user
    nth[order] = 1 + np.arange(len(ranks)) - first[user]
    ranks = np.maximum(ranks, nth)  # of equal scores, too, the n-th stands no higher than n
    best_dcg = np.cumsum(1 / np.log2(1 + np.arange(1, 1 + cutoffs[-1])))

    metrics: dict[str, dict[int, np.ndarray]] = {}
    for k in cutoffs:
        hit = ranks <= k
        hits = np.add.reduceat(hit, first, dtype=np.float64)
        gain = np.add.reduceat(hit / np.log2(1 + ranks), first)
        for name, values in {
            "hr": (hits > 0).astype(np.float64),
            "recall": hits / n_targets,
            "precision": hits / k,
            "ndcg": gain / best_dcg[np.minimum(k, n_targets) - 1],
            "mrr": np.maximum.reduceat(hit / ranks, first),
            "map": np.add.reduceat(hit * nth / ranks, first) / n_targets,
        }.items():
            metrics.setdefault(name, {})[k] = values
    return {f"{name}@{k}": values for name, at in metrics.items() for k, values in at.items()}


def contains(sets: Ragged, values: Ragged, n_items: int) -> np.ndarray:
    """Whether each of the values is in the set of its row."""
    keys = np.append(np.sort(sets.row_of * n_items + sets.values), -1)  # np.isin would hash them, ten times slower
    wanted = values.row_of * n_items + values.values
    found: np.ndarray = keys[np.searchsorted(keys[:-1], wanted)] == wanted
    return found


def _training_counts(model: Any, item_ids: np.ndarray, train: Interactions | None) -> np.ndarray | None:
    """Training events of each item of the holdout, or None."""
    if train is not None:
        own_ids, counts = train.item_ids, train.popularity()
    elif hasattr(model, "popularity_"):
        own_ids, counts = getattr(model, "item_ids_", item_ids), model.popularity_
    else:
        return None
    _check_alike(item_ids, own_ids)
    aligned: np.ndarray = np.append(counts, 0)[rows_of(item_ids, own_ids)]
    return aligned


def _percentiles(counts: np.ndarray) -> np.ndarray:
    """Place of each item in the order of its count, from 0 (fewest) to 1; equal counts share their mean place."""
    ordered = np.sort(counts)
    place = (np.searchsorted(ordered, counts, "left") + np.searchsorted(ordered, counts, "right") - 1) / 2
    return place / max(len(counts) - 1, 1)


def bootstrap(
    values: np.ndarray, level: float, seed: int | np.random.Generator, n_resamples: int
) -> tuple[float, float]:
    """Percentiles of the mean of values that are drawn with replacement."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    random, n = np.random.default_rng(seed), len(values)
    means = [_mean(values[random.integers(n, size=n)]) for _ in range(n_resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean(values: np.ndarray) -> float:
    """Mean over the users who have a value; NaN if nobody has."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
