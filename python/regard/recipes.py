"""Settings that follow from the size and shape of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.data import Interactions

PRESETS = ("best", "fast")
_STEPS = 3000  # at least, of training
_MOST_STEPS = 10_000  # of short histories
_RETURNS = 0.1  # share of the events that are of an item which the history has, from which on a pointer pays
_HELD = 0.1  # share of all events that are of items of a history, from which on these are left out of the softmax


class Recipe(TypedDict):
    """The arguments of `SelfAttentionRecommender` that follow from the data."""

    dim: int
    attention_init: str
    max_len: int
    dropout: float
    pointer: bool
    normalize_items: bool
    item_features: bool
    label_smoothing: float
    mask_seen: bool
    ffn_dim: int | None
    learning_rate: float
    batch_size: int
    epochs: int
    weight_averaging: bool


def recipe(data: Interactions, preset: str = "best", *, exclude_seen: bool = True) -> Recipe:
    """What to change in the defaults for these data.

    Parameters
    ----------
    data : Interactions
    preset : "best" or "fast"
        The most accurate that is known, or a run of an eighth to a half of the time that loses 2 to 8 % of it.
    exclude_seen : bool, default True
        Whether answers will leave out what the history holds, as in `recommend`.

    Returns
    -------
    Recipe
        A dict of arguments of `SelfAttentionRecommender`.

    Notes
    -----
    - Long histories (40 events or more on average) are read up to 800 events by "best", up to 200 by "fast", short ones
      up to 50. 800 instead of 200: ml-100k (3 seeds) 0.1497 to 0.1553, ml-1m (fast, 10 epochs) 0.185 to 0.192, Last.fm
      (3 seeds) level; ml-1m takes two thirds more time.
    - "best" is 128 wide from 150,000 events on; below, 256 for long histories with fewer than 15 events an item, where
      half is dropped out, else 64, as "fast" is. Validation NDCG@10 of twice the width: Amazon Beauty 0.0751 to 0.0758,
      ml-1m (20 epochs) 0.190 to 0.193, but ml-100k, with 54 events an item, 0.134 to 0.130; of 256 instead of 64:
      Last.fm (5 seeds) 0.0722 to 0.0812 (128: 0.078), latest-small 0.0830 to 0.0844, but ml-100k 0.155 to 0.147. With
      the short histories of groceries 0.0248 to 0.0257 on the validation part, but 0.0139 to 0.0122 on what comes after
      it.
    - Below 150,000 events the maps of attention begin as the identity: ml-100k (5 seeds) 0.131 to 0.138, groceries
      0.0324 to 0.0343, in fewer epochs. With more events nothing is left of it.
    - Below 100 events an item a tenth of every target goes to all items alike: few events make a model surer than it
      may be. ml-100k (5 seeds) 0.1389 to 0.1409, Last.fm (3 seeds) 0.0712 to 0.0730, messages (3 seeds) 0.2495 to
      0.2525, Amazon Beauty (3 seeds) 0.0777 to 0.0782, Sports (3 seeds) 0.0460 to 0.0463; but ml-1m (2 seeds), with 290
      events an item, 0.2023 to 0.2008. Not where item vectors have length 1, where it has not been tried.
    - The fewer events an item has, the more dropout: 0.1 from 100 events on (0.2 at width 128), 0.2 from 15 on, else
      0.5. With 18 events an item (RetailRocket) 0.2 has a validation NDCG@10 of 0.472, 0.5 has 0.452.
    - Short histories, from 15 events an item on: item vectors have length 1. Else the length learns how often an item
      occurred in the training part, which is another in later sessions: trained without the last tenth of the sessions
      and asked about them, NDCG@10 rises from 0.387 to 0.427 on RetailRocket. Where items are rarer than that, the
      length says how much is known of an item, and it is missed (Amazon Beauty loses 6 %).
    - A pointer where seen items are ranked, too, and a tenth of the events or more are of an item that the history has
      already. Attention does not learn well without it to return to an item that is not the last: Yoochoose 0.4423 to
      0.4481, messages 0.224 to 0.249. Where seen items are left out, returns are better learned from than pointed to:
      messages 0.0270 without, 0.0254 with it.
    - Seen items are left out of the softmax where they are left out of answers and the items of a history have, in the
      mean over all places, a tenth or more of all events: else much of the training teaches that what is likely does
      not come again. ml-100k (17 %, 3 seeds) 0.1400 to 0.1497, ml-1m (15 %, 3 seeds) 0.2020 to 0.2106; but Last.fm
      (5 %, 3 seeds) 0.0722 to 0.0697, Amazon Beauty (0.3 %) 0.0779 to 0.0768.
    - Features of the items, where the data have them, are used below 100 events an item: tested on Amazon Beauty and
      Sports, with 16, where they gain a tenth.
    - From half a million events on the feed-forward layer is four times as wide as the rest.
    - Long histories, "best": 64 users to a batch, 40 epochs. "fast": 32 and 20, as many steps in half the epochs. Short
      ones need the epochs, not the steps (15 epochs of 128, 64 or 32 users all end 6 to 17 % below 30 of 128), so both
      have 128 and 30; where that is more than 10,000 steps, as many epochs as these make, at least 10.
    - "fast" doubles the learning rate for long histories with 100 events an item or more: its 20 epochs end before
      all is learned there. Validation NDCG@10: ml-1m 0.1889 to 0.1972, its users 1 to 2,998 (2 seeds) 0.1988 to 0.2058;
      but ml-100k (3 seeds), with 54 events an item, 0.1491 to 0.1484, and "best" on ml-1m 0.2029 to 0.2016.
    - Short histories, "best": the mean of the weights over the last steps is kept. The best epoch comes there while the
      learning rate is high: on Amazon Beauty the mean has 0.0773 after 10 epochs, single weights 0.0758 after 16. Where
      the rate has fallen before the best epoch the mean gives nothing (ml-1m).
    - With few users the batches are halved, down to 8, until the epochs have 3,000 steps: on ml-100k, 8 instead of 32
      takes the validation NDCG@10 from 0.102 to 0.121, on college-msg from 0.088 to 0.20. There "best" keeps the mean
      of the weights, too: few users choose single weights by chance. With the epoch chosen on half of the users and
      measured on the others, it gains 1 to 3 % on ml-100k and 1 % on Last.fm.

    Chosen on validation parts; see docs/accuracy.md, `benchmarks/results/accuracy.json` and `whole_run.json`.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    long = data.n_events >= 40 * max(data.n_users, 1)
    per_item = data.n_events / max(data.n_items, 1)
    much = data.n_events >= 150_000
    rare, often = per_item < 15, per_item >= 100
    dim = 64 if preset == "fast" else 128 if much else 256 if long and rare else 64
    max_len, batch_size, epochs = {"best": (800, 64, 40), "fast": (200, 32, 20)}[preset] if long else (50, 128, 30)
    if not long:
        epochs = max(10, min(epochs, _MOST_STEPS * batch_size // max(data.n_users, 1)))
    full = batch_size
    unit = not long and not rare
    while batch_size > 8 and data.n_users * epochs < _STEPS * batch_size:
        batch_size //= 2
    return {
        "dim": dim,
        "attention_init": "normal" if much else "identity",
        "max_len": max_len,
        "dropout": 0.5 if rare else 0.1 if often and dim == 64 else 0.2,
        "pointer": not exclude_seen and _returns(data) >= _RETURNS,
        "normalize_items": unit,
        "item_features": not often,
        "label_smoothing": 0.0 if often or unit else 0.1,
        "mask_seen": exclude_seen and _held(data) >= _HELD,
        "ffn_dim": 4 * dim if data.n_events >= 500_000 else None,
        "learning_rate": 0.004 if preset == "fast" and long and often else 0.002,
        "batch_size": batch_size,
        "epochs": epochs,
        "weight_averaging": preset == "best" and (not long or batch_size < full),
    }


def _returns(data: Interactions) -> float:
    """The share of all events but the first of each user that are of an item which the user had before."""
    return (data.n_events - len(_first_events(data))) / max(_followers(data), 1)


def _held(data: Interactions) -> float:
    """The share of all events that are of items of a history, in the mean over all events with one after them."""
    sequences, first = data.sequences, _first_events(data)
    held = data.popularity()[sequences.values[first]] @ sequences.ages[first]
    return int(held) / max(data.n_events * _followers(data), 1)


def _first_events(data: Interactions) -> NDArray[np.int64]:
    """The events of a user with an item that are the first such."""
    sequences = data.sequences
    return np.unique(sequences.row_of * data.n_items + sequences.values, return_index=True)[1]


def _followers(data: Interactions) -> int:
    """Events that are not a user's first."""
    return data.n_events - int(np.count_nonzero(data.sequences.lengths))
