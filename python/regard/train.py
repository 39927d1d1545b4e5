"""The training loop: shuffled ragged batches, early stopping on a validation metric, best weights kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import ops, tensor_file
from regard.layers import Run, Step, forward, item_tables, linear, unit_rows
from regard.losses import LOSSES, SAMPLED, Sampler, pointed, smoothing
from regard.optim import OPTIMIZERS, SCHEDULES, learning_rate_factor
from regard.progress import Progress
from regard.timed import TimedHistories
from regard.workspace import beside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regard.checkpoint import Checkpoint
    from regard.features import EncodedFeatures
    from regard.ragged import Ragged

    Array = NDArray[np.float32]
    Parameters = dict[str, Array]
    Rows = dict[str, NDArray[np.int32]]

Callback = Callable[[dict[str, Any]], object]


def check(of: Any, counts: Iterable[str], choices: Mapping[str, Iterable[str]]) -> None:
    """TypeError or ValueError for a setting that is no whole number from 1 on, or not one of its choices."""
    for name in counts:
        check_whole(name, getattr(of, name), 1)
    for name, allowed in choices.items():
        if getattr(of, name) not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(of, name)!r}")


def check_whole(name: str, value: Any, least: int) -> None:
    """TypeError for what is no whole number, ValueError below the least."""
    if not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


@dataclass(frozen=True)
class RunSettings:
    """How to train any model; the names are those of the recommender's arguments."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    max_norm: float | None
    schedule: str
    warmup_steps: int | None
    batch_size: int
    epochs: int
    patience: int
    random_state: int

    def __post_init__(self) -> None:
        check(self, ("batch_size", "epochs", "patience"), {"optimizer": OPTIMIZERS, "schedule": SCHEDULES})
        for name in ("learning_rate", *(["max_norm"] if self.max_norm is not None else [])):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected above 0, got {getattr(self, name)}")
        for name in ("random_state", *(["warmup_steps"] if self.warmup_steps is not None else [])):
            check_whole(name, getattr(self, name), 0)
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: expected at least 0, got {self.weight_decay}")


@dataclass(frozen=True)
class Settings(RunSettings):
    """How to train a model that foretells the next item."""

    max_len: int
    windows: str
    loss: str
    n_negatives: int
    negatives: str
    logq_correction: bool
    gbce_t: float
    label_smoothing: float
    mask_seen: bool
    normalize_items: bool
    weight_averaging: bool
    precision: Any

    def __post_init__(self) -> None:
        choices = {"windows": ("last", "random"), "loss": LOSSES, "negatives": ("uniform", "popularity")}
        check(self, ("max_len", "n_negatives"), choices)
        super().__post_init__()
        if not 0 <= self.gbce_t <= 1:
            raise ValueError(f"gbce_t: expected from 0 to 1, got {self.gbce_t}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected from 0 to below 1, got {self.label_smoothing}")
        for name in ("label_smoothing", "mask_seen"):
            if getattr(self, name) and self.loss in SAMPLED:
                raise ValueError(f"loss: expected 'softmax' with {name}, got {self.loss!r}")


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
    popularity: NDArray[np.int64],
    features: EncodedFeatures | None = None,
    validate: Callable[[Parameters], float] | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train on every place of every sequence.

    Parameters
    ----------
    steps, params : the model; ``params``, on the host or on a CUDA device, is changed in place
    sequences : Ragged of item rows, oldest first; TimedHistories for a model with a time bias
        ``max_len + 1`` events of each are used in an epoch: the last, or (``windows="random"``) any that follow each
        other. Sequences of one event are left out.
    popularity : (n_items,) counts, for losses that draw negatives
    features : of the items; ``params`` then has the parameters of the features, and in the item tables the own vectors
    validate : parameters -> a metric of which more is better; after every epoch
        With it the best epoch's parameters are returned and training stops after ``patience`` epochs without a better
        one; without it all epochs are run.
    callbacks : called with the epoch's history entry; a true result stops the training
    progress : bool, default None: when standard error is a terminal
    checkpoint : where the run is kept; an unfinished run that is there goes on, a finished one is returned

    Notes
    -----
    Ctrl-C ends the loop; what was best so far is returned. The same seed gives the same bits for any number of threads.
    Memory: the parameters, their gradients, the optimiser's state, one batch, and with ``validate`` a copy of the best
    parameters; with ``normalize_items`` the item tables of length 1 and their gradients. A loss that draws negatives
    needs the gradients of those rows of the item tables only that a batch has.
    """
    run = Training(steps, params, sequences, settings, popularity, features)
    return complete(run, validate=validate, callbacks=callbacks, progress=progress, checkpoint=checkpoint)


def complete(
    run: TrainingRun,
    *,
    validate: Callable[[Parameters], float] | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train to the end; arguments as of :func:`train`."""
    if checkpoint is not None:
        run.go_on_from(checkpoint)
    callbacks = list(callbacks)
    line = Progress(run.settings.epochs, run.n_batches, progress)
    interrupted = False
    try:
        while not run.finished:
            run.begin_epoch()
            while run.batch < run.n_batches:
                run.step()
                line.batch(run.epoch, run.batch, run.losses / run.events, run.rate())
                if checkpoint is not None and checkpoint.due():
                    run.save_to(checkpoint)
            entry = run.end_epoch(validate)
            line.epoch(entry, run.best_epoch)
            if any([callback(entry) for callback in callbacks]):
                run.finished = True
            if run.finished and checkpoint is not None:
                run.save_to(checkpoint)
    except KeyboardInterrupt:
        interrupted = True
        run.keep_best()
    finally:
        line.close()
    return Outcome(run.best or run.result, run.best_epoch, run.history, interrupted)


# What of a run's attributes, beside its tensors, decides the next step.
_PROGRESS = ("epoch", "batch", "losses", "events", "history", "best_epoch", "best_metric", "finished")


class TrainingRun:
    """A run under way: all that decides its next step. A subclass draws the epochs and computes the gradients.

    Parameters
    ----------
    steps, params : the model; ``params`` is changed in place
    settings : RunSettings
    n_examples : int
        ``settings.batch_size`` of them make a batch.
    cut : names of the parameters of which a step has the gradient of some rows only
    averages : bool
        Whether a mean over the steps is validated and kept instead of the parameters of the last one.
    """

    def __init__(
        self,
        steps: list[Step],
        params: Parameters,
        settings: RunSettings,
        n_examples: int,
        *,
        cut: Collection[str] = (),
        averages: bool = False,
    ) -> None:
        self.steps, self.params, self.settings, self.n_examples = steps, params, settings, n_examples
        self.n_batches = -(-n_examples // settings.batch_size)
        self.optimizer = OPTIMIZERS[settings.optimizer](
            params,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_norm=settings.max_norm,
        )
        self.grads = {name: np.zeros_like(weight) for name, weight in params.items() if name not in cut}
        self.ws = beside(params)
        self.means: Parameters = {name: weight.copy() for name, weight in params.items()} if averages else {}

        self.begins: dict[str, str] = {}  # digests of the parameters before the first step, for a checkpoint
        self.epoch, self.batch, self.losses, self.events = 1, 0, 0.0, 0
        self.history: list[dict[str, Any]] = []
        self.best: Parameters | None = None  # None: the result as it is
        self.best_epoch: int = 0
        self.best_metric: float | None = None
        self.finished = self.best_is_stale = False

    @property
    def result(self) -> Parameters:
        """What is validated and kept: the means, or the parameters as the last step left them."""
        return self.means or self.params

    def _draw(self, rng: np.random.Generator) -> None:
        """What an epoch draws beside the order of the examples."""

    def _gradients(self, examples: NDArray[np.int64], number: int) -> tuple[float, int, Parameters, Rows]:
        """Mean loss over the events of a batch, their number, gradients, and which rows of cut parameters these are.

        ``number`` is that of the step, from 1. `grads` holds zeros.
        """
        raise NotImplementedError

    # ---- for a checkpoint ---------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings), "steps": self.steps, "begins": self.begins}

    def save_to(self, checkpoint: Checkpoint) -> None:
        """``params.NAME``, ``state.I.NAME`` of the optimiser, ``mean.NAME``, ``best.NAME``, and where it stands."""
        state = self.optimizer.state.items()
        tensors = {f"params.{name}": weight for name, weight in self.params.items()}
        tensors |= {f"state.{i}.{name}": part for name, parts in state for i, part in enumerate(parts)}
        tensors |= {f"mean.{name}": mean for name, mean in self.means.items()}
        tensors |= {f"best.{name}": weight for name, weight in (self.best or {}).items()}
        tensors = {name: np.asarray(tensor) for name, tensor in tensors.items()}  # those on a device
        progress = {name: getattr(self, name) for name in _PROGRESS} | {"step_count": self.optimizer.step_count}
        checkpoint.save(tensors, progress, self._identity())

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Bring a fresh run to where the checkpoint is, if there is one."""
        self.begins = {name: tensor_file.digest(np.asarray(weight)) for name, weight in self.params.items()}
        found = checkpoint.load(self._identity())
        if found is None:
            return
        tensors, progress = found
        for name, weight in self.params.items():
            np.copyto(weight, tensors[f"params.{name}"])
            for i, part in enumerate(self.optimizer.state[name]):
                np.copyto(part, tensors[f"state.{i}.{name}"])
        for name, mean in self.means.items():
            np.copyto(mean, tensors[f"mean.{name}"])
        self.best = {name: tensors[key] for name in self.params if (key := f"best.{name}") in tensors} or None
        self.optimizer.step_count = progress["step_count"]
        for name in _PROGRESS:
            setattr(self, name, progress[name])

    # ---- an epoch -----------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Draw the epoch: it depends on the seed and its number alone."""
        rng = np.random.default_rng([self.settings.random_state, self.epoch])
        order = rng.permutation(self.n_examples)
        self._draw(rng)
        self.batches = np.array_split(order, self.n_batches)
        self.started, self.started_with = time.perf_counter(), self.events

    def rate(self) -> float:
        """Events per second in this epoch."""
        return (self.events - self.started_with) / (time.perf_counter() - self.started)

    def step(self) -> None:
        """One batch."""
        settings, number = self.settings, self.optimizer.step_count + 1
        self.ws.reset()
        for gradient in self.grads.values():
            gradient.fill(0)
        loss, n_events, grads, rows = self._gradients(self.batches[self.batch], number)
        n_steps = settings.epochs * self.n_batches
        warmup = min(100, n_steps // 20) if settings.warmup_steps is None else settings.warmup_steps
        factor = learning_rate_factor(number, n_steps, schedule=settings.schedule, warmup_steps=warmup)
        self.optimizer.step(grads, factor, rows)
        self._average(number)
        self.losses += loss * n_events
        self.events += n_events
        self.batch += 1

    def _average(self, number: int) -> None:
        """Take a step into the means, if there are any: (1 - share) of each remains, share = 9 / (number + 8).

        So it is a mean of about the last ninth of the steps so far, without a setting of its own: polynomial-decay
        averaging with eta = 8, Shamir and Zhang 2013, arXiv:1212.1824, section 4. It is a step of SGD:
        ``mean -= share * (mean - weight)``.
        """
        share = 9 / (number + 8)
        for name, mean in self.means.items():
            ops.sgd(mean, self.params[name], learning_rate=share, weight_decay=1.0, grad_scale=-1.0)

    def end_epoch(self, validate: Callable[[Parameters], float] | None) -> dict[str, Any]:
        """Validate, keep the best; gives the entry of the history."""
        if not np.isfinite(self.losses):
            raise FloatingPointError(f"loss: not finite in epoch {self.epoch}; try a smaller learning_rate")
        rate = self.rate()
        metric = None if validate is None else validate(self.result)
        entry = {
            "epoch": self.epoch,
            "loss": self.losses / self.events,
            "metric": metric,
            "events_per_second": rate,
            "seconds": time.perf_counter() - self.started,
        }
        self.history.append(entry)
        if metric is None or metric > (-np.inf if self.best_metric is None else self.best_metric):
            self.best_epoch = self.epoch
            if metric is not None:
                self.best_metric, self.best_is_stale = metric, True
                self.keep_best()
        stop = self.epoch - self.best_epoch >= self.settings.patience
        self.finished = stop or self.epoch == self.settings.epochs
        self.epoch, self.batch, self.losses, self.events = self.epoch + 1, 0, 0.0, 0
        return entry

    def keep_best(self) -> None:
        """Copy the result, if it is the best; called again, it completes a copy that was interrupted."""
        if self.best_is_stale:
            self.best = self.best or {name: np.empty_like(weight) for name, weight in self.result.items()}
            for name, weight in self.result.items():
                np.copyto(self.best[name], weight)
            self.best_is_stale = False


class Training(TrainingRun):
    """A run in which every place of a sequence foretells the item after it."""

    settings: Settings

    def __init__(
        self,
        steps: list[Step],
        params: Parameters,
        sequences: Ragged,
        settings: Settings,
        popularity: NDArray[np.int64],
        features: EncodedFeatures | None = None,
    ) -> None:
        self.tables, self.pointer, self.features = item_tables(steps), steps[-1].get("pointer"), features
        self.sequences = sequences.take(np.flatnonzero(sequences.lengths > 1))
        if len(self.sequences) == 0:
            raise ValueError("training data: expected at least one user with two events or more, got none")
        self.sampler = None
        if settings.loss in SAMPLED:
            self.sampler = Sampler(
                popularity,
                n_negatives=settings.n_negatives,
                distribution=settings.negatives,
                logq_correction=settings.logq_correction,
                gbce_t=settings.gbce_t,
            )
        cut = () if self.sampler is None else self.tables
        super().__init__(steps, params, settings, len(self.sequences), cut=cut, averages=settings.weight_averaging)

    def _draw(self, rng: np.random.Generator) -> None:
        settings, lengths = self.settings, self.sequences.lengths
        self.ends = lengths
        if settings.windows == "random":
            self.ends = lengths - rng.integers(0, np.maximum(lengths - (settings.max_len + 1), 0) + 1)

    def _gradients(self, examples: NDArray[np.int64], number: int) -> tuple[float, int, Parameters, Rows]:
        """Every event but the last of a window predicts the one after it."""
        settings = self.settings
        histories = self.sequences.take(examples).head(self.ends[examples])
        windows = histories.tail(settings.max_len + 1)
        items = np.delete(windows.values, windows.offsets[1:] - 1)
        targets = np.delete(windows.values, windows.offsets[:-1])
        cu_seqlens = windows.offsets - np.arange(len(windows) + 1)
        params, grads, negatives = self.params, self.grads, None
        rows: Rows = {}
        events = items  # in the table that is scored
        if self.sampler is not None:
            negatives = self.sampler.draw(settings.random_state, number)
            again = items if self.pointer else items[:0]
            touched = self._touched(items, targets, negatives.rows, again)
            (items, targets, drawn, events), params, grads, rows = touched
            negatives = negatives._replace(rows=drawn)
        params, of_vectors, vectors_backward = self._item_vectors(params, grads, rows)

        run = Run(items, cu_seqlens, params, of_vectors, settings.random_state, number, self.ws)
        if isinstance(windows, TimedHistories):
            run.times = np.delete(windows.times, windows.offsets[1:] - 1)
            run.next_times = np.delete(windows.times, windows.offsets[:-1])
        h, backward = forward(self.steps, run)
        scored = self.tables[1]
        table, gradient = params[scored], run.add_grad(scored)
        of_items = table, targets, negatives, gradient
        how: dict[str, Any] = {"precision": settings.precision, "ws": self.ws}
        if settings.mask_seen:
            how |= {"seen": histories.drop_last(), "cu_seqlens": cu_seqlens}
        if self.pointer is None:
            loss, dh = LOSSES[settings.loss](h, *of_items, **how)
        else:
            parts = {part: f"{self.pointer}.{part}" for part in ("weight", "bias")}
            by_age, by_age_backward = linear(h, parts | {"activation": None}, run)
            loss, dh, dby_age = pointed(h, *of_items, events, by_age, cu_seqlens, **how)
            dh += by_age_backward(dby_age)
        if settings.label_smoothing:
            loss += smoothing(h, table, targets, settings.label_smoothing, dh, gradient, ws=self.ws)
        backward(dh)
        vectors_backward()
        return loss, len(targets), grads, rows

    def _item_vectors(
        self, params: Parameters, grads: Parameters, rows: Rows
    ) -> tuple[Parameters, Parameters, Callable[[], None]]:
        """The items' own vectors turned into those that are read and scored: with what features add, of length 1.

        Gives parameters and gradients with these in place of the own ones, and the way back, which adds to ``grads``.
        """
        made: Parameters = {}
        of_made: Parameters = {}
        ways_back: list[Callable[[], object]] = []
        for table in dict.fromkeys(self.tables):
            if self.features is not None:
                part = self.features.take(rows[table]) if table in rows else self.features
                made[table] = part.vectors(params[table], params, table, workspace=self.ws)
                ways_back.append(partial(part.backward, grads[table], params, grads, table, workspace=self.ws))
            if self.settings.normalize_items:
                made[table], unit_backward = unit_rows(made.get(table, params[table]), self.ws)
                of_made[table] = self.ws.zeros(made[table].shape)
                ways_back.append(partial(unit_backward, of_made[table], grads[table]))

        def backward() -> None:
            for way_back in reversed(ways_back):
                way_back()

        return params | made, grads | of_made, backward

    def _touched(self, *ids: NDArray[np.int32]) -> tuple[list[NDArray[np.int32]], Parameters, Parameters, Rows]:
        """Item tables cut to the rows that a batch has, so that no gradient is as large as the catalogue.

        Takes the items read, the targets, the negatives, and events that are scored. Gives the same as places in the
        cut tables, all parameters and gradients with these tables in them, and which rows of each table these are.
        """
        read, scored = self.tables
        params, grads, rows, places = dict(self.params), dict(self.grads), {}, []
        uses: dict[str, list[NDArray[np.int32]]] = {}
        for table, part in zip((read, scored, scored, scored), ids, strict=True):
            uses.setdefault(table, []).append(part)
        for table, parts in uses.items():
            rows[table], place = np.unique(np.concatenate(parts), return_inverse=True)
            places += np.split(place.astype(np.int32), np.cumsum([len(part) for part in parts])[:-1])
            params[table] = ops.embedding_forward(self.params[table], rows[table], workspace=self.ws)
            grads[table] = self.ws.zeros(params[table].shape)
        return places, params, grads, rows
