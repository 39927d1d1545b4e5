"""Models side by side on one test."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from regard.baselines import EASE, ItemKNN, Popularity, SequentialRules, tune
from regard.cli.text import print_table
from regard.metrics import Report
from regard.recommender import Recommender
from regard.splits import Split


def baselines(split: Split, *, tuned: bool) -> Iterator[tuple[str, Recommender]]:
    """Baselines, fitted on the training part; ``tuned``: rules chosen on the validation part."""
    yield "rules", tune(SequentialRules, split) if tuned else SequentialRules().fit(split.train)
    for name, model in (("ease", EASE()), ("item-knn", ItemKNN()), ("popularity", Popularity())):
        try:
            yield name, model.fit(split.train)
        except ValueError as error:  # a catalogue too large for a dense table
            print(f"regard: note: {name} is left out: {error}", file=sys.stderr)


def row(name: str, report: Report) -> dict[str, Any]:
    """One entry of ``results``."""
    return {"model": name, **report}


def print_results(results: list[dict[str, Any]], metrics: Iterable[str]) -> None:
    """A table with a line for each model; metrics that a model lacks stay empty."""
    metrics = list(metrics)
    print_table(
        [["model", *metrics], *([entry["model"], *(_float(entry.get(name)) for name in metrics)] for entry in results)]
    )


def _float(value: Any) -> float | str:
    return "" if value is None else float(value)
