"""``regard train`` and ``regard evaluate``."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from regard.cli import compare, settings
from regard.cli.inputs import add_data, load_data, split_data
from regard.cli.text import print_json
from regard.metrics import evaluate as measure
from regard.models.self_attention import SelfAttentionRecommender
from regard.recommender import load
from regard.splits import Split


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, where to save, settings."""
    add_data(parser, needed=False)  # --print-config does without
    parser.add_argument("--out", metavar="FILE", help="where to save the model (safetensors)")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the run here every minute; the same command goes on from it, with the same result to the last bit",
    )
    settings.add_flags(parser)


def train(arguments: argparse.Namespace) -> int:
    """Train on the training part and save; Ctrl-C stops early and saves the best so far."""
    chosen = settings.chosen(arguments)
    model = SelfAttentionRecommender(**chosen)  # type: ignore[arg-type]
    if arguments.print_config:
        if arguments.json:
            print_json(chosen)
        else:
            print(settings.as_toml(chosen), end="")
        return 0
    check_out(arguments.out)
    data = load_data(arguments)
    split = split_data(arguments, data)
    started = time.perf_counter()
    if split is None:
        model.fit(data, checkpoint=arguments.checkpoint)
    else:
        model.fit(split.train, validation=split.validation, checkpoint=arguments.checkpoint)
    seconds = time.perf_counter() - started
    model.save(arguments.out)
    best = next((entry["metric"] for entry in model.history_ if entry["epoch"] == model.best_epoch_), None)
    summary: dict[str, Any] = {
        "data": arguments.data,
        "split": arguments.split,
        "fingerprint": None if split is None else split.fingerprint,
        "out": arguments.out,
        "settings": chosen,
        "epochs": len(model.history_),
        "best_epoch": model.best_epoch_,
        "validation_ndcg@10": best,
        "interrupted": model.interrupted_,
        "seconds": seconds,
        "history": model.history_,
    }
    if arguments.json:
        print_json(summary)
        return 0
    print(f"data     {arguments.data}: {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events")
    ending = "stopped by Ctrl-C" if model.interrupted_ else "done"
    print(f"trained  {len(model.history_)} epochs in {seconds:.1f} s, {ending}; kept epoch {model.best_epoch_}")
    if best is not None:
        print(f"metric   validation NDCG@10 {best:.4f}")
    print(f"saved    {arguments.out} ({Path(arguments.out).stat().st_size / 2**20:.1f} MiB)")
    return 0


def check_out(path: str | None) -> None:
    """Say before the training, not after it, that the model cannot be saved."""
    if path is None:
        raise ValueError("--out: expected a file to save the model in")
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "it is a folder" if Path(path).is_dir() else f"cannot write in the folder {folder}"
        raise ValueError(f"--out: cannot save as {path}: {reason}")


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, data, how to compare."""
    parser.add_argument("model", metavar="MODEL", help="file of a saved model")
    add_data(parser)
    parser.add_argument("-k", type=int, nargs="+", default=[5, 10, 20], metavar="N", help="cut-offs (default: 5 10 20)")
    parser.add_argument("--no-baselines", action="store_true", help="only the model")
    parser.add_argument("--tune", action="store_true", help="choose the settings of the rules on the validation part")
    parser.add_argument("--include-seen", action="store_true", help="also rank what the history holds")


def evaluate(arguments: argparse.Namespace) -> int:
    """Rank the test targets with the model and with baselines fitted on the training part."""
    model = load(arguments.model)
    split = split_data(arguments, load_data(arguments))
    if split is None:
        raise ValueError("--split none leaves nothing to evaluate on")
    options = {"k": arguments.k, "exclude_seen": not arguments.include_seen}
    report = measure(model, split.test, **options)
    results = [compare.row("regard", report)]
    if not arguments.no_baselines:
        for name, baseline in compare.baselines(split, tuned=arguments.tune):
            results.append(compare.row(name, measure(baseline, split.test, **options)))
    interval = report.interval(f"ndcg@{max(arguments.k)}")
    clean = trained_on(model, split)
    if arguments.json:
        counts = {name: value for name, value in report.to_dict().items() if name not in report}
        print_json(
            {
                "data": arguments.data,
                "split": arguments.split,
                **counts,
                "trained_on_this_split": clean,
                "interval": {f"ndcg@{max(arguments.k)}": interval},
                "results": results,
            }
        )
        return 0
    shown = [f"{name}@{k}" for name in ("hr", "ndcg") for k in sorted(set(arguments.k))]
    compare.print_results(results, [*shown, "mrr"])
    print(
        f"{report.n_users:,} users, {report.n_items:,} items, full ranking, seen items "
        f"{'excluded' if report.exclude_seen else 'ranked like others'}; test {split.fingerprint[:12]}"
    )
    print(f"regard: 95 % interval of ndcg@{max(arguments.k)} over users {interval[0]:.4f} to {interval[1]:.4f}")
    if not clean:
        print("The model was not trained on the training part of this split: it may have seen the answers.")
    return 0


def trained_on(model: Any, split: Split) -> bool:
    """Whether the model's training counts are those of the training part, item by item."""
    counts = split.train.popularity()
    return np.array_equal(model.item_ids_, split.train.item_ids) and np.array_equal(model.popularity_, counts)
