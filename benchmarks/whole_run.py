"""From the start of the process to the saved model, then one look at the test.

    python benchmarks/whole_run.py ml-1m --preset fast --seeds 0 1 2

Runs ``regard train DATA --preset P`` and ``regard evaluate``, each in a process of its own, and records wall time (data
loading, validation after every epoch and early stopping included), peak memory beyond Python with NumPy, and the test's
metrics in ``results/whole_run.json``. What is there (same data, preset, settings, seed, threads) is not run again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard import whole_file
from regard.doctor import machine
from regard.recipes import PRESETS

RESULTS = Path(__file__).parent / "results" / "whole_run.json"


def finished(command: list[str]) -> tuple[str, float, float]:
    """Output, seconds and peak memory in MB of a command."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
        output.seek(0)
        return output.read(), seconds, usage.ru_maxrss / 1024


def run(data: str, preset: str, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "regard"]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.safetensors")
        flags = ["--preset", preset, "--random-state", str(seed), "--json"]
        trained, seconds, memory = finished([*command, "train", data, *flags, "--out", file])
        report, _, _ = finished([*command, "evaluate", file, data, "--no-baselines", "-k", "10", "--json"])
    summary, results = json.loads(trained), json.loads(report)["results"][0]
    del summary["settings"]["random_state"]
    return {
        "data": data,
        "preset": preset,
        "seed": seed,
        "threads": regard.num_threads(),
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(memory - finished([sys.executable, "-c", "import numpy"])[2]),
        "hr@10": round(results["hr@10"], 5),
        "ndcg@10": round(results["ndcg@10"], 5),
        "validation_ndcg@10": round(summary["validation_ndcg@10"], 5),
        "epochs": summary["epochs"],
        "best_epoch": summary["best_epoch"],
        "seconds_per_epoch": round(float(np.median([entry["seconds"] for entry in summary["history"]])), 2),
        "settings": summary["settings"],
        "machine": machine(),
        "version": regard.__version__,
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    train = regard.splits.leave_one_out(regard.datasets.load(arguments.data)).train
    settings = regard.SelfAttentionRecommender.for_data(train, arguments.preset).get_params()
    del settings["random_state"]
    wanted = {"data": arguments.data, "settings": settings, "threads": regard.num_threads()}
    rows = json.loads(arguments.results.read_text()) if arguments.results.exists() else []

    def found() -> list[dict[str, Any]]:
        return [row for row in rows if all(row[name] == value for name, value in wanted.items())]

    for seed in arguments.seeds:
        if any(row["seed"] == seed for row in found()):
            continue
        rows.append(run(arguments.data, arguments.preset, seed))
        whole_file.write(arguments.results, [(json.dumps(rows, indent=1) + "\n").encode()])
        print(json.dumps(rows[-1]), flush=True)
    for name in ("hr@10", "ndcg@10", "seconds", "peak_memory_mb"):
        values = np.array([row[name] for row in found()])
        print(f"{arguments.data}  {name:15} {values.mean():9.4f} ± {values.std(ddof=1):.4f}  ({len(values)} seeds)")


if __name__ == "__main__":
    main()
