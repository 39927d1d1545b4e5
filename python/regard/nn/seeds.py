"""The random numbers of new layers: first weights, dropout, the order of batches."""

from __future__ import annotations

import numpy as np

_generator = np.random.default_rng(0)


def set_random_seed(seed: int) -> None:
    """Start the random numbers anew, as ``keras.utils.set_random_seed`` does.

    Without it a program starts from seed 0: the same program gives the same bits each time.
    """
    global _generator  # noqa: PLW0603
    _generator = np.random.default_rng(seed)


def generator() -> np.random.Generator:
    """What everything draws from that was given no seed of its own."""
    return _generator


def new_seed() -> int:
    """A seed drawn from the generator."""
    return int(_generator.integers(2**31))
