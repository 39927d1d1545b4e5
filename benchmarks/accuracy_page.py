"""docs/accuracy.md: the tables between its markers, from `results/accuracy.json` and `results/experiments.json`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from contest import page
from regard import whole_file

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
EXPERIMENTS = Path(__file__).parent / "results" / "experiments.json"
Rows = list[dict[str, Any]]


class Published(NamedTuple):
    """What others reached, and what is asked of this library: pairs of the two metrics."""

    title: str
    data: str
    metrics: tuple[str, str]
    best: tuple[float, float]
    source: str
    required: tuple[float, float] | None
    goal: tuple[float, float]
    stretch: tuple[float, float]

    @property
    def split(self) -> str:
        return "given" if self.metrics == CLICKS else "leave-one-out"


TOP_10, CLICKS, DRAWN = ("hr@10", "ndcg@10"), ("hr@20", "mrr@20"), ("hr@10 of 100", "ndcg@10 of 100")
PUBLISHED = [
    Published(
        "MovieLens 1M", "ml-1m", TOP_10, (0.3207, 0.1858),
        "SASRec with cross-entropy, monkey0head/time-to-split", (0.321, 0.186), (0.330, 0.193), (0.345, 0.205),
    ),
    Published(
        "Amazon Beauty", "amazon-beauty", TOP_10, (0.1041, 0.0614),
        "WEARec, xhy963319431/WEARec; with attributes 0.1058 / 0.0629, sequential_rec",
        (0.098, 0.059), (0.103, 0.062), (0.110, 0.067),
    ),
    Published(
        "MovieLens 100K", "ml-100k", TOP_10, (0.1930, 0.1023), "WEARec, rerun by kanishkaRandunu/pswrec2k26",
        (0.220, 0.117), (0.225, 0.120), (0.250, 0.135),
    ),
    Published(
        "Amazon Sports", "amazon-sports", TOP_10, (0.0635, 0.0367),
        "TV-Rec and WEARec; with attributes 0.0646 / 0.0371, sequential_rec",
        (0.058, 0.034), (0.063, 0.037), (0.068, 0.040),
    ),
    Published(
        "Yelp", "yelp", TOP_10, (0.0474, 0.0245), "TV-Rec, yehjin-shin/TV-Rec",
        (0.045, 0.0235), (0.048, 0.025), (0.053, 0.028),
    ),
    Published(
        "Last.fm", "lastfm", TOP_10, (0.0972, 0.0556), "WEARec, length 200", None, (0.095, 0.054), (0.105, 0.060),
    ),
    Published(
        "Amazon Beauty, file of BERT4Rec", "amazon-beauty-bert4rec", TOP_10, (0.0595, 0.0359),
        "SASRec with softmax, RecTools in blondered/bert4rec_repro", (0.055, 0.033), (0.060, 0.036), (0.066, 0.041),
    ),
    Published(
        "Diginetica", "diginetica", CLICKS, (0.5073, 0.1759), "SR-GNN (AAAI 2019)",
        (0.508, 0.176), (0.520, 0.183), (0.54, 0.19),
    ),
    Published(
        "Yoochoose 1/64", "yoochoose-1-64", CLICKS, (0.7057, 0.3094), "SR-GNN (AAAI 2019)",
        (0.706, 0.309), (0.710, 0.312), (0.72, 0.32),
    ),
    Published(
        "MovieLens 1M, 100 negatives", "ml-1m", DRAWN, (0.8270, 0.5995), "pmixer/SASRec.pytorch, post-norm",
        (0.83, 0.61), (0.84, 0.62), (0.850, 0.640),
    ),
]  # fmt: skip
TITLES = {row.data: row.title for row in reversed(PUBLISHED)} | {
    "ml-1m-timed": "MovieLens 1M, users 1 to 2,998",
    "ml-latest-small": "MovieLens latest-small",
    "college-msg": "Messages (seen people ranked)",
    "amazon-grocery-rechorus": "Amazon Grocery",
    "retailrocket": "RetailRocket",
}
SIMPLE = {"popularity": "popularity", "rules": "rules", "item-knn": "item-kNN", "ease": "EASE", "repeats": "repeats"}


def pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.4f} / {values[1]:.4f}"


def found(rows: Rows, metrics: tuple[str, str], **what: Any) -> str:
    """Mean of the rows that have it, and the standard deviation of the second metric over several."""
    some = [row for row in rows if all(row.get(key) == value for key, value in what.items()) and metrics[0] in row]
    if not some:
        return ""
    text = pair((mean(row[metrics[0]] for row in some), mean(row[metrics[1]] for row in some)))
    return f"{text} ± {stdev(row[metrics[1]] for row in some):.4f}" if len(some) > 1 else text


def table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return "No run is recorded yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def preset(rows: Rows, data: str, split: str) -> Rows:
    """The rows of the newest settings of the preset, those marked so, for this data set and split."""
    own = [row for row in rows if row["data"] == data and row["split"] == split]
    settings = [row["settings"] for row in own if row.get("row") == "preset"]
    return [row for row in own if row["model"] in SIMPLE or (settings and row.get("settings") == settings[-1])]


def of_one_seed(rows: Rows) -> Rows:
    """The blends of one seed each, as one kind of model."""
    return [row | {"model": "blend"} for row in rows if row["model"].startswith("blend of seed ")]


def largest(rows: Rows) -> Rows:
    """The blend of the most seeds, if there is one."""
    several = [row for row in rows if row["model"].endswith(" seeds")]
    return sorted(several, key=lambda row: int(row["model"].split()[-2]))[-1:]


def reached(rows: Rows, about: Published) -> str:
    """In words, which mark the mean of the seeds, and the blend of all seeds, are at."""

    def of(some: Rows) -> str:
        values = tuple(mean(row[metric] for row in some) for metric in about.metrics)
        marks = {"stretch": about.stretch, "goal": about.goal, "required": about.required}
        for name, mark in marks.items():
            if mark is not None and all(v >= m for v, m in zip((round(x, 4) for x in values), mark, strict=True)):
                return name
        mark = about.required or about.goal
        return f"below, {min(v / m for v, m in zip(values, mark, strict=True)) - 1:+.1%}"

    kinds = {"alone": "regard", "blend": "blend"}
    parts = []
    for name, kind in kinds.items():
        some = [row for row in rows if row["model"].startswith(kind) and about.metrics[0] in row]
        if some:
            parts.append(f"{name}: {of(largest(some) or some)}")
    return "; ".join(parts)


def main_table(rows: Rows) -> str:
    lines = []
    for about in PUBLISHED:
        own = preset(rows, about.data, about.split)
        if not any(row["model"] == "regard" for row in own):
            continue
        seeds = sum(row["model"] == "regard" and about.metrics[0] in row for row in own)
        several = [row | {"model": "blend"} for row in largest(own)]
        lines.append(
            [
                about.title + (", P@20 / MRR@20" if about.metrics == CLICKS else ""),
                f"{pair(about.best)} ({about.source})",
                f"{found(own, about.metrics, model='regard')} ({seeds} seed{'s' * (seeds != 1)})",
                found(of_one_seed(own), about.metrics, model="blend"),
                found(several, about.metrics, model="blend"),
                " → ".join(pair(mark) for mark in (about.required, about.goal, about.stretch) if mark is not None),
                reached(own, about),
            ]
        )
    head = ["data", "best published", "regard, preset best", "blend of a seed and counts", "blend of all seeds"]
    return table([*head, "required → goal → stretch", "reached"], lines)


def baseline_table(rows: Rows) -> str:
    lines = []
    for about in PUBLISHED:
        own = [row for row in rows if row["data"] == about.data and row["split"] == about.split]
        cells = [found(own, about.metrics, model=name) for name in [*SIMPLE, "rules and ease"] if name != "repeats"]
        if any(cells):
            lines.append([about.title, *cells])
    names = [title for name, title in SIMPLE.items() if name != "repeats"]
    return table(["data", *names, "blend of rules and EASE"], lines)


def time_table(rows: Rows) -> str:
    lines = []
    for data, title in TITLES.items():
        own = preset(rows, data, "time")
        cells = [found(own, TOP_10, model=name) for name in [*SIMPLE, "regard"]]
        if cells[-1]:
            lines.append([title, *cells, found(of_one_seed(own), TOP_10, model="blend")])
    return table(["data", *SIMPLE.values(), "regard", "blend"], lines)


def bias_table(rows: Rows) -> str:
    """Models that differ in the time bias alone, trained on the same data with the same seeds."""
    lines = []
    for data in ("ml-100k", "ml-1m-timed"):
        own = [row for row in rows if (row["data"], row["split"], row["model"]) == (data, "leave-one-out", "regard")]
        pairs = []
        for row in own:
            if not row["settings"].get("time_bias"):
                continue
            same = {"seed": row["seed"], "settings": row["settings"] | {"time_bias": False}}
            alone = [other for other in own if {key: other[key] for key in same} == same]
            pairs += [(row, alone[-1])] if alone else []
        if pairs:
            ends = [found([p[i] for p in pairs], TOP_10, model="regard") for i in (1, 0)]
            gains = [
                mean(p[0][name] for p in pairs) / mean(p[1][name] for p in pairs) - 1
                for name in ("ndcg@10", "validation_ndcg@10")
            ]
            lines.append([TITLES[data], str(len(pairs)), *ends, *(f"{gain:+.1%}" for gain in gains)])
    return table(["data", "seeds", "without", "with the time bias", "NDCG@10", "on the validation part"], lines)


def experiments_table(_: Rows) -> str:
    tried: Rows = json.loads(EXPERIMENTS.read_text(encoding="utf-8")) if EXPERIMENTS.exists() else []
    lines = [
        [
            TITLES[row["data"]],
            row["tried"],
            f"{row['before']:.4f}",
            f"{row['after']:.4f}",
            f"{row['after'] / row['before'] - 1:+.1%}",
            row["kept"],
        ]
        for row in tried
    ]
    return table(["data", "tried", "before", "after", "", "kept"], lines)


PARTS = {
    "rows": main_table,
    "baselines": baseline_table,
    "time": time_table,
    "bias": bias_table,
    "experiments": experiments_table,
}


def fill(text: str, rows: Rows) -> str:
    """The page with its tables written anew."""
    return page.fill(text, rows, PARTS, "accuracy.py", PAGE.name)


def picture(rows: Rows) -> Any:
    """The second metric of each row of the main table as a part of the best published."""
    models = {"rules": "sequential rules", "ease": "EASE", "regard": "regard, preset best", "blend": "blend"}
    shown = [(about, preset(rows, about.data, about.split)) for about in PUBLISHED]
    shown = [(about, own + of_one_seed(own)) for about, own in shown if any(row["model"] == "regard" for row in own)]
    heights = range(len(shown) - 1, -1, -1)
    drawing, ax = page.figure(8, 0.5 * len(shown) + 1)
    for (model, label), colour, marker in zip(models.items(), page.COLOURS, "^sod", strict=False):
        points = []
        for y, (about, own) in zip(heights, shown, strict=True):
            metric = about.metrics[1]
            values = [row[metric] for row in own if row["model"] == model and metric in row]
            points += [(mean(values) / about.best[1], y)] if values else []
        if points:
            ax.plot(*zip(*points, strict=True), marker, color=colour, markersize=7, label=label)
    titles = [f"{about.title}, {about.metrics[1].split(' ')[0].upper()}" for about, _ in shown]
    ax.set_yticks(heights, titles, fontsize=8)
    ax.axvline(1, color="grey", linewidth=0.8)
    ax.set_xlabel("as a part of the best published (grey line)")
    ax.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return drawing


def write(rows: Rows) -> None:
    whole_file.write(PAGE, [fill(PAGE.read_text(encoding="utf-8"), rows).encode()])
    page.save({"accuracy": picture(rows)}, PAGE.parent / "images")
