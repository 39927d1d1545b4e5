"""docs/performance.md: the parts between its markers, and the pictures (extra ``plots``: matplotlib)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regard import whole_file
from regard.plots import COLOURS

DOCS = Path(__file__).parents[2] / "docs"
TILES = Path(__file__).parents[1] / "results" / "performance_tiles.json"


def number(ms: float) -> str:
    """Milliseconds to three digits; microseconds below a tenth."""
    return f"{ms * 1e3:.3g} µs" if ms < 0.1 else f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1e3:.3g} s"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratios(results: dict[str, Any]) -> str:
    rows = []
    for row in results["ratios"]:
        floor = results["cases"][row["case"]]["floor_ms"]
        share = "" if floor is None else f"{row['ms'] / floor:.2g}"
        mark = "" if row["ratio"] >= row["required"] else ", below"
        rows.append(
            [
                row["work"],
                row["against"],
                number(row["ms"]),
                number(row["peer_ms"]),
                f"**{row['ratio']:.2f}**{mark}",
                f"{row['required']:g} / {row['goal']:g}",
                share,
            ]
        )
    return table(["work", "against", "regard", "peer", "ratio", "required / goal", "regard / float32 floor"], rows)


def memory(results: dict[str, Any]) -> str:
    rows = [
        [line["work"], f"{line['mb']:.1f} MB", f"{line['required_mb']:g} / {line['goal_mb']:g} MB"]
        for line in results["memory"]
    ]
    return table(["one call, beyond its inputs and results", "peak", "required / goal"], rows)


def machine(results: dict[str, Any]) -> str:
    limits, versions = results["limits"], dict(results["versions"])
    isa = versions.pop("isa")
    lines = [f"{results['machine']}; instruction set `{isa}`; {results['date']}."]
    lines.append(", ".join(f"{name} {value}" for name, value in versions.items()) + ".")
    arithmetic = [f"{limits[f'gflops_{n}']:.0f} GFLOP/s on {n} thread{'s' * (n > 1)}" for n in (1, 2)]
    reading = [
        f"{rate:.0f} GB/s from {key.split('_')[3]} MB"
        for key, rate in limits.items()
        if key.startswith("gb_per_second")
    ]
    lines.append(f"float32 product of NumPy: {', '.join(arithmetic)}. Reading on one thread: {', '.join(reading)}.")
    return "\n".join(lines)


def answers(results: dict[str, Any]) -> str:
    """Every contender of the table's cases: time, error, page faults."""
    rows = []
    for name in dict.fromkeys(row["case"] for row in results["ratios"]):
        for contender, entry in results["cases"][name]["contenders"].items():
            faults = f"{entry['page_faults']:,.0f}"
            rows.append([name, contender, number(entry["ms"]), f"{entry['error']:.1e}", faults])
    return table(["case", "contender", "median", "error", "page faults a call"], rows)


def tiles(_: dict[str, Any]) -> str:
    """The cross-entropy on a machine with matrix tiles, of a run of its own."""
    results = json.loads(TILES.read_text(encoding="utf-8"))
    return f"{machine(results)}\n\n{ratios(results)}"


PARTS = {"machine": machine, "ratios": ratios, "tiles": tiles, "memory": memory, "contenders": answers}


def fill(
    text: str,
    results: Any,
    parts: dict[str, Callable[[Any], str]] = PARTS,
    script: str = "performance.py",
    name: str = "performance.md",
) -> str:
    """The page with the parts of a script written anew."""
    for place, part in parts.items():
        begin, end = f"<!-- {place}: written by benchmarks/{script} -->", f"<!-- end of {place} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"docs/{name}: expected {begin!r} and {end!r} once each")
        text = pattern.sub(lambda _, b=begin, e=end, p=part: f"{b}\n{p(results)}\n{e}", text)
    return text


# ---- pictures --------------------------------------------------------------------------------------------------------


def figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ModuleNotFoundError("--docs draws with matplotlib: pip install 'regard[plots]'") from None

    picture = Figure(figsize=(width, height), layout="constrained")
    ax = picture.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return picture, ax


def bars(results: dict[str, Any]) -> Any:
    """Ratio of every row; a line at what is required, and at 1."""
    rows = results["ratios"][::-1]
    picture, ax = figure(9, 0.27 * len(rows) + 0.8)
    for y, row in enumerate(rows):
        enough = row["ratio"] >= row["required"]
        ax.barh(y, row["ratio"], color=COLOURS[0] if enough else COLOURS[1], height=0.6)
        ax.plot([row["required"]] * 2, [y - 0.4, y + 0.4], color="black", linewidth=1.5)
        ax.text(
            max(row["ratio"], row["required"]), y, f" {row['ratio']:.2f}", va="center", fontsize=7, parse_math=False
        )
    labels = [f"{row['work'].replace('`', '')}  ({row['against'].replace('`', '')})" for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=7, parse_math=False)
    ax.set_xscale("log")
    ax.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    ax.minorticks_off()
    ax.axvline(1, color="grey", linewidth=0.8)
    ax.set_xlabel("times as fast as the peer; black: required; orange: below it")
    return picture


def cost(results: dict[str, Any], curve: dict[str, Any]) -> Any:
    """Milliseconds of every contender along one size, with the float32 floor."""
    picture, ax = figure(5, 3.2)
    points = curve["points"]
    names = list(dict.fromkeys(name for _, case in points for name in results["cases"][case]["contenders"]))
    for name, colour in zip(names, COLOURS * 2, strict=False):
        line = [(x, results["cases"][case]["contenders"].get(name, {}).get("ms")) for x, case in points]
        line = [(x, ms) for x, ms in line if ms is not None]
        style = "o-" if name.startswith("regard") else "s--"
        ax.plot(*zip(*line, strict=True), style, color=colour, markersize=3, linewidth=1.2, label=name)
    floors = [(x, floor) for x, case in points if (floor := results["cases"][case]["floor_ms"]) is not None]
    if floors:
        ax.plot(*zip(*floors, strict=True), ":", color="black", linewidth=1, label="float32 floor")
    ax.set(xscale="log", yscale="log", xlabel=curve["label"], ylabel="ms", title=curve["name"])
    ax.title.set_fontsize(8)
    ax.legend(fontsize=6, frameon=False)
    return picture


def draw(results: dict[str, Any], folder: Path) -> None:
    """One SVG for the ratios and one for each curve."""
    pictures = {"performance-ratios": bars(results)}
    pictures |= {f"performance-{curve['file']}": cost(results, curve) for curve in results["curves"] if curve["points"]}
    save(pictures, folder)


def save(pictures: dict[str, Any], folder: Path) -> None:
    """As SVG; the same pictures give the same bytes."""
    import matplotlib as mpl  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "regard", "svg.fonttype": "none"}):
        for name, picture in pictures.items():
            picture.savefig(folder / f"{name}.svg", metadata={"Date": None})


def write(results: dict[str, Any], docs: Path = DOCS) -> None:
    """Fill the page and draw its pictures."""
    page = docs / "performance.md"
    whole_file.write(page, [fill(page.read_text(encoding="utf-8"), results).encode()])
    draw(results, docs / "images")
