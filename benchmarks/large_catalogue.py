"""Memory and speed of training over large catalogues.

    python benchmarks/large_catalogue.py

1,000,000 items with a sampled loss: one table, its two moments, one batch. 200,000 items with the full softmax: the
table's gradient besides. Each case runs in a process of its own; memory is the process's peak beyond what it had before
the fit. The results go to `results/large_catalogue.json`.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from regard import whole_file

RESULTS = Path(__file__).parent / "results" / "large_catalogue.json"
CASES: dict[str, dict[str, Any]] = {
    "1,000,000 items, sampled softmax": {"n_items": 1_000_000, "loss": "sampled_softmax", "n_negatives": 4096},
    "1,000,000 items, gBCE": {"n_items": 1_000_000, "loss": "gbce", "n_negatives": 4096},
    "200,000 items, softmax": {"n_items": 200_000, "loss": "softmax", "n_users": 500},
}
DIM, MAX_LEN, BATCH = 64, 50, 128


def megabytes(field: str) -> float:
    """VmRSS or VmHWM (the peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def measure(n_items: int, loss: str, n_negatives: int = 1, n_users: int = 20_000) -> dict[str, Any]:
    import regard  # noqa: PLC0415  # in the process of the case alone

    rng = np.random.default_rng(0)
    # a long tail: items of rank r with probability about 1 / r, every item in the catalogue
    items = np.minimum((n_items ** rng.random((n_users, MAX_LEN + 1))).astype(np.int32), n_items - 1)
    sequences = regard.Ragged(items.ravel(), np.arange(n_users + 1) * (MAX_LEN + 1))
    data = regard.Interactions.from_sequences(np.arange(n_users), np.arange(n_items), sequences)
    model = regard.SelfAttentionRecommender(
        dim=DIM, max_len=MAX_LEN, batch_size=BATCH, epochs=1, loss=loss, n_negatives=n_negatives
    )
    before = megabytes("VmRSS")
    model.fit(data, validation=None)
    peak = megabytes("VmHWM") - before
    entry = model.history_[0]
    assert np.isfinite(entry["loss"]) and all(np.isfinite(weight).all() for weight in model.params_.values())
    table = n_items * DIM * 4 / 2**20
    return {
        "table_mb": round(table, 1),
        "table_and_moments_mb": round(3 * table, 1),
        "peak_mb": round(peak, 1),
        "beyond_table_and_moments_mb": round(peak - 3 * table, 1),
        "seconds": round(entry["seconds"], 1),
        "events_per_second": round(entry["events_per_second"]),
        "threads": regard.num_threads(),
        "isa": regard.isa(),
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(**json.loads(sys.argv[1]))))
        return
    results = {}
    for name, case in CASES.items():
        output = subprocess.run(
            [sys.executable, __file__, json.dumps(case)], check=True, capture_output=True, text=True
        )
        results[name] = case | json.loads(output.stdout) | {"date": datetime.date.today().isoformat()}
        print(name, json.dumps(results[name]))
    whole_file.write(RESULTS, [(json.dumps(results, indent=1) + "\n").encode()])


if __name__ == "__main__":
    main()
