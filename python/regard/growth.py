"""A catalogue that grows: training goes on with new events, items come and go."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from regard import model_file
from regard.data import Interactions
from regard.features import EncodedFeatures, ItemFeatures
from regard.ids import as_ids, id_lists, rows_of
from regard.ragged import Ragged
from regard.recommender import Recommender, plain
from regard.splits import leave_last_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.layers import Step
    from regard.splits import Holdout
    from regard.train import Callback, Settings

    Parameters = dict[str, NDArray[np.float32]]


Initial = TypeVar("Initial", bound=tuple[tuple[int, ...], Any])  # shape and scale of a parameter before training

# Of a new item's vector, in mean lengths of the catalogue's. On Amazon Beauty new items are hardly found at 0.7 and
# crowd out better known ones at 1.
_LENGTH = 0.85


class GrowingCatalogue(Recommender):
    """Base of models with a vector for each item, whose parameters are trained by gradients."""

    kind: ClassVar[str]  # in the model file
    dim: int
    item_features: bool
    interrupted_: bool
    params_: Parameters
    features_: EncodedFeatures | None = None
    history_: list[dict[str, Any]]
    best_epoch_: int
    _titles: model_file.Texts | None = None
    _later: Mapping[str, Any] = MappingProxyType({})  # settings for the next fit: answers need those of the last one

    @cached_property
    def titles_(self) -> NDArray[Any] | None:  # type: ignore[override]
        """Decoded when first asked for, where they came from a file."""
        return None if self._titles is None else self._titles.decoded()

    # ---- settings -----------------------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor and their values, as the next ``fit`` takes them."""
        return {**super().get_params(deep), **self._later}

    def _set(self, params: dict[str, Any]) -> None:
        """Those of a fitted model wait, but for ``device``, which is where it answers."""
        if not hasattr(self, "params_"):
            return super()._set(params)
        super()._set({name: params[name] for name in params if name == "device"})
        self._later = {**self._later, **{name: params[name] for name in params if name != "device"}}
        return None

    def _take_settings(self) -> None:
        super()._set(dict(self._later))
        self.__dict__.pop("_later", None)

    def _check_fitted(self) -> None:
        if not hasattr(self, "params_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted yet: call fit first")

    def _restore_catalogue(self, content: model_file.Content) -> None:
        self.item_ids_, self._titles, self.popularity_ = content.item_ids, content.titles, content.popularity

    @property
    def _tables(self) -> tuple[str, ...]:
        """Names of the parameters that have a row for each item."""
        raise NotImplementedError

    def steps(self) -> list[Step]:
        """The model as a list of steps; see `regard.layers`."""
        raise NotImplementedError

    # ---- item vectors with features -----------------------------------------------------------------------------

    def _learn_features(self, features: ItemFeatures | None) -> None:
        """Take what is known of the catalogue's items, if the model is to use it."""
        self.features_ = None
        if self.item_features and features is not None:
            self.features_ = EncodedFeatures.fit(features, self.item_ids_)

    def _with_features(self, params: dict[str, Initial]) -> dict[str, Initial]:
        """These parameters, then those of the item features, which begin like the items' own vectors."""
        if self.features_ is not None:
            for table in dict.fromkeys(self._tables):
                scale = params[table][1]
                params |= {name: (shape, scale) for name, shape in self.features_.shapes(table, self.dim).items()}  # type: ignore[misc]
        return params

    def _folded(self, params: Parameters) -> Parameters:
        """Item tables with what the features add to the items' own vectors: what answers are made with."""
        if self.features_ is None:
            return params
        return params | {table: self.features_.vectors(params[table], params, table) for table in set(self._tables)}

    def _unfolded(self) -> Parameters:
        """A copy of the parameters with the items' own vectors: what is trained."""
        params = {name: weight.copy() for name, weight in self.params_.items()}
        if self.features_ is not None:
            for table in set(self._tables):
                params[table] -= self.features_.vectors(np.zeros_like(params[table]), params, table)
        return params

    # ---- growth -------------------------------------------------------------------------------------------------

    def add_items(
        self,
        item_ids: Any,
        *,
        features: ItemFeatures | None = None,
        like: Any = None,
        titles: Mapping[Any, str] | None = None,
    ) -> Self:
        """Add items to the catalogue without training.

        Parameters
        ----------
        item_ids : ids that the model does not have
        features : ItemFeatures, optional
            What is known of the new items, for a model that was trained with features. A new item's vector is then
            what its features add, brought to 0.85 of the mean length of the catalogue's vectors; a category that the
            model has not seen adds nothing. Ignored if the model has no features.
        like : one list of known ids for each new item, optional
            A new item begins with the mean vector of these, whatever its features. Without any of these and without
            features it begins with that of the whole catalogue, which ranks it in the middle until training has seen
            it.
        titles : mapping of id to str, optional
            An item without one shows its id; ignored if the model has no titles.

        Raises
        ------
        ValueError
            An id is in the catalogue already, or is given twice; an id of ``like`` is not in the catalogue; not one
            list for each new item; other features than the model's.
        TypeError
            Ids of another type than the catalogue's.
        """
        self._check_fitted()
        ids = as_ids("item_ids", item_ids, self.item_ids_)
        if not len(ids):
            return self
        if (known := rows_of(ids, self.item_ids_) >= 0).any():
            raise ValueError(f"item_ids: {ids[known][0]} is in the catalogue already")
        if len(np.unique(ids)) != len(ids):
            raise ValueError("item_ids: expected every id once, got one twice")
        lists, flat = id_lists("like", [[]] * len(ids) if like is None else like, self.item_ids_)
        if len(lists) != len(ids) or (flat and len(ids)):
            raise ValueError(f"like: expected {len(ids)} lists (one for each of item_ids), got {len(lists)}")
        rows = rows_of(lists.values, self.item_ids_)
        if (rows < 0).any():
            raise ValueError(f"like: {lists.values[rows < 0][0]} is not in the catalogue")

        everything = np.concatenate([self.item_ids_, ids])
        order = np.argsort(everything, kind="stable")
        params, kept = dict(self.params_), self.features_
        added = None
        if kept is not None:
            added = EncodedFeatures.encode(kept.how, features, ids)
            kept = kept.append(added).take(order)
        for table in set(self._tables):
            old = params[table]
            vectors = np.repeat(old.mean(axis=0, keepdims=True), len(ids), axis=0)
            if added is not None:
                told = added.vectors(np.zeros_like(vectors), params, table)
                length, mean = np.linalg.norm(told, axis=1), np.linalg.norm(old, axis=1).mean()
                some = length > 0
                vectors[some] = told[some] * (_LENGTH * mean / length[some, None])
            for i in np.flatnonzero(lists.lengths):
                vectors[i] = old[rows[lists.offsets[i] : lists.offsets[i + 1]]].mean(axis=0)
            params[table] = np.concatenate([old, vectors])[order]
        if self.titles_ is not None:
            new = [(titles or {}).get(i, str(i)) for i in ids.tolist()]
            self.titles_ = np.concatenate([self.titles_, np.array(new, str)])[order]
        counts = np.concatenate([self.popularity_, np.zeros(len(ids), np.int64)])[order]
        self.params_, self.features_ = params, kept
        self.item_ids_, self.popularity_ = everything[order], counts
        return self

    def retire_items(self, item_ids: Any) -> Self:
        """Take items out of the catalogue: they are recommended no more, and are unknown in histories.

        Parameters
        ----------
        item_ids : ids that the model has

        Raises
        ------
        ValueError
            An id is not in the catalogue, or none would be left.

        See Also
        --------
        recommend : ``deny_items`` leaves items out of the answers and still reads them in histories.
        """
        self._check_fitted()
        ids = as_ids("item_ids", item_ids, self.item_ids_)
        rows = rows_of(ids, self.item_ids_)
        if (rows < 0).any():
            raise ValueError(f"item_ids: {ids[rows < 0][0]} is not in the catalogue")
        kept = np.setdiff1d(np.arange(len(self.item_ids_)), rows)
        if not len(kept):
            raise ValueError("item_ids: expected at least one item to be left, got all of them")
        self.params_ = self.params_ | {table: self.params_[table][kept] for table in self._tables}
        self.item_ids_, self.popularity_ = self.item_ids_[kept], self.popularity_[kept]
        self.features_ = None if self.features_ is None else self.features_.take(kept)
        if self.titles_ is not None:
            self.titles_ = self.titles_[kept]
        return self

    # ---- file ---------------------------------------------------------------------------------------------------

    def _plain_steps(self) -> Any:
        """The list of steps as a file gives it back."""
        return json.loads(json.dumps(self.steps(), default=plain))

    def _file(self, **entries: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        header = {
            "kind": self.kind,
            "settings": {name: plain(value) for name, value in super().get_params().items() if name != "device"},
            "steps": self._plain_steps(),
            "best_epoch": self.best_epoch_,
            "history": self.history_,
            **entries,
        }
        tensors: dict[str, NDArray[Any]] = dict(self.params_)
        if self.features_ is not None:
            header["features"] = self.features_.how
            tensors |= self.features_.tensors()
        return header, tensors

    def _restore(self, content: model_file.Content, params: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Take what the file holds, if its parameters and its steps are those of the settings; ``params``: without
        those of item features.
        """
        self.features_ = content.features
        expected = self._with_features(dict(params))
        model_file.check_shapes(content, {name: shape for name, (shape, _) in expected.items()})
        if self._plain_steps() != content.header["steps"]:
            raise ValueError(f"{content.path}: the list of steps does not belong to the settings")
        self._restore_catalogue(content)
        self.params_, self.interrupted_ = content.params, False
        self.best_epoch_, self.history_ = content.header["best_epoch"], content.header["history"]


class GrowingModel(GrowingCatalogue):
    """Base of those that learn from interactions, and can go on with new ones."""

    learning_rate: float

    def _settings(self, **changes: Any) -> Settings:
        raise NotImplementedError

    def _train(
        self,
        params: Parameters,
        data: Interactions,
        settings: Settings,
        holdout: Holdout | None,
        callbacks: Iterable[Callback],
        progress: bool | None,
        checkpoint: Any = None,
        exclude_seen: bool = True,
    ) -> None:
        """Train these parameters, which have the items' own vectors, and keep the best."""
        raise NotImplementedError

    def fit_more(
        self,
        data: Interactions,
        *,
        epochs: int = 5,
        learning_rate: float | None = None,
        validation: Holdout | str | None = "last",
        exclude_seen: bool = True,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
    ) -> Self:
        """Go on training with new users, new items and new events; the model is as it was if this fails.

        Parameters
        ----------
        data : Interactions
            What is new. Users are not kept in a model: give as much of their earlier history as there is. Items that
            the model does not know are added first (see `add_items`); items that ``data`` lacks stay.
        epochs : int, default 5
        learning_rate : float, default a quarter of the model's
        validation, exclude_seen, callbacks, progress
            As in `fit`.

        Notes
        -----
        The optimiser begins anew, with the model's schedule. The defaults are gentle: what ``data`` lacks is hardly
        forgotten. Where it has everything that the model should know, ``epochs=10`` at the full rate comes close to a
        new `fit`; with new users alone the same would lose a sixth of the accuracy (`benchmarks/README.md`).
        """
        self._check_fitted()
        settings = self._settings(
            epochs=epochs, learning_rate=self.learning_rate / 4 if learning_rate is None else learning_rate
        )
        model = copy.copy(self)
        new = data.item_ids[rows_of(as_ids("data", data.item_ids, self.item_ids_), self.item_ids_) < 0]
        titles = None
        if data.titles is not None:
            titles = dict(zip(data.item_ids.tolist(), data.titles.tolist(), strict=True))
        model.add_items(new, titles=titles, features=data.features)
        rows = rows_of(data.item_ids, model.item_ids_)[data.sequences.values]
        sequences = Ragged(rows, data.sequences.offsets)
        data = Interactions.from_sequences(data.user_ids, model.item_ids_, sequences, times=data.times)
        data, holdout = validation_of(data, validation)
        model.popularity_ = model.popularity_ + data.popularity()
        model._train(model._unfolded(), data, settings, holdout, callbacks, progress, exclude_seen=exclude_seen)
        done = len(self.history_)
        for entry in model.history_:
            entry["epoch"] += done
        model.history_, model.best_epoch_ = self.history_ + model.history_, model.best_epoch_ + done
        self.__dict__.update(model.__dict__)
        return self


def validation_of(data: Interactions, given: Holdout | str | None) -> tuple[Interactions, Holdout | None]:
    """What to train on, and the holdout that chooses the epoch; None where nobody is in it."""
    if isinstance(given, str):
        if given != "last":
            raise ValueError(f"validation: expected a Holdout, 'last' or None, got {given!r}")
        data, given = leave_last_out(data)
    return data, given if given is not None and len(given) else None
