"""What models share that tell the probability of a click on a candidate: training, answering, their file.

A model is a subclass: settings in its constructor (those of `regard.train.RunSettings` and those named below), its
`parameters`, the `steps` of the network on top, and how a candidate attends. It lies in ``models``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regard import model_file
from regard.baselines import Popularity
from regard.checkpoint import Checkpoint
from regard.click_metrics import auc, log_loss, platt, sigmoid, user_auc
from regard.data import Interactions
from regard.growth import GrowingCatalogue
from regard.ids import as_ids, drop_unknown, id_lists, rows_of
from regard.impressions import Feature, Impressions, encode_features, learn_features
from regard.layers import Run, Step
from regard.ragged import Ragged
from regard.ranking import blocks
from regard.recommender import POPULAR, SHORT, UNKNOWN, Recommendations, plain, undone_if_it_fails
from regard.target_network import ITEMS, Attention, Batch, ClickTraining, Negatives, fingerprint, item_vectors, logits
from regard.train import Callback, RunSettings, complete
from regard.workspace import of_this_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Parameters = dict[str, NDArray[np.float32]]
    Shapes = dict[str, tuple[tuple[int, ...], float]]

_PAIRS = 1 << 17  # of candidates and events scored at a time


class ClickModel(GrowingCatalogue):
    """Base of `TargetAttentionRecommender`."""

    max_len: int
    unknown_rate: float
    n_negatives: int
    negatives: str
    stop_by: str
    random_state: int
    calibration_: tuple[float, float]

    # ---- for subclasses -----------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """The network on top as a list of steps; see `regard.layers`."""
        raise NotImplementedError

    def parameters(self, n_items: int, features: list[Feature]) -> Shapes:
        """Shape and standard deviation at the beginning; ``features`` are those of users and context."""
        raise NotImplementedError

    def _check(self) -> None:
        """ValueError for a setting of the model that is out of range."""

    @property
    def _attention(self) -> Attention:
        raise NotImplementedError

    @property
    def _tables(self) -> tuple[str, ...]:
        return (ITEMS,)

    def initial_parameters(self, n_items: int, features: list[Feature]) -> Parameters:
        """The parameters before training, drawn with ``random_state``."""
        rng, params = np.random.default_rng(self.random_state), {}
        for name, (shape, scale) in self._with_features(self.parameters(n_items, features)).items():
            params[name] = (rng.standard_normal(shape) * scale).astype(np.float32)
            if name.startswith("feature."):
                params[name][-1] = 0
        return params

    # ---- training -----------------------------------------------------------------------------------------------

    @undone_if_it_fails
    def fit(
        self,
        data: Impressions | Interactions,
        *,
        validation: Impressions | str | None = "last",
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 60.0,
    ) -> Self:
        """Train.

        Parameters
        ----------
        data : Impressions or Interactions, with item features or without
            Labelled impressions; or positives, each with the user's earlier events as history and drawn negatives.
            Probabilities then mean "rather than a drawn item".
        validation : Impressions, "last" or None
            Where the epoch is chosen and probabilities are calibrated. "last": the last tenth of the impressions, which
            should be in the order of time, or each user's last event. None: all epochs, not calibrated.
        callbacks, progress, checkpoint, checkpoint_seconds
            As of `SelfAttentionRecommender.fit`. Ctrl-C ends the training early and keeps the best weights so far.

        Raises
        ------
        ValueError
            A setting out of range; nothing to train on; a checkpoint that is damaged or of another run. The model is
            then as it was.
        TypeError
            Neither impressions nor interactions.
        """
        self._take_settings()
        self._check()
        settings = RunSettings(**{field.name: plain(getattr(self, field.name)) for field in fields(RunSettings)})
        if isinstance(data, Interactions):
            batch, labels, held = self._from_interactions(data, validation)
        elif isinstance(data, Impressions):
            if isinstance(validation, str):
                if validation != "last":
                    raise ValueError(f"validation: expected Impressions, 'last' or None, got {validation!r}")
                n = len(data) - len(data) // 10
                data, validation = data.take(np.arange(n)), data.take(np.arange(n, len(data)))
            batch, labels, held = self._from_impressions(data, validation)
        else:
            raise TypeError(f"data: expected Impressions or Interactions, got {type(data).__name__}")
        self._learn_features(data.features if isinstance(data, Interactions) else data.item_features)
        report: dict[str, float] = {}

        def validate(params: Parameters) -> float:
            assert held is not None
            z = self._logits(held[0], self._folded(params))
            report.update(log_loss=log_loss(held[1], sigmoid(z)), auc=auc(held[1], z))
            report["user_auc"] = user_auc(held[1], z, held[2])
            return -report["log_loss"] if self.stop_by == "log_loss" or math.isnan(report["auc"]) else report["auc"]

        params = self.initial_parameters(len(self.item_ids_), self.user_features_ + self.context_)
        run = ClickTraining(
            self._attention,
            self.steps(),
            params,
            settings,
            batch,
            labels,
            unknown_rate=float(self.unknown_rate),
            features=self.features_,
            report=report,
        )
        kept = None
        if checkpoint is not None:
            data_read = fingerprint(batch, labels, held, self.features_)
            judged_by = {"stop_by": self.stop_by}
            kept = Checkpoint(checkpoint, seconds=checkpoint_seconds, data=data_read, judged_by=judged_by)
        judge = None if held is None else validate
        outcome = complete(run, validate=judge, callbacks=callbacks, progress=progress, checkpoint=kept)
        self.params_, self.history_ = self._folded(outcome.params), outcome.history
        self.best_epoch_, self.interrupted_, self.calibration_ = outcome.best_epoch, outcome.interrupted, (1.0, 0.0)
        if held is not None:
            self.calibration_ = platt(self._logits(held[0], self.params_), held[1])
        return self

    def _from_impressions(self, data: Impressions, validation: Impressions | None) -> tuple[Batch, Any, Any]:
        ids = [part.values for part in (data.candidates, data.histories) if len(part.values)]
        if not ids:
            raise ValueError("data: expected at least one candidate, got none")
        self.item_ids_, self.titles_ = np.unique(np.concatenate(ids)), None
        clicked = data.candidates.values[data.labels == 1]
        self.popularity_ = np.bincount(rows_of(clicked, self.item_ids_), minlength=len(self.item_ids_))
        self.user_features_, self.context_ = learn_features(data.user_features), learn_features(data.context)
        held = None
        if validation is not None and len(validation):
            held = self._batch_of(validation)[0], validation.labels, validation.groups
        return self._batch_of(data)[0], data.labels, held

    def _from_interactions(self, data: Interactions, validation: Any) -> tuple[Batch, Any, Any]:
        if validation not in ("last", None):
            raise ValueError(f"validation: expected 'last' or None with interactions, got {validation!r}")
        self._set_catalogue(data)
        self.user_features_, self.context_ = [], []
        negatives = Negatives(data, self.n_negatives, self.negatives, self.random_state)
        at, held_at = negatives.places(validation == "last")
        held = None
        if len(held_at):
            candidates, labels = negatives.beside(held_at, epoch=0)
            held = (
                negatives.batch(held_at, self.max_len, candidates),
                labels,
                negatives.users[held_at][candidates.row_of],
            )
        batch = negatives.batch(at, self.max_len, Ragged(data.sequences.values[at], np.arange(len(at) + 1)))
        return batch, lambda epoch: negatives.beside(at, epoch=epoch), held

    # ---- answering ----------------------------------------------------------------------------------------------

    def _batch_of(self, data: Impressions) -> tuple[Batch, NDArray[np.int64], NDArray[np.int64]]:
        """In rows; unknown events left out, unknown candidates as the last row; how many there are of both."""
        like, n = self.item_ids_, len(data)
        ids = as_ids("histories", data.histories.values, like)
        known = drop_unknown(Ragged(rows_of(ids, like), data.histories.offsets))
        rows = rows_of(as_ids("candidates", data.candidates.values, like), like)
        unknown = np.bincount(data.candidates.row_of, rows < 0, n).astype(np.int64)
        candidates = Ragged(np.where(rows < 0, np.int32(len(like)), rows), data.candidates.offsets)
        users = encode_features("user_features", data.user_features, self.user_features_, n)
        moment = encode_features("context", data.context, self.context_, n)
        codes, numbers = (np.concatenate([a, b], axis=1) for a, b in zip(users, moment, strict=True))
        n_unknown = data.histories.lengths - known.lengths
        return Batch(known.tail(self.max_len), candidates, codes, numbers), n_unknown, unknown

    def _logits(self, batch: Batch, params: Parameters) -> NDArray[np.float64]:
        steps, ws, attention = self.steps(), of_this_thread(), self._attention
        n_q, n_k = batch.candidates.lengths, batch.histories.lengths
        cost = np.cumsum(n_q * (n_k + 1) + n_k)
        out, start = np.empty(len(batch.candidates.values)), 0
        while start < len(cost):  # at least one impression
            before = cost[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(cost, before + _PAIRS, "right")))
            part = batch.take(np.arange(start, end))
            ws.reset()
            run = Run(part.histories.values, part.histories.offsets, params, ws=ws)
            place = slice(batch.candidates.offsets[start], batch.candidates.offsets[end])
            out[place] = logits(attention, steps, run, part)[0]
            start = end
        return out

    def _asked(self, histories: Any, candidates: Any, user_features: Any, context: Any) -> Impressions:
        self._check_fitted()
        past, _ = id_lists("histories", histories, self.item_ids_, known=True)
        shown, flat = id_lists("candidates", candidates, self.item_ids_)
        n = len(past)
        if flat:
            shown = shown.take(np.zeros(n, np.int64))
        if len(shown) != n:
            raise ValueError(f"candidates: expected one flat list or {n} lists (as histories), got {len(shown)}")
        return Impressions._request(past, shown, user_features, context)

    def _probabilities(self, batch: Batch) -> NDArray[np.float32]:
        slope, shift = self.calibration_
        return sigmoid(slope * self._logits(batch, self.params_) + shift).astype(np.float32)

    def predict(
        self,
        histories: Any,
        candidates: Any = None,
        *,
        user_features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Ragged:
        """Calibrated probability of a click on each candidate.

        Parameters
        ----------
        histories : one or many histories of item ids, oldest first; or Impressions, alone
            Unknown ids are skipped.
        candidates : item ids: one flat list for all histories, or one list for each
            All of one history's share the work on it. An id that the catalogue lacks is scored with the one vector
            that stands for unknown items; `add_items` gives it one of its own.
        user_features, context : mapping of name to (n,) values
            Exactly the columns of the training.

        Returns
        -------
        Ragged of float32
            One row for each history.
        """
        self._check_fitted()
        given = isinstance(histories, Impressions)
        asked = histories if given else self._asked(histories, candidates, user_features, context)
        return Ragged(self._probabilities(self._batch_of(asked)[0]), asked.candidates.offsets)

    def rank(
        self,
        histories: Any,
        candidates: Any,
        *,
        user_features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Recommendations:
        """The candidates of each history by probability, the best first; arguments as of `predict`.

        Returns
        -------
        Recommendations
            As wide as the longest list. Scores are probabilities, so they compare across rows too; equal ones keep the
            order of the list. Flag ``UNKNOWN``: the row has a candidate that training did not have.
        """
        return self._ranked(self._asked(histories, candidates, user_features, context))

    def _ranked(self, asked: Impressions, k: int | None = None) -> Recommendations:
        batch, n_unknown, unknown = self._batch_of(asked)
        p, lengths, row = self._probabilities(batch), asked.candidates.lengths, asked.candidates.row_of
        order = np.lexsort((-p, row))
        place = np.arange(len(p)) - asked.candidates.offsets[row]
        width, ids = int(lengths.max(initial=0)), asked.candidates.values
        shape = (len(lengths), width if k is None else max(k, width))
        items = np.full(shape, -1 if ids.dtype.kind == "i" else "", ids.dtype)
        scores = np.full(shape, -np.inf, np.float32)
        items[row, place], scores[row, place] = ids[order], p[order]
        k = width if k is None else k
        flags = np.where(unknown > 0, UNKNOWN, 0) | np.where(lengths < k, SHORT, 0)
        return Recommendations(items[:, :k], scores[:, :k], flags.astype(np.uint8), n_unknown)

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        *,
        retriever: Any = None,
        n_candidates: int = 500,
        user_features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        allow_items: Any = None,
        deny_items: Any = None,
        exclude_seen: bool = True,
    ) -> Recommendations:
        """The k best of the items that a first stage finds.

        Parameters
        ----------
        retriever : a fitted recommender, default: the most clicked items
            Gives ``n_candidates`` items for each history, which are then ranked by probability. It is a model by
            itself, of any kind and trained on any data, so it is saved in a file of its own.
        n_candidates : int, default 500
        histories, k, allow_items, deny_items, exclude_seen
            As of `Recommender.recommend`.
        user_features, context
            As of `predict`.
        """
        self._check_fitted()
        if k < 1 or n_candidates < k:
            raise ValueError(f"k, n_candidates: expected 1 <= k <= n_candidates, got {k} and {n_candidates}")
        if retriever is None:
            retriever = Popularity()
            retriever.item_ids_, retriever.titles_ = self.item_ids_, self.titles_
            retriever.popularity_ = self.popularity_
        limits = {"allow_items": allow_items, "deny_items": deny_items, "exclude_seen": exclude_seen}
        first = retriever.recommend(histories, n_candidates, **limits)
        found = first.scores > -np.inf
        candidates = Ragged.from_lengths(first.items[found], found.sum(axis=1))
        ranked = self._ranked(self._asked(histories, candidates, user_features, context), k)
        result = ranked._replace(flags=ranked.flags | (first.flags & POPULAR))
        result.user_ids, result.library = first.user_ids, first.library
        return result

    def attention_weights(self, history: Any, candidate: Any) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """What one candidate takes of each event: (n,) float32, and the events' ids (n,), the newest ``max_len``.

        They sum to 1 with softmax, and to anything with ``normalize="none"``.
        """
        rows, _ = self._rows_of_histories(history)
        if len(rows) != 1:
            raise ValueError(f"history: expected one history, got {len(rows)}")
        row = rows_of(as_ids("candidate", [candidate], self.item_ids_), self.item_ids_)
        events = rows.tail(self.max_len).values
        q, k = (
            item_vectors(self.params_, part) for part in (np.where(row < 0, np.int32(len(self.item_ids_)), row), events)
        )
        return self._attention.weights(self.params_, q, k)[0], self.item_ids_[events]

    def _scores(self, histories: Ragged) -> NDArray[np.float32]:
        """All items as candidates, without the first stage: what `regard.evaluate` ranks."""
        n, n_items = len(histories), len(self.item_ids_)
        scores = np.empty((n, n_items), np.float32)
        facts = encode_features("user_features", {}, self.user_features_ + self.context_, 1)
        everything = Ragged(np.arange(n_items, dtype=np.int32), [0, n_items])
        for block in blocks(n, 1):
            scores[block] = self._logits(Batch(histories[block].tail(self.max_len), everything, *facts), self.params_)
        return scores

    # ---- file ---------------------------------------------------------------------------------------------------

    def _file(self, **entries: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        facts = {"user_features": self.user_features_, "context": self.context_, "calibration": self.calibration_}
        return super()._file(**facts, **entries)

    @classmethod
    def _from_file(cls, content: model_file.Content) -> Self:
        header = content.header
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in header["settings"].items()
        }
        model = cls(**settings)
        model._check()
        model.user_features_, model.context_ = (
            [Feature(entry) for entry in header[name]] for name in ("user_features", "context")
        )
        model._restore(content, model.parameters(len(content.item_ids), model.user_features_ + model.context_))
        slope, shift = header["calibration"]
        model.calibration_ = float(slope), float(shift)
        return model
