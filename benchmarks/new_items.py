"""How near an item that is added by its features comes to one that was trained on.

    python benchmarks/new_items.py amazon-beauty

A part of the items is taken out of the training data, events and all. A model trained on the rest then gets them by
`add_items`, with their features or without, and is judged on the users whose test target is one of them; beside it a
refit that knows their events. The results go to `results/new_items.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import regard
from accuracy import DATA, recipe
from regard import whole_file
from regard.data import Interactions
from regard.doctor import machine
from regard.ids import drop_unknown

RESULTS = Path(__file__).parent / "results" / "new_items.json"


def without(data: Interactions, items: np.ndarray) -> Interactions:
    """The events with the other items, and a catalogue of these."""
    kept = np.setdiff1d(np.arange(data.n_items), items)
    place = np.full(data.n_items, -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    left = drop_unknown(data.sequences.with_values(place[data.sequences.values]))
    return Interactions.from_sequences(data.user_ids, data.item_ids[kept], left, features=data.features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--new", type=float, default=0.05, help="share of the items that come later")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    data = regard.datasets.load(arguments.data)
    split = regard.splits.leave_one_out(data)
    items = np.random.default_rng(arguments.seed).permutation(data.n_items)
    new = items[: round(arguments.new * len(items))]
    new_ids = data.item_ids[new]
    hit = np.isin(split.test.targets.values, new)
    asked = {
        "of new items": split.test.take(np.flatnonzero(hit)),
        "of all items": split.test,
    }
    results: dict[str, Any] = {}

    def judge(name: str, model: Any, seconds: float) -> None:
        results[name] = {"seconds": round(seconds, 1)}
        for whose, holdout in asked.items():
            report = regard.evaluate(model, holdout, k=(10, 100), coverage=False)
            results[name][whose] = {metric: round(report[metric], 4) for metric in ("hr@10", "ndcg@10", "hr@100")}
        print(name, json.dumps(results[name]), flush=True)

    settings = {**recipe(arguments.data), "item_features": True}

    def model() -> Any:
        return regard.SelfAttentionRecommender(**settings, random_state=arguments.seed)

    start = time.perf_counter()
    base = model().fit(without(split.train, new))
    seconds = time.perf_counter() - start
    base.add_items(new_ids, features=data.features)
    judge("added with features", base, seconds)
    base.retire_items(new_ids).add_items(new_ids)
    judge("added without", base, seconds)
    start = time.perf_counter()
    judge("refit with their events", model().fit(split.train), time.perf_counter() - start)

    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[arguments.data] = {
        "results": results,
        "new_items": len(new),
        "items": data.n_items,
        "users_with_a_new_target": int(hit.sum()),
        "seed": arguments.seed,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    whole_file.write(RESULTS, [(json.dumps(known, indent=1) + "\n").encode()])


if __name__ == "__main__":
    main()
