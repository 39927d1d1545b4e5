"""From a data frame to one sequence for each user: rows per second and peak memory, beside pandas and Polars.

    python benchmarks/data_path.py

Events of random users in no order of time, as integers and as strings. Each contender runs in a fresh process that
reads the frame from a Parquet file; the time is that of the preparation alone, the memory the most that the whole
process held at any time, the frame included. pandas and Polars do the smallest thing that gives sequences (a stable
sort and a group-by); regard also checks every cell and builds the catalogue that training needs. All must agree on
every user's items, else nothing is written.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from regard import whole_file
from regard.doctor import processor

RESULTS = Path(__file__).parent / "results" / "data_path.json"
COLUMNS = ["user_id", "item_id", "datetime"]


def make(path: Path, rows: int, ids: str) -> None:
    """Users alike, items by a power law, moments of a year to the second."""
    import polars as pl  # noqa: PLC0415

    random = np.random.default_rng(0)
    users = random.integers(0, max(rows // 20, 1), rows)
    items = (max(rows // 100, 1) * random.random(rows) ** 2).astype(np.int64)
    when = np.datetime64("2025-01-01", "us") + random.integers(0, 365 * 86_400, rows) * np.timedelta64(1_000_000, "us")
    frame = pl.DataFrame({"user_id": users, "item_id": items, "datetime": when})
    if ids == "str":
        frame = frame.with_columns(
            pl.format("user-{}", pl.col("user_id").cast(pl.String).str.zfill(7)),
            pl.format("B{}", (pl.col("item_id") * 7919 % 1_000_003).cast(pl.String).str.zfill(9)),
        )
    frame.write_parquet(path)


def read(path: Path, library: str) -> Any:
    if library == "pandas":
        import pandas  # noqa: PLC0415

        return pandas.read_parquet(path)
    if library == "pyarrow":
        import pyarrow.parquet  # noqa: PLC0415

        return pyarrow.parquet.read_table(path)
    import polars as pl  # noqa: PLC0415

    return pl.read_parquet(path)


def with_regard(frame: Any) -> Any:
    import regard  # noqa: PLC0415

    return regard.Interactions.from_frame(frame)


def with_polars(frame: Any) -> Any:
    ordered = frame.sort(["user_id", "datetime"], maintain_order=True)
    return ordered.group_by("user_id", maintain_order=True).agg("item_id")


def with_pandas(frame: Any) -> Any:
    ordered = frame.sort_values(["user_id", "datetime"], kind="stable")
    return ordered.groupby("user_id", sort=False)["item_id"].agg(list)


CONTENDERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "regard from Polars": ("polars", with_regard),
    "regard from pandas": ("pandas", with_regard),
    "regard from pyarrow": ("pyarrow", with_regard),
    "Polars sort and group-by": ("polars", with_polars),
    "pandas sort and group-by": ("pandas", with_pandas),
}


def digest(result: Any) -> str:
    """Of the number of events of each user and of all items in order."""
    import polars as pl  # noqa: PLC0415

    if hasattr(result, "sequences"):
        lengths = result.sequences.lengths
        items = pl.Series(result.item_ids.tolist()).gather(result.sequences.values)
    elif isinstance(result, pl.DataFrame):
        lengths = result["item_id"].list.len().to_numpy()
        items = result["item_id"].explode()
    else:
        lengths = result.map(len).to_numpy()
        items = pl.Series([item for row in result for item in row])
    parts = (np.asarray(lengths, np.int64), items.hash(seed=0).to_numpy())
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def measure(path: Path, contender: str) -> dict[str, Any]:
    """One run, in this process."""
    library, prepare = CONTENDERS[contender]
    prepare(read(path, library)[:1000])  # imports and first uses
    frame = read(path, library)
    before = peak_mb()
    start = time.perf_counter()
    result = prepare(frame)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_memory_mb": peak_mb(), "frame_mb": before, "digest": digest(result)}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def versions() -> dict[str, str]:
    from importlib.metadata import version  # noqa: PLC0415

    import regard  # noqa: PLC0415

    others = {name: version(name) for name in ("numpy", "polars", "pandas", "pyarrow", "narwhals")}
    return {"regard": regard.__version__, **others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median counts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "CONTENDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure[0]), arguments.measure[1])))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for ids in ("int", "str"):
            path = Path(folder) / f"{ids}.parquet"
            # in a process of its own: what a child inherits from a large parent counts in the child's peak
            subprocess.run([sys.executable, "-c", MAKE, str(path), str(arguments.rows), ids], check=True)
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
            for _ in range(arguments.repeats):  # in turns, so that a busy minute does not hit one of them alone
                for name, runs in found.items():
                    command = [sys.executable, __file__, "--measure", str(path), name]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    runs.append(json.loads(done.stdout))
            digests = {run["digest"] for runs in found.values() for run in runs}
            assert len(digests) == 1, f"{ids}: the answers differ: {found}"
            for name, runs in found.items():
                seconds = statistics.median(run["seconds"] for run in runs)
                row = {
                    "contender": name,
                    "ids": ids,
                    "rows": arguments.rows,
                    "rows_per_second": round(arguments.rows / seconds),
                    "seconds": round(seconds, 3),
                    "seconds_of_each": [round(run["seconds"], 3) for run in runs],
                    "peak_memory_mb": round(max(run["peak_memory_mb"] for run in runs)),
                    "peak_memory_after_reading_mb": round(max(run["frame_mb"] for run in runs)),
                    "digest": digests.copy().pop()[:16],
                    "machine": machine(),
                    "versions": versions(),
                    "date": datetime.date.today().isoformat(),
                }
                results.append(row)
                print(f"{ids}  {name:26} {row['seconds']:8.2f} s  {row['peak_memory_mb']:6,} MB", flush=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    whole_file.write(arguments.results, [(json.dumps(results, indent=1) + "\n").encode()])


MAKE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from data_path import make
make(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
"""

if __name__ == "__main__":
    main()
