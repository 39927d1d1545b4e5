"""What every model shares that reads a history as a sequence: training, answering, its file.

A model is a subclass: settings in its constructor (those of `regard.train.Settings` and ``dim``, ``max_len`` among
them), a list of `steps`, and its `parameters`. It lies in ``models`` and touches nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from regard import _core, model_file, ops
from regard.checkpoint import Checkpoint
from regard.data import Interactions
from regard.explain import Explanation, explain
from regard.features import EncodedFeatures
from regard.growth import GrowingModel, validation_of
from regard.ids import ids_of
from regard.layers import Run, Step, forward, heads, item_tables, unit_rows
from regard.metrics import evaluate
from regard.ragged import Ragged
from regard.ranking import blocks
from regard.recommender import plain
from regard.timed import TimedHistories
from regard.train import Callback, Settings, train

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.cuda.model import DeviceModel
    from regard.sessions import Session
    from regard.splits import Holdout

    Parameters = dict[str, NDArray[np.float32]]

_ROWS = 512  # of a weight drawn together
_QUANTIZED = 1024  # items from which an 8-bit copy of them pays


class Identity(NamedTuple):
    """A square matrix that begins as so many times the identity."""

    factor: float


Beginning = float | Identity | None  # standard deviation of the normal distribution, or None: all 1
Initial = tuple[tuple[int, ...], Beginning]  # shape, and how it begins


class SequenceModel(GrowingModel):
    """Base of the models in `regard.models`."""

    max_len: int
    normalize_items: bool
    time_bias: bool
    random_state: int
    device: str = "cpu"
    _quantized: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None  # item vectors, and their 8-bit copy
    _packed: tuple[NDArray[Any], dict[str, NDArray[Any]]] | None = None  # item ids, and as they lie in a file
    # what it was made of, the same kept alive, whether it is whole, and the model
    _serving: tuple[tuple[int, ...], tuple[Any, ...], bool, _core.ServingModel] | None = None
    _there: tuple[tuple[Any, ...], DeviceModel] | None = None  # what was copied to the device, and the copy

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
        for name, (shape, scale) in self._with_features(self.parameters(n_items)).items():
            if isinstance(scale, Identity):
                params[name] = scale.factor * np.eye(*shape, dtype=np.float32)
                continue
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
        exclude_seen: bool = True,
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
        exclude_seen : bool, default True
            Whether the validation ranks only items that the history lacks, as `regard.evaluate`; False where people
            come back to the same items.
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
        data, holdout = validation_of(data, validation)
        self._set_catalogue(data)
        self._learn_features(data.features)
        self._train(
            self.initial_parameters(len(self.item_ids_)),
            data,
            settings,
            holdout,
            callbacks,
            progress,
            None if checkpoint is None else (checkpoint, checkpoint_seconds),
            exclude_seen,
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
        exclude_seen: bool = True,
    ) -> None:
        def ndcg(params: Parameters) -> float:
            assert holdout is not None
            self.params_ = self._folded(_on_host(params))
            self._quantized = self._serving = None  # trained in place: the same arrays, other vectors
            return evaluate(self, holdout, k=10, exclude_seen=exclude_seen, coverage=False)["ndcg@10"]

        sequences = data.timed_sequences if self.time_bias else data.sequences
        if self.time_bias and not isinstance(sequences, TimedHistories):
            raise ValueError("data: a model with a time bias needs the time of every event, some or all are not known")
        if self.device == "cuda":
            from regard.cuda.model import to_device  # noqa: PLC0415

            if self.features_ is not None:
                raise ValueError("device: expected 'cpu' where items have features, got 'cuda'")
            params = to_device(params)
        kept = None
        if checkpoint is not None:
            fingerprint = _fingerprint(data, sequences, holdout, self.features_)
            kept = Checkpoint(checkpoint[0], seconds=checkpoint[1], data=fingerprint, device=self.device)
        outcome = train(
            self.steps(),
            params,
            sequences,
            settings,
            popularity=self.popularity_,
            features=self.features_,
            validate=ndcg if holdout is not None else None,
            callbacks=callbacks,
            progress=progress,
            checkpoint=kept,
        )
        self.params_, self.history_ = self._folded(_on_host(outcome.params)), outcome.history
        self.best_epoch_ = outcome.best_epoch
        self.interrupted_, self._quantized, self._serving = outcome.interrupted, None, None

    def _facts(self) -> list[tuple[str, Any]]:
        if not hasattr(self, "history_"):
            return super()._facts()
        best = [entry["metric"] for entry in self.history_ if entry["epoch"] == self.best_epoch_]
        facts = [("epochs", len(self.history_)), ("best epoch", self.best_epoch_)]
        return super()._facts() + facts + [("validation NDCG@10", metric) for metric in best if metric is not None]

    def _folded(self, params: Parameters) -> Parameters:
        params = super()._folded(params)
        if not self.normalize_items:
            return params
        return params | {table: unit_rows(params[table])[0] for table in set(self._tables)}

    # ---- answering ----------------------------------------------------------------------------------------------

    def _served(self, *, whole: bool = False) -> _core.ServingModel:
        """The model as the library answers with it, made anew where a parameter or the catalogue is another array.

        Without ``whole`` it is good for encoding alone, and made in no time.
        """
        arrays = (*self.params_.values(), self.item_ids_, self.popularity_)
        of = tuple(map(id, arrays))
        kept = self._serving
        if kept is None or kept[0] != of or (whole and not kept[2]):
            header = json.dumps({"steps": self.steps(), "settings": {"max_len": plain(self.max_len)}})
            tensors = self.params_ | {"popularity": self.popularity_}
            if whole:
                if self._packed is None or self._packed[0] is not self.item_ids_:
                    self._packed = self.item_ids_, model_file.id_tensors(self.item_ids_)
                tensors |= self._packed[1]
                items = self.params_[self._tables[1]]
                if len(items) >= _QUANTIZED:
                    tensors[model_file.QUANTIZED] = self._quantized_items(items)
            else:
                tensors["ids.items"] = np.arange(len(self.item_ids_))
            self._serving = kept = of, arrays, whole, _core.ServingModel(header, tensors)
        return kept[3]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_serving", "_there")}

    def _on_device(self) -> DeviceModel | None:
        """The model there, copied anew where a parameter is another array; None if it answers from here."""
        if self.device == "cpu":
            return None
        from regard.cuda.model import DeviceModel  # noqa: PLC0415

        arrays, kept = tuple(self.params_.values()), self._there
        if kept is None or any(one is not other for one, other in zip(kept[0], arrays, strict=True)):
            self._check()
            self._there = kept = arrays, DeviceModel(self.steps(), self.params_, self.max_len)
        return kept[1]

    def _encode(self, histories: Ragged) -> NDArray[np.float32]:
        if (there := self._on_device()) is not None:
            on_host: NDArray[np.float32] = there.encode(histories).numpy()
            return on_host
        h = np.empty((len(histories), self.dim), np.float32)
        items = np.ascontiguousarray(histories.values, np.int32)
        timed = self._timed(histories)
        times, asked_at = (None, None) if timed is None else (timed.times, timed.asked_at)
        self._served().encode(items, histories.offsets, times, asked_at, h)
        return h

    def _recommend_one(self, history: Any, k: int, exclude_seen: bool) -> Any:
        if self.device != "cpu":
            return None
        found = self._served(whole=True).recommend_one(history, k, exclude_seen)
        if found is None or self.item_ids_.dtype.kind == "i":
            return found
        return ids_of(found[0], self.item_ids_), *found[1:]

    def session(self, history: Any = ()) -> Session:
        """A history that grows, whose answers cost what is new in it.

        Parameters
        ----------
        history : item ids, oldest first, default none
            Unknown ids are skipped; only the newest ``max_len`` known events count. A model with a time bias needs
            `TimedHistories` of one row, or none.

        Returns
        -------
        Session
            With ``append``, ``recommend`` and ``window``.

        Raises
        ------
        ValueError
            The model has a time bias, and the events have no times.
        TypeError
            Ids of another type than the catalogue's.
        """
        from regard.sessions import Session  # noqa: PLC0415

        self._check_fitted()
        session = Session(self)
        if isinstance(history, TimedHistories):
            if len(history) != 1:
                raise ValueError(f"history: expected one history, got {len(history)}")
            session.append(history.values, history.times)
        elif np.ndim(history) == 0 or len(history):
            session.append(list(history) if isinstance(history, tuple) else history)
        return session

    def _timed(self, histories: Ragged) -> TimedHistories | None:
        """The histories with their times, where the model needs them."""
        if not self.time_bias:
            return None
        if not isinstance(histories, TimedHistories):
            raise ValueError(
                "histories: expected TimedHistories or a data frame with datetime, as the model has a time bias"
            )
        return histories

    def _run(self, windows: Ragged) -> Run:
        run, timed = Run(windows.values, windows.offsets, self.params_), self._timed(windows)
        if timed is not None:
            run.times, run.next_times = timed.times, timed.next_times
        return run

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
        step, run = steps[places[block]], self._run(window)
        x, _ = forward(steps[: places[block]], run)
        (q, k, _), _ = heads(x, step, run)
        how: dict[str, Any] = {"bias": self.params_[step["distance_bias"]] if "distance_bias" in step else None}
        if "time_bias" in step:
            how |= {"time_bias": self.params_[step["time_bias"]], "times_q": run.next_times, "times_k": run.times}
        weights = ops.attention_weights(q, k, run.cu_seqlens, run.cu_seqlens, causal=True, **how)[0]
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
        if (there := self._on_device()) is not None:
            return there.scores(histories)
        return ops.linear_forward(self._encode(histories), self.params_[self._tables[1]])[0]

    def _top_k(
        self, histories: Ragged, k: int, allow: Ragged | None, deny: Ragged | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if (there := self._on_device()) is not None:
            return there.top_k(histories, k, allow, deny)
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
        if (there := self._on_device()) is not None:
            above, equal = there.rank_counts(histories, targets, deny)
        else:
            above, equal = ops.rank_counts(self._encode(histories), self.params_[self._tables[1]], targets, deny)
        return 1 + above + equal / 2

    def _item_similarities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Cosine of the item vectors."""
        unit, _ = unit_rows(self.params_[self._tables[0]])
        return ops.linear_forward(np.ascontiguousarray(unit[rows]), unit)[0]

    # ---- file ---------------------------------------------------------------------------------------------------

    def _file(self, **entries: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        header, tensors = super()._file(**entries)
        items = self.params_[self._tables[1]]
        if len(items) >= _QUANTIZED:
            tensors[model_file.QUANTIZED] = self._quantized_items(items)
        return header, tensors

    @classmethod
    def _from_file(cls, content: model_file.Content) -> Self:
        model = cls(**content.header["settings"])
        model._check()
        model._restore(content, model.parameters(len(content.item_ids)))
        model._packed = content.item_ids, content.id_tensors
        if content.quantized is not None:
            items = content.params[model._tables[1]]
            if content.quantized.shape != (expected_shape := _core.quantized_shape(*items.shape)):
                raise ValueError(
                    f"{content.path}: {model_file.QUANTIZED}: expected shape {expected_shape}, "
                    f"got {content.quantized.shape}"
                )
            model._quantized = items, content.quantized
        return model


def _on_host(params: Parameters) -> Parameters:
    """The parameters as NumPy arrays: copies of those on a device, the others themselves."""
    return {name: np.asarray(weight) for name, weight in params.items()}


def _fingerprint(
    data: Interactions, sequences: Ragged, holdout: Holdout | None, features: EncodedFeatures | None
) -> str:
    """SHA-256 over what a run is trained and validated on."""
    parts = [sequences] + ([] if holdout is None else [holdout.histories, holdout.targets])
    text = hashlib.sha256()
    for part in parts:
        text.update(part.offsets.data)
        text.update(np.ascontiguousarray(part.values).data)
    if isinstance(sequences, TimedHistories):
        text.update(sequences.times.data)
    text.update("\0".join(map(str, data.item_ids.tolist())).encode())
    if features is not None:
        features.add_to(text)
    return text.hexdigest()
