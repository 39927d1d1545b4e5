"""The service under load: requests a second and how long each takes; what happens beyond its capacity.

    python benchmarks/service.py             # a few minutes on a quiet machine; needs wrk and hey (Debian packages)
    python benchmarks/service.py --docs      # no measuring: tables and picture of docs/serving.md

`regard serve` with one worker runs on one core, the load on another. wrk keeps a number of connections busy with
requests of 50 events each, 256 different ones; before that, answers are compared with those of the model. For the
overload wrk waits between requests, so that over 200 connections three times as many come as were answered; hey probes
beside it.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

import regard
from contest import service_page
from latency import untrained
from regard import whole_file
from regard.doctor import machine
from service_process import Service

RESULTS = Path(__file__).parent / "results" / "service.json"
LENGTH, K = 50, 10
CATALOGUES = (3_416, 100_000)
CONNECTIONS = (1, 2, 4, 8, 16, 32)
CROWD = 200  # connections of the overload
PROBES = 200  # a second

WRK = """
local n, requests = 0, {}
function init()
  math.randomseed(7)
  for i = 1, 256 do
    local events = {}
    for j = 1, %(length)d do events[j] = math.random(0, %(n_items)d - 1) end
    local body = '{"history":[' .. table.concat(events, ",") .. '],"k":%(k)d}'
    requests[i] = wrk.format("POST", "/v1/recommend", {["content-type"] = "application/json"}, body)
  end
end
function request() n = n %% 256 + 1; return requests[n] end
if %(pause)f > 0 then  -- milliseconds between an answer and the next request, drawn so that requests come independently
  function delay() return math.floor(-math.log(1 - math.random()) * %(pause)f + 0.5) end
end
function done(summary, latency)
  local p50, p99 = latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  local took = summary.duration / 1e6
  io.write(string.format("RESULT %%d %%d %%f %%f %%f\\n", summary.requests, summary.errors.status, took, p50, p99))
end
"""


def pin(core: int) -> list[str]:
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[core % len(cores)])]


def started(path: Path, folder: str, *flags: Any) -> Service:
    """On the first core."""
    service = Service(path, folder, "--watch-seconds", "0", *flags)
    for pid in service.workers():
        subprocess.run([*pin(0)[:1], "-cp", pin(0)[2], str(pid)], check=True, capture_output=True)
    return service


def checked(service: Service, model: Any, n_items: int) -> None:
    """Answers are those of the model."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        history = rng.integers(0, n_items, LENGTH).tolist()
        expected = model.recommend(history, K)
        answer = service.ask(history=history, k=K)
        assert answer["items"] == expected.items[0].tolist(), (answer, expected)


def script(folder: str, n_items: int, pause: float = 0.0) -> Path:
    """What wrk sends."""
    path = Path(folder) / f"wrk-{n_items}-{pause:g}.lua"
    path.write_text(WRK % {"length": LENGTH, "n_items": n_items, "k": K, "pause": pause})
    return path


def wrk(service: Service, what: Path, connections: int, seconds: float) -> subprocess.Popen[str]:
    command = [*pin(1), "wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", str(what)]
    return subprocess.Popen([*command, f"http://127.0.0.1:{service.port}"], stdout=subprocess.PIPE, text=True)


def summary(running: subprocess.Popen[str]) -> dict[str, Any]:
    line = next(line for line in running.communicate()[0].splitlines() if line.startswith("RESULT"))
    requests, refused, took, p50, p99 = map(float, line.split()[1:])
    return {
        "per_second": round((requests - refused) / took),
        "refused_per_second": round(refused / took),
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
    }


def probe(service: Service, body: Path, seconds: float) -> dict[str, Any]:
    """A few requests a second, whatever else there is: how many were answered and refused, and how long each took."""
    command = [*pin(1), "hey", "-m", "POST", "-D", str(body), "-z", f"{seconds:g}s", "-c", "4"]
    command += ["-q", str(PROBES / 4), "-o", "csv", f"http://127.0.0.1:{service.port}/v1/recommend"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    took = np.array([float(row["response-time"]) for row in rows]) * 1e3
    status = np.array([int(row["status-code"]) for row in rows])
    assert set(status) <= {200, 503}, set(status)
    found: dict[str, Any] = {}
    for name, of in (("answered", took[status == 200]), ("refused", took[status == 503])):
        found[name] = len(of)
        if len(of):
            found |= {f"{name}_p{p}_ms": round(float(np.percentile(of, p)), 2) for p in (50, 99, 100)}
    return found


def overload(path: Path, folder: str, n_items: int, body: Path, capacity: int, seconds: float) -> dict[str, Any]:
    """Probes before, during and right after three times the load that wrk reached."""
    with started(path, folder) as service:
        probe(service, body, 1)
        report: dict[str, Any] = {"capacity_per_second": capacity, "before": probe(service, body, seconds)}
        running = wrk(service, script(folder, n_items, 1e3 * CROWD / (3 * capacity)), CROWD, seconds + 1)
        time.sleep(0.2)
        report["during"] = probe(service, body, seconds)
        report["load"] = summary(running)
        time.sleep(0.5)
        report["after"] = probe(service, body, 1)
    return report


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    report: dict[str, Any] = {"closed": {}, "machine": machine(), "version": regard.__version__}
    report["date"] = datetime.date.today().isoformat()
    with tempfile.TemporaryDirectory() as folder:
        body, path = Path(folder) / "body.json", Path(folder) / "m.safetensors"
        for n_items in CATALOGUES:
            model = untrained(n_items, 64)
            model.save(path)
            runs = []
            with started(path, folder, "--max-wait-ms", "50") as service:
                checked(service, model, n_items)
                what = script(folder, n_items)
                summary(wrk(service, what, 4, 1))
                for _ in range(rounds):
                    runs.append([summary(wrk(service, what, c, seconds)) | {"connections": c} for c in CONNECTIONS])
            # Of the rounds the one with the most answers: a busy neighbour is nobody's capacity.
            best = [max(of, key=lambda run: run["per_second"]) for of in zip(*runs, strict=True)]
            report["closed"][str(n_items)] = best
            print(n_items, *best, sep="\n", flush=True)
        body.write_text(json.dumps({"history": np.random.default_rng(0).integers(0, n_items, LENGTH).tolist(), "k": K}))
        capacity = max(row["per_second"] for row in best)
        tries = []
        for _ in range(rounds):
            tries.append(overload(path, folder, n_items, body, capacity, seconds))
            print(json.dumps(tries[-1]), flush=True)
        ratios = [run["during"]["answered_p99_ms"] / run["before"]["answered_p99_ms"] for run in tries]
        report["overload"] = tries[int(np.argsort(ratios)[len(ratios) // 2])]
        report["overload"]["ratio_of_each_round"] = [round(ratio, 2) for ratio in ratios]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="draw the results into docs/serving.md, measure nothing")
    arguments = parser.parse_args()
    if arguments.docs:
        service_page.write(json.loads(arguments.results.read_text()))
        return
    for tool in ("wrk", "hey", "taskset"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is needed and was not found")
    report = measure(arguments.seconds, arguments.rounds)
    whole_file.write(arguments.results, [(json.dumps(report, indent=1) + "\n").encode()])


if __name__ == "__main__":
    main()
