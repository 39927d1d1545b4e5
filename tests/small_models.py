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


def returning(n_users=60, n_items=12, seed=0):
    """Users with two items each to whom both come back: every event after the second is one of them."""
    rng = np.random.default_rng(seed)
    pairs = np.array([rng.choice(n_items, 2, replace=False) for _ in range(n_users)])
    chosen = rng.integers(0, 2, (n_users, 8))
    chosen[:, :2] = [0, 1]
    items = np.take_along_axis(pairs, chosen, axis=1)
    return regard.Interactions(np.repeat(np.arange(n_users), 8), items.ravel() + 100)


def small(**settings):
    return regard.SelfAttentionRecommender(
        **{"dim": 16, "n_blocks": 1, "max_len": 8, "epochs": 30, "batch_size": 16, "learning_rate": 1e-2, **settings}
    )
