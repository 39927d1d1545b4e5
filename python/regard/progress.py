"""The progress line of a training."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


class Progress:
    """One line that is rewritten, on standard error; silent unless it is a terminal or asked for."""

    def __init__(self, epochs: int, n_batches: int, wanted: bool | None, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.wanted = self.stream.isatty() if wanted is None else wanted
        self.epochs, self.n_batches = epochs, n_batches
        self.started, self.shown, self.metric = time.perf_counter(), 0.0, ""
        self.before: int | None = None  # batches of an earlier run of which this one is the rest

    def batch(self, epoch: int, number: int, loss: float, rate: float) -> None:
        now, batches = time.perf_counter(), (epoch - 1) * self.n_batches + number
        if self.before is None:
            self.before = batches - 1
        if not self.wanted or (now - self.shown < 0.2 and number < self.n_batches):
            return
        self.shown = now
        left = (now - self.started) * (self.epochs * self.n_batches - batches) / (batches - self.before)
        self._write(
            f"epoch {epoch}/{self.epochs} {number / self.n_batches:4.0%}  loss {loss:.4f}{self.metric}  "
            f"{rate:,.0f} events/s  at most {_clock(left)} left"
        )

    def epoch(self, entry: dict[str, Any], best_epoch: int) -> None:
        if entry["metric"] is not None:
            self.metric = f"  validation {entry['metric']:.4f} (best in epoch {best_epoch})"

    def close(self) -> None:
        if self.wanted and self.shown:
            self.stream.write("\n")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r{text:<110}")
        self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
