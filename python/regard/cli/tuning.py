"""``regard tune``."""

from __future__ import annotations

import argparse
import sys

from regard import whole_file
from regard.cli import settings
from regard.cli.inputs import add_data, check_out, check_picture, load_data, save_picture, split_data
from regard.cli.text import print_json, print_table
from regard.tuning import SPACE
from regard.tuning import tune as search


def tune_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, budget, where the settings go, what is fixed."""
    add_data(parser)
    parser.add_argument("--out", metavar="FILE.toml", help="where to write the best settings, for train --config")
    parser.add_argument("--trials", type=int, default=30, metavar="N", help="at most (default: 30)")
    parser.add_argument("--minutes", type=float, metavar="N", help="time budget (default: none)")
    parser.add_argument("--storage", metavar="FILE", help="keep the trials here; the same command goes on from it")
    parser.add_argument("--include-seen", action="store_true", help="also rank what the history holds")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw the trials")
    settings.add_flags(parser, printed=False)


def tune(arguments: argparse.Namespace) -> int:
    """Search for settings on the training and the validation part; flags and --config fix what they give."""
    check_out("--out", arguments.out)
    check_picture("--plot", arguments.plot)
    data = load_data(arguments)
    split = split_data(arguments, data)
    fixed = settings.given(arguments)
    seed = fixed.pop("random_state", 0)
    found = search(
        data if split is None else split.train,
        validation="last" if split is None or split.validation is None else split.validation,
        exclude_seen=not arguments.include_seen,
        n_trials=arguments.trials,
        seconds=None if arguments.minutes is None else 60 * arguments.minutes,
        storage=arguments.storage,
        preset=arguments.preset or "best",
        seed=int(seed or 0),
        progress=lambda line: print(line, file=sys.stderr, flush=True),
        **fixed,
    )
    whole_file.write(arguments.out, [settings.as_toml(found.best).encode()])
    if arguments.plot is not None:
        from regard import plots  # noqa: PLC0415

        save_picture(arguments.plot, plots.tuning(found).figure)
    if arguments.json:
        about = {"best": found.best, "trials": found.trials, "interrupted": found.interrupted}
        print_json({"data": arguments.data, **about})
        return 0
    names = [name for name in SPACE if name in found.trials[0]["settings"]]
    ranked = sorted(found.trials, key=lambda trial: -trial["metric"])[:10]
    print_table(
        [
            ["trial", "NDCG@10", *names],
            *([t["number"] + 1, t["metric"], *(t["settings"][name] for name in names)] for t in ranked),
        ]
    )
    if found.interrupted:
        print("stopped by Ctrl-C")
    print(f"first trial, the defaults: {found.trials[0]['metric']:.4f}; best: {ranked[0]['metric']:.4f}")
    print(f"saved    {arguments.out}; train with: regard train {arguments.data} --config {arguments.out} --out MODEL")
    return 0
