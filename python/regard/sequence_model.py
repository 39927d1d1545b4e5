"""What every model shares that reads a history as a sequence: training, answering, its file.

A model is a subclass: settings in its constructor (those of `regard.train.Settings` and ``dim``, ``max_len`` among
them), a list of `steps`, and its `parameters`. It lies in ``models`` and touches nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regard import model_file, ops
from regard.checkpoint import Checkpoint
from regard.data import Interactions
from regard.explain import Explanation, explain
from regard.ids import as_ids, id_lists, rows_of
from regard.layers import Run, Step, forward, heads, item_tables
from regard.metrics import evaluate
from regard.ragged import Ragged
from regard.ranking import blocks
from regard.recommender import Recommender, plain
from regard.splits import leave_last_out
from regard.train import Callback, Settings, train
from regard.workspace import of_this_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.splits import Holdout

    Parameters = dict[str, NDArray[np.float32]]

Initial = tuple[tuple[int, ...], float | None]  # shape; standard deviation of the normal distribution, None: all 1
_ROWS = 512  # of a weight drawn together
_FLOATS = 1 << 18  # of an array while encoding: larger ones leave the caches
_QUANTIZED = 1024  # items from which an 8-bit copy of them pays


class SequenceModel(Recommender):
    """Base of the models in `regard.models`."""

    kind: ClassVar[str]  # in the model file
    dim: int
    max_len: int
    learning_rate: float
    random_state: int
    params_: Parameters
    history_: list[dict[str, Any]]
    best_epoch_: int
    interrupted_: bool
    _quantized: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None  # item vectors, and their 8-bit copy

    # ---- for subclasses -----------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """The model as a list of steps, "embed" first and "score" last; see `regard.layers`."""
        raise NotImplementedError

    def parameters(self, n_items: int) -> dict[str, Initial]:
        """Name, shape and beginning of every parameter."""
        raise NotImplementedError

    def _check(self) -> None:
        """ValueError for a setting of the model that is out of range."""

    @property
    def _tables(self) -> tuple[str, str]:
        return item_tables(self.steps())

    def initial_parameters(self, n_items: int) -> Parameters:
        """The parameters before training, drawn with ``random_state``."""
        rng = np.random.default_rng(self.random_state)
        params: Parameters = {}
        for name, (shape, scale) in self.parameters(n_items).items():
            params[name] = np.ones(shape, np.float32) if scale is None else np.zeros(shape, np.float32)
            if scale:
                for block in blocks(shape[0], _ROWS):  # drawn as float64: not all at once
                    params[name][block] = rng.standard_normal(params[name][block].shape) * scale
        return params

    # ---- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Interactions,
        *,
        validation: Holdout | str | None = "last",
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 60.0,
    ) -> Self:
        """Train.

        Parameters
        ----------
        data : Interactions
        validation : Holdout, "last" or None
            Where NDCG@10 decides when to stop and which epoch is kept. "last": each user's last event is held out of
            ``data`` for it. None: all epochs on all of ``data``.
        callbacks : functions of the epoch's history entry; a true result stops the training
        progress : bool, default None
            The progress line; None shows it when standard error is a terminal.
        checkpoint : path, optional
            Where the run is saved while it goes on and when it ends. If the file is there already the run goes on from
            it and ends with the same bits as without interruption; a finished one is not trained again.
        checkpoint_seconds : float, default 60
            Least time between two saves.

        Raises
        ------
        ValueError
            A setting out of range; no user with two events; a checkpoint that is damaged or of another run.
        FloatingPointError
            The loss is not finite.

        Notes
        -----
        Ctrl-C ends the training early and keeps the best weights so far.
        """
        self._check()
        settings = self._settings()
        data, holdout = _validation(data, validation)
        self._set_catalogue(data)
        self._train(
            self.initial_parameters(len(self.item_ids_)),
            data,
            settings,
            holdout,
            callbacks,
            progress,
            None if checkpoint is None else (checkpoint, checkpoint_seconds),
        )
        return self

    def _settings(self, **changes: Any) -> Settings:
        return Settings(**{field.name: plain(getattr(self, field.name)) for field in fields(Settings)} | changes)

    def _train(
        self,
        params: Parameters,
        data: Interactions,
        settings: Settings,
        holdout: Holdout | None,
        callbacks: Iterable[Callback],
        progress: bool | None,
        checkpoint: tuple[str | os.PathLike[str], float] | None = None,
    ) -> None:
        def ndcg(params: Parameters) -> float:
            assert holdout is not None
            self.params_, self._quantized = params, None  # trained in place: the same array, other vectors
            return evaluate(self, holdout, k=10, coverage=False)["ndcg@10"]

        kept = None
        if checkpoint is not None:
            kept = Checkpoint(checkpoint[0], seconds=checkpoint[1], data=_fingerprint(data, holdout))
        outcome = train(
            self.steps(),
            params,
            data.sequences,
            settings,
            popularity=self.popularity_,
            validate=ndcg if holdout is not None else None,
            callbacks=callbacks,
            progress=progress,
            checkpoint=kept,
        )
        self.params_, self.history_, self.best_epoch_ = outcome.params, outcome.history, outcome.best_epoch
        self.interrupted_, self._quantized = outcome.interrupted, None

    def _facts(self) -> list[tuple[str, Any]]:
        if not hasattr(self, "history_"):
            return super()._facts()
        best = [entry["metric"] for entry in self.history_ if entry["epoch"] == self.best_epoch_]
        facts = [("epochs", len(self.history_)), ("best epoch", self.best_epoch_)]
        return super()._facts() + facts + [("validation NDCG@10", metric) for metric in best if metric is not None]

    # ---- a model that grows -------------------------------------------------------------------------------------

    def fit_more(
        self,
        data: Interactions,
        *,
        epochs: int = 5,
        learning_rate: float | None = None,
        validation: Holdout | str | None = "last",
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
        validation, callbacks, progress
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
        model.add_items(new, titles=titles)
        rows = rows_of(data.item_ids, model.item_ids_)[data.sequences.values]
        data = Interactions.from_sequences(data.user_ids, model.item_ids_, Ragged(rows, data.sequences.offsets))
        data, holdout = _validation(data, validation)
        model.popularity_ = model.popularity_ + data.popularity()
        params = {name: weight.copy() for name, weight in model.params_.items()}
        model._train(params, data, settings, holdout, callbacks, progress)
        done = len(self.history_)
        for entry in model.history_:
            entry["epoch"] += done
        model.history_, model.best_epoch_ = self.history_ + model.history_, model.best_epoch_ + done
        self.__dict__.update(model.__dict__)
        return self

    def add_items(self, item_ids: Any, *, like: Any = None, titles: Mapping[Any, str] | None = None) -> Self:
        """Add items to the catalogue without training.

        Parameters
        ----------
        item_ids : ids that the model does not have
        like : one list of known ids for each new item, optional
            A new item begins with the mean vector of these; without them (or with an empty list) with that of the whole
            catalogue, which ranks it in the middle until `fit_more` has seen it.
        titles : mapping of id to str, optional
            An item without one shows its id; ignored if the model has no titles.

        Raises
        ------
        ValueError
            An id is in the catalogue already, or is given twice; an id of ``like`` is not in the catalogue; not one
            list for each new item.
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
        params = dict(self.params_)
        for table in set(self._tables):
            old = params[table]
            vectors = np.repeat(old.mean(axis=0, keepdims=True), len(ids), axis=0)
            for i in np.flatnonzero(lists.lengths):
                vectors[i] = old[rows[lists.offsets[i] : lists.offsets[i + 1]]].mean(axis=0)
            params[table] = np.concatenate([old, vectors])[order]
        if self.titles_ is not None:
            new = [(titles or {}).get(i, str(i)) for i in ids.tolist()]
            self.titles_ = np.concatenate([self.titles_, np.array(new, str)])[order]
        counts = np.concatenate([self.popularity_, np.zeros(len(ids), np.int64)])[order]
        self.params_, self.item_ids_, self.popularity_ = params, everything[order], counts
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
        if self.titles_ is not None:
            self.titles_ = self.titles_[kept]
        return self

    # ---- answering ----------------------------------------------------------------------------------------------

    def _encode(self, histories: Ragged) -> NDArray[np.float32]:
        windows = histories.tail(self.max_len)
        h = np.empty((len(windows), self.dim), np.float32)
        steps, ws, start = self.steps(), of_this_thread(), 0
        while start < len(windows):  # at least one history, and as many events as stay in the caches
            room = windows.offsets[start] + _FLOATS // self.dim
            end = max(start + 1, int(np.searchsorted(windows.offsets, room, "right")) - 1)
            block = windows[start:end]
            ws.reset()
            h[start:end], _ = forward(steps, Run(block.values, block.offsets, self.params_, ws=ws))
            start = end
        return h

    def encode(self, histories: Any) -> NDArray[np.float32]:
        """What is compared with the item vectors: (n, dim) float32, zeros for a history without known events.

        Parameters
        ----------
        histories
            As in `recommend`.
        """
        return self._encode_or_zero(self._rows_of_histories(histories)[0])

    def _encode_or_zero(self, rows: Ragged) -> NDArray[np.float32]:
        known = np.flatnonzero(rows.lengths)
        h = np.zeros((len(rows), self.dim), np.float32)
        h[known] = self._encode(rows.take(known))
        return h

    def attention_weights(self, history: Any, block: int = -1) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """How each event of one history weighs the events before it and itself, in one attention step.

        Parameters
        ----------
        history : item ids, oldest first; only the newest ``max_len`` known ones are looked at
        block : int, default the last

        Returns
        -------
        weights : (n_heads, n, n) float32
            ``weights[head, i, j]`` is the part that event j has in what event i sees; rows sum to 1.
        item_ids : (n,)
            The events.
        """
        rows, _ = self._rows_of_histories(history)
        if len(rows) != 1 or not len(rows.values):
            raise ValueError(
                f"history: expected one history with a known event, got {len(rows)}, {len(rows.values)} known"
            )
        window = rows.tail(self.max_len)
        steps = self.steps()
        places = [place for place, step in enumerate(steps) if step["kind"] == "attention"]
        if not -len(places) <= block < len(places):
            raise ValueError(f"block: expected one of {len(places)}, got {block}")
        step, run = steps[places[block]], Run(window.values, window.offsets, self.params_)
        x, _ = forward(steps[: places[block]], run)
        (q, k, _), _ = heads(x, step, run)
        bias = self.params_[step["distance_bias"]] if "distance_bias" in step else None
        weights = ops.attention_weights(q, k, run.cu_seqlens, run.cu_seqlens, causal=True, bias=bias)[0]
        return weights, self.item_ids_[window.values]

    def explain(self, history: Any, item: Any) -> Explanation:
        """Why an item has its score after a history: attention, and beside it what each event changes.

        Attention alone is no proof of cause: it says from where values are taken, not what they do to the score, and
        an event with a large weight may change nothing. The effect is an experiment with the model: the event is
        removed and the item is scored again. It says what the model does, not why the user does it, and where two
        events tell the same, removing one of them may show nothing.

        Parameters
        ----------
        history : item ids, oldest first
            One history. Unknown ids are skipped; only the newest ``max_len`` known events count, as in `recommend`,
            and no older one takes the place of an event that is removed.
        item : an item id

        Returns
        -------
        Explanation
            With `text`, `plot`, and as arrays: the attention weights of each block and head; attention rolled to the
            input, heads averaged, each block ``0.5 A + 0.5 I`` for the residual (Abnar and Zuidema 2020,
            arXiv:2005.00928); and the leave-one-out effects. Without its only event a history scores 0.

        Raises
        ------
        ValueError
            The item is not in the catalogue, or not one history with a known event.
        TypeError
            Ids of another type than the catalogue's.
        """
        self._check_fitted()
        return explain(self, history, item)

    def _scores(self, histories: Ragged) -> NDArray[np.float32]:
        return ops.linear_forward(self._encode(histories), self.params_[self._tables[1]])[0]

    def _top_k(
        self, histories: Ragged, k: int, allow: Ragged | None, deny: Ragged | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        items = self.params_[self._tables[1]]
        quantized = self._quantized_items(items) if allow is None and len(items) >= _QUANTIZED else None
        return ops.topk(self._encode(histories), items, k, allow, deny, quantized=quantized)

    def _quantized_items(self, items: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Made once for an array: a catalogue that changes is a new one. Two threads may both make it."""
        kept = self._quantized
        if kept is None or kept[0] is not items:
            self._quantized = kept = items, ops.quantize_items(items)
        return kept[1]

    def _ranks(self, histories: Ragged, targets: Ragged, deny: Ragged | None) -> NDArray[np.float64]:
        above, equal = ops.rank_counts(self._encode(histories), self.params_[self._tables[1]], targets, deny)
        return 1 + above + equal / 2

    def _item_similarities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Cosine of the item vectors."""
        items = self.params_[self._tables[0]]
        lengths = np.sqrt((items * items).sum(axis=1, keepdims=True))
        unit = items / np.maximum(lengths, np.float32(1e-12))
        return ops.linear_forward(np.ascontiguousarray(unit[rows]), unit)[0]

    # ---- file ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one safetensors file: to a temporary name beside it, synced, renamed."""
        self._check_fitted()
        header = {
            "kind": self.kind,
            "settings": {name: plain(value) for name, value in self.get_params().items()},
            "steps": self.steps(),
            "best_epoch": self.best_epoch_,
            "history": self.history_,
        }
        model_file.write(
            path,
            header,
            params=self.params_,
            item_ids=self.item_ids_,
            titles=self.titles_,
            popularity=self.popularity_,
        )

    @classmethod
    def _from_file(cls, content: model_file.Content) -> Self:
        model = cls(**content.header["settings"])
        model._check()
        expected = model.parameters(len(content.item_ids))
        model_file.check_shapes(content, {name: shape for name, (shape, _) in expected.items()})
        if json.loads(json.dumps(model.steps())) != content.header["steps"]:
            raise ValueError(f"{content.path}: the list of steps does not belong to the settings")
        model.item_ids_, model.titles_, model.popularity_ = content.item_ids, content.titles, content.popularity
        model.params_ = content.params
        model.best_epoch_, model.history_ = content.header["best_epoch"], content.header["history"]
        model.interrupted_ = False
        return model


def _validation(data: Interactions, given: Holdout | str | None) -> tuple[Interactions, Holdout | None]:
    """What to train on, and the holdout that chooses the epoch; None where nobody is in it."""
    if isinstance(given, str):
        if given != "last":
            raise ValueError(f"validation: expected a Holdout, 'last' or None, got {given!r}")
        data, given = leave_last_out(data)
    return data, given if given is not None and len(given) else None


def _fingerprint(data: Interactions, holdout: Holdout | None) -> str:
    """SHA-256 over what a run is trained and validated on."""
    parts = [data.sequences] + ([] if holdout is None else [holdout.histories, holdout.targets])
    text = hashlib.sha256()
    for part in parts:
        text.update(part.offsets.data)
        text.update(np.ascontiguousarray(part.values).data)
    text.update("\0".join(map(str, data.item_ids.tolist())).encode())
    return text.hexdigest()
