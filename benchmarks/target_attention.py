"""Target attention on labelled data, beside popularity, mean pooling and a DIN written in PyTorch.

    python benchmarks/target_attention.py ml-1m --seeds 0 1 2
    python benchmarks/target_attention.py mind-5k

ml-1m: the users whose times are all known; a rating of 4 or more against 3 or less; one impression is what a user
rated in one second, the history what the user had liked before; the first 80 % of the impressions train, the next 10 %
validate, the last 10 % test. mind-5k: impressions in the order of time, in the same parts; a small sample. Data sets
are read from the folder in REGARD_DATA. Results go to `results/target_attention.json`.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard import click_metrics as clicks
from regard import whole_file
from regard.doctor import machine
from regard.ragged import Ragged
from regard.target_network import ITEMS, ClickTraining
from regard.train import RunSettings

RESULTS = Path(__file__).parent / "results" / "target_attention.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "ml-1m": {"epochs": 3, "max_norm": None},
    "mind-5k": {"epochs": 6, "batch_size": 32, "max_norm": None},
}


def ml_1m(folder: Path) -> regard.Impressions:
    user, movie, rating, moment = np.loadtxt(folder / "ml-1m" / "ratings.tsv.gz", np.int64, skiprows=1).T[:4]
    known = user <= 2998
    user, movie, rating, moment = (column[known] for column in (user, movie, rating, moment))
    order = np.lexsort((moment, user))
    user, movie, rating, moment = (column[order] for column in (user, movie, rating, moment))
    new = (np.diff(user, prepend=0) != 0) | (np.diff(moment, prepend=0) != 0)
    starts, liked = np.flatnonzero(new), rating >= 4
    of_user = np.searchsorted(user[liked], user[starts])  # first liked one of the user
    before = np.append(0, np.cumsum(liked))[starts]
    n = np.minimum(before - of_user, 50)
    histories = Ragged(movie[liked], [0, liked.sum()]).pieces(before - n, n)
    shown = Ragged(movie, np.append(starts, len(movie)))
    data = regard.Impressions(histories, shown, liked.astype(float), user_ids=user[starts])
    return data.take(np.argsort(moment[starts], kind="stable"))


def mind_5k(folder: Path) -> regard.Impressions:
    lines = []
    with gzip.open(folder / "mind-5k" / "behaviors.tsv.gz", "rt") as file:
        for line in file:
            _, who, moment, history, shown = line.rstrip("\n").split("\t")
            pairs = [text.rsplit("-", 1) for text in shown.split()]
            when = datetime.datetime.strptime(moment, "%m/%d/%Y %I:%M:%S %p")
            lines.append((when, who, history.split(), [i for i, _ in pairs], [int(y) for _, y in pairs]))
    lines.sort(key=lambda line: line[0])
    _, who, histories, shown, labels = zip(*lines, strict=True)
    return regard.Impressions(histories, shown, labels, user_ids=np.array(who))


def popularity(train: regard.Impressions, test: regard.Impressions) -> np.ndarray:
    """Share of clicks of each item, with twenty candidates of the mean share added."""
    ids, row = np.unique(train.candidates.values, return_inverse=True)
    mean = train.labels.mean()
    share = (np.bincount(row, train.labels) + 20 * mean) / (np.bincount(row) + 20)
    place = np.minimum(np.searchsorted(ids, test.candidates.values), len(ids) - 1)
    return np.where(ids[place] == test.candidates.values, share[place], mean)


def torch_din(model: regard.TargetAttentionRecommender, run: ClickTraining, held: Any, test: Any) -> Any:
    """DIN as it is usually written: padded histories, one row per candidate. Same beginning, batches and schedule.

    Gives test logits of the best epoch by validation AUC, and seconds per epoch.
    """
    import torch  # noqa: PLC0415

    weights = {name: torch.nn.Parameter(torch.tensor(weight)) for name, weight in run.params.items()}
    table = torch.nn.Embedding.from_pretrained(weights.pop(ITEMS).detach(), freeze=False, sparse=True)
    dense = torch.optim.Adam(list(weights.values()), lr=model.learning_rate)
    sparse = torch.optim.SparseAdam(list(table.parameters()), lr=model.learning_rate)
    linear, n_hidden = torch.nn.functional.linear, len(model.hidden)

    def logits(batch: Any) -> Any:
        row, lengths = batch.candidates.row_of, batch.histories.lengths
        padded = np.zeros((len(lengths), max(1, lengths.max(initial=0))), np.int64)
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        padded[mask] = batch.histories.values
        k, there = table(torch.from_numpy(padded[row])), torch.from_numpy(mask[row])
        q = table(torch.from_numpy(batch.candidates.values.astype(np.int64)))
        many = q[:, None].expand_as(k)
        x = torch.cat([many, k, many - k, many * k], dim=2)
        for i in (1, 2):
            x = torch.sigmoid(linear(x, weights[f"attention.weight{i}"], weights[f"attention.bias{i}"]))
        z = x @ weights["attention.weight3"] + weights["attention.bias3"]
        if model.normalize == "softmax":
            a = torch.softmax(z.masked_fill(~there, -1e9), dim=1) * there
        else:
            a = z * there
        u = torch.einsum("bl,bld->bd", a, k)
        x = torch.cat([u, q, u * q], dim=1)
        for i in range(n_hidden + 1):
            x = linear(x, weights[f"hidden.{i}.weight"], weights[f"hidden.{i}.bias"])
            x = torch.relu(x) if i < n_hidden else x
        return x[:, 0]

    def predict(batch: Any) -> np.ndarray:
        with torch.no_grad():
            parts = [logits(batch.take(rows)).numpy() for rows in blocks(len(batch.candidates))]
        return np.concatenate(parts)

    best, best_z, seconds, unknown = -1.0, None, [], len(table.weight) - 1
    total = model.epochs * run.n_batches
    for run.epoch in range(1, model.epochs + 1):
        started = time.perf_counter()
        run.begin_epoch()
        for i, examples in enumerate(run.batches):
            number = (run.epoch - 1) * run.n_batches + i + 1
            batch, y = run.shown.take(examples), torch.from_numpy(run.clicked.take(examples).values)
            events = len(batch.histories.values)
            ids = np.concatenate([batch.histories.values, batch.candidates.values])
            ids[np.random.default_rng([model.random_state, number, 2]).random(len(ids)) < model.unknown_rate] = unknown
            batch = batch._replace(
                histories=Ragged(ids[:events], batch.histories.offsets),
                candidates=Ragged(ids[events:], batch.candidates.offsets),
            )
            warmup = min(100, total // 20)
            factor = number / warmup if number <= warmup else 1 - (number - warmup) / max(1, total - warmup)
            for optimizer in (dense, sparse):
                optimizer.param_groups[0]["lr"] = model.learning_rate * factor
                optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(logits(batch), y).backward()
            dense.step()
            sparse.step()
        seconds.append(time.perf_counter() - started)
        if (reached := clicks.auc(held[1], predict(held[0]))) > best:
            best, best_z = reached, predict(test)
    return best_z, seconds


def blocks(n: int) -> Any:
    return np.array_split(np.arange(n), max(1, n // 256))


def main() -> None:  # noqa: PLR0915
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON; changes the recipe")
    parser.add_argument("--no-torch", action="store_true")
    arguments = parser.parse_args()
    regard.set_num_threads(arguments.threads)
    folder = Path(os.environ["REGARD_DATA"])
    data = {"ml-1m": ml_1m, "mind-5k": mind_5k}[arguments.data](folder)
    n = len(data)
    train, held, test = (data.take(part) for part in np.split(np.arange(n), [n * 8 // 10, n * 9 // 10]))
    settings = SETTINGS[arguments.data] | arguments.settings
    known = popularity(train, test)
    for seed in arguments.seeds:
        row: dict[str, Any] = {
            "data": arguments.data,
            "seed": seed,
            "threads": arguments.threads,
            "settings": settings,
            "impressions": [len(part) for part in (train, held, test)],
            "candidates": [len(part.labels) for part in (train, held, test)],
            "popularity": judged(test, known),
        }
        results = {}
        for pooling in ("attention", "mean"):
            model = regard.TargetAttentionRecommender(**settings, random_state=seed, pooling=pooling)
            model.fit(train, validation=held)
            results[pooling] = model.predict(test).values
            row[pooling] = judged(test, results[pooling])
            row[pooling] |= {"calibration_error": clicks.calibration(test.labels, results[pooling]).error}
            row[pooling] |= {"best_epoch": model.best_epoch_, "calibration": model.calibration_}
            if pooling == "attention":
                attended = model
        pairs = [("attention", "mean", results["mean"]), ("attention", "popularity", known)]
        if not arguments.no_torch:
            import torch  # noqa: PLC0415

            torch.set_num_threads(arguments.threads)
            batches = [attended._batch_of(part)[0] for part in (train, held, test)]
            names = RunSettings.__dataclass_fields__
            how = RunSettings(**{name: getattr(attended, name) for name in names})

            def fresh(model: Any = attended, batches: Any = batches, how: Any = how) -> ClickTraining:
                params = model.initial_parameters(len(model.item_ids_), [])
                return ClickTraining(
                    model._attention, model.steps(), params, how, batches[0], train.labels, model.unknown_rate, {}
                )

            run, ours = fresh(), []
            for _ in range(settings["epochs"]):
                run.begin_epoch()
                started = time.perf_counter()
                while run.batch < run.n_batches:
                    run.step()
                ours.append(time.perf_counter() - started)
                run.end_epoch(None)
            z, theirs = torch_din(attended, fresh(), (batches[1], held.labels), batches[2])
            row["torch"] = {"auc": clicks.auc(test.labels, z), "user_auc": clicks.user_auc(test.labels, z, test.groups)}
            row["torch"] |= {"version": torch.__version__}
            row["seconds_per_epoch"] = {"regard": min(ours), "torch": min(theirs), "ratio": min(theirs) / min(ours)}
            pairs.append(("attention", "torch", z))
        for first, second, scores in pairs:
            row[f"auc {first} - {second}"] = clicks.auc_difference(
                test.labels, results[first], scores, users=test.groups, n_resamples=200
            )
        row |= {"machine": machine(), "version": regard.__version__, "date": datetime.date.today().isoformat()}
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        same = ("data", "seed", "threads", "settings")
        rows = [old for old in rows if any(old[name] != row[name] for name in same)]
        whole_file.write(RESULTS, [(json.dumps([*rows, row], indent=1) + "\n").encode()])
        print(json.dumps(row, indent=1), flush=True)


def judged(test: regard.Impressions, scores: np.ndarray) -> dict[str, float]:
    return {
        "auc": clicks.auc(test.labels, scores),
        "user_auc": clicks.user_auc(test.labels, scores, test.groups),
        "log_loss": clicks.log_loss(test.labels, scores),
    }


if __name__ == "__main__":
    main()
