"""What every recommender shares: histories in, recommendations out.

A subclass fits, calls ``_set_catalogue`` and answers in rows (positions in ``item_ids_``) through a few hooks. Ids,
unknown ids, allow and deny lists, empty histories and padding are dealt with here, once.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from enum import IntFlag
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

import numpy as np

from . import html, model_file
from .frames import is_frame, library_of, make_frame
from .ids import as_ids, drop_unknown, frame_lists, id_lists, ids_of, rows_of
from .metrics import evaluate
from .ragged import Ragged
from .ranking import best, blocks, dense_rows, expected_ranks, masked, take, union

if TYPE_CHECKING:
    from .data import Interactions
    from .splits import Holdout

__all__ = ["OK", "POPULAR", "SHORT", "UNKNOWN", "Flag", "Recommendations", "Recommender", "load"]


F = TypeVar("F", bound=Callable[..., Any])


def undone_if_it_fails(method: F) -> F:
    """Decorates a method of a model: an exception leaves the model as it was."""

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        before = dict(self.__dict__)
        try:
            return method(self, *args, **options)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    return cast("F", wrapped)


class Flag(IntFlag):
    """What to know about one row of recommendations."""

    OK = 0
    POPULAR = 1  #: no usable event in the history: the most popular items
    SHORT = 2  #: fewer than k items allowed: the row ends in padding
    UNKNOWN = 4  #: a candidate that training did not have, ranked with the vector of unknown items


OK, POPULAR, SHORT, UNKNOWN = Flag.OK, Flag.POPULAR, Flag.SHORT, Flag.UNKNOWN


class _Answers(NamedTuple):
    items: np.ndarray
    scores: np.ndarray
    flags: np.ndarray
    n_unknown: np.ndarray


class Recommendations(_Answers):
    """The k best items for each of n histories; unpacks as ``items, scores, flags, n_unknown``.

    Attributes
    ----------
    items : (n, k) int64 or str
        Item ids, best first; equal scores in the order of the ids. Padding is -1 or "".
    scores : (n, k) float32
        Never rising along a row; padding is -inf. Scores compare within one row only.
    flags : (n,) uint8
        `Flag` values: ``OK``, ``POPULAR``, ``SHORT`` or both of the latter.
    n_unknown : (n,) int64
        Events of the history that were skipped because their item is not in the catalogue.
    user_ids : (n,) int64 or str, or None
        Whose histories they were, where they came in a data frame. Not among the four that are unpacked.
    library : "polars", "pandas", "pyarrow", or None
        The kind of that frame; what `to_frame` gives by default.
    """

    user_ids: np.ndarray | None = None
    library: str | None = None

    def to_frame(self, library: str | None = None) -> Any:
        """One line per recommended item: columns ``user_id``, ``item_id``, ``score``, ``rank`` (1 is the best).

        Where the histories did not come in a data frame, the first column is ``row``, the number of the history.

        Parameters
        ----------
        library : "polars", "pandas" or "pyarrow", optional
            The default is the kind of frame that went in, else the first of these that is installed. Padding is left
            out.

        Raises
        ------
        ModuleNotFoundError
            The library is missing.
        """
        row, place = np.nonzero(self.scores > -np.inf)
        whose = {"row": row} if self.user_ids is None else {"user_id": self.user_ids[row]}
        columns = {"item_id": self.items[row, place], "score": self.scores[row, place], "rank": place + 1}
        return make_frame(whose | columns, library or self.library)

    def _repr_html_(self) -> str:
        """The first twenty rows."""
        shown = self.items[:20].tolist()
        header = ["", *range(1, self.items.shape[1] + 1)]
        return html.table(
            f"Recommendations for {len(self.items):,}", ([i, *map(str, row)] for i, row in enumerate(shown)), header
        )


class Recommender:
    """Base of all recommenders.

    A subclass implements ``fit`` (which calls ``_set_catalogue``) and ``_scores``; where it can do better than a
    dense block of scores it overrides ``_top_k`` and ``_ranks``; where items can be compared, ``_item_similarities``.

    Attributes
    ----------
    item_ids_ : (n_items,) int64 or str
        The catalogue, sorted; a *row* is a position in it.
    titles_ : (n_items,) str or None
    popularity_ : (n_items,) int64
        Training events per item.
    """

    item_ids_: np.ndarray
    titles_: np.ndarray | None
    popularity_: np.ndarray

    # ---- for subclasses ---------------------------------------------------------------------------------------

    def _set_catalogue(self, data: Interactions) -> None:
        """Take item ids, titles and popularity from the training data."""
        self.item_ids_ = data.item_ids
        self.titles_ = data.titles
        self.popularity_ = data.popularity()

    def _restore_catalogue(self, content: model_file.Content) -> None:
        """The same from a model file."""
        self.item_ids_, self.popularity_ = content.item_ids, content.popularity
        self.titles_ = None if content.titles is None else content.titles.decoded()

    def _scores(self, histories: Ragged) -> np.ndarray:
        """Scores of all items: Ragged rows, none of them empty -> (n, n_items) float32."""
        raise NotImplementedError(f"{type(self).__name__} does not score the whole catalogue")

    def _top_k(
        self, histories: Ragged, k: int, allow: Ragged | None, deny: Ragged | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Best rows and their scores: (n, k) int32 padded with -1, (n, k) float32 padded with -inf.

        No history is empty; rows of ``allow`` and ``deny`` are sorted, without repeats. Ties go to the lower row.
        """
        return best(masked(self._scores(histories), allow, deny), k)

    def _ranks(self, histories: Ragged, targets: Ragged, deny: Ragged | None) -> np.ndarray:
        """Expected rank of each target, ``1 + above + equal / 2``, in the order of ``targets.values``, float64.

        ``above`` and ``equal`` count the other items that are not denied. No history is empty. The rank of a target
        that is itself denied means nothing: `regard.evaluate` counts it as a miss.
        """
        return expected_ranks(masked(self._scores(histories), None, deny), targets)

    def _item_similarities(self, rows: np.ndarray) -> np.ndarray:
        """How well every item goes with each of the given ones: (n, n_items) float32, -inf for "not at all"."""
        raise NotImplementedError(f"{type(self).__name__} has no similarity between items")

    def _recommend_one(self, history: Any, k: int, exclude_seen: bool) -> Any:
        """The answers for one flat list or array of ids, None for anything else that is asked; see `recommend`."""
        return None

    # ---- hooks, with popularity where the history is empty ------------------------------------------------------

    def _top_k_for(
        self, histories: Ragged, k: int, allow: Ragged | None, deny: Ragged | None
    ) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = np.empty((len(histories), k), np.int32), np.empty((len(histories), k), np.float32)
        known, empty = np.flatnonzero(histories.lengths), np.flatnonzero(histories.lengths == 0)
        if len(known):
            rows[known], scores[known] = self._top_k(histories.take(known), k, take(allow, known), take(deny, known))
        for part in blocks(len(empty), dense_rows(len(self.item_ids_))):
            some = empty[part]
            popular = masked(self._popularity_scores(len(some)), take(allow, some), take(deny, some))
            rows[some], scores[some] = best(popular, k)
        return rows, scores

    def _ranks_for(self, histories: Ragged, targets: Ragged, deny: Ragged | None) -> np.ndarray:
        ranks = np.empty(len(targets.values))
        known, empty = np.flatnonzero(histories.lengths), np.flatnonzero(histories.lengths == 0)
        of_known = (histories.lengths > 0)[targets.row_of]
        if len(known):
            ranks[of_known] = self._ranks(histories.take(known), targets.take(known), take(deny, known))
        of_empty = np.flatnonzero(~of_known)
        for part in blocks(len(empty), dense_rows(len(self.item_ids_))):
            some = targets.take(empty[part])
            popular = masked(self._popularity_scores(len(some)), None, take(deny, empty[part]))
            places, of_empty = of_empty[: len(some.values)], of_empty[len(some.values) :]
            ranks[places] = expected_ranks(popular, some)
        return ranks

    def _popularity_scores(self, n: int) -> np.ndarray:
        return np.repeat(self.popularity_[None].astype(np.float32), n, axis=0)

    def fit(self, data: Interactions) -> Self:
        """Learn from interactions."""
        raise NotImplementedError(f"{type(self).__name__} cannot be fitted")

    # ---- for users --------------------------------------------------------------------------------------------

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        *,
        allow_items: Any = None,
        deny_items: Any = None,
        exclude_seen: bool = True,
    ) -> Recommendations:
        """The k best items for each history; the users need not have been seen in training.

        Parameters
        ----------
        histories : one or many histories of item ids, oldest first
            A flat list or array is one history (results keep their first axis, of length 1). A list of lists, a 2-D
            array or a `Ragged` is a batch. So is a data frame (pandas, Polars, pyarrow, any object with ``columns``)
            with ``user_id``, ``item_id`` and, unless its lines are in order, ``datetime``: one row per user, in the
            order in which users first appear, and `Recommendations.to_frame` gives the same kind of frame back. A model
            with a time bias needs `TimedHistories`, or a frame with ``datetime``, which is asked about now.
            Unknown ids are skipped and counted.
        k : int, default 10
        allow_items, deny_items : item ids, optional
            Only these, or none of these: one flat list for all histories, or one list for each. Unknown ids are
            ignored; an empty list of allowed items allows nothing.
        exclude_seen : bool, default True
            Do not recommend what the history holds. False is for models that were trained for it
            (``for_data(..., exclude_seen=False)``): one with ``mask_seen`` puts what was seen first.

        Returns
        -------
        Recommendations

        Raises
        ------
        TypeError
            Ids of another type than the catalogue's, or of mixed types; floats (NaN among them).
        ValueError
            ``k`` below 1, or as many lists of allowed or denied items as there are no histories.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        self._check_fitted()
        if allow_items is None and deny_items is None:
            answers = self._recommend_one(histories, k, exclude_seen)
            if answers is not None:
                return Recommendations(*answers)
        user_ids = library = None
        if is_frame(histories):
            library = library_of(histories)
            user_ids, histories = frame_lists("histories", histories, self.item_ids_)
        rows, n_unknown = self._rows_of_histories(histories)
        n, n_items = len(rows), len(self.item_ids_)
        allow_of = self._item_lists("allow_items", allow_items, n)
        deny_of = self._item_lists("deny_items", deny_items, n)

        items = np.full((n, k), -1, np.int32)
        scores = np.full((n, k), -np.inf, np.float32)
        for block in blocks(n):
            seen = rows[block]
            allow = allow_of(block)
            denied = [part for part in (deny_of(block), seen if exclude_seen else None) if part is not None]
            deny = union(n_items, *denied) if denied else None
            items[block], scores[block] = self._top_k_for(seen, k, allow, deny)
        flags = np.where(rows.lengths == 0, POPULAR, OK) | np.where((items < 0).any(axis=1), SHORT, OK)
        result = Recommendations(ids_of(items, self.item_ids_), scores, flags.astype(np.uint8), n_unknown)
        result.user_ids, result.library = user_ids, library
        return result

    def similar_items(self, item_ids: Any, k: int = 10) -> Recommendations:
        """The k items that go best with each given item, itself left out.

        Parameters
        ----------
        item_ids : one item id, or a list or array of them
            A single id gives results with one row.
        k : int, default 10

        Raises
        ------
        ValueError
            An id that is not in the catalogue; ``k`` below 1.
        NotImplementedError
            The model has no similarity between items.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        ids = as_ids("item_ids", [item_ids] if np.ndim(item_ids) == 0 else item_ids, self.item_ids_)
        rows = rows_of(ids, self.item_ids_)
        if (rows < 0).any():
            unknown = ids[rows < 0][0]
            raise ValueError(f"item_ids: {unknown} is not among the {len(self.item_ids_):,} items of the model")
        items = np.full((len(rows), k), -1, np.int32)
        scores = np.full((len(rows), k), -np.inf, np.float32)
        for block in blocks(len(rows), dense_rows(len(self.item_ids_))):
            itself = Ragged.from_lengths(rows[block], np.ones(len(rows[block]), np.int64))
            items[block], scores[block] = best(masked(self._item_similarities(rows[block]), None, itself), k)
        flags = np.where((items < 0).any(axis=1), SHORT, OK).astype(np.uint8)
        return Recommendations(ids_of(items, self.item_ids_), scores, flags, np.zeros(len(rows), np.int64))

    def scores(self, histories: Any) -> np.ndarray:
        """Scores of the whole catalogue, for small batches.

        Parameters
        ----------
        histories
            As in `recommend`. A history with no usable event is scored by popularity.

        Returns
        -------
        (n, n_items) float32
            Columns in the order of ``item_ids_``. Scores compare within one row only.
        """
        rows, _ = self._rows_of_histories(histories)
        out = np.empty((len(rows), len(self.item_ids_)), np.float32)
        out[:] = self.popularity_
        known = np.flatnonzero(rows.lengths)
        for block in blocks(len(known)):
            out[known[block]] = self._scores(rows.take(known[block]))
        return out

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor and their values (the scikit-learn protocol)."""
        names = [name for name in inspect.signature(type(self)).parameters]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor; takes effect at the next ``fit``."""
        known = self.get_params()
        if unknown := [name for name in params if name not in known]:
            raise ValueError(f"{unknown[0]}: not a parameter of {type(self).__name__}, which has {', '.join(known)}")
        self._set(params)
        return self

    def _set(self, params: dict[str, Any]) -> None:
        for name, value in params.items():
            setattr(self, name, value)

    def score(self, holdout: Holdout) -> float:
        """NDCG@10 on a holdout (the scikit-learn protocol: more is better); see `regard.evaluate` for more."""
        return evaluate(self, holdout, k=10, coverage=False)["ndcg@10"]

    def _changed_params(self) -> dict[str, Any]:
        """Parameters that are not the default."""
        defaults = {name: argument.default for name, argument in inspect.signature(type(self)).parameters.items()}
        return {name: value for name, value in self.get_params().items() if repr(value) != repr(defaults[name])}

    def __repr__(self) -> str:
        """As it can be pasted; parameters that are the default are left out."""
        shown = ", ".join(f"{name}={_literal(value)}" for name, value in self._changed_params().items())
        return f"{type(self).__name__}({shown})"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, Any]] = [*self._changed_params().items()]
        return html.table(type(self).__name__, rows + self._facts())

    def _facts(self) -> list[tuple[str, Any]]:
        """What a fitted model says of itself."""
        return [("items", len(self.item_ids_))] if hasattr(self, "item_ids_") else [("fitted", "not yet")]

    # ---- file -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one safetensors file: to a temporary name beside it, synced, renamed.

        Raises
        ------
        OSError
            The folder cannot be written, the disk is full: a file of that name stays as it was.
        NotImplementedError
            The model has no file.
        """
        self._check_fitted()
        header, tensors = self._file()
        model_file.write(
            path, header, tensors, item_ids=self.item_ids_, titles=self.titles_, popularity=self.popularity_
        )

    def _file(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Header (kind, settings, steps, ...) and tensors of the model file, without the catalogue."""
        raise NotImplementedError(f"{type(self).__name__} cannot be saved")

    @classmethod
    def _from_file(cls, content: model_file.Content) -> Self:
        """The model that `_file` describes."""
        raise NotImplementedError(f"{cls.__name__} cannot be loaded")

    def _check_fitted(self) -> None:
        if not hasattr(self, "item_ids_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted yet: call fit first")

    # ---- between ids and rows ---------------------------------------------------------------------------------

    def _rows_of_histories(self, histories: Any) -> tuple[Ragged, np.ndarray]:
        """Known events as rows, and how many were unknown in each history."""
        self._check_fitted()
        ids, _ = id_lists("histories", histories, self.item_ids_, known=True)
        known = drop_unknown(ids.with_values(rows_of(ids.values, self.item_ids_)))
        return known, ids.lengths - known.lengths

    def _item_lists(self, name: str, items: Any, n: int) -> Callable[[slice], Ragged | None]:
        """The allowed or denied rows of a block of histories, one flat list being everyone's."""
        if items is None:
            return lambda block: None
        ids, flat = id_lists(name, items, self.item_ids_, known=True)
        if not flat and len(ids) != n:
            raise ValueError(f"{name}: expected one flat list or {n} lists, one for each history, got {len(ids)} lists")
        n_items = len(self.item_ids_)
        known = union(n_items, drop_unknown(ids.with_values(rows_of(ids.values, self.item_ids_))))
        if flat:
            return lambda block: take(known, np.zeros(block.stop - block.start, np.int64))
        return lambda block: take(known, np.arange(block.start, block.stop))


def plain(value: Any) -> Any:
    """A parameter without NumPy: searches set them to NumPy's scalars, which neither files nor reprs take."""
    return value.item() if isinstance(value, np.generic) else value


def _literal(value: Any) -> str:
    value = plain(value)
    return f"float({str(value)!r})" if isinstance(value, float) and not np.isfinite(value) else repr(value)


# ---- files --------------------------------------------------------------------------------------------------------

_BASELINES = "regard.baselines.item_to_item"
_KINDS = {
    "self_attention": ("regard.models.self_attention", "SelfAttentionRecommender"),
    "target_attention": ("regard.models.target_attention", "TargetAttentionRecommender"),
    "blend": ("regard.blend", "Blend"),
    "popularity": (_BASELINES, "Popularity"),
    "sequential_rules": (_BASELINES, "SequentialRules"),
    "item_knn": (_BASELINES, "ItemKNN"),
    "ease": (_BASELINES, "EASE"),
    "repeats": (_BASELINES, "Repeats"),
}


def load(path: str | os.PathLike[str], *, verify: bool = False) -> Any:
    """Open a model that ``save`` wrote. Nothing in the file is executed.

    The file is mapped, not read: a large model opens in milliseconds, and processes that open the same file share one
    copy of its item vectors. `save` puts a new file in the place of an old one, which an open model does not notice; a
    file that other programs write over in place must not be in use.

    Parameters
    ----------
    path : path
    verify : bool, default False
        Also read all of it: compare the SHA-256 of every tensor with the header, and refuse item vectors that are not
        finite. Without it shapes, ids and all other parameters are checked.

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is truncated, damaged, no regard model, or needs a newer version; the message says which.
    """
    return from_content(model_file.read(path, verify=verify))


def from_content(content: model_file.Content) -> Any:
    """The model of an opened file, or a member of one."""
    if content.header["kind"] not in _KINDS:
        raise ValueError(f"{content.path}: unknown kind of model {content.header['kind']!r}")
    module, name = _KINDS[content.header["kind"]]
    try:
        return getattr(importlib.import_module(module), name)._from_file(content)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{content.path}: the header is damaged ({error})") from None
