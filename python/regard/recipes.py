"""Settings that follow from the size and shape of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard.data import Interactions

PRESETS = ("best", "fast")


def recipe(data: Interactions, preset: str = "best") -> dict[str, Any]:
    """What to change in the defaults for these data.

    Parameters
    ----------
    data : Interactions
    preset : "best" or "fast"
        The most accurate that is known, or a run of about half the time that loses about 2 % of it.

    Returns
    -------
    dict
        Arguments of `SelfAttentionRecommender`.

    Notes
    -----
    - Long histories (40 events or more on average) are read up to 200 events, 64 users to a batch; short ones up to 50,
      128 users to a batch: so a batch has a few thousand events.
    - The fewer events an item has, the more dropout: 0.1 from 100 events on, 0.2 from 30 on, else 0.5.
    - From half a million events on "best" has a feed-forward layer four times as wide as the rest.

    Chosen on the validation parts of MovieLens-1M and Amazon Beauty; `benchmarks/results/accuracy.json`.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    long = data.n_events >= 40 * max(data.n_users, 1)
    per_item = data.n_events / max(data.n_items, 1)
    settings: dict[str, Any] = {
        "max_len": 200 if long else 50,
        "batch_size": 64 if long else 128,
        "dropout": 0.1 if per_item >= 100 else 0.2 if per_item >= 30 else 0.5,
        "epochs": {"best": (40, 30), "fast": (20, 15)}[preset][0 if long else 1],
    }
    if preset == "best" and data.n_events >= 500_000:
        settings["ffn_dim"] = 256
    return settings
