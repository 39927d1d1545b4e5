"""What one request costs on one thread, beside the same model in onnxruntime and PyTorch; memory and time of a worker.

    python benchmarks/latency.py                        # everything, a few minutes
    python benchmarks/latency.py --only encode append   # some requests; the rest of the results stays as it was
    python benchmarks/latency.py --docs                 # no measuring: table and picture of docs/performance.md

The model is SASRec with its usual sizes and untrained parameters: dim 64, two blocks, one head, places counted from the
start. Every answer is checked before it is timed: what regard's layers give in Python, scored in float64. Contenders
take turns for a few rounds; percentiles are of single calls, and of the round with the lowest 99th, for a busy
neighbour is nobody's latency. Peers that are not installed are left out. The rows "from C" need a C compiler.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

import regard
from contest import latency_page, latency_peers
from performance import versions
from regard import whole_file
from regard.doctor import processor
from regard.layers import Run, forward

RESULTS = Path(__file__).parent / "results" / "latency.json"
HERE = Path(__file__).parent
K, MAX_LEN, ROUNDS = 10, 200, 5
CALLS = 2000  # of a round, from C
SECONDS, FEWEST, MOST = 0.25, 100, 3000  # of a round: for so long, but at least and at most so many calls
TOLERANCE = 1e-5  # of a score, relative to the best
PACKAGES = {name: name for name in ("regard", "numpy", "torch", "onnxruntime")}
WORKER_ITEMS = 1_000_000


@dataclass(frozen=True)
class Request:
    """A row of the table."""

    kind: str  # encode and append from C, or recommend from Python
    length: int
    n_items: int
    ffn_dim: int
    required: float | None = None  # microseconds
    goal: float | None = None
    positions: str = "absolute"

    @property
    def name(self) -> str:
        what = {"encode": "encode, from C", "append": "append to a session, from C", "recommend": "`recommend`"}
        items = f", V {self.n_items:,}" if self.kind == "recommend" else ""
        other = "" if self.positions == "absolute" else f", {self.positions} positions"
        return f"{what[self.kind]}, L {self.length}{items}, ffn {self.ffn_dim}{other}"


def requests() -> list[Request]:
    rows = [
        Request("encode", 50, 3416, 64, 40, 25),
        Request("encode", 200, 3416, 64, 190, 130),
        Request("append", 50, 3416, 64, 4, 2),
        Request("append", 200, 3416, 64, 7, 3.5),
        Request("recommend", 50, 3416, 64, 110, 70),
        Request("recommend", 200, 3416, 64, 350, 260),
        Request("recommend", 50, 100_000, 64, 550, 400),
        Request("recommend", 50, 1_000_000, 64, 8000, 5500),
    ]
    wider = [Request(row.kind, row.length, row.n_items, 256) for row in rows if row.n_items == 3416]
    default = [Request(row.kind, row.length, row.n_items, 64, positions="relative") for row in rows[:6]]
    return rows + wider + default


def quick(row: Request) -> Request:
    """A tiny one: that everything runs."""
    return Request(row.kind, 5, 50, row.ffn_dim, row.required, row.goal, row.positions)


# ---- models and answers ----------------------------------------------------------------------------------------------


def untrained(n_items: int, ffn_dim: int, positions: str = "absolute") -> Any:
    """A model with parameters as before training, biases too."""
    model = regard.SelfAttentionRecommender(ffn_dim=ffn_dim, max_len=MAX_LEN, positions=positions)
    rng = np.random.default_rng(0)
    params = model.initial_parameters(n_items)
    for name, weight in params.items():
        if name.endswith("bias"):
            weight[:] = rng.standard_normal(weight.shape) / 10
    model.params_, model.item_ids_, model.titles_ = params, np.arange(n_items), None
    model.popularity_, model.history_, model.best_epoch_ = np.ones(n_items, np.int64), [], 0
    return model


def history_of(row: Request) -> np.ndarray:
    return np.random.default_rng(1).integers(0, row.n_items, row.length).astype(np.int32)


def encoded(model: Any, history: np.ndarray) -> np.ndarray:
    """By the layers in Python."""
    run = Run(history, np.array([0, len(history)]), model.params_)
    x, _ = forward(model.steps()[:-1], run)
    found: np.ndarray = x[-1]
    return found


def error(items: np.ndarray, model: Any, history: np.ndarray, exclude_seen: bool) -> float:
    """By how much these items score less than the best, relative to the best; NaN for a repeat."""
    scores = model.params_["items.weight"].astype(np.float64) @ encoded(model, history).astype(np.float64)
    if exclude_seen:
        scores[history] = -np.inf
    best = -np.sort(-scores)[: len(items)]
    if len(np.unique(items)) != len(best):
        return float("nan")
    return float(np.abs(best - scores[items]).max() / np.abs(best[0]))


def checked(name: str, found: float) -> float:
    if not found <= TOLERANCE:
        raise AssertionError(f"{name}: off by {found}, not {TOLERANCE}")
    return found


# ---- timing ----------------------------------------------------------------------------------------------------------


def time_calls(call: Callable[[], Any], calls: int) -> np.ndarray:
    taken = np.empty(calls)
    for i in range(calls):
        begin = time.perf_counter_ns()
        call()
        taken[i] = time.perf_counter_ns() - begin
    return taken / 1e3


def percentiles(rounds: list[np.ndarray]) -> dict[str, float]:
    """Of the round with the lowest 99th."""
    p50, p99 = min(((float(np.median(r)), float(np.percentile(r, 99))) for r in rounds), key=lambda pair: pair[1])
    return {"p50_us": round(p50, 3), "p99_us": round(p99, 3), "calls": len(rounds[0])}


def driver(folder: Path) -> list[str] | None:
    """The compiled benchmarks/latency.c; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("left out: rows from C: no C compiler", flush=True)
        return None
    program, library = folder / "latency", Path(regard.get_library())
    include = Path(regard.__file__).parent / "include"
    if not include.exists():  # not installed: the sources
        include = HERE.parent / "csrc" / "include"
    how = ["-O2", f"-I{include}", str(HERE / "latency.c"), str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run([compiler, *how, "-o", str(program)], check=True)
    return [str(program)]


def from_c(row: Request, model: Any, path: Path, command: list[str], rounds: int, calls: int) -> dict[str, Any]:
    history, out = history_of(row), path.with_suffix(".out")
    history.tofile(path.with_suffix(".history"))
    taken = []
    for _ in range(rounds):
        arguments = [str(path), row.kind, str(path.with_suffix(".history")), str(calls), str(out)]
        subprocess.run([*command, *arguments], check=True)
        raw = out.read_bytes()
        size = 4 * (model.dim if row.kind == "encode" else K)
        if row.kind == "encode":
            right = encoded(model, history)
            off = float(np.abs(np.frombuffer(raw[:size], np.float32) - right).max() / np.abs(right).max())
        else:
            off = error(np.frombuffer(raw[:size], np.int32), model, history, False)
        checked(row.name, off)
        taken.append(np.frombuffer(raw[size:], np.int64) / 1e3)
    return {"regard": percentiles(taken) | {"error": off}}


def from_python(row: Request, model: Any, path: Path, rounds: int, calls: int | None) -> dict[str, Any]:
    history = history_of(row)
    ids = history.tolist()
    loaded = regard.load(path)
    answers: dict[str, Callable[[], np.ndarray]] = {"regard": lambda: loaded.recommend(ids, k=K).items[0]}
    if row.positions == "absolute":  # what the peers have
        answers |= latency_peers.contenders(model, history, K, path)
    errors = {
        name: checked(f"{row.name}, {name}", error(answer(), model, history, name == "regard"))
        for name, answer in answers.items()
    }
    taken: dict[str, list[np.ndarray]] = {name: [] for name in answers}
    counts = {}
    for name, answer in answers.items():
        once = float(np.median(time_calls(answer, 5))) / 1e6
        counts[name] = calls or int(np.clip(SECONDS / once, FEWEST, MOST))
    for _ in range(rounds):
        for name, answer in answers.items():
            taken[name].append(time_calls(answer, counts[name]))
    return {name: percentiles(taken[name]) | {"error": errors[name]} for name in answers}


# ---- workers ---------------------------------------------------------------------------------------------------------


def private_mb() -> float:
    """Memory of this process that no other one shares."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup, re.MULTILINE)) / 1024


def work(contender: str, path: Path, n_items: int) -> None:
    """What a worker does: print what opening took, and stay until somebody writes a line."""
    history = history_of(Request("recommend", 50, n_items, 64))
    opener = latency_peers.opener(contender, path, history, K)
    before, begin = private_mb(), time.perf_counter()
    answer = opener()
    opened = time.perf_counter() - begin
    answer()
    answer()
    print(json.dumps({"open_ms": opened * 1e3, "private_mb": private_mb(), "of_model_mb": private_mb() - before}))
    sys.stdout.flush()
    sys.stdin.readline()


def workers(folder: Path, n_items: int) -> dict[str, Any]:
    """Opening, and the memory of a second process beside a first."""
    model, path = untrained(n_items, 64), folder / "worker"
    model.save(path)
    found = {}
    for name in latency_peers.available(model, history_of(Request("recommend", 50, n_items, 64)), K, path):
        command = [sys.executable, str(Path(__file__)), "--worker", name, str(path), str(n_items)]
        running, told = [], []
        for _ in range(3):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            told.append(json.loads(process.stdout.readline()))
            running.append(process)
        found[name] = told[-1] | {"open_ms": float(np.median([one["open_ms"] for one in told]))}
        for process in running:
            process.communicate("\n")
    return found


# ---- the run ---------------------------------------------------------------------------------------------------------


def run(kinds: list[str], tiny: bool, path: Path) -> dict[str, Any]:
    results: dict[str, Any] = {"requests": {}, "workers": {}}
    if path.exists():
        results = json.loads(path.read_text())
    results |= {
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "versions": versions(PACKAGES),
        "date": datetime.date.today().isoformat(),
        "quick": tiny,
    }
    regard.set_num_threads(1)
    rows = requests()
    if not tiny:
        results["requests"] = {
            row.name: results["requests"][row.name] for row in rows if row.name in results["requests"]
        }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = driver(folder) if {"encode", "append"} & set(kinds) else None
        for asked in rows:
            if asked.kind not in kinds or (asked.kind != "recommend" and command is None):
                continue
            row = quick(asked) if tiny else asked
            model, file = untrained(row.n_items, row.ffn_dim, row.positions), folder / "model"
            model.save(file)
            rounds = 1 if tiny else ROUNDS
            if row.kind == "recommend":
                contenders = from_python(row, model, file, rounds, 3 if tiny else None)
            else:
                assert command is not None
                contenders = from_c(row, model, file, command, rounds, 3 if tiny else CALLS)
            results["requests"][asked.name] = {
                "kind": row.kind,
                "length": row.length,
                "n_items": row.n_items,
                "ffn_dim": row.ffn_dim,
                "positions": row.positions,
                "required_us": row.required,
                "goal_us": row.goal,
                "date": datetime.date.today().isoformat(),
                "contenders": contenders,
            }
            for contender, figures in contenders.items():
                both = f"{figures['p50_us']:10.2f} {figures['p99_us']:10.2f} us"
                print(f"{asked.name:64} {contender:26} {both}", flush=True)
            whole_file.write(path, [(json.dumps(results, indent=1) + "\n").encode()])
        if "workers" in kinds:
            results["workers"] = workers(folder, 500 if tiny else WORKER_ITEMS)
            print(json.dumps(results["workers"], indent=1), flush=True)
    whole_file.write(path, [(json.dumps(results, indent=1) + "\n").encode()])
    return results


def main() -> None:
    kinds = ("encode", "append", "recommend", "workers")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=kinds, default=list(kinds), metavar="KIND")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: that everything runs, no figures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md, measure nothing")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments.worker[0], Path(arguments.worker[1]), int(arguments.worker[2]))
    elif arguments.docs:
        latency_page.write(json.loads(arguments.results.read_text()))
    elif arguments.quick and arguments.results == RESULTS:
        parser.error("--quick: its figures mean nothing; give --results a file of their own")
    else:
        run(arguments.only, arguments.quick, arguments.results)


if __name__ == "__main__":
    main()
