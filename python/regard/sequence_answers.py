"""How a model that reads a history as a sequence answers: what it encodes, scores, ranks, and explains."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import _core, model_file, ops
from regard.explain import Explanation, explain
from regard.growth import GrowingModel
from regard.ids import ids_of
from regard.layers import Run, Step, forward, heads, item_tables, unit_rows
from regard.ragged import Ragged
from regard.recommender import plain
from regard.timed import TimedHistories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.cuda.model import DeviceModel
    from regard.sessions import Session

    _Moments = NDArray[np.int64] | None
    _Served = tuple[NDArray[np.int32], NDArray[np.int64], _Moments, _Moments]

_QUANTIZED = 1024  # items from which an 8-bit copy of them pays


class SequenceAnswers(GrowingModel):
    """The part of `regard.sequence_model.SequenceModel` that answers."""

    max_len: int
    normalize_items: bool
    time_bias: bool
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

    def _check(self) -> None:
        """ValueError for a setting of the model that is out of range."""

    @property
    def _tables(self) -> tuple[str, str]:
        return item_tables(self.steps())

    # ---- answering ----------------------------------------------------------------------------------------------

    def _served(self, *, whole: bool = False) -> _core.ServingModel:
        """The model as the library answers with it, made anew where a parameter or the catalogue is another array.

        Without ``whole`` it is good for encoding alone, and made in no time.
        """
        arrays = (*self.params_.values(), self.item_ids_, self.popularity_)
        of = tuple(map(id, arrays))
        kept = self._serving
        if kept is None or kept[0] != of or (whole and not kept[2]):
            header = json.dumps({"steps": self.steps(), "settings": {"max_len": self.max_len}}, default=plain)
            tensors = self.params_ | {"popularity": self.popularity_}
            if whole:
                if self._packed is None or self._packed[0] is not self.item_ids_:
                    self._packed = self.item_ids_, model_file.id_tensors(self.item_ids_)
                tensors |= self._packed[1] | self._quantized_items()
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
        self._served().encode(*self._as_served(histories), h)
        return h

    def _as_served(self, histories: Ragged) -> _Served:
        """Items, offsets, times and moments asked about, as the library takes them."""
        timed, items = self._timed(histories), np.ascontiguousarray(histories.values, np.int32)
        if timed is None:
            return items, histories.offsets, None, None
        return items, histories.offsets, timed.times, timed.asked_at

    def _gains(self, histories: Ragged, h: NDArray[np.float32]) -> tuple[Ragged, NDArray[np.float32]] | None:
        """The items of the histories, and what the pointer adds; None without a pointer."""
        if "pointer" not in self.steps()[-1]:
            return None
        total = len(histories.values)
        items, gains, counts = np.empty(total, np.int32), np.empty(total, np.float32), np.empty(len(histories), int)
        self._served().gains(*self._as_served(histories), h, items, gains, counts)
        there = np.arange(total) - np.repeat(histories.offsets[:-1], histories.lengths) < counts[histories.row_of]
        return Ragged.from_lengths(items[there], counts), gains[there]

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
        h = self._encode(histories)
        scores, _ = ops.linear_forward(h, self.params_[self._tables[1]])
        if (found := self._gains(histories, h)) is not None:
            seen, gains = found
            at = seen.row_of, seen.values
            scores[at] = np.logaddexp(scores[at], gains, dtype=np.float64)
        return scores

    def _scores_of(self, histories: Ragged, item: int) -> NDArray[np.float32]:
        """Scores of one item (row) after each history, which may be empty."""
        h = self._encode_or_zero(histories)
        scores = ops.linear_forward(h, self.params_[self._tables[1]][item : item + 1])[0][:, 0]
        if (found := self._gains(histories, h)) is not None:
            seen, gains = found
            there = seen.values == item
            at = seen.row_of[there]
            scores[at] = np.logaddexp(scores[at], gains[there], dtype=np.float64)
        return scores

    def _top_k(
        self, histories: Ragged, k: int, allow: Ragged | None, deny: Ragged | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if (there := self._on_device()) is not None:
            return there.top_k(histories, k, allow, deny)
        allowed = (None, None) if allow is None else (allow.offsets, allow.values)
        denied = (None, None) if deny is None else (deny.offsets, deny.values)
        served = self._served(whole=allow is None)  # with allowed items the 8-bit copy is not read
        return served.recommend(*self._as_served(histories), k, *allowed, *denied)

    def _quantized_items(self) -> dict[str, NDArray[Any]]:
        """The 8-bit copy of the item vectors that are scored, by its name in a file; nothing where it does not pay.

        Made once for an array: a catalogue that changes is a new one. Two threads may both make it.
        """
        items, kept = self.params_[self._tables[1]], self._quantized
        if len(items) < _QUANTIZED:
            return {}
        if kept is None or kept[0] is not items:
            self._quantized = kept = items, ops.quantize_items(items)
        return {model_file.QUANTIZED: kept[1]}

    def _ranks(self, histories: Ragged, targets: Ragged, deny: Ragged | None) -> NDArray[np.float64]:
        if (there := self._on_device()) is not None:
            above, equal = there.rank_counts(histories, targets, deny)
        else:
            h = self._encode(histories)
            items = self.params_[self._tables[1]]
            above, equal = ops.rank_counts(h, items, targets, deny, self._gains(histories, h))
        return 1 + above + equal / 2

    def _item_similarities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Cosine of the item vectors."""
        unit, _ = unit_rows(self.params_[self._tables[0]])
        return ops.linear_forward(np.ascontiguousarray(unit[rows]), unit)[0]
