"""Pictures of a training, of a test, of attention and of reasons (extra ``plots``: matplotlib).

Every function draws into ``ax``, or into a figure of its own that no window knows of, and returns the axes: save it
with ``ax.figure.savefig("x.png")``; notebooks show ``ax.figure``. `explanation` has several axes in one figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.data import Interactions
    from regard.explain import Explanation
    from regard.metrics import Report
    from regard.sequence_model import SequenceModel
    from regard.splits import Holdout
    from regard.tuning import Tuning

# Okabe and Ito 2008: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'regard[plots]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def _axes(ax: Any, width: float = 6.0, height: float = 3.6) -> Any:
    if ax is None:
        ax = _figure(width, height).subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _named(given: Any, name: str) -> dict[str, Any]:
    return dict(given) if isinstance(given, dict) else {name: given}


def _legend(figure: Any, handles: list[Any], labels: list[str]) -> None:
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def learning_curve(models: SequenceModel | Mapping[str, SequenceModel], ax: Any = None) -> Any:
    """Training loss (left axis) and validation NDCG@10 (right axis) by epoch; a dot marks the epoch that was kept.

    Parameters
    ----------
    models : a fitted model, or several by name
    ax : matplotlib axes, optional
    """
    ax = _axes(ax)
    right = None
    for (name, model), colour in zip(_named(models, "").items(), cycle(COLOURS), strict=False):
        epochs = [entry["epoch"] for entry in model.history_]
        metrics = [entry["metric"] for entry in model.history_]
        ax.plot(epochs, [entry["loss"] for entry in model.history_], color=colour, linestyle="--", label=f"{name} loss")
        if None in metrics:
            continue
        if right is None:
            right = ax.twinx()
            right.spines["top"].set_visible(False)
            right.set_ylabel("validation NDCG@10")
        right.plot(epochs, metrics, color=colour, label=f"{name} NDCG@10")
        best = epochs.index(model.best_epoch_)
        right.plot(epochs[best], metrics[best], "o", color=colour)
    ax.set_xlabel("epoch")
    ax.set_ylabel("training loss, nats per event")
    ax.xaxis.get_major_locator().set_params(integer=True)
    handles = [line for one in (ax, right) if one is not None for line in one.lines if line.get_label()[0] != "_"]
    _legend(ax.figure, handles, [line.get_label().strip() for line in handles])
    return ax


def metric_by_history_length(
    reports: Report | Mapping[str, Report], holdout: Holdout, *, metric: str = "ndcg@10", ax: Any = None
) -> Any:
    """Mean of a metric over users with about as long a history, with 95 % intervals.

    Parameters
    ----------
    reports : a report of `regard.evaluate` on the holdout, or several by name
    holdout : Holdout
    metric : str, default "ndcg@10"
    ax : matplotlib axes, optional
    """
    return _by(reports, holdout, holdout.histories.lengths, metric, "events in the history", ax)


def metric_by_popularity(
    reports: Report | Mapping[str, Report],
    holdout: Holdout,
    train: Interactions,
    *,
    metric: str = "ndcg@10",
    ax: Any = None,
) -> Any:
    """Mean of a metric over users whose target has about as many training events, with 95 % intervals.

    Parameters
    ----------
    reports, holdout, metric, ax : as in `metric_by_history_length`
    train : Interactions with the catalogue of the holdout
        Where events are counted; of several targets of a user the mean counts.
    """
    counts = train.popularity()[holdout.targets.values]
    mean = np.add.reduceat(counts, holdout.targets.offsets[:-1]) / holdout.targets.lengths
    return _by(reports, holdout, mean, metric, "training events of the target", ax)


def bins(values: NDArray[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the bins 0, 1, 2-4, 5-9, 10-19, ... that are not empty, and the bin of each value."""
    bin_of = np.searchsorted(_EDGES, np.floor(values), "right")
    used, place = np.unique(bin_of, return_inverse=True)
    ends = [0, *_EDGES]
    names = []
    for i in used.tolist():
        low, high = ends[i], ends[i + 1] - 1 if i + 1 < len(ends) else None
        names.append(f"{low:,}+" if high is None else f"{low:,}" if low == high else f"{low:,}-{high:,}")
    return names, place


def _by(reports: Any, holdout: Holdout, values: NDArray[Any], metric: str, label: str, ax: Any) -> Any:
    names, place = bins(values)
    users, fingerprint = np.bincount(place), holdout.fingerprint()
    ax = _axes(ax, width=max(6.0, 0.9 * len(names)))
    shown = _named(reports, metric)
    for i, ((name, report), colour) in enumerate(zip(shown.items(), cycle(COLOURS), strict=False)):
        per_user = report.per_user(metric)
        if report.fingerprint != fingerprint:
            raise ValueError(f"reports: {name} is of another holdout than the one that is given")
        mean = np.bincount(place, per_user) / users
        spread = np.sqrt(np.maximum(np.bincount(place, per_user**2) / users - mean**2, 0) / users)
        shift = (i - (len(shown) - 1) / 2) * 0.6 / len(shown)
        ax.errorbar(
            np.arange(len(names)) + shift,
            mean,
            1.96 * spread,
            fmt="o",
            markersize=4,
            capsize=2,
            color=colour,
            label=name,
        )
    ax.set_xticks(range(len(names)), [f"{name}\n{n:,}" for name, n in zip(names, users, strict=True)], fontsize=8)
    ax.set_xlabel(f"{label} (below: users)")
    ax.set_ylabel(f"{metric.upper()}, 95 % interval")
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", alpha=0.3)
    if len(shown) > 1:
        _legend(ax.figure, *ax.get_legend_handles_labels())
    return ax


def comparison(rows: Iterable[Mapping[str, Any]], *, metric: str = "ndcg@10", ax: Any = None) -> Any:
    """Models side by side: a bar for each, the best on top, with its interval.

    Parameters
    ----------
    rows : as of `regard.compare`, ``compare(...).rows``
        Mappings with ``model``, the metric and ``low`` and ``high``, the interval; those without the metric are left
        out.
    metric : str, default "ndcg@10"
    ax : matplotlib axes, optional
    """
    shown = sorted((row for row in rows if metric in row), key=lambda row: row[metric])
    ax = _axes(ax, height=1.0 + 0.32 * len(shown))
    values = np.array([row[metric] for row in shown])
    ends = np.abs(np.array([[row["low"], row["high"]] for row in shown]).reshape(-1, 2).T - values)
    names = [str(row["model"]) for row in shown]
    colours = [COLOURS[0] if name.startswith("regard") else "#999999" for name in names]
    ax.barh(range(len(shown)), values, xerr=ends, color=colours, error_kw={"capsize": 2, "linewidth": 1})
    ax.set_yticks(range(len(shown)), names)
    for text in ax.get_yticklabels():
        text.set_parse_math(False)
    ax.set_xlabel(f"{metric.upper()}, 95 % interval over users")
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    return ax


def tuning(found: Tuning, ax: Any = None) -> Any:
    """The validation NDCG@10 of each trial, those that were given up as crosses; a line for the best so far.

    Parameters
    ----------
    found : from `regard.tuning.tune`
    ax : matplotlib axes, optional
    """
    ax = _axes(ax)
    metrics = np.array([trial["metric"] for trial in found.trials])
    pruned = np.array([trial["pruned"] for trial in found.trials])
    numbers = np.arange(1, len(metrics) + 1)
    best = np.maximum.accumulate(np.where(pruned, -np.inf, metrics))
    ax.step(numbers, best, where="post", color=COLOURS[2], label="best so far")
    ax.axhline(metrics[0], color="grey", linewidth=0.8, linestyle="--", label="defaults")
    ax.plot(numbers[~pruned], metrics[~pruned], "o", color=COLOURS[0], markersize=4, label="finished")
    ax.plot(numbers[pruned], metrics[pruned], "x", color=COLOURS[1], markersize=4, label="given up")
    ax.set(xlabel="trial", ylabel="validation NDCG@10")
    _legend(ax.figure, *ax.get_legend_handles_labels())
    return ax


def attention_heatmap(model: SequenceModel, history: Any, *, block: int = -1, head: int = 0, ax: Any = None) -> Any:
    """The weights ``a_ij`` of one history: row i says what event i looks at.

    Parameters
    ----------
    model : fitted
    history : item ids, oldest first
    block, head : int
        Which attention step, by default the last; which of its heads.
    ax : matplotlib axes, optional
    """
    weights, items = model.attention_weights(history, block)
    if not 0 <= head < len(weights):
        raise ValueError(f"head: expected from 0 to {len(weights) - 1}, got {head}")
    n = len(items)
    side = min(12.0, 3.2 + 0.22 * n)
    ax = _axes(ax, side + 1, side)
    image = ax.imshow(np.where(np.tri(n, dtype=bool), weights[head], np.nan), cmap="viridis", vmin=0)
    titles = items if model.titles_ is None else model.titles_[np.searchsorted(model.item_ids_, items)]
    _name_events(ax.xaxis, titles.tolist(), 90)
    _name_events(ax.yaxis, titles.tolist(), 0)
    ax.set_xlabel("is looked at")
    ax.set_ylabel("looks")
    ax.figure.colorbar(image, ax=ax, label="attention weight", shrink=0.8)
    return ax


def explanation(reasons: Explanation) -> list[Any]:
    """The history as a strip, oldest event left: effects, rolled attention, and a heat map of weights for each block.

    Parameters
    ----------
    reasons : from `explain` of a model

    Returns
    -------
    list of matplotlib axes
        Of one figure: effect, rollout, then one for each block, with a row for each head.
    """
    n_blocks, n_heads, n = reasons.attention.shape
    heights = [2.0, 1.2, *[0.5 + 0.25 * n_heads] * n_blocks]
    figure = _figure(min(16.0, 4.5 + 0.25 * n), sum(heights) + 2.2)
    axes: list[Any] = figure.subplots(len(heights), sharex=True, height_ratios=heights).tolist()
    colours = [COLOURS[0] if effect > 0 else COLOURS[1] for effect in reasons.effect.tolist()]
    for ax, values, label, colour in (
        (axes[0], reasons.effect, "effect", colours),
        (axes[1], reasons.rollout, "rollout", COLOURS[2]),
    ):
        ax.spines[["top", "right"]].set_visible(False)
        ax.bar(range(n), values, color=colour)
        ax.set_ylabel(label)
    axes[0].axhline(0, color="black", linewidth=0.8)
    for block, ax in enumerate(axes[2:]):
        image = ax.imshow(reasons.attention[block], cmap="viridis", vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(n_heads))
        ax.set_ylabel(f"block {block}\nhead")
    figure.colorbar(image, ax=axes[2:], label="weight", shrink=0.9)
    _name_events(axes[-1].xaxis, [reasons.titles.get(item, item) for item in reasons.item_ids.tolist()], 90)
    title = f"{reasons.titles.get(reasons.item, reasons.item)} scores {reasons.score:.2f}"
    axes[0].set_title(title, fontsize=10, parse_math=False)
    return axes


def _name_events(axis: Any, titles: list[Any], turned: int) -> None:
    names = [title if len(title) <= 28 else f"{title[:27]}…" for title in map(str, titles)]
    step = -(-len(names) // 50)  # more labels cannot be read
    axis.set_ticks(range(0, len(names), step), names[::step], fontsize=7, rotation=turned)
    for text in axis.get_ticklabels():
        text.set_parse_math(False)
