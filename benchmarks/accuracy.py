"""Accuracy on public data: one command for each data set trains, tests once and records.

    python benchmarks/accuracy.py ml-1m                   # 3 seeds of the preset "best", baselines, blend
    python benchmarks/accuracy.py ml-100k --split time    # a global cut in time
    python benchmarks/accuracy.py ml-100k --settings '{"time_bias": true}'
    python benchmarks/accuracy.py --docs                  # no runs: the tables of docs/accuracy.md

Full ranking, seen items excluded (but for sessions), ties by expected rank; epochs, settings of the baselines and
weights of the blend are chosen on the validation part only. What `results/accuracy.json` has already (same data, split,
settings, fingerprint) is not run again, so a stopped command goes on where it was; trained models lie in
build/accuracy. Data sets are read from the folder in REGARD_DATA.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import accuracy_page
import fields
import regard
from regard import whole_file
from regard.baselines import EASE
from regard.comparison import fit_simple
from regard.doctor import machine
from regard.metrics import bootstrap
from regard.splits import Split

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
MODELS = Path(__file__).parent.parent / "build" / "accuracy"  # not in the repository
METRICS = [f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)]
DATA = [name for name in regard.datasets.names() if name not in ("synthetic", "mind-5k")]
SAMPLED = {"ml-1m": 100}  # for which papers rank among so many drawn items
PARTS = [0.8, 0.9]  # of the events, where the validation and the test of a split by time begin
REPEATS = ("college-msg",)  # people come back to the same items: these are ranked, too


def recipe(name: str) -> dict[str, Any]:
    """Settings of the preset "best" for ids alone, leave-one-out; for the benchmarks of one model."""
    train = regard.splits.leave_one_out(regard.datasets.load(name)).train
    return {**regard.recipes.recipe(train), "item_features": False}


def split_of(name: str, how: str) -> Split:
    return fields.split_of(name, how, PARTS)


class Run:
    """The rows of one data set and split."""

    def __init__(self, name: str, how: str) -> None:
        self.name, self.how, self.split = name, how, split_of(name, how)
        self.key = {"data": name, "split": how, "fingerprint": self.split.fingerprint}
        self.exclude_seen = how != "given" and name not in REPEATS

    def known(self, **what: Any) -> dict[str, Any] | None:
        """The row that is recorded already."""
        what = json.loads(json.dumps(self.key | what))
        return next((row for row in read() if all(row.get(key) == value for key, value in what.items())), None)

    def record(self, fitted: Any, seconds: float, **what: Any) -> dict[str, Any]:
        """Test once, and keep the row."""
        report = regard.evaluate(fitted, self.split.test, exclude_seen=self.exclude_seen, coverage=False)
        metrics = {metric: report[metric] for metric in [*METRICS, "mrr@20"]}
        if self.how == "leave-one-out" and self.name in SAMPLED:
            n = SAMPLED[self.name]
            drawn = regard.evaluate(fitted, self.split.test, k=10, sampled_negatives=n)
            metrics |= {f"{metric}@10 of {n}": drawn[f"{metric}@10"] for metric in ("hr", "ndcg")}
        validation = regard.evaluate(
            fitted, self.split.validation, k=10, exclude_seen=self.exclude_seen, coverage=False
        )
        row = json.loads(json.dumps(self.key | what)) | {
            **{metric: round(value, 5) for metric, value in metrics.items()},
            "ndcg@10 interval": [round(end, 5) for end in report.interval("ndcg@10")],
            "validation_ndcg@10": round(validation["ndcg@10"], 5),
            "seconds": round(seconds, 1),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "machine": machine(),
            "version": regard.__version__,
            "date": datetime.date.today().isoformat(),
        }
        same = ("data", "split", "fingerprint", "model", "seed", "settings")
        others = [other for other in read() if any(other.get(key) != row.get(key) for key in same)]
        RESULTS.parent.mkdir(exist_ok=True)
        whole_file.write(RESULTS, [(json.dumps([*others, row], indent=1) + "\n").encode()])
        shown = ("hr@20", "mrr@20") if self.how == "given" else ("hr@10", "ndcg@10")
        print(self.name, self.how, what["model"], what.get("seed", ""), *(f"{row[metric]:.4f}" for metric in shown))
        return row

    def attention(self, preset: str, changes: dict[str, Any], seed: int) -> Any:
        """A trained model: from its file if it is there, else trained now; recorded if it is not yet."""
        how = {"exclude_seen": self.exclude_seen}
        settings = _choices(regard.SelfAttentionRecommender.for_data(self.split.train, preset, **how, **changes))
        what = {"model": "regard", "seed": seed, "settings": settings}
        text = json.dumps([self.key, what], sort_keys=True)
        path = MODELS / f"{self.name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
        if path.exists():
            model = regard.load(path)
        else:
            MODELS.mkdir(parents=True, exist_ok=True)
            model = regard.SelfAttentionRecommender(**settings, random_state=seed)
            model.fit(
                self.split.train,
                validation=self.split.validation,
                exclude_seen=self.exclude_seen,
                checkpoint=path.with_suffix(".run"),
            )
            model.save(path)
            path.with_suffix(".run").unlink(missing_ok=True)
        row = {"row": "preset"} if preset == "best" and not changes else {}
        if self.known(**what, **row) is None:
            seconds = sum(entry["seconds"] for entry in model.history_)
            epochs = {"best_epoch": model.best_epoch_, "epochs": len(model.history_)}
            self.record(model, seconds, **what, **row, **epochs)
        return model

    def simple(self, names: list[str]) -> dict[str, Any]:
        """Baselines with settings chosen on the validation part, recorded if they are not yet."""
        models = {}
        for name in names:
            started = time.perf_counter()
            model = fit_simple(name, self.split, tuned=True, exclude_seen=self.exclude_seen)
            if self.known(model=name) is None:
                self.record(model, time.perf_counter() - started, model=name, settings=repr(model))
            models[name] = model
        return models

    def blended(self, members: list[Any]) -> regard.Blend:
        """Models with weights learned on the validation part."""
        return regard.Blend(members).fit(
            self.split.train, validation=self.split.validation, exclude_seen=self.exclude_seen
        )

    def blend(self, members: list[Any], what: dict[str, Any]) -> None:
        """The weighted sum of models."""
        started = time.perf_counter()
        blend = self.blended(members)
        weights = [round(weight, 3) for weight in blend.weights_.tolist()]
        self.record(blend, time.perf_counter() - started, **what, weights=weights)

    def paired(self, models: list[Any], simple: dict[str, Any], names: list[str]) -> None:
        """How far the models and their blends are above the blend of rules and EASE, the mean of seeds user by user."""

        def judged(model: Any) -> regard.Report:
            return regard.evaluate(model, self.split.test, exclude_seen=self.exclude_seen)

        plain = judged(self.blended([simple["rules"], simple["ease"]]))
        ours = {
            "alone": [judged(model) for model in models],
            "blend of a seed": [judged(self.blended([model, *(simple[name] for name in names)])) for model in models],
        }
        for which, reports in ours.items():
            for metric in ("hr@10", "ndcg@10"):
                gains = np.mean([report.per_user(metric) for report in reports], axis=0) - plain.per_user(metric)
                low, high = bootstrap(gains, level=0.95, seed=0, n_resamples=2000)
                print(f"{which}, {metric}: {gains.mean():+.4f}, 95 % of resampled users {low:+.4f} to {high:+.4f}")


def _choices(model: Any) -> dict[str, Any]:
    """The settings that say what is trained: without the seed, and without where it is computed."""
    return {name: value for name, value in model.get_params().items() if name not in ("random_state", "device")}


def read() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA, nargs="?")
    parser.add_argument("--split", choices=("leave-one-out", "time", "given"), help="default: given where there is one")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: only the baselines")
    parser.add_argument("--preset", choices=regard.recipes.PRESETS, default="best")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON; changes the preset")
    parser.add_argument("--alone", action="store_true", help="no baselines, no blend")
    parser.add_argument("--paired", action="store_true", help="print how far all are above the blend of rules and EASE")
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/accuracy.md, run nothing")
    arguments = parser.parse_args()
    if arguments.docs:
        accuracy_page.write(read())
        return
    if arguments.data is None:
        parser.error("expected a data set or --docs")

    given = "given" if regard.datasets.has_given_split(arguments.data) else "leave-one-out"
    run = Run(arguments.data, arguments.split or given)
    models = [run.attention(arguments.preset, arguments.settings, seed) for seed in arguments.seeds]
    if arguments.alone:
        return
    few = run.split.train.n_items <= EASE().max_items
    names = ["popularity", "rules", "item-knn", *(["ease"] if few else []), *([] if run.exclude_seen else ["repeats"])]
    settings = _choices(models[0]) if models else {}
    blends: list[tuple[dict[str, Any], list[Any], list[str]]] = []
    if few:
        blends.append(({"model": "rules and ease"}, [], ["rules", "ease"]))
    some = [(f"blend of seed {seed}", [model]) for seed, model in zip(arguments.seeds, models, strict=True)]
    if len(models) > 1:  # one weight for all: less to learn on the validation part
        some.append((f"blend of {len(models)} seeds", [regard.Blend(models, weights=[1] * len(models))]))
    blends += [({"model": name, "settings": settings}, members, names[1:]) for name, members in some]
    wanted = [blend for blend in blends if run.known(**blend[0]) is None]
    simple = run.simple(names) if wanted or any(run.known(model=name) is None for name in names) else {}
    if arguments.paired:
        run.paired(models, simple or run.simple(names), names[1:])
    for what, members, added in wanted:
        run.blend([*members, *(simple[name] for name in added)], what)


if __name__ == "__main__":
    main()
