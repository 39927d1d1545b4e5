"""The history of a user who is here: what was computed for it is kept, so that an event costs what is new in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import _core
from regard.ids import as_ids, ids_of, rows_of
from regard.recommender import Recommendations
from regard.timed import moment, whole_seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.sequence_answers import SequenceAnswers

__all__ = ["Session", "Sessions"]


class Session:
    """A history that grows; made by `SequenceModel.session`.

    Keys and values of every attention are kept: about 8 to 16 bytes for each event, element of ``dim`` and block.
    A session belongs to the model as it was when the session began: later training does not change its answers. It may
    be used by several threads, which wait for each other. What it knows is its `window`: ``model.session(window)``
    makes an equal one again, in another process too; with a time bias `times` belong to it.

    With a time bias an event sees when the one after it happens: it is done with when that comes, and every answer
    computes the newest event for the moment that is asked about.

    Attributes
    ----------
    tag : anything, default None
        For whoever keeps the session: what it was made of, say.
    """

    def __init__(self, model: SequenceAnswers) -> None:
        self.tag: Any = None
        self._model_item_ids = model.item_ids_
        self._served = _core.ServingSession(model._served(whole=True))
        self._n_unknown, self._timed = 0, model.time_bias

    def append(self, item_ids: Any, times: Any = None) -> None:
        """Add an event, or a list of events, oldest first; unknown ids are skipped and counted.

        Before an event that finds ``max_len`` events in the window, the oldest quarter of them is forgotten and what is
        left is encoded anew; any other event costs no more than itself.

        Parameters
        ----------
        item_ids : an item id, or a list of them
        times : Unix seconds of each
            For a model with a time bias, else not read. Fractions are cut off.

        Raises
        ------
        TypeError
            Ids of another type than the catalogue's.
        ValueError
            The model has a time bias, and there is not a time for each event.
        """
        listed = [item_ids] if isinstance(item_ids, str) or np.ndim(item_ids) == 0 else item_ids
        moments = None
        if self._timed:
            moments = whole_seconds("times", np.atleast_1d(times), len(listed))
        unknown = self._served.append_ids(listed, moments)
        if unknown is None:
            rows = rows_of(as_ids("item_ids", listed, self._model_item_ids, known=True), self._model_item_ids)
            self._served.append_items(rows, moments)
            unknown = int((rows < 0).sum())
        self._n_unknown += unknown

    def recommend(
        self,
        k: int = 10,
        *,
        allow_items: Any = None,
        deny_items: Any = None,
        exclude_seen: bool = True,
        asked_at: Any = None,
    ) -> Recommendations:
        """What the model's ``recommend`` answers for the `window`; results have one row.

        Parameters
        ----------
        k : int, default 10
        allow_items, deny_items : item ids, optional
            One flat list. Unknown ids are ignored.
        exclude_seen : bool, default True
            Do not recommend what the window holds.
        asked_at : a time, default now
            When the next event happens, for a model with a time bias, else not read: as of `TimedHistories`.

        Raises
        ------
        ValueError
            ``k`` below 1.
        TypeError
            Ids of another type than the catalogue's.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        allow, deny = self._rows("allow_items", allow_items), self._rows("deny_items", deny_items)
        asked = moment(asked_at) if self._timed else None
        items, scores, flags, n_unknown = self._served.recommend(k, exclude_seen, allow, deny, self._n_unknown, asked)
        if self._model_item_ids.dtype.kind == "U":
            items = ids_of(items, self._model_item_ids)
        return Recommendations(items, scores, flags, n_unknown)

    def _rows(self, name: str, ids: Any) -> NDArray[np.int32] | None:
        if ids is None:
            return None
        return rows_of(as_ids(name, ids, self._model_item_ids, known=True), self._model_item_ids)

    @property
    def window(self) -> NDArray[Any]:
        """Ids of the events that it knows, oldest first, at most ``max_len``."""
        ids: NDArray[Any] = self._model_item_ids[self._served.window()[0]]
        return ids

    @property
    def times(self) -> NDArray[np.int64] | None:
        """Unix seconds of the events of the window; None without a time bias."""
        return self._served.window()[1] if self._timed else None

    @property
    def nbytes(self) -> int:
        """The memory that it takes now."""
        return self._served.bytes()

    def __len__(self) -> int:
        return len(self._served.window()[0])


class Sessions:
    """At most so many sessions of a model, the ones that were asked for last. Any number of threads may ask.

    Parameters
    ----------
    model : a fitted model
    capacity : int
        At least 1. One more session, and the one that was not asked for the longest is forgotten.

    Raises
    ------
    ValueError
        ``capacity`` below 1.
    """

    def __init__(self, model: SequenceAnswers, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: expected at least 1, got {capacity}")
        self.model, self.capacity = model, capacity
        self._kept: OrderedDict[Hashable, Session] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Session | None:
        """The session of that key, None where there is none (any more)."""
        with self._lock:
            session = self._kept.get(key)
            if session is not None:
                self._kept.move_to_end(key)
            return session

    def begin(self, key: Hashable, history: Any = ()) -> Session:
        """A new session of that key, in the place of an earlier one; see `SequenceModel.session`."""
        session = self.model.session(history)
        with self._lock:
            self._kept[key] = session
            self._kept.move_to_end(key)
            if len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        return session

    def drop(self, key: Hashable) -> None:
        """Forget the session of that key, if there is one."""
        with self._lock:
            self._kept.pop(key, None)

    def __len__(self) -> int:
        return len(self._kept)
