"""How near a model that is trained further comes to one that is trained anew on everything.

    python benchmarks/fresh_model.py amazon-beauty

The base model knows a part of the users, and only the items that these have met. Then the others arrive. What is
judged on the test events of all users: the base (which skips items that it does not know), the base after `fit_more`
with the new users or with all, gently or not, and a refit on everything. The results go to `results/fresh_model.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import regard
from accuracy import DATA, recipe
from regard import whole_file
from regard.data import Interactions
from regard.doctor import machine
from regard.splits import Holdout

RESULTS = Path(__file__).parent / "results" / "fresh_model.json"


def part(data: Interactions, users: np.ndarray) -> Interactions:
    """Some users, and only the items that they have."""
    sequences = data.sequences.take(users)
    rows, values = np.unique(sequences.values, return_inverse=True)
    return Interactions.from_sequences(
        data.user_ids[users], data.item_ids[rows], regard.Ragged(values.astype(np.int32), sequences.offsets)
    )


def of_users(holdout: Holdout, users: np.ndarray) -> Holdout:
    return holdout.take(np.flatnonzero(np.isin(holdout.user_ids, users)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--new", type=float, default=0.2, help="share of the users that come later")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    split = regard.splits.leave_one_out(regard.datasets.load(arguments.data))
    users = np.random.default_rng(arguments.seed).permutation(split.train.n_users)
    n_new = round(arguments.new * len(users))
    new, old = np.sort(users[:n_new]), np.sort(users[n_new:])
    validation = [of_users(split.validation, split.train.user_ids[some]) for some in (old, new)]
    results: dict[str, Any] = {}

    def judge(name: str, model: Any, seconds: float) -> None:
        report = regard.evaluate(model, split.test, k=10)
        results[name] = {
            "hr@10": round(report["hr@10"], 4),
            "ndcg@10": round(report["ndcg@10"], 4),
            "items": len(model.item_ids_),
            "seconds": round(seconds, 1),
        }
        print(name, json.dumps(results[name]), flush=True)

    settings = recipe(arguments.data)

    def model() -> Any:
        return regard.SelfAttentionRecommender(**settings, random_state=arguments.seed)

    start = time.perf_counter()
    base = model().fit(part(split.train, old), validation=validation[0])
    judge("base, without the new users", base, time.perf_counter() - start)

    base.save(temporary := RESULTS.with_suffix(f".{os.getpid()}.model"))
    whole = {"epochs": 10, "learning_rate": base.learning_rate}
    for name, data, chosen, how in (
        ("fit_more with the new users", part(split.train, new), validation[1], {}),
        ("fit_more with the new users, ten epochs at the full rate", part(split.train, new), validation[1], whole),
        ("fit_more with all users", split.train, split.validation, {}),
        ("fit_more with all users, ten epochs at the full rate", split.train, split.validation, whole),
    ):
        grown = regard.load(temporary)
        start = time.perf_counter()
        grown.fit_more(data, validation=chosen, **how)
        judge(name, grown, time.perf_counter() - start)
    temporary.unlink()

    start = time.perf_counter()
    judge("refit", model().fit(split.train, validation=split.validation), time.perf_counter() - start)

    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[arguments.data] = {
        "results": results,
        "new_users": n_new,
        "users": len(users),
        "seed": arguments.seed,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    whole_file.write(RESULTS, [(json.dumps(known, indent=1) + "\n").encode()])


if __name__ == "__main__":
    main()
