"""What every model shares that reads a history as a sequence: training, answering, its file.

A model is a subclass: settings in its constructor (those of `regard.train.Settings` and ``dim``, ``max_len`` among
them), a list of `steps`, and its `parameters`. It lies in ``models`` and touches nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from regard import _core, model_file
from regard.checkpoint import Checkpoint
from regard.data import Interactions
from regard.features import EncodedFeatures
from regard.growth import validation_of
from regard.layers import unit_rows
from regard.metrics import evaluate
from regard.ragged import Ragged
from regard.ranking import blocks
from regard.recommender import plain, undone_if_it_fails
from regard.sequence_answers import SequenceAnswers
from regard.timed import TimedHistories
from regard.train import Callback, Settings, train

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.splits import Holdout

    Parameters = dict[str, NDArray[np.float32]]

_ROWS = 512  # of a weight drawn together


class Identity(NamedTuple):
    """A square matrix that begins as so many times the identity."""

    factor: float


Beginning = float | Identity | None  # standard deviation of the normal distribution, or None: all 1
Initial = tuple[tuple[int, ...], Beginning]  # shape, and how it begins


class SequenceModel(SequenceAnswers):
    """Base of the models in `regard.models`: `steps` and `parameters` are theirs, all else is here."""

    random_state: int

    def parameters(self, n_items: int) -> dict[str, Initial]:
        """Name, shape and beginning of every parameter."""
        raise NotImplementedError

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

    @undone_if_it_fails
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
            A setting out of range; no user with two events; a checkpoint that is damaged or of another run. The model
            is then as it was.
        FloatingPointError
            The loss is not finite.

        Notes
        -----
        Ctrl-C ends the training early and keeps the best weights so far.
        """
        self._take_settings()
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

        if settings.mask_seen and not exclude_seen:
            raise ValueError("exclude_seen: expected True with mask_seen=True, got False")
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
            judged_by = {"exclude_seen": exclude_seen}
            kept = Checkpoint(
                checkpoint[0], seconds=checkpoint[1], data=fingerprint, device=self.device, judged_by=judged_by
            )
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

    # ---- file ---------------------------------------------------------------------------------------------------

    def _file(self, **entries: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        header, tensors = super()._file(**entries)
        return header, tensors | self._quantized_items()

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
