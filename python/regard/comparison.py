"""Models side by side on one test, and whether attention is worth it there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regard import html
from regard.baselines import (
    EASE,
    ContentBased,
    ItemKNN,
    MatrixFactorization,
    Popularity,
    Repeats,
    SequentialRules,
    tune,
)
from regard.metrics import Report, evaluate
from regard.models.self_attention import SelfAttentionRecommender
from regard.recommender import Recommender
from regard.splits import Holdout, Split

__all__ = ["MODELS", "Comparison", "compare", "fit_simple"]

SIMPLE: dict[str, type[Recommender]] = {
    "popularity": Popularity,
    "repeats": Repeats,
    "rules": SequentialRules,
    "item-knn": ItemKNN,
    "ease": EASE,
    "mf": MatrixFactorization,
    "content": ContentBased,
}
MODELS = (*SIMPLE, "regard")
METRICS = ("hr@10", "ndcg@10", "coverage@10")

_METRIC = "ndcg@10"
_TUNING_USERS = 1000  # of the validation part: enough to choose by
_TIMED_USERS = 50
_COVERAGE_CELLS = 300_000_000  # users times items up to which lists for the coverage are cheap


def fit_simple(name: str, split: Split, *, tuned: bool, exclude_seen: bool = True) -> Recommender:
    """A baseline of `SIMPLE`, fitted on the training part; ``tuned``: its settings chosen on the validation part."""
    kind = SIMPLE[name]
    if not tuned or not hasattr(kind, "grid"):
        return kind().fit(split.train)
    # Of EASE only what needs no new inverse, which is slow for large catalogues.
    candidates = [EASE(decay=decay) for decay in EASE.grid["decay"]] if kind is EASE else kind
    return tune(candidates, split, metric=_METRIC, exclude_seen=exclude_seen)


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Header and lines, as text, of the rows of a `Comparison`."""
    metrics = [metric for metric in METRICS if any(metric in row for row in rows)]
    lines = [["model", *metrics, "95 % of ndcg@10", "fit s", "ms"]]
    for row in rows:
        if "left_out" in row:
            lines.append([row["model"], *[""] * len(metrics), "left out", "", ""])
            continue
        interval, cost = f"{row['low']:.4f} to {row['high']:.4f}", (row["fit_seconds"], row["milliseconds"])
        values = [f"{row[metric]:.4f}" for metric in metrics]
        lines.append([row["model"], *values, interval, f"{cost[0]:.1f}", f"{cost[1]:.2f}"])
    return lines


def markdown(rows: list[dict[str, Any]]) -> str:
    """The same as a Markdown table."""
    header, *lines = table(rows)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found; prints as a table with the verdict below.

    Attributes
    ----------
    reports : dict of Report by name of the model, in the order of the table
    models : dict of the fitted models
    fit_seconds : dict of float
        Choosing the settings on the validation part is part of it.
    milliseconds : dict of float
        For ten recommendations to one user, median.
    left_out : dict of str
        Why a model is missing.
    """

    reports: dict[str, Report]
    models: dict[str, Any]
    fit_seconds: dict[str, float]
    milliseconds: dict[str, float]
    left_out: dict[str, str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each model: its metrics, ``low`` and ``high`` of the interval of NDCG@10 over users,
        ``fit_seconds`` and ``milliseconds``; or ``left_out``, the reason.
        """
        rows: list[dict[str, Any]] = []
        for name, report in self.reports.items():
            low, high = report.interval(_METRIC)
            metrics = {metric: report[metric] for metric in METRICS if metric in report}
            cost = {"fit_seconds": self.fit_seconds[name], "milliseconds": self.milliseconds[name]}
            rows.append({"model": name, **metrics, "low": low, "high": high, **cost})
        return rows + [{"model": name, "left_out": why} for name, why in self.left_out.items()]

    @property
    def best_simple(self) -> str | None:
        """The simple method with the highest NDCG@10 on the test."""
        simple = [name for name in self.reports if name != "regard"]
        return max(simple, key=lambda name: self.reports[name][_METRIC], default=None)

    def difference(self) -> tuple[float, float, float] | None:
        """NDCG@10 of regard less that of the best simple method, and the paired 95 % interval over users."""
        if "regard" not in self.reports or self.best_simple is None:
            return None
        return self.reports["regard"].difference(self.reports[self.best_simple], _METRIC)

    @property
    def verdict(self) -> str:
        """Who wins, by how much, and whether attention is worth it here: one or two sentences."""
        difference = self.difference()
        if difference is None:
            name = max(self.reports, key=lambda name: self.reports[name][_METRIC])
            return f"The best of these is {name}, NDCG@10 {self.reports[name][_METRIC]:.4f}."
        simple = self.best_simple
        assert simple is not None
        gain, low, high = difference
        winner, loser = ("regard", simple) if gain > 0 else (simple, "regard")
        base = self.reports[loser][_METRIC]
        share = f" ({abs(gain) / base:.0%})" if base else ""
        interval = f"the 95 % interval of regard's difference over users, {low:+.4f} to {high:+.4f},"
        if low <= 0 <= high:
            return (
                f"regard and {simple}, the best simple method, cannot be told apart: {winner} is ahead by "
                f"{abs(gain):.4f} NDCG@10{share}, and {interval} includes 0. Attention is not worth it on this test."
            )
        worth = "is worth it" if gain > 0 else "is not worth it"
        role = ", the best simple method" if loser == simple else ""
        return (
            f"{winner} wins by {abs(gain):.4f} NDCG@10{share} over {loser}{role}; {interval} leaves out 0. "
            f"Attention {worth} on this test."
        )

    @property
    def notes(self) -> list[str]:
        """How it was measured, and what is left out."""
        some = next(iter(self.reports.values()))
        seen = "seen items excluded" if some.exclude_seen else "seen items ranked like others"
        test = (some.fingerprint or "unknown")[:12]
        how = f"{some.n_users:,} users, {some.n_items:,} items, full ranking, {seen}; test {test}"
        return [how, *(f"{name} is left out: {why}" for name, why in self.left_out.items())]

    def to_markdown(self) -> str:
        """The table, the notes and the verdict."""
        return "\n\n".join([markdown(self.rows), *(f"{note}." for note in self.notes), self.verdict]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        some = next(iter(self.reports.values()))
        difference = self.difference()
        return {
            "n_users": some.n_users,
            "n_items": some.n_items,
            "n_targets": some.n_targets,
            "exclude_seen": some.exclude_seen,
            "fingerprint": some.fingerprint,
            "results": self.rows,
            "best_simple": self.best_simple,
            "difference": None if difference is None else dict(zip(("mean", "low", "high"), difference, strict=True)),
            "verdict": self.verdict,
        }

    def __repr__(self) -> str:
        cells = table(self.rows)
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in cells
        ]
        return "\n".join([*(line.rstrip() for line in lines), *self.notes, self.verdict])

    def _repr_html_(self) -> str:
        header, *lines = table(self.rows)
        return html.table(self.verdict, lines, header)


def compare(
    split: Split,
    *,
    models: Iterable[str] | None = None,
    exclude_seen: bool = True,
    preset: str = "fast",
    progress: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **settings: Any,
) -> Comparison:
    """Fit simple methods and attention on one training part and test all on the same test with full ranking.

    The settings of the simple methods are chosen on the validation part (of 1,000 of its users, if it has more), the
    epoch of regard on all of it. Where the split has no validation part, methods have their defaults, and regard holds
    out each user's last training event.

    Parameters
    ----------
    split : Split
    models : names, default None
        Of ``popularity``, ``repeats`` (only with ``exclude_seen=False``), ``rules``, ``item-knn``, ``ease``, ``mf``
        (matrix factorisation; extra ``compare``), ``content`` (needs item features) and ``regard``. None: all that
        apply; what cannot run is left out, with the reason.
    exclude_seen : bool, default True
        As in `regard.evaluate`; False where people come back to the same items.
    preset : "best" or "fast"
        See `SelfAttentionRecommender.for_data`.
    progress : function of one line of text, optional
        Told what is fitted, and what came of it.
    clock : function, default `time.perf_counter`
        What ``fit_seconds`` and ``milliseconds`` are read from; with one thread on a busy machine `time.process_time`.
    **settings
        Arguments of `SelfAttentionRecommender`, such as ``epochs=10`` or ``random_state=1``.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        An unknown name; fewer than two users in the test; no model that can run.

    Examples
    --------
    >>> print(regard.compare(split, models=["rules", "ease", "regard"], epochs=10))  # doctest: +SKIP
    """
    chosen = _names(models, exclude_seen)
    if len(split.test) < 2:
        raise ValueError(f"split: expected at least 2 users in the test to compare on, got {len(split.test)}")
    tell = progress or (lambda line: None)
    validation = split.validation if split.validation is not None and len(split.validation) else None
    fewer = replace(split, validation=None if validation is None else _sample(validation, _TUNING_USERS))
    coverage = len(split.test) * len(split.test.item_ids) <= _COVERAGE_CELLS
    found = Comparison({}, {}, {}, {}, {})
    for name in chosen:
        tell(f"{name}: fitting")
        started = clock()
        try:
            if name == "regard":
                model: Any = SelfAttentionRecommender.for_data(
                    split.train, preset, exclude_seen=exclude_seen, **settings
                )
                model.fit(
                    split.train, validation="last" if validation is None else validation, exclude_seen=exclude_seen
                )
                if model.interrupted_:
                    raise KeyboardInterrupt
            else:
                model = fit_simple(name, fewer, tuned=validation is not None, exclude_seen=exclude_seen)
        except (ValueError, ModuleNotFoundError) as error:
            if name == "regard":
                raise
            found.left_out[name] = str(error)
            tell(f"{name}: left out: {error}")
            continue
        found.fit_seconds[name] = clock() - started
        found.models[name] = model
        found.reports[name] = evaluate(model, split.test, k=10, exclude_seen=exclude_seen, coverage=coverage)
        found.milliseconds[name] = _milliseconds(model, split.test, exclude_seen, clock)
        tell(f"{name}: fitted in {found.fit_seconds[name]:.1f} s, NDCG@10 {found.reports[name][_METRIC]:.4f}")
    if not found.reports:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in found.left_out.items()))
    return found


def _names(models: Iterable[str] | None, exclude_seen: bool) -> list[str]:
    """The chosen models in the order of `MODELS`."""
    if models is None:
        return [name for name in MODELS if name != "repeats" or not exclude_seen]
    asked = [models] if isinstance(models, str) else list(models)
    if unknown := [name for name in asked if name not in MODELS]:
        raise ValueError(f"models: expected some of {', '.join(MODELS)}, got {unknown[0]!r}")
    if not asked:
        raise ValueError(f"models: expected some of {', '.join(MODELS)}, got none")
    if "repeats" in asked and exclude_seen:
        raise ValueError("models: repeats needs exclude_seen=False, it recommends nothing else than seen items")
    return [name for name in MODELS if name in asked]


def _sample(holdout: Holdout, n: int) -> Holdout:
    """At most so many users of a holdout, drawn the same way each time."""
    if len(holdout) <= n:
        return holdout
    return holdout.take(np.sort(np.random.default_rng(0).choice(len(holdout), n, replace=False)))


def _milliseconds(model: Recommender, holdout: Holdout, exclude_seen: bool, clock: Callable[[], float]) -> float:
    """Median time of ten recommendations for one history."""
    seconds = []
    for i in range(min(_TIMED_USERS, len(holdout))):
        history = holdout.histories[i : i + 1]
        ids = history.with_values(holdout.item_ids[history.values])
        started = clock()
        model.recommend(ids, k=10, exclude_seen=exclude_seen)
        seconds.append(clock() - started)
    return 1000 * float(np.median(seconds))
