"""A little data with a certain answer, and models that train on it in a blink."""

import numpy as np

import regard


def chains(n_users=60, n_items=12, seed=0):
    """Users who walk up a ring of items: the next item is certain."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(0, n_items, n_users), rng.integers(5, 9, n_users)
    users = np.repeat(np.arange(n_users), lengths)
    items = np.concatenate([(s + np.arange(n)) % n_items for s, n in zip(starts, lengths, strict=True)])
    return regard.Interactions(users, items + 100)


def small(**settings):
    return regard.SelfAttentionRecommender(
        **{"dim": 16, "n_blocks": 1, "max_len": 8, "epochs": 30, "batch_size": 16, "learning_rate": 1e-2, **settings}
    )
