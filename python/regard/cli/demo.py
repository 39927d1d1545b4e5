"""``regard demo``: the whole path on data that need no files."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from regard import num_threads
from regard.cli import compare
from regard.cli.text import print_json, print_table
from regard.metrics import evaluate
from regard.models.self_attention import SelfAttentionRecommender
from regard.splits import Split, leave_one_out
from regard.synthetic import SyntheticInteractions, synthetic

EPOCHS = 24
SETTINGS: dict[str, Any] = {
    "dim": 32,
    "n_heads": 2,
    "max_len": 40,
    "dropout": 0.1,
    "learning_rate": 4e-3,
    "batch_size": 32,
}
CUTOFFS = (5, 10)
N_EXAMPLES, N_SHOWN = 3, 5


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """How much, and the seed."""
    parser.add_argument("--users", type=int, default=4000, metavar="N", help="users to draw (default: 4000)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"of training (default: {EPOCHS})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of data and training (default: 0)")


def demo(arguments: argparse.Namespace) -> int:
    """Train, compare, show."""
    data = synthetic(n_users=arguments.users, seed=arguments.seed)
    split = leave_one_out(data)
    if not arguments.json:
        print(
            f"Drawn data: {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events. What comes next\n"
            "depends on two earlier events: the last one, or what goes together, does not tell it."
        )
    model = SelfAttentionRecommender(**SETTINGS, epochs=arguments.epochs, random_state=arguments.seed)
    started = time.perf_counter()
    model.fit(split.train, validation=split.validation)
    seconds = time.perf_counter() - started
    if model.interrupted_:
        print("regard: note: training stopped by Ctrl-C; the best so far is used", file=sys.stderr)
    best = {f"hr@{k}": data.best_possible.hit_rate(k) for k in CUTOFFS}
    best |= {f"ndcg@{k}": data.best_possible.ndcg(k) for k in CUTOFFS}
    results: list[dict[str, Any]] = [{"model": "best-possible", **best}]
    for name, candidate in [("regard", model), *compare.baselines(split, tuned=True, exclude_seen=True)]:
        results.append(compare.row(name, evaluate(candidate, split.test, k=CUTOFFS, coverage=False)))
    if arguments.json:
        print_json(
            {
                "n_users": data.n_users,
                "n_items": data.n_items,
                "n_events": data.n_events,
                "fingerprint": split.fingerprint,
                "threads": num_threads(),
                "train_seconds": seconds,
                "epochs": len(model.history_),
                "results": results,
                "examples": examples(model, data, split),
            }
        )
        return 0
    print(f"Trained {len(model.history_)} epochs in {seconds:.0f} s on {num_threads()} threads.\n")
    for entry in results:
        entry["of best hr@10"] = f"{entry['hr@10'] / best['hr@10']:.0%}"
    names = [*best, "of best hr@10"]
    print_table([["model", *names], *([entry["model"], *(entry[name] for name in names)] for entry in results)])
    for example in examples(model, data, split):
        print(f"\nUser {example['user_id']} had   {'; '.join(example['latest'])}")
        for rank, title in enumerate(example["recommended"], 1):
            mark = "   <- came next" if title == example["next"] else ""
            print(f"  {'regard says' if rank == 1 else '':11} {rank}. {title}{mark}")
        if example["next"] not in example["recommended"]:
            print(f"  {'came next':11}    {example['next']}")
    return 0


def examples(model: SelfAttentionRecommender, data: SyntheticInteractions, split: Split) -> list[dict[str, Any]]:
    """Titles for the first few users of the test: latest events, recommendations, what came next."""
    titles, test = data.titles, split.test
    assert titles is not None
    shown = test.histories[:N_EXAMPLES]
    result = model.recommend([data.item_ids[history] for history in shown], k=N_SHOWN)
    return [
        {
            "user_id": user,
            "latest": titles[history[-4:]].tolist(),
            "recommended": titles[data.rows_of(items)].tolist(),
            "next": str(titles[target[0]]),
        }
        for user, history, items, target in zip(
            test.user_ids[:N_EXAMPLES].tolist(), shown, result.items, test.targets[:N_EXAMPLES], strict=True
        )
    ]
