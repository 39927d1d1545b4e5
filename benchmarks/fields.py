"""Fields of use: simple methods and attention on one split of real data, for docs/shop.md, social.md and news.md.

    python benchmarks/fields.py shop          # or social, news; what is known already is not run again,
                                              # model by model
    python benchmarks/fields.py shop --only amazon-beauty
    python benchmarks/fields.py --docs        # no runs: tables and pictures of the pages

One thread, seconds of process time. Matrix factorisation needs the package implicit; without it its row says so. Data
sets are read from the folder in REGARD_DATA. Results go to `results/fields.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard import whole_file
from regard.comparison import MODELS, Comparison, markdown
from regard.doctor import machine
from regard.metrics import Report
from regard.splits import Split

RESULTS = Path(__file__).parent / "results" / "fields.json"
PARTS = Path(__file__).parent.parent / "build" / "fields"  # not in the repository
DOCS = Path(__file__).parent.parent / "docs"

# field: data set: how it is split, and arguments of regard.compare
FIELDS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "shop": {
        "amazon-beauty": ("leave-one-out", {}),
        "retailrocket": ("given", {"exclude_seen": False, "epochs": 10}),
    },
    "social": {"college-msg": ("time", {"exclude_seen": False})},
    "news": {"mind-5k": ("leave-one-out", {})},
}


def split_of(name: str, how: str, parts: Sequence[float] = (0.7, 0.8)) -> Split:
    """A data set split; by time where these parts of the events end, the training and the validation."""
    if how == "given":
        return regard.datasets.given_split(name)
    data = regard.datasets.load(name)
    if how == "leave-one-out":
        return regard.splits.leave_one_out(data)
    assert data.times is not None
    validation_at, at = np.quantile(data.times.values, parts)
    return regard.splits.by_time(data, at=at, validation_at=validation_at)


def judged(name: str, split: Split, settings: dict[str, Any], model: str) -> Comparison:
    """One model; kept in a file of its own, so that a stopped run goes on with the next."""
    path = PARTS / f"{name}-{model}.npz"
    if path.exists():
        with np.load(path) as parts:
            about = json.loads(str(parts["about"]))
            per_user = {metric: parts[metric] for metric in about.pop("per_user")}
        same = about.pop("asked") == [split.fingerprint, settings]
        if same and about["why"] is None:
            report = Report(per_user, about["totals"], **about["counts"])
            seconds, milliseconds = {model: about["fit_seconds"]}, {model: about["milliseconds"]}
            return Comparison({model: report}, {model: about["settings"]}, seconds, milliseconds, {})
        if same:
            return Comparison({}, {}, {}, {}, {model: about["why"]})
    regard.set_num_threads(1)
    about = {"asked": [split.fingerprint, settings], "why": None, "per_user": []}
    arrays: dict[str, Any] = {}
    try:
        found = regard.compare(split, models=[model], progress=print, clock=time.process_time, **settings)
    except ValueError as error:
        why = str(error).removeprefix(f"{model}: ")
        found, about["why"] = Comparison({}, {}, {}, {}, {model: why}), why
    else:
        report = found.reports[model]
        arrays = {metric: report.per_user(metric) for metric in ("hr@10", "ndcg@10")}
        counts = report.to_dict()
        found.models[model] = repr(found.models[model])
        about |= {
            "per_user": list(arrays),
            "totals": {metric: report[metric] for metric in ("coverage@10",) if metric in report},
            "counts": {key: value for key, value in counts.items() if key not in report},
            "fit_seconds": found.fit_seconds[model],
            "milliseconds": found.milliseconds[model],
            "settings": found.models[model],
        }
    PARTS.mkdir(parents=True, exist_ok=True)
    np.savez(path, about=json.dumps(about), **arrays)
    return found


def run(name: str, how: str, settings: dict[str, Any], models: list[str] | None) -> dict[str, Any]:
    split = split_of(name, how)
    all_of_them = [model for model in MODELS if model != "repeats" or not settings.get("exclude_seen", True)]
    found = Comparison({}, {}, {}, {}, {})
    for model in models or all_of_them:
        one = judged(name, split, settings, model)
        for part in ("reports", "models", "fit_seconds", "milliseconds", "left_out"):
            getattr(found, part).update(getattr(one, part))
    print(found if found.reports else found.left_out, flush=True)
    about = {"machine": machine(), "version": regard.__version__, "date": datetime.date.today().isoformat()}
    content = {} if models else found.to_dict()
    return {"data": name, "split": how, "arguments": settings, **content, "settings": found.models, **about}


def read() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return rows


def fill(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with the table, the verdict and the picture of each data set, and the table of clicks, between marks."""
    known = {row["data"]: row for row in rows}
    texts = {"mind-5k clicks": clicks()}
    for field, sets in FIELDS.items():
        for name in sets:
            texts[name] = f"No run is recorded yet: `python benchmarks/fields.py {field}`."
            if name in known:
                picture = f"![NDCG@10 of each method on {name}, with intervals](images/fields-{name}.svg)"
                table, verdict = markdown(known[name]["results"]), known[name]["verdict"]
                texts[name] = f"{table}\n\n{verdict}\n\n{picture}"
    for name, text in texts.items():
        before, after = f"<!-- {name} -->\n", "<!-- end -->"
        if before in page:
            head, _, rest = page.partition(before)
            page = f"{head}{before}{text}\n{after}{rest.partition(after)[2]}"
    return page


def clicks() -> str:
    """What benchmarks/target_attention.py recorded of mind-5k."""
    rows = json.loads((RESULTS.parent / "target_attention.json").read_text(encoding="utf-8"))
    row = next(row for row in rows if row["data"] == "mind-5k")
    models = {
        "popularity": "share of clicks",
        "mean": "regard, mean of the history",
        "attention": "regard, attention",
        "torch": "DIN in PyTorch",
    }
    lines = ["| model | AUC | AUC within users | log-loss |", "| --- | ---: | ---: | ---: |"]
    for name, title in models.items():
        if name not in row:  # PyTorch is not there in every run
            continue
        values = (row[name].get(metric) for metric in ("auc", "user_auc", "log_loss"))
        cells = " | ".join("" if value is None else f"{value:.4f}" for value in values)
        lines.append(f"| {title} | {cells} |")
    sentences = []
    for name in ("popularity", "mean"):
        gain, low, high = row[f"auc attention - {name}"]
        sentences.append(
            f"AUC of attention less that of {models[name].removeprefix('regard, the ').removeprefix('regard, ')}: "
            f"{gain:+.4f}, 95 % interval over users {low:+.4f} to {high:+.4f}."
        )
    return "\n".join([*lines, "", *sentences])


def write_docs() -> None:
    """Tables into the pages, pictures beside them."""
    import matplotlib as mpl  # noqa: PLC0415

    rows = read()
    with mpl.rc_context({"svg.hashsalt": "regard"}):
        for row in rows:
            ax = regard.plots.comparison(row["results"])
            ax.figure.savefig(DOCS / "images" / f"fields-{row['data']}.svg", metadata={"Date": None})
    for field in FIELDS:
        path = DOCS / f"{field}.md"
        whole_file.write(path, [fill(path.read_text(encoding="utf-8"), rows).encode()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("field", choices=list(FIELDS), nargs="?")
    parser.add_argument("--only", metavar="DATA", help="one data set of the field")
    parser.add_argument("--models", nargs="+", help="only these, kept for a later run of all; results stay as they are")
    parser.add_argument("--docs", action="store_true", help="write the tables and pictures of the pages, run nothing")
    arguments = parser.parse_args()
    if arguments.docs:
        write_docs()
        return
    if arguments.field is None:
        parser.error("expected a field or --docs")
    for name, (how, settings) in FIELDS[arguments.field].items():
        known = [row for row in read() if row["data"] == name and row["split"] == how and row["arguments"] == settings]
        if known or arguments.only not in (None, name):
            continue
        row = run(name, how, settings, arguments.models)
        if arguments.models:
            continue
        others = [other for other in read() if other["data"] != name]  # read again: another run may have written
        content = json.dumps([*others, row], indent=1) + "\n"
        RESULTS.parent.mkdir(exist_ok=True)
        whole_file.write(RESULTS, [content.encode()])
        print(f"{name}: written to {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
