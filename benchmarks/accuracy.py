"""Accuracy on public data: one command trains, tests once and records.

    python benchmarks/accuracy.py ml-1m --seeds 0 1 2

Leave-one-out, full ranking, seen items excluded, ties by expected rank; the epoch is chosen on validation only.
A seed that `results/accuracy.json` already has (same data, settings, fingerprint) is not trained again, so a
stopped run goes on where it was. Data sets are read from the folder in REGARD_DATA.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard import whole_file
from regard.doctor import machine

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
METRICS = [f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)]

# Chosen on validation; what is not named here is the default, but for item_features: rows are of ids alone unless
# --features asks for both.
RECIPES: dict[str, dict[str, Any]] = {
    "ml-1m": {"ffn_dim": 256, "dropout": 0.1},
    "amazon-beauty": {"max_len": 50, "dropout": 0.5, "batch_size": 128, "epochs": 30},
    "amazon-sports": {"max_len": 50, "dropout": 0.5, "batch_size": 128, "epochs": 30},
    "ml-100k": {},
}


def all_settings(changed: dict[str, Any]) -> dict[str, Any]:
    """With the defaults, so that a row says what it was trained with whatever they are later."""
    settings = regard.SelfAttentionRecommender(**changed).get_params()
    del settings["random_state"]
    return settings


def run(name: str, seed: int, settings: dict[str, Any], split: Any) -> dict[str, Any]:
    model = regard.SelfAttentionRecommender(**settings, random_state=seed)
    start = time.perf_counter()
    model.fit(split.train, validation=split.validation)
    seconds = time.perf_counter() - start
    report = regard.evaluate(model, split.test)
    return {
        "data": name,
        "seed": seed,
        "settings": settings,
        "fingerprint": split.fingerprint,
        **{metric: round(report[metric], 5) for metric in METRICS},
        "validation_ndcg@10": round(max(entry["metric"] for entry in model.history_), 5),
        "best_epoch": model.best_epoch_,
        "epochs": len(model.history_),
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(float(np.median([entry["seconds"] for entry in model.history_])), 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": machine(),
        "version": regard.__version__,
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--features", action="store_true", help="use the item features that the data set has")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON; changes the recipe")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    settings = all_settings(RECIPES[arguments.data] | {"item_features": arguments.features} | arguments.settings)
    split = regard.splits.leave_one_out(regard.datasets.load(arguments.data))

    def wanted(row: dict[str, Any]) -> bool:
        # A setting that came later has its default in earlier rows, and these are of ids alone.
        same = row["data"] == arguments.data and row["fingerprint"] == split.fingerprint
        return same and all_settings({"item_features": False} | row["settings"]) == settings

    arguments.results.parent.mkdir(exist_ok=True)
    for seed in arguments.seeds:
        known = json.loads(arguments.results.read_text()) if arguments.results.exists() else []
        if any(row["seed"] == seed and wanted(row) for row in known):
            continue
        row = run(arguments.data, seed, settings, split)
        # Read again: another run may have written meanwhile.
        known = json.loads(arguments.results.read_text()) if arguments.results.exists() else []
        whole_file.write(arguments.results, [(json.dumps([*known, row], indent=1) + "\n").encode()])
        print(json.dumps(row), flush=True)

    rows = [row for row in json.loads(arguments.results.read_text()) if wanted(row)]
    for metric in METRICS:
        values = np.array([row[metric] for row in rows])
        print(f"{arguments.data}  {metric:8} {values.mean():.4f} ± {values.std():.4f}  ({len(values)} seeds)")


if __name__ == "__main__":
    main()
