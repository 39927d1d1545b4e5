"""Several recommenders as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regard.growth import GrowingModel, validation_of
from regard.metrics import contains, user_metrics
from regard.model_file import POPULARITY, member_prefix
from regard.ragged import Ragged
from regard.ranking import best, blocks, dense_rows, expected_ranks, masked, union
from regard.recommender import Recommender, from_content, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.data import Interactions
    from regard.model_file import Content
    from regard.splits import Holdout

_CANDIDATES = 100  # of each member for a user, among which weights are learned
_STEPS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)  # towards one member
_BELOW = -1e6  # every standardised score


class Blend(Recommender):
    """The weighted sum of the scores of several recommenders, each standardised over the catalogue.

    Attention, rules and linear models err differently, and so do models of different seeds: their sum is better than
    the best of them.

    Parameters
    ----------
    members : sequence of recommenders, default None
        Those that are fitted are taken as they are: it is for you to see that they were trained on the same part. The
        others are fitted. None: `SelfAttentionRecommender.for_data`, `SequentialRules` and, up to 20,000 items,
        `ItemKNN` and `EASE`, the settings of the latter three chosen on the validation part.
    weights : sequence of numbers of at least 0, one for each member; default None
        None: learned on the validation part.

    Attributes
    ----------
    members_ : list of recommenders
    weights_ : (n_members,) float64
        They sum to 1.

    Notes
    -----
    A member's scores s of a history become ``(s - mean(s)) / std(s)``, over the whole catalogue. Weights are learned by
    steps towards single members, from the best member on, as long as the NDCG@10 of the validation part rises; there
    each user has the 100 best items of each member and the targets for candidates. So on the validation part a blend
    is never worse than its best member.

    Examples
    --------
    >>> blend = Blend().fit(split.train, validation=split.validation)  # doctest: +SKIP
    >>> ensemble = Blend([SelfAttentionRecommender(random_state=i) for i in range(3)])  # doctest: +SKIP
    """

    kind = "blend"

    def __init__(self, members: Sequence[Recommender] | None = None, *, weights: Sequence[float] | None = None) -> None:
        self.members, self.weights = members, weights

    def fit(self, data: Interactions, *, validation: Holdout | str | None = "last", exclude_seen: bool = True) -> Self:
        """Fit the members that are not fitted, and learn the weights.

        Parameters
        ----------
        data : Interactions
        validation : Holdout, "last" or None
            Where the weights are learned, and whatever members choose. "last": each user's last event is held out of
            ``data`` for it. None: only with ``weights``.
        exclude_seen : bool, default True
            Whether the validation ranks only items that the history lacks; as `regard.evaluate`.

        Raises
        ------
        ValueError
            No member; a member with another catalogue; not one weight of at least 0 for each member, or all are 0; no
            validation part to learn them on.
        """
        data, holdout = validation_of(data, validation)
        if self.weights is None and holdout is None:
            raise ValueError("validation: expected a part with users to learn the weights on, or weights, got neither")
        members = list(self.members) if self.members is not None else _default(data, holdout, exclude_seen)
        if not members:
            raise ValueError("members: expected at least one recommender, got none")
        weights = None if self.weights is None else _checked(self.weights, len(members))
        for member in members:
            if isinstance(member, GrowingModel | Blend) and not hasattr(member, "item_ids_"):
                member.fit(data, validation=holdout, exclude_seen=exclude_seen)  # type: ignore[call-arg]
            elif not hasattr(member, "item_ids_"):
                member.fit(data)
            if not np.array_equal(member.item_ids_, data.item_ids):
                raise ValueError(
                    f"members: expected models of the catalogue of the data, {data.n_items:,} items; "
                    f"{type(member).__name__} has another, {len(member.item_ids_):,} items"
                )
        self._set_catalogue(data)
        self.members_ = members
        if weights is None:
            assert holdout is not None
            if not np.array_equal(holdout.item_ids, data.item_ids):
                raise ValueError(
                    f"validation: expected the catalogue of the data, {data.n_items:,} items, "
                    f"got another, {len(holdout.item_ids):,} items"
                )
            weights = _learned(members, holdout, exclude_seen)
        self.weights_ = weights
        return self

    def _scores(self, histories: Ragged) -> NDArray[np.float32]:
        used = [(float(weight), member) for weight, member in zip(self.weights_, self.members_, strict=True) if weight]
        return sum(np.float32(weight) * _standardised(member, histories) for weight, member in used)  # type: ignore[return-value]

    def _facts(self) -> list[tuple[str, Any]]:
        if not hasattr(self, "weights_"):
            return super()._facts()
        pairs = zip(self.members_, self.weights_, strict=True)
        return super()._facts() + [(type(member).__name__, f"{weight:.2f}") for member, weight in pairs]

    # ---- file -------------------------------------------------------------------------------------------------------

    def _file(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        headers: list[dict[str, Any]] = []
        tensors: dict[str, NDArray[Any]] = {}
        for i, member in enumerate(self.members_):
            header, own = member._file()
            if not np.array_equal(member.popularity_, self.popularity_):  # fitted on other events
                own[POPULARITY] = member.popularity_
            headers.append(header)
            tensors |= {member_prefix(i) + name: tensor for name, tensor in own.items()}
        given = None if self.weights is None else [plain(weight) for weight in self.weights]
        settings, weights = {"weights": given}, self.weights_.tolist()
        return {"kind": self.kind, "settings": settings, "steps": [], "weights": weights, "members": headers}, tensors

    @classmethod
    def _from_file(cls, content: Content) -> Self:
        members = [from_content(member) for member in content.members]
        model = cls(members, **content.header["settings"])
        model._restore_catalogue(content)
        model.members_, model.weights_ = members, _checked(content.header["weights"], len(members))
        return model


def usual(data: Interactions, holdout: Holdout | None, exclude_seen: bool = True) -> list[Recommender]:
    """Rules and, where the catalogue is not too large, item-kNN and EASE, settings chosen on the validation part."""
    from regard.baselines import EASE  # noqa: PLC0415
    from regard.comparison import fit_simple  # noqa: PLC0415
    from regard.splits import Split  # noqa: PLC0415

    tuned = holdout is not None
    split = Split(data, holdout, None, "")  # type: ignore[arg-type]  # nothing of it is tested
    names = ["rules", *(["item-knn", "ease"] if data.n_items <= EASE().max_items else [])]
    return [fit_simple(name, split, tuned=tuned, exclude_seen=exclude_seen) for name in names]


def _default(data: Interactions, holdout: Holdout | None, exclude_seen: bool) -> list[Recommender]:
    from regard.models.self_attention import SelfAttentionRecommender  # noqa: PLC0415

    return [SelfAttentionRecommender.for_data(data, exclude_seen=exclude_seen), *usual(data, holdout, exclude_seen)]


def _checked(weights: Sequence[float], n: int) -> NDArray[np.float64]:
    """Weights that sum to 1."""
    found = np.asarray(weights, np.float64)
    if found.shape != (n,) or not np.isfinite(found).all() or (found < 0).any() or not found.sum():
        raise ValueError(f"weights: expected {n} numbers of at least 0, not all 0, got {weights!r}")
    total: float = found.sum()
    return found if total == 1 else found / total


def _standardised(member: Recommender, histories: Ragged) -> NDArray[np.float32]:
    """Scores of the catalogue with mean 0 and standard deviation 1 in each row; all 0 where all were equal."""
    found = member._scores(histories)
    scores: NDArray[np.float32] = found - found.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    spread = np.sqrt(np.square(scores).mean(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    spread[spread == 0] = 1
    scores /= spread
    return scores


def _learned(members: list[Recommender], holdout: Holdout, exclude_seen: bool) -> NDArray[np.float64]:
    """Weights of the highest NDCG@10 that steps towards single members find; of equal ones the first."""
    scores, targets, columns, missed = _candidates(members, holdout, exclude_seen)

    def ndcg(weights: NDArray[np.float64]) -> float:
        blend = np.tensordot(scores, weights.astype(np.float32), 1)
        ranks = expected_ranks(blend, targets.with_values(columns))
        ranks[missed] = np.inf
        return float(user_metrics(ranks, targets, [10])["ndcg@10"].mean())

    alone = np.eye(len(members))
    values = [ndcg(weights) for weights in alone]
    weights: NDArray[np.float64] = alone[int(np.argmax(values))]
    highest = max(values)
    while True:
        trials = [(1 - step) * weights + step * one for one in alone for step in _STEPS]
        values = [ndcg(trial) for trial in trials]
        if max(values) <= highest + 1e-6:
            return weights
        weights, highest = trials[int(np.argmax(values))], max(values)


def _candidates(
    members: list[Recommender], holdout: Holdout, exclude_seen: bool
) -> tuple[NDArray[np.float32], Ragged, NDArray[np.int64], NDArray[np.bool_]]:
    """What weights are judged by.

    Returns
    -------
    scores : (n_users, n_candidates, n_members) float32
        Standardised; the padding is far below everything.
    targets : Ragged, without repeats
    columns : (n_targets,) int64
        Where each target is among the candidates of its user.
    missed : (n_targets,) bool
        Targets that are in the history, where these are not ranked.
    """
    n_items, n = len(holdout.item_ids), len(holdout)
    targets = union(n_items, holdout.targets)
    missed = contains(holdout.histories, targets, n_items) & exclude_seen
    found = []
    for block in blocks(n, dense_rows(n_items)):
        histories = holdout.histories[block]
        deny = union(n_items, histories) if exclude_seen else None
        every = np.stack([_standardised(member, histories) for member in members], axis=2)
        width = min(_CANDIDATES, n_items)
        tops = [best(masked(every[:, :, i].copy(), None, deny), width)[0].astype(np.int64) for i in range(len(members))]
        rows = np.repeat(np.arange(len(histories)), width * len(members))
        top = np.concatenate(tops, axis=1).ravel()
        kept = top >= 0
        lists = Ragged.from_lengths(top[kept], np.bincount(rows[kept], minlength=len(histories)))
        chosen = union(n_items, lists, targets[block])
        found.append((chosen, every[chosen.row_of, chosen.values]))
    candidates = Ragged.concatenate([chosen for chosen, _ in found])
    scores = np.full((n, int(candidates.lengths.max()), len(members)), _BELOW, np.float32)
    place = np.arange(len(candidates.values)) - candidates.offsets[candidates.row_of]
    scores[candidates.row_of, place] = np.concatenate([part for _, part in found])
    keys = candidates.row_of * n_items + candidates.values
    at = np.searchsorted(keys, targets.row_of * n_items + targets.values)
    scores[targets.row_of[missed], place[at][missed]] = _BELOW  # they stand in nobody's way
    return scores, targets, place[at], missed
