"""The part of docs/performance.md about latency, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contest.page import COLOURS, DOCS, figure, fill, number, save, table
from regard import whole_file


def us(value: float) -> str:
    return number(value / 1e3)


def latency(results: dict[str, Any]) -> str:
    """A row for each request: regard, the fastest peer, what is asked for."""
    rows = []
    for name, row in results["requests"].items():
        ours = row["contenders"]["regard"]
        peers = {who: one for who, one in row["contenders"].items() if who != "regard"}
        best = min(peers, key=lambda who: peers[who]["p50_us"]) if peers else None
        asked = ""
        if row["required_us"] is not None:
            asked = f"{us(row['required_us'])} / {us(row['goal_us'])}"
            asked += ", above" if ours["p50_us"] > row["required_us"] else ""
        rows.append(
            [
                name,
                f"**{us(ours['p50_us'])}**",
                us(ours["p99_us"]),
                f"{ours['p99_us'] / ours['p50_us']:.2f}",
                asked,
                "" if best is None else f"{us(peers[best]['p50_us'])}, {best}",
                "" if best is None else f"{peers[best]['p50_us'] / ours['p50_us']:.1f}",
            ]
        )
    return table(["request", "median", "99th", "99th / median", "required / goal", "fastest peer", "ratio"], rows)


def workers(results: dict[str, Any]) -> str:
    rows = [
        [name, number(one["open_ms"]), f"{one['private_mb']:.0f} MB", f"{one['of_model_mb']:.0f} MB"]
        for name, one in results["workers"].items()
    ]
    return table(["1,000,000 items", "opening", "memory of one more process", "of that for the model"], rows)


def machine(results: dict[str, Any]) -> str:
    found = dict(results["versions"])
    isa = found.pop("isa")
    return f"{results['machine']}; `{isa}`; {results['date']}; " + ", ".join(f"{k} {v}" for k, v in found.items()) + "."


PARTS = {"latency": latency, "workers": workers, "machine of latency": machine}


def bars(results: dict[str, Any]) -> Any:
    """Median of every contender in the requests that peers can answer, with a whisker to the 99th."""
    requests = results["requests"].items()
    rows = [(name, row) for name, row in requests if row["kind"] == "recommend" and row["positions"] == "absolute"]
    names = list(dict.fromkeys(who for _, row in rows for who in row["contenders"]))
    picture, ax = figure(8, 0.2 * len(names) * len(rows) + 0.9)
    height = 0.8 / len(names)
    for place, who in enumerate(names):
        at = [y + height * place for y, (_, row) in enumerate(rows) if who in row["contenders"]]
        figures = [row["contenders"][who] for _, row in rows if who in row["contenders"]]
        medians = [one["p50_us"] for one in figures]
        over = [[0] * len(figures), [one["p99_us"] - one["p50_us"] for one in figures]]
        ax.barh(at, medians, height, xerr=over, color=COLOURS[place], label=who, error_kw={"linewidth": 0.7})
    labels = [name.replace("`", "") for name, _ in rows]
    ax.set_yticks([y + height * (len(names) - 1) / 2 for y in range(len(rows))], labels, fontsize=7)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="µs of one request: median, and a line to the 99th percentile")
    ax.legend(fontsize=6, frameon=False)
    return picture


def write(results: dict[str, Any], docs: Path = DOCS) -> None:
    """Fill the page and draw its picture."""
    page = docs / "performance.md"
    text = fill(page.read_text(encoding="utf-8"), results, PARTS, "latency.py")
    whole_file.write(page, [text.encode()])
    save({"latency": bars(results)}, docs / "images")
