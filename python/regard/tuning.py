"""A search for settings, the defaults first; judged by the validation part alone (extra ``tune``: Optuna)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from regard.growth import validation_of
from regard.models.self_attention import SelfAttentionRecommender, refused

if TYPE_CHECKING:
    from regard.data import Interactions
    from regard.splits import Holdout

__all__ = ["SPACE", "Tuning", "tune"]

#: What is searched, unless it is given: values to choose from, or the ends of a range and whether it is logarithmic.
SPACE: dict[str, tuple[Any, ...]] = {
    "dim": (32, 64, 128),
    "n_blocks": (1, 2, 3),
    "ffn_dim": (None, 128, 256),
    "max_len": (50, 200, 800),
    "dropout": (0.0, 0.7, False),
    "learning_rate": (3e-4, 1e-2, True),
    "batch_size": (8, 16, 32, 64, 128, 256),
    "label_smoothing": (0.0, 0.1, 0.2),
    "mask_seen": (False, True),
    "normalize_items": (False, True),
    "weight_averaging": (False, True),
}
_RANGES = ("dropout", "learning_rate")


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes
    ----------
    best : dict
        Settings of the trial with the highest validation NDCG@10: arguments of `SelfAttentionRecommender`.
    trials : list of dict
        One for each finished trial: ``number`` from 0, the first being the defaults; ``metric``, validation NDCG@10 of
        its best epoch; ``pruned``, whether it was given up; ``seconds``; ``settings``, what was tried.
    interrupted : bool
        Whether Ctrl-C ended the search; the trial under way is not among them.
    """

    best: dict[str, Any]
    trials: list[dict[str, Any]]
    interrupted: bool = False


def tune(
    data: Interactions,
    *,
    validation: Holdout | str = "last",
    exclude_seen: bool = True,
    n_trials: int = 30,
    seconds: float | None = None,
    storage: str | os.PathLike[str] | None = None,
    seed: int = 0,
    preset: str = "best",
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> Tuning:
    """Search for settings of `SelfAttentionRecommender` by the tree-structured Parzen estimator.

    The first trial has the settings of the preset for the data. A trial whose NDCG@10 is below the median of the
    earlier ones at the same epoch is given up, from a quarter of its epochs on.

    Parameters
    ----------
    data : Interactions
    validation, exclude_seen
        As of `SelfAttentionRecommender.fit`.
    n_trials : int, default 30
        Those that the storage has already among them.
    seconds : float, optional
        Time budget; the trial under way ends with its epoch and counts with the best so far.
    storage : path, optional
        A SQLite file that keeps the finished trials: the same call goes on from it, with the trials that it would
        have had without interruption, as far as no time budget cut one short.
    seed : int, default 0
        Of the search and of every model.
    preset : "best" or "fast"
        Of `SelfAttentionRecommender.for_data`: what is tried first, and what is not searched.
    progress : function of one line of text, optional
    **settings
        Arguments of `SelfAttentionRecommender` that are fixed; the others of `SPACE` that go with them are searched.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError
        No user for the validation; ``n_trials`` below 1; all of `SPACE` is fixed; a storage of another search.
    ModuleNotFoundError
        Optuna is not installed.
    KeyboardInterrupt
        Ctrl-C before the first trial ended; later it ends the search with what was found.
    """
    try:
        optuna = import_module("optuna")
    except ModuleNotFoundError:
        raise ModuleNotFoundError("tuning needs the package optuna: pip install 'regard[tune]'") from None
    if n_trials < 1:
        raise ValueError(f"n_trials: expected at least 1, got {n_trials}")
    data, holdout = validation_of(data, validation)
    if holdout is None:
        raise ValueError("validation: expected at least one user to judge settings by, got none")
    how: dict[str, Any] = {"exclude_seen": exclude_seen, "random_state": seed}
    first = SelfAttentionRecommender.for_data(data, preset, **settings, **how).get_params()
    without = refused(first["loss"], first["device"], ranks_seen=not exclude_seen or first["pointer"])
    searched = [name for name in SPACE if name not in settings | without]
    if not searched:
        raise ValueError(f"settings: expected one of {', '.join(SPACE)} to be left to search, all are given")

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first["epochs"] // 4),
        storage=None if storage is None else f"sqlite:///{os.fspath(storage)}",
        study_name="regard",
        load_if_exists=True,
    )
    fixed = {name: first[name] for name in first.keys() - searched} | {"exclude_seen": exclude_seen}
    identity = {"data": _counts(data, holdout), "seed": seed, "fixed": fixed}
    if study.user_attrs.get("identity", identity) != _plain(identity):
        raise ValueError(f"storage: {os.fspath(storage or '')} is of a search with other data or settings")
    study.set_user_attr("identity", _plain(identity))
    started = time.perf_counter()

    def left() -> float:
        return float("inf") if seconds is None else seconds - (time.perf_counter() - started)

    interrupted = False
    while (number := len(_finished(study))) < n_trials and (number == 0 or left() > 0):
        study.sampler = optuna.samplers.TPESampler(seed=seed + number)  # so that going on draws what comes next
        if number == 0:
            study.enqueue_trial({name: first[name] for name in searched})
        trial = study.ask()
        tried = {name: _suggest(trial, name) for name in searched}
        begun = time.perf_counter()
        try:
            metric, pruned = _judged(trial, data, holdout, exclude_seen, first | tried, left)
        except KeyboardInterrupt:
            if number == 0:
                raise
            interrupted = True
            break
        trial.set_user_attr("seconds", round(time.perf_counter() - begun, 1))
        trial.set_user_attr("metric", metric)
        state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
        study.tell(trial, None if pruned else metric, state)
        if progress is not None:
            words = ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in tried.items())
            end = "given up at" if pruned else "reached"
            progress(f"trial {number + 1} of {n_trials} {end} {metric:.4f}, best {study.best_value:.4f}: {words}")
    return Tuning(
        first | study.best_params, [_row(number, trial) for number, trial in enumerate(_finished(study))], interrupted
    )


def _judged(
    trial: Any,
    data: Interactions,
    holdout: Holdout,
    exclude_seen: bool,
    settings: dict[str, Any],
    left: Callable[[], float],
) -> tuple[float, bool]:
    """Validation NDCG@10 of the best epoch, and whether the trial was given up."""
    pruned = False

    def after(entry: dict[str, Any]) -> bool:
        nonlocal pruned
        trial.report(entry["metric"], entry["epoch"])
        pruned = trial.should_prune()
        return pruned or left() <= 0

    model = SelfAttentionRecommender(**settings)
    try:
        model.fit(data, validation=holdout, exclude_seen=exclude_seen, callbacks=[after], progress=False)
    except FloatingPointError:  # these settings diverge
        return 0.0, False
    if model.interrupted_:
        raise KeyboardInterrupt
    return max(entry["metric"] for entry in model.history_), pruned


def _suggest(trial: Any, name: str) -> Any:
    if name in _RANGES:
        low, high, log = SPACE[name]
        return trial.suggest_float(name, low, high, log=log)
    return trial.suggest_categorical(name, SPACE[name])


def _finished(study: Any) -> list[Any]:
    """Trials that ended, complete or given up; one that was killed is left out."""
    return [trial for trial in study.get_trials(deepcopy=False) if "metric" in trial.user_attrs]


def _row(number: int, trial: Any) -> dict[str, Any]:
    about = {
        "metric": trial.user_attrs["metric"],
        "pruned": trial.state.name == "PRUNED",
        "settings": dict(trial.params),
    }
    return {"number": number, "seconds": trial.user_attrs["seconds"], **about}


def _counts(data: Interactions, holdout: Holdout) -> list[Any]:
    return [data.n_users, data.n_items, data.n_events, holdout.fingerprint()]


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    from regard.recommender import plain  # noqa: PLC0415

    return identity | {"fixed": {name: plain(value) for name, value in sorted(identity["fixed"].items())}}
