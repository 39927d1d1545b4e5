"""regard beside the strongest peers that are installed, in one run: ratios, curves, floors, memory.

    python benchmarks/performance.py                     # all subjects, some ten minutes
    python benchmarks/performance.py --only attention    # one subject; the rest of the results stays as it was
    python benchmarks/performance.py --docs              # no measuring: tables and pictures of docs/performance.md

Every contender's answer is compared with float64 before it is timed. Contenders take turns: each round has every one
of them once, a ratio is the median over rounds of the peer's time by ours. One thread unless said. What is not
installed (torch, faiss, implicit) is left out, and a line says so. The histories of real users need the data sets
(REGARD_DATA).
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import regard
from contest import limits, page
from contest.cases import Case, Contender, Memory, Row, Subject
from contest.workers import Worker, load
from regard import whole_file
from regard.doctor import processor

RESULTS = Path(__file__).parent / "results" / "performance.json"
SUBJECTS = ("limits", "attention", "cross_entropy", "topk", "embedding", "training", "threads")
PACKAGES = {"regard": "regard", "numpy": "numpy", "torch": "torch", "faiss": "faiss-cpu", "implicit": "implicit"}
SAMPLE = 0.02  # seconds of calls in a row that count as one sample of a short call
BUDGET = 6.0  # seconds for the rounds of a case, of which there are 3 at least and 25 at most
MOST_KEPT_MB = 1024


class Contest:
    """Measures cases; keeps the processes."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.workers: dict[tuple[str, bool, int], Worker] = {}
        self.missing: set[str] = set()

    def worker(self, case: Case, contender: Contender) -> Worker:
        key = contender.library, contender.tuned, contender.threads or case.threads
        if key not in self.workers:
            self.workers[key] = Worker(key[2], contender.tuned)
        return self.workers[key]

    def here(self, contender: Contender) -> bool:
        found = importlib.util.find_spec(contender.library) is not None
        if not found and contender.library not in self.missing:
            self.missing.add(contender.library)
            print(f"left out: {contender.library} is not installed", flush=True)
        return found

    def measure(self, subject: str, case: Case) -> dict[str, Any] | None:
        """Check every answer, then time in turns. None where the data set is not there."""
        request = {"subject": subject, "quick": self.quick, "case": case.name}
        try:
            right = case.reference(case.sizes)
        except FileNotFoundError as problem:
            print(f"left out: {case.name}: {problem}", flush=True)
            return None
        contenders = [one for one in case.contenders if self.here(one)]
        workers = {one.name: self.worker(case, one) for one in contenders}
        errors, first = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for one in contenders:
                path = f"{folder}/answer.npz"
                prepared = workers[one.name].ask(do="prepare", contender=one.name, answer=path, **request)
                first[one.name] = prepared["seconds"]
                errors[one.name] = case.error(load(path), right)
                if not errors[one.name] <= one.tolerance:
                    raise AssertionError(f"{case.name}: {one.name} is off by {errors[one.name]}, not {one.tolerance}")
        calls = {name: 1 if self.quick else max(1, min(10_000, int(SAMPLE / s))) for name, s in first.items()}
        times: dict[str, list[float]] = {name: [] for name in workers}
        faults = dict.fromkeys(workers, 0.0)
        fewest, most = (1, 1) if self.quick else (3, 25)
        started, rounds = time.perf_counter(), 0
        while rounds < fewest or (rounds < most and time.perf_counter() - started < BUDGET):
            rounds += 1
            for name, worker in workers.items():
                taken = worker.ask(do="time", contender=name, calls=calls[name])
                times[name].append(taken["seconds"] * 1e3)
                faults[name] = taken["faults"]
        self.drop(set(workers.values()))
        table = {
            name: {
                "ms": statistics.median(times[name]),
                "rounds": [float(f"{ms:.4g}") for ms in times[name]],
                "error": errors[name],
                "page_faults": faults[name],
            }
            for name in times
        }
        for name, entry in table.items():
            print(f"  {case.name:44} {name:52} {entry['ms']:12.4f} ms", flush=True)
        return {
            "subject": subject,
            "sizes": case.sizes,
            "threads": case.threads,
            "flops": case.flops(case.sizes),
            "bytes": case.bytes(case.sizes),
            "date": datetime.date.today().isoformat(),
            "contenders": table,
        }

    def drop(self, workers: set[Worker]) -> None:
        """Forget the case. A process that does not give its memory back (a tuned one never does) is ended."""
        for key, worker in list(self.workers.items()):
            if worker in workers and worker.ask(do="drop")["mb"] > MOST_KEPT_MB:
                self.workers.pop(key).close()

    def memory(self, name: str, line: Memory, subject: Subject) -> dict[str, Any]:
        """In a process that has done nothing else."""
        case = next(one for one in subject.cases if one.name == line.case)
        contender = next(one for one in case.contenders if one.name == line.contender)
        worker = Worker(contender.threads or case.threads, contender.tuned)
        request = {"subject": name, "quick": self.quick, "case": case.name, "contender": line.contender}
        try:
            found = worker.ask(do="memory", **request)
        finally:
            worker.close()
        return {"work": line.work, "mb": found["mb"], "required_mb": line.required_mb, "goal_mb": line.goal_mb}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def ratio(row: Row, cases: dict[str, Any]) -> dict[str, Any] | None:
    """A row of the table, from the case's rounds. None without the case or any of the peers."""
    contenders = cases.get(row.case, {}).get("contenders", {})
    peers = [name for name in row.peers if name in contenders]
    if row.ours not in contenders or not peers:
        return None
    best = min(peers, key=lambda name: contenders[name]["ms"])
    ours, theirs = contenders[row.ours], contenders[best]
    pairs = zip(ours["rounds"], theirs["rounds"], strict=True)
    return {
        "work": row.work,
        "against": row.against,
        "case": row.case,
        "ours": row.ours,
        "peer": best,
        "ms": ours["ms"],
        "peer_ms": theirs["ms"],
        "ratio": statistics.median(peer / own for own, peer in pairs),
        "required": row.required,
        "goal": row.goal,
    }


def floor_ms(case: dict[str, Any], machine: dict[str, float]) -> float | None:
    """Milliseconds below which no float32 form can be here: its arithmetic, or the bytes that it must read."""
    if "gflops_1" not in machine or not (case["flops"] or case["bytes"]):
        return None
    read = {int(key.split("_")[3]): rate for key, rate in machine.items() if key.startswith("gb_per_second")}
    holds = [size for size in sorted(read) if size * 2**20 >= case["bytes"]] or [max(read)]
    arithmetic = case["flops"] / machine[f"gflops_{case['threads']}"] / 1e6
    return float(max(arithmetic, case["bytes"] / read[holds[0]] / 1e6))


def write(results: dict[str, Any], quick: bool, path: Path) -> None:
    """With the rows, curves, limits and floors of the cases that the results have."""
    subjects = {name: importlib.import_module(f"contest.{name}").subject(quick) for name in SUBJECTS}
    cases = results["cases"]
    results["limits"] = limits.measured(cases, subjects["limits"].cases)
    for case in cases.values():
        case["floor_ms"] = floor_ms(case, results["limits"])
    rows = itertools.chain.from_iterable(one.rows for one in subjects.values())
    results["ratios"] = [found for row in rows if (found := ratio(row, cases)) is not None]
    results["curves"] = [
        {
            "file": curve.file,
            "name": curve.name,
            "label": curve.label,
            "points": [[x, name] for x, name in curve.points if name in cases],
        }
        for one in subjects.values()
        for curve in one.curves
    ]
    whole_file.write(path, [(json.dumps(results, indent=1) + "\n").encode()])


def report(results: dict[str, Any]) -> None:
    print(f"\n{'work':86} {'against':34} {'ratio':>6} {'required':>8} {'goal':>5}")
    for row in results["ratios"]:
        mark = "" if row["ratio"] >= row["required"] else "  below"
        print(f"{row['work']:86} {row['against']:34} {row['ratio']:6.2f} {row['required']:8} {row['goal']:5}{mark}")
    for line in results["memory"]:
        print(f"{line['work']:86} {'memory beyond its results':34} {line['mb']:6.1f} {line['required_mb']:5} MB")


def versions(packages: dict[str, str] = PACKAGES) -> dict[str, str]:
    found = {"python": sys.version.split()[0], "regard": regard.__version__, "isa": regard.isa()}
    for module, package in packages.items():
        try:
            found.setdefault(module, version(package))
        except PackageNotFoundError:
            continue
    return found


def run(subjects: list[str], quick: bool, path: Path) -> dict[str, Any]:
    """Measure, and write after each case what is there by then: a run that is stopped keeps what it has."""
    results: dict[str, Any] = {"cases": {}, "memory": []}
    if path.exists():
        results = json.loads(path.read_text())
    results |= {
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "quick": quick,
    }
    contest = Contest(quick)
    try:
        for name in subjects:
            print(name, flush=True)
            subject = importlib.import_module(f"contest.{name}").subject(quick)
            names = {case.name for case in subject.cases}
            for old in [key for key, case in results["cases"].items() if case["subject"] == name and key not in names]:
                del results["cases"][old]
            for case in subject.cases:
                if (found := contest.measure(name, case)) is not None:
                    results["cases"][case.name] = found
                    write(results, quick, path)
            if subject.memories:
                results["memory"] = [contest.memory(name, line, subject) for line in subject.memories]
            write(results, quick, path)
    finally:
        contest.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="SUBJECT")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: that everything runs, no figures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--docs", action="store_true", help="draw the results into docs/performance.md, measure nothing"
    )
    arguments = parser.parse_args()
    if arguments.docs:
        page.write(json.loads(arguments.results.read_text()))
        return
    if arguments.quick and arguments.results == RESULTS:
        parser.error("--quick: its figures mean nothing; give --results a file of their own")
    report(run(arguments.only, arguments.quick, arguments.results))


if __name__ == "__main__":
    main()
