"""The tables of docs/serving.md, and its picture."""

from __future__ import annotations

from typing import Any

from contest.page import COLOURS, DOCS, figure, fill, save, table
from regard import whole_file


def closed(results: dict[str, Any]) -> str:
    """A row for each number of connections, the catalogues side by side."""
    head, rows = ["connections"], []
    for n_items in results["closed"]:
        head += [f"V {int(n_items):,}: requests a second", "median", "99th"]
    for of in zip(*results["closed"].values(), strict=True):
        row = [str(of[0]["connections"])]
        for one in of:
            row += [f"{one['per_second']:,}", f"{one['p50_ms']:.2f} ms", f"{one['p99_ms']:.2f} ms"]
        rows.append(row)
    return table(head, rows)


def overload(results: dict[str, Any]) -> str:
    over = results["overload"]
    rows = []
    names = {"before": "before, 200 requests a second", "during": "three times the capacity", "after": "right after"}
    for when, name in names.items():
        probe = over[when]
        refused = f"{probe['refused_p50_ms']} / {probe['refused_p99_ms']} ms" if probe["refused"] else ""
        share = f"{100 * probe['refused'] / (probe['refused'] + probe['answered']):.0f} %"
        rows.append([name, f"{probe['answered_p50_ms']} / {probe['answered_p99_ms']} ms", share, refused])
    ratios = ", ".join(map(str, over["ratio_of_each_round"]))
    load = over["load"]
    told = (
        f"Capacity {over['capacity_per_second']:,} requests a second; during the overload {load['per_second']:,} were "
        f"answered and {load['refused_per_second']:,} refused every second. The 99th percentile of answers over that "
        f"before, in each round: {ratios}."
    )
    return table(["when", "answered: median / 99th", "refused", "the refusal: median / 99th"], rows) + f"\n\n{told}"


def machine(results: dict[str, Any]) -> str:
    return f"{results['machine']}; regard {results['version']}; {results['date']}."


PARTS = {"closed": closed, "overload": overload, "machine of service": machine}


def curves(results: dict[str, Any]) -> Any:
    """The 99th percentile and the median against requests a second."""
    picture, ax = figure(6, 3.4)
    for (n_items, rows), colour in zip(results["closed"].items(), COLOURS, strict=False):
        rate = [row["per_second"] for row in rows]
        ax.plot(rate, [row["p50_ms"] for row in rows], "o-", color=colour, label=f"V {int(n_items):,}, median")
        ax.plot(rate, [row["p99_ms"] for row in rows], "o:", color=colour, label=f"V {int(n_items):,}, 99th")
        for row in rows:
            ax.annotate(
                str(row["connections"]),
                (row["per_second"], row["p50_ms"]),
                xytext=(4, -10),
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
    ax.set(xlabel="requests answered a second, one core", ylabel="milliseconds", yscale="log")
    ax.set_title("Small numbers: connections", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return picture


def write(results: dict[str, Any]) -> None:
    """The page and its picture."""
    page = DOCS / "serving.md"
    whole_file.write(page, [fill(page.read_text(encoding="utf-8"), results, PARTS, "service.py", page.name).encode()])
    save({"service": curves(results)}, DOCS / "images")
