"""``regard train`` and ``regard evaluate``."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from regard import report
from regard.blend import Blend, usual
from regard.cli import compare, settings
from regard.cli.inputs import add_data, check_drawn, check_out, load_data, split_data
from regard.cli.text import print_json
from regard.data import Interactions
from regard.growth import validation_of
from regard.metrics import Report
from regard.metrics import evaluate as measure
from regard.models.self_attention import SelfAttentionRecommender
from regard.recommender import load
from regard.splits import Holdout, Split


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, where to save, settings."""
    add_data(parser, needed=False)  # --print-config does without
    parser.add_argument("--out", metavar="FILE", help="where to save the model (safetensors)")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the run here every minute; the same command goes on from it, with the same result to the last bit",
    )
    parser.add_argument("--report", metavar="FILE.html", help="also evaluate, and write one page with tables and plots")
    parser.add_argument(
        "--blend",
        action="store_true",
        help="save the weighted sum of the model, rules, item-kNN and EASE, weights learned on the validation part",
    )
    parser.add_argument(
        "--include-seen", action="store_true", help="train for answers that may hold what the history holds"
    )
    settings.add_flags(parser)


def train(arguments: argparse.Namespace) -> int:
    """Train on the training part and save; Ctrl-C stops early and saves the best so far."""
    if not arguments.print_config:
        check_out("--out", arguments.out)
        check_drawn("--report", arguments.report)

    @functools.cache
    def parts() -> tuple[Interactions, Split | None]:
        data = load_data(arguments)
        return data, split_data(arguments, data)

    def trained_part() -> Interactions:
        data, split = parts()
        return data if split is None else split.train

    chosen = settings.chosen(arguments, trained_part)
    if arguments.print_config:
        if arguments.json:
            print_json(chosen)
        else:
            print(settings.as_toml(chosen), end="")
        return 0
    model = SelfAttentionRecommender(**chosen)  # type: ignore[arg-type]
    data, split = parts()
    if arguments.blend and split is not None and not split.validation:
        raise ValueError("--blend: expected a validation part to learn weights on, got none; give --validation-at")
    exclude_seen = not arguments.include_seen
    how: dict[str, Any] = {"checkpoint": arguments.checkpoint, "exclude_seen": exclude_seen}
    started = time.perf_counter()
    if split is None:
        model.fit(data, **how)
    else:
        model.fit(split.train, validation=split.validation, **how)
    blend = blended(model, data, split, exclude_seen) if arguments.blend else None
    seconds = time.perf_counter() - started
    (blend or model).save(arguments.out)
    if arguments.report is not None:
        # Settings are chosen by looking at this page: it shows the validation part, not the test.
        reports = None
        if split is not None and split.validation is not None:
            options = {"k": 10, "exclude_seen": exclude_seen}
            reports = dict(judged(model, split, split.validation, options, tuned=False))
        report.write(arguments.report, model, split, reports, part="validation", data=arguments.data)
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
        "blend": None if blend is None else weights_of(blend),
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
    if blend is not None:
        print("blend    " + ", ".join(f"{name} {weight:.2f}" for name, weight in weights_of(blend).items()))
    print(f"saved    {arguments.out} ({Path(arguments.out).stat().st_size / 2**20:.1f} MiB)")
    return 0


def blended(model: SelfAttentionRecommender, data: Interactions, split: Split | None, exclude_seen: bool) -> Blend:
    """The trained model with rules, item-kNN and EASE; weights are learned where the model's epoch was chosen."""
    given = "last" if split is None else split.validation
    part, holdout = validation_of(data if split is None else split.train, given)
    members = [model, *usual(part, holdout, exclude_seen)]
    return Blend(members).fit(part, validation=holdout, exclude_seen=exclude_seen)


def weights_of(blend: Blend) -> dict[str, float]:
    """Weight of each member by the name of its class."""
    names = [type(member).__name__ for member in blend.members_]
    return dict(zip(names, blend.weights_.tolist(), strict=True))


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, data, how to compare."""
    parser.add_argument("model", metavar="MODEL", help="file of a saved model")
    add_data(parser)
    parser.add_argument("-k", type=int, nargs="+", default=[5, 10, 20], metavar="N", help="cut-offs (default: 5 10 20)")
    parser.add_argument("--no-baselines", action="store_true", help="only the model")
    parser.add_argument("--tune", action="store_true", help="choose the settings of the rules on the validation part")
    parser.add_argument("--include-seen", action="store_true", help="also rank what the history holds")
    parser.add_argument("--report", metavar="FILE.html", help="also write one page with tables and plots")


def evaluate(arguments: argparse.Namespace) -> int:
    """Rank the test targets with the model and with baselines fitted on the training part."""
    check_drawn("--report", arguments.report)
    model = load(arguments.model)
    if arguments.report is not None and not hasattr(model, "history_"):
        raise NotImplementedError(f"--report: expected a model with a training to show, got a {type(model).__name__}")
    split = split_data(arguments, load_data(arguments))
    if split is None:
        raise ValueError("--split none leaves nothing to evaluate on")
    options = {"k": arguments.k, "exclude_seen": not arguments.include_seen}
    reports = dict(judged(model, split, split.test, options, tuned=arguments.tune, alone=arguments.no_baselines))
    results = [compare.row(name, one) for name, one in reports.items()]
    own = reports["regard"]
    if arguments.report is not None:
        report.write(arguments.report, model, split, reports, data=arguments.data)
    interval = own.interval(f"ndcg@{max(arguments.k)}")
    clean = trained_on(model, split)
    if arguments.json:
        counts = {name: value for name, value in own.to_dict().items() if name not in own}
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
        f"{own.n_users:,} users, {own.n_items:,} items, full ranking, seen items "
        f"{'excluded' if own.exclude_seen else 'ranked like others'}; test {split.fingerprint[:12]}"
    )
    print(f"regard: 95 % interval of ndcg@{max(arguments.k)} over users {interval[0]:.4f} to {interval[1]:.4f}")
    if not clean:
        print("The model was not trained on the training part of this split: it may have seen the answers.")
    return 0


def judged(
    model: Any, split: Split, holdout: Holdout, options: dict[str, Any], *, tuned: bool, alone: bool = False
) -> Iterator[tuple[str, Report]]:
    """Reports on a holdout: the model's, and unless it stands alone the baselines'."""
    yield "regard", measure(model, holdout, **options)
    for name, baseline in () if alone else compare.baselines(split, tuned=tuned, exclude_seen=options["exclude_seen"]):
        yield name, measure(baseline, holdout, **options)


def trained_on(model: Any, split: Split) -> bool:
    """Whether the model's training counts are those of the training part, item by item."""
    counts = split.train.popularity()
    return np.array_equal(model.item_ids_, split.train.item_ids) and np.array_equal(model.popularity_, counts)
