"""Why a model gives an item the score that it gives it: where it looked, and what each event changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import html
from regard.ids import as_ids, rows_of
from regard.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.sequence_answers import SequenceAnswers

_NAMED = 3  # events in a text


@dataclass(frozen=True, eq=False)
class Explanation:
    """Reasons for one score, from `regard.SelfAttentionRecommender.explain`. Events are in order, oldest first.

    Attributes
    ----------
    item : int or str
        The id of the item that was scored.
    score : float
    item_ids : (n,) int64 or str
        The events that the model looked at: the newest ``max_len`` known ones.
    effect : (n,) float32
        Leave-one-out: the score less the score without this event. Above 0 the event speaks for the item.
    rollout : (n,) float32
        Attention rolled to the input; sums to 1.
    attention : (n_blocks, n_heads, n) float32
        Weights of the newest event's query, from which the recommendation is made; each head's sum to 1.
    titles : mapping of id to str
        Of the item and the events; empty if the model has no titles.
    n_older, n_unknown : int
        Known events that are older than those that the model looks at, and events with unknown items: neither count.
    """

    item: int | str
    score: float
    item_ids: NDArray[Any]
    effect: NDArray[np.float32]
    rollout: NDArray[np.float32]
    attention: NDArray[np.float32]
    titles: Mapping[Any, str]
    n_older: int
    n_unknown: int

    def text(self, titles: Mapping[Any, str] | None = None) -> str:
        """The three events with the largest effects, and the one that attention leads to most, in plain words.

        Parameters
        ----------
        titles : mapping of id to str, optional
            Instead of the model's; an item without a title shows its id.
        """
        titles = self.titles if titles is None else titles
        names = [titles.get(item, str(item)) for item in [*self.item_ids.tolist(), self.item]]
        by_size = np.argsort(-np.abs(self.effect), kind="stable")
        lines = [f"{names.pop()} scores {self.score:.2f} after {_events(len(names))}."]
        for j in by_size[:_NAMED].tolist():
            change = "lower" if self.effect[j] > 0 else "higher"
            lines.append(f"Without {names[j]}, {self._place(j)}, it would be {abs(self.effect[j]):.2f} {change}.")
        if len(rest := by_size[_NAMED:]):
            lines.append(f"No other event changes it by more than {abs(self.effect[rest[0]]):.2f}.")
        j = int(self.rollout.argmax())
        lines.append(f"Attention leads most to {names[j]}, {self._place(j)}: {self.rollout[j]:.0%}.")
        if self.n_older:
            lines.append(f"Left out: {_events(self.n_older)} older than the {len(names)} that the model looks at.")
        if self.n_unknown:
            lines.append(f"Skipped: {_events(self.n_unknown)} with unknown items.")
        return "\n".join(lines)

    def plot(self) -> Any:
        """See `regard.plots.explanation`."""
        from regard import plots  # noqa: PLC0415

        return plots.explanation(self)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        names = [self.titles.get(item, str(item)) for item in self.item_ids.tolist()]
        rows = zip(names, self.effect.tolist(), self.rollout.tolist(), strict=True)
        caption = f"{self.titles.get(self.item, self.item)} scores {self.score:.4f}"
        return html.table(caption, rows, ["event", "effect", "rollout"])

    def _place(self, j: int) -> str:
        back = len(self.item_ids) - 1 - j
        return f"{_events(back)} before the newest" if back else "the newest event"


def explain(model: SequenceAnswers, history: Any, item: Any) -> Explanation:
    """See `regard.sequence_model.SequenceModel.explain`."""
    row = int(rows_of(ids := as_ids("item", [item], model.item_ids_), model.item_ids_)[0])
    if row < 0:
        raise ValueError(f"item: {ids[0]} is not among the {len(model.item_ids_):,} items of the model")
    n_blocks = sum(step["kind"] == "attention" for step in model.steps())
    weights = np.stack([model.attention_weights(history, block)[0] for block in range(n_blocks)])
    rows, n_unknown = model._rows_of_histories(history)
    windows = rows.tail(model.max_len)
    window = windows[0]
    n = len(window)

    rollout = np.zeros(n, np.float32)
    rollout[-1] = 1
    for of_heads in weights[::-1]:
        rollout = (rollout + rollout @ of_heads.mean(axis=0)) / 2

    others = np.tile(np.arange(n), (n, 1))[~np.eye(n, dtype=bool)]
    places = Ragged.from_lengths(np.concatenate([np.arange(n), others]), [n, *[n - 1] * n])
    batch = windows.pick(places, np.zeros(n + 1, np.int64))
    scores = model._scores_of(batch, row)
    item_ids = model.item_ids_[window]
    shown = np.append(window, row)
    titles = None if model.titles_ is None else model.titles_[shown].tolist()
    return Explanation(
        item=ids[0].item(),
        score=float(scores[0]),
        item_ids=item_ids,
        effect=scores[0] - scores[1:],
        rollout=rollout,
        attention=weights[:, :, -1],
        titles={} if titles is None else dict(zip(model.item_ids_[shown].tolist(), titles, strict=True)),
        n_older=len(rows.values) - n,
        n_unknown=int(n_unknown.sum()),
    )


def _events(n: int) -> str:
    return f"{n:,} event{'' if n == 1 else 's'}"
