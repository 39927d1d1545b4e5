"""Fields of use: simple methods and attention on one split of real data, for docs/shop.md, social.md and news.md.

    python benchmarks/fields.py shop          # or social, news; what is known already is not run again
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
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard import whole_file
from regard.comparison import markdown
from regard.doctor import machine
from regard.splits import Split

RESULTS = Path(__file__).parent / "results" / "fields.json"
DOCS = Path(__file__).parent.parent / "docs"

# field: data set: how it is split, and arguments of regard.compare
FIELDS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "shop": {
        "amazon-beauty": ("leave-one-out", {}),
        "retailrocket": ("given", {"exclude_seen": False, "loss": "sampled_softmax", "epochs": 10}),
    },
    "social": {"college-msg": ("time", {"exclude_seen": False})},
    "news": {"mind-5k": ("leave-one-out", {})},
}


def split_of(name: str, how: str) -> Split:
    if how == "given":
        return regard.datasets.given_split(name)
    data = regard.datasets.load(name)
    if how == "leave-one-out":
        return regard.splits.leave_one_out(data)
    assert data.times is not None
    validation_at, at = np.quantile(data.times.values, [0.7, 0.8])  # of the events
    return regard.splits.by_time(data, at=at, validation_at=validation_at)


def run(name: str, how: str, settings: dict[str, Any]) -> dict[str, Any]:
    split = split_of(name, how)
    regard.set_num_threads(1)
    found = regard.compare(split, progress=lambda line: print(line, flush=True), clock=time.process_time, **settings)
    print(found, flush=True)
    chosen = {model: repr(one) for model, one in found.models.items()}
    about = {"machine": machine(), "version": regard.__version__, "date": datetime.date.today().isoformat()}
    return {"data": name, "split": how, "arguments": settings, **found.to_dict(), "settings": chosen, **about}


def read() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return rows


def fill(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with the table and the verdict of each data set between its marks."""
    for row in rows:
        text = f"{markdown(row['results'])}\n\n{row['verdict']}"
        before, after = f"<!-- {row['data']} -->\n", "\n<!-- end -->"
        if before in page:
            head, _, rest = page.partition(before)
            page = f"{head}{before}{text}{after}{rest.partition(after)[2]}"
    return page


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
        row = run(name, how, settings)
        others = [other for other in read() if other["data"] != name]  # read again: another run may have written
        content = json.dumps([*others, row], indent=1) + "\n"
        RESULTS.parent.mkdir(exist_ok=True)
        whole_file.write(RESULTS, [content.encode()])
        print(f"{name}: written to {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
