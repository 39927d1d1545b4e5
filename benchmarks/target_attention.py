"""Target attention on labelled data, beside popularity, mean pooling and a DIN written in PyTorch.

    python benchmarks/target_attention.py ml-1m --seeds 0 1 2
    python benchmarks/target_attention.py ml-1m --settings '{"epochs": 1}' --torch
    python benchmarks/target_attention.py ml-1m --times --threads 1

ml-1m: the users whose times are all known; a rating of 4 or more against 3 or less; one impression is what a user
rated in one second. The history is what the user rated before, the newest fifty: a film and whether it was liked, as
an id. Item features: genres, year, the film (which its liked and its disliked event share), the sign, and from the
training part the share of likes and the number of ratings; user features: gender, age, occupation; context: the share
and the number of the user's likes and ratings so far. The first 80 % of the impressions train, the next 10 % validate,
the last 10 % test. mind-5k: impressions in the order of time, in the same parts; a small sample. Data sets are read
from the folder in REGARD_DATA. Settings and features were chosen on the validation part. Results go to
`results/target_attention.json`.

`--torch` trains the judge too, on the same batches, with the same beginning and schedule. `--times` measures steps on
random batches, fifteen of each in turn, and scales their medians to an epoch; with one thread in CPU time of the
process.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard import click_metrics as clicks
from regard import whole_file
from regard.doctor import machine
from regard.ragged import Ragged
from regard.target_network import ITEMS, UNKNOWN_ITEM, Batch, ClickTraining
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
    first = np.searchsorted(user, user[starts])
    met, liked_before = starts - first, np.append(0, np.cumsum(liked))
    n = np.minimum(met, 50)
    shown = Ragged(movie, np.append(starts, len(movie)))
    order = np.argsort(moment[starts], kind="stable")
    trained = np.isin(shown.row_of, order[: len(order) * 8 // 10])
    with open(folder / "ml-1m" / "users.dat", encoding="latin-1") as file:
        people = dict(line.rstrip().split("::", 1) for line in file)
    facts = [people[str(one)].split("::") for one in user[starts].tolist()]
    data = regard.Impressions(
        Ragged(np.where(liked, movie, -movie), [0, len(movie)]).pieces(starts - n, n),
        shown,
        liked.astype(float),
        user_ids=user[starts],
        user_features={name: [row[i] for row in facts] for i, name in enumerate(("gender", "age", "occupation"))},
        context={
            "liked so far": smoothed(liked_before[starts] - liked_before[first], met, 10, 0.5),
            "rated so far": np.log1p(met),
        },
        item_features=films(folder / "ml-1m" / "movies.dat", movie[trained], liked[trained]),
    )
    return data.take(order)


def films(path: Path, movie: np.ndarray, liked: np.ndarray) -> regard.ItemFeatures:
    """Of each film as a candidate or a liked event, and of it as a disliked event, whose id is negative."""
    with open(path, encoding="latin-1") as file:
        lines = [line.rstrip("\n").split("::") for line in file]
    ids = [int(number) for number, _, _ in lines]
    years = [int(re.search(r"\((\d{4})\)\s*$", title).group(1)) for _, title, _ in lines]  # type: ignore[union-attr]
    genres = [kinds.split("|") for _, _, kinds in lines]
    sign = ["liked"] * len(ids) + ["disliked"] * len(ids)
    n = np.bincount(movie, minlength=max(ids) + 1)[ids]
    share = smoothed(np.bincount(movie, liked, max(ids) + 1)[ids], n, 20, liked.mean())
    numbers = {"year": np.array(years), "share": share, "ratings": np.log1p(n)}
    return regard.ItemFeatures(
        ids + [-number for number in ids],
        categories={"genre": genres * 2, "film": ids * 2, "sign": sign},
        numbers={name: np.tile(column, 2) for name, column in numbers.items()},
    )


def smoothed(part: np.ndarray, n: np.ndarray, prior: int, mean: float) -> np.ndarray:
    """Share of ``n``, with ``prior`` cases of the mean share added."""
    return (part + prior * mean) / (n + prior)


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
    share = smoothed(np.bincount(row, train.labels), np.bincount(row), 20, mean)
    place = np.minimum(np.searchsorted(ids, test.candidates.values), len(ids) - 1)
    return np.where(ids[place] == test.candidates.values, share[place], mean)


class Din:
    """DIN as it is usually written in PyTorch: padded histories, one row per candidate."""

    def __init__(self, model: regard.TargetAttentionRecommender, run: ClickTraining) -> None:
        import torch  # noqa: PLC0415

        self.torch, self.model, self.run = torch, model, run
        self.weights = {name: torch.nn.Parameter(torch.tensor(weight)) for name, weight in run.params.items()}
        table = torch.cat([self.weights.pop(ITEMS).detach(), self.weights.pop(UNKNOWN_ITEM).detach()])
        self.table = torch.nn.Embedding.from_pretrained(table, freeze=False, sparse=True)
        decay = [
            {"params": [w for w in self.weights.values() if w.ndim > 1], "weight_decay": model.weight_decay},
            {"params": [w for w in self.weights.values() if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.dense = torch.optim.AdamW(decay, lr=model.learning_rate)
        self.sparse = torch.optim.SparseAdam(list(self.table.parameters()), lr=model.learning_rate)
        self.number, self.total = 0, model.epochs * run.n_batches

    def logits(self, batch: Batch, *, training: bool = False) -> Any:
        torch, weights, model = self.torch, self.weights, self.model
        functional = torch.nn.functional
        row, lengths = batch.candidates.row_of, batch.histories.lengths
        rows, place = np.unique(np.concatenate([batch.histories.values, batch.candidates.values]), return_inverse=True)
        vectors = self.table(torch.from_numpy(rows.astype(np.int64)))
        if model.features_ is not None:
            known = model.features_.take(rows[rows < len(model.features_)])
            added = functional.embedding_bag(
                torch.from_numpy(known.entries.values.astype(np.int64)),
                weights["items.categories"],
                torch.from_numpy(known.entries.offsets[:-1]),
                mode="sum",
                per_sample_weights=torch.from_numpy(known.weights),
            )
            added = added + torch.from_numpy(known.dense) @ weights["items.map"].T
            vectors = vectors + functional.pad(added, (0, 0, 0, len(rows) - len(known)))
        padded = np.zeros((len(lengths), max(1, lengths.max(initial=0))), np.int64)
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        n_events = len(batch.histories.values)
        padded[mask] = place[:n_events]
        k = functional.embedding(torch.from_numpy(padded[row]), vectors)
        there = torch.from_numpy(mask[row])
        q = functional.embedding(torch.from_numpy(place[n_events:]), vectors)
        many = q[:, None].expand_as(k)
        x = torch.cat([many, k, many - k, many * k], dim=2)
        for i in (1, 2):
            x = torch.sigmoid(functional.linear(x, weights[f"attention.weight{i}"], weights[f"attention.bias{i}"]))
        z = x @ weights["attention.weight3"] + weights["attention.bias3"]
        if model.normalize == "softmax":
            a = torch.softmax(z.masked_fill(~there, -1e9), dim=1) * there
        else:
            a = z * there
        u = torch.einsum("bl,bld->bd", a, k)
        facts = [
            functional.embedding(torch.from_numpy(codes[row].astype(np.int64)), weights[f"feature.{i}.weight"])
            for i, codes in enumerate(batch.codes.T)
        ]
        x = torch.cat([u, q, u * q, *facts, torch.from_numpy(batch.numbers[row])], dim=1)
        for i in range(len(model.hidden) + 1):
            x = functional.linear(x, weights[f"hidden.{i}.weight"], weights[f"hidden.{i}.bias"])
            if i < len(model.hidden):
                x = functional.dropout(torch.relu(x), model.dropout, training)
        return x[:, 0]

    def step(self, examples: np.ndarray) -> None:
        torch, model, run = self.torch, self.model, self.run
        self.number += 1
        batch, y = run.shown.take(examples), torch.from_numpy(run.clicked.take(examples).values)
        events, unknown = len(batch.histories.values), len(self.table.weight) - 1
        ids = np.concatenate([batch.histories.values, batch.candidates.values])
        rng = np.random.default_rng([model.random_state, self.number, 2])
        ids[rng.random(len(ids)) < model.unknown_rate] = unknown
        batch = batch._replace(
            histories=Ragged(ids[:events], batch.histories.offsets),
            candidates=Ragged(ids[events:], batch.candidates.offsets),
        )
        warmup = min(100, self.total // 20)
        late = 1 - (self.number - warmup) / max(1, self.total - warmup)
        rate = model.learning_rate * (self.number / warmup if self.number <= warmup else late)
        for optimizer in (self.dense, self.sparse):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
        logits = self.logits(batch, training=True)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
        if model.weight_decay:  # of the touched rows, as SparseAdam has none
            touched = torch.from_numpy(np.unique(ids).astype(np.int64))
            with torch.no_grad():
                self.table.weight[touched] *= 1 - rate * model.weight_decay
        self.dense.step()
        self.sparse.step()

    def predict(self, batch: Batch) -> np.ndarray:
        n = len(batch.candidates)
        with self.torch.no_grad():
            parts = np.array_split(np.arange(n), max(1, n // 256))
            return np.concatenate([self.logits(batch.take(rows)).numpy() for rows in parts])

    def fit(self, held: Batch, labels: np.ndarray, test: Batch) -> np.ndarray:
        """Test logits of the best epoch by validation AUC."""
        best, kept = -1.0, np.empty(0)
        for epoch in range(1, self.model.epochs + 1):
            self.run.epoch = epoch
            self.run.begin_epoch()
            for examples in self.run.batches:
                self.step(examples)
            if (reached := clicks.auc(labels, self.predict(held))) > best:
                best, kept = reached, self.predict(test)
        return kept


def fresh(model: regard.TargetAttentionRecommender, train: regard.Impressions) -> ClickTraining:
    """The run of a fitted model from its beginning."""
    params = model.initial_parameters(len(model.item_ids_), model.user_features_ + model.context_)
    settings = RunSettings(**{name: getattr(model, name) for name in RunSettings.__dataclass_fields__})
    batch, how = model._batch_of(train)[0], {"unknown_rate": model.unknown_rate, "features": model.features_}
    run = ClickTraining(model._attention, model.steps(), params, settings, batch, train.labels, **how)
    run.begin_epoch()
    return run


def seconds_per_epoch(model: Any, train: regard.Impressions, threads: int, rounds: int = 4) -> dict[str, Any]:
    ours, judge = fresh(model, train), Din(model, fresh(model, train))
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {"regard": [], "torch": []}
    for batches in np.array_split(np.arange(15 * rounds), rounds):
        for name, times in seconds.items():
            time.sleep(0.3)  # threads of the other that still wait for work go to sleep
            for i in batches.tolist():
                started = clock()
                ours.step() if name == "regard" else judge.step(judge.run.batches[i])
                times.append(clock() - started)
    epoch = {name: float(np.median(times)) * ours.n_batches for name, times in seconds.items()}
    load = os.getloadavg()[0]
    return epoch | {"ratio": epoch["torch"] / epoch["regard"], "clock": clock.__name__, "load": load}


def judged(test: regard.Impressions, scores: np.ndarray) -> dict[str, float]:
    return {
        "auc": clicks.auc(test.labels, scores),
        "user_auc": clicks.user_auc(test.labels, scores, test.groups),
        "log_loss": clicks.log_loss(test.labels, scores),
    }


def accuracy(parts: Any, settings: dict[str, Any], seed: int, with_torch: bool) -> dict[str, Any]:
    train, held, test = parts
    known = popularity(train, test)
    row: dict[str, Any] = {"popularity": judged(test, known)}
    scores = {"popularity": known}
    for pooling in ("mean", "attention"):
        model = regard.TargetAttentionRecommender(**settings, random_state=seed, pooling=pooling)
        scores[pooling] = model.fit(train, validation=held).predict(test).values
        row[pooling] = judged(test, scores[pooling]) | {"best_epoch": model.best_epoch_}
        row[pooling]["calibration_error"] = clicks.calibration(test.labels, scores[pooling]).error
        row[pooling]["validation_auc"] = max(entry["auc"] for entry in model.history_)
    if with_torch:
        import torch  # noqa: PLC0415

        din = Din(model, fresh(model, train))
        scores["torch"] = din.fit(model._batch_of(held)[0], held.labels, model._batch_of(test)[0])
        row["torch"] = {"version": torch.__version__, "auc": clicks.auc(test.labels, scores["torch"])}
        row["torch"]["user_auc"] = clicks.user_auc(test.labels, scores["torch"], test.groups)
    for other in scores.keys() - {"attention"}:
        row[f"auc attention - {other}"] = clicks.auc_difference(
            test.labels, scores["attention"], scores[other], users=test.groups, n_resamples=200
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON; changes the recipe")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--times", action="store_true")
    arguments = parser.parse_args()
    regard.set_num_threads(arguments.threads)
    if arguments.torch or arguments.times:
        import torch  # noqa: PLC0415

        torch.set_num_threads(arguments.threads)
    data = {"ml-1m": ml_1m, "mind-5k": mind_5k}[arguments.data](Path(os.environ["REGARD_DATA"]))
    n = len(data)
    parts = [data.take(part) for part in np.split(np.arange(n), [n * 8 // 10, n * 9 // 10])]
    settings = SETTINGS[arguments.data] | arguments.settings
    for seed in arguments.seeds:
        row: dict[str, Any] = {
            "data": arguments.data,
            "seed": seed,
            "settings": settings,
            "impressions": [len(part) for part in parts],
            "candidates": [len(part.labels) for part in parts],
            "times": arguments.times,
        }
        if arguments.times:
            model = regard.TargetAttentionRecommender(**settings | {"epochs": 1}, random_state=seed)
            model.fit(parts[0].take(np.arange(n * 8 // 10) % 50 == 0), validation=None)  # what a run needs
            row |= {"threads": arguments.threads, "seconds_per_epoch": {}}
            row["seconds_per_epoch"] = seconds_per_epoch(model, parts[0], arguments.threads)
        else:
            row |= accuracy(parts, settings, seed, arguments.torch)
        row |= {"machine": machine(), "version": regard.__version__, "date": datetime.date.today().isoformat()}
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        same = ("data", "seed", "settings", "times", "threads")
        rows = [old for old in rows if any(old.get(name) != row.get(name) for name in same)]
        whole_file.write(RESULTS, [(json.dumps([*rows, row], indent=1) + "\n").encode()])
        print(json.dumps(row, indent=1), flush=True)


if __name__ == "__main__":
    main()
