"""The training loop: shuffled ragged batches, early stopping on a validation metric, best weights kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from regard.layers import Run, Step, forward
from regard.losses import LOSSES
from regard.optim import SCHEDULES, Adam, learning_rate_factor
from regard.ragged import Ragged
from regard.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Parameters = dict[str, NDArray[np.float32]]

Callback = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Settings:
    """How to train; the names are those of the recommender's arguments."""

    max_len: int
    windows: str
    loss: str
    learning_rate: float
    weight_decay: float
    max_norm: float | None
    schedule: str
    warmup_steps: int | None
    batch_size: int
    epochs: int
    patience: int
    precision: Any
    seed: int

    def __post_init__(self) -> None:
        for name in ("max_len", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        choices = {"windows": ("last", "random"), "loss": tuple(LOSSES), "schedule": SCHEDULES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected above 0, got {self.learning_rate}")


@dataclass
class Outcome:
    """What a run leaves: the best parameters, and one entry of history per epoch."""

    params: Parameters
    best_epoch: int
    history: list[dict[str, Any]]
    interrupted: bool


def train(
    steps: list[Step],
    params: Parameters,
    sequences: Ragged,
    settings: Settings,
    *,
    validate: Callable[[Parameters], float] | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
) -> Outcome:
    """Train on every place of every sequence.

    Parameters
    ----------
    steps, params : the model; ``params`` is changed in place
    sequences : Ragged of item rows, oldest first
        ``max_len + 1`` events of each are used in an epoch: the last, or (``windows="random"``) any that follow each
        other. Sequences of one event are left out.
    validate : parameters -> a metric of which more is better; after every epoch
        With it the best epoch's parameters are returned and training stops after ``patience`` epochs without a better
        one; without it all epochs are run.
    callbacks : called with the epoch's history entry; a true result stops the training
    progress : bool, default None: when standard error is a terminal

    Notes
    -----
    Ctrl-C ends the loop; what was best so far is returned. The same seed gives the same bits for any number of threads.
    """
    sequences = sequences.take(np.flatnonzero(sequences.lengths > 1))
    if len(sequences) == 0:
        raise ValueError("training data: expected at least one user with two events or more, got none")
    grads = {name: np.zeros_like(weight) for name, weight in params.items()}
    optimizer = Adam(
        params,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_norm=settings.max_norm,
    )
    ws = Workspace()
    n_batches = -(-len(sequences) // settings.batch_size)
    spare = np.maximum(sequences.lengths - (settings.max_len + 1), 0) if settings.windows == "random" else None
    n_steps = settings.epochs * n_batches
    warmup = min(100, n_steps // 20) if settings.warmup_steps is None else settings.warmup_steps
    line = Progress(settings.epochs, n_batches, progress)
    outcome = Outcome(_copy(params), 0, [], interrupted=False)
    best = -np.inf
    try:
        for epoch in range(1, settings.epochs + 1):
            start, losses, events = time.perf_counter(), 0.0, 0
            rng = np.random.default_rng([settings.seed, epoch])
            order = rng.permutation(len(sequences))
            ends = sequences.lengths if spare is None else sequences.lengths - rng.integers(0, spare + 1)
            windows = sequences.head(ends).tail(settings.max_len + 1)
            for number, chosen in enumerate(np.array_split(order, n_batches), 1):
                run, targets = _batch(windows.take(chosen), params, grads, settings.seed, optimizer.step_count + 1, ws)
                loss = _gradients(steps, run, targets, settings)
                factor = learning_rate_factor(run.step, n_steps, schedule=settings.schedule, warmup_steps=warmup)
                optimizer.step(grads, factor)
                losses += loss * len(targets)
                events += len(targets)
                line.batch(epoch, number, losses / events, events / (time.perf_counter() - start))
            if not np.isfinite(losses):
                raise FloatingPointError(f"loss: not finite in epoch {epoch}; try a smaller learning_rate")
            trained = time.perf_counter() - start
            metric = None if validate is None else validate(params)
            entry = {
                "epoch": epoch,
                "loss": losses / events,
                "metric": metric,
                "events_per_second": events / trained,
                "seconds": time.perf_counter() - start,
            }
            outcome.history.append(entry)
            if metric is None or metric > best:
                best = -np.inf if metric is None else metric
                outcome.params, outcome.best_epoch = _copy(params), epoch
            line.epoch(entry, outcome.best_epoch)
            if any([callback(entry) for callback in callbacks]) or epoch - outcome.best_epoch >= settings.patience:
                break
    except KeyboardInterrupt:
        outcome.interrupted = True
        if outcome.best_epoch == 0:  # nothing validated yet: what there is
            outcome.params = _copy(params)
    finally:
        line.close()
    return outcome


def _batch(
    windows: Ragged, params: Parameters, grads: Parameters, seed: int, step: int, ws: Workspace
) -> tuple[Run, NDArray[np.int32]]:
    """Every event but the last predicts the one after it."""
    ws.reset()
    for gradient in grads.values():
        gradient.fill(0)
    ends = windows.offsets[1:] - 1
    items = np.delete(windows.values, ends)
    targets = np.delete(windows.values, windows.offsets[:-1])
    cu_seqlens = windows.offsets - np.arange(len(windows) + 1)
    return Run(items, cu_seqlens, params, grads, seed, step, ws), targets


def _gradients(steps: list[Step], run: Run, targets: NDArray[np.int32], settings: Settings) -> float:
    """Loss of a batch; its gradients are left in ``run.grads``."""
    h, backward = forward(steps, run)
    table = steps[0]["table"]
    loss, dh = LOSSES[settings.loss](
        h, run.params[table], targets, run.add_grad(table), precision=settings.precision, ws=run.ws
    )
    backward(dh)
    return loss


def _copy(params: Parameters) -> Parameters:
    return {name: weight.copy() for name, weight in params.items()}


class Progress:
    """One line that is rewritten, on standard error; silent unless it is a terminal or asked for."""

    def __init__(self, epochs: int, n_batches: int, wanted: bool | None, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.wanted = self.stream.isatty() if wanted is None else wanted
        self.epochs, self.n_batches = epochs, n_batches
        self.started, self.shown, self.metric = time.perf_counter(), 0.0, ""

    def batch(self, epoch: int, number: int, loss: float, rate: float) -> None:
        now = time.perf_counter()
        if not self.wanted or (now - self.shown < 0.2 and number < self.n_batches):
            return
        self.shown = now
        done = ((epoch - 1) * self.n_batches + number) / (self.epochs * self.n_batches)
        left = (now - self.started) * (1 - done) / done
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
