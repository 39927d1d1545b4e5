"""``regard compare``, and what other commands share with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from regard import whole_file
from regard.cli.inputs import add_data, check_out, check_picture, load_data, save_picture, split_data
from regard.cli.text import print_json, print_table
from regard.comparison import MODELS, fit_simple
from regard.comparison import compare as compared
from regard.metrics import Report
from regard.recipes import PRESETS
from regard.recommender import Recommender
from regard.splits import Split


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, models, where the table goes."""
    add_data(parser, split=None)
    parser.add_argument("--models", metavar="LIST", help=f"some of {','.join(MODELS)} (default: all that apply)")
    parser.add_argument("--preset", choices=PRESETS, default="fast", help="settings of regard (default: fast)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of regard, at most (default: that of the preset)")
    parser.add_argument("--random-state", type=int, default=0, metavar="N", help="of regard (default: 0)")
    parser.add_argument("--include-seen", action="store_true", help="also rank what the history holds")
    parser.add_argument("--out", metavar="FILE.md", help="also write the table as Markdown")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw the models as bars with their intervals")


def compare(arguments: argparse.Namespace) -> int:
    """Simple methods and attention on one split, in one table, with a verdict."""
    if arguments.out is not None:
        check_out("--out", arguments.out)
    check_picture("--plot", arguments.plot)
    settings = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    models = None if arguments.models is None else [name.strip() for name in arguments.models.split(",")]
    if models is not None and (unknown := [name for name in models if name not in MODELS]):
        raise ValueError(f"--models: expected some of {', '.join(MODELS)}, got {unknown[0]!r}")  # before data are read
    split = split_data(arguments, load_data(arguments))
    if split is None:
        raise ValueError("--split none leaves nothing to compare on")
    result = compared(
        split,
        models=models,
        exclude_seen=not arguments.include_seen,
        preset=arguments.preset,
        progress=_tell,
        random_state=arguments.random_state,
        **settings,
    )
    if arguments.out is not None:
        whole_file.write(arguments.out, [result.to_markdown().encode()])
    if arguments.plot is not None:
        from regard import plots  # noqa: PLC0415

        save_picture(arguments.plot, plots.comparison(result.rows).figure)
    if arguments.json:
        print_json({"data": arguments.data, **result.to_dict()})
    else:
        print(result)
    return 0


def _tell(line: str) -> None:
    print(f"regard: {line}", file=sys.stderr)


def baselines(split: Split, *, tuned: bool, exclude_seen: bool) -> Iterator[tuple[str, Recommender]]:
    """Those that need nothing else, fitted on the training part; ``tuned``: rules chosen on the validation part."""
    for name in ("rules", "ease", "item-knn", "popularity"):
        try:
            yield name, fit_simple(name, split, tuned=tuned and name == "rules", exclude_seen=exclude_seen)
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
