"""Adam, AdamW and the sum of squares for gradient clipping."""

import numpy as np
import pytest
import reference

from regard import ops

SETTINGS = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.1, "grad_scale": 0.5}


def state(rng, *shape):
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(2)] + [np.zeros(shape, np.float32)] * 2


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 1000])
def test_every_step_follows_the_formula(decoupled, size, isa, rng):
    weight, grad, m, v = (x.copy() for x in state(rng, size))
    for step in (1, 2, 3, 1000):
        exact, naive = (
            reference.adam(*(x.astype(t) for x in (weight, grad, m, v)), step=step, decoupled=decoupled, **SETTINGS)
            for t in (np.float64, np.float32)
        )
        ops.adam(weight, grad, m, v, step=step, decoupled=decoupled, **SETTINGS)
        for name, *three in zip(["weight", "m", "v"], [weight, m, v], exact, naive, strict=True):
            reference.assert_within_rule(*three, f"{name} at step {step}")
        grad = rng.standard_normal(size).astype(np.float32)


def test_adam_finds_the_lowest_point_of_a_bowl(isa):
    weight, m, v = np.array([3, -2], np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    for step in range(1, 2001):
        ops.adam(weight, 2 * (weight - 1), m, v, step=step, learning_rate=0.02)
    np.testing.assert_allclose(weight, 1, atol=1e-3)


def test_decay_alone_shrinks_the_weight_by_the_rate(isa):
    weight, zeros = np.full(20, 2, np.float32), np.zeros(20, np.float32)
    ops.adam(weight, zeros, zeros.copy(), zeros.copy(), step=1, learning_rate=0.1, weight_decay=0.5, decoupled=True)
    np.testing.assert_allclose(weight, 2 * (1 - 0.05), rtol=1e-7)


def test_weights_of_any_shape_are_changed_in_place(isa, rng):
    weight, grad, m, v = (x.copy() for x in state(rng, 5, 7))
    flat = [x.reshape(-1).copy() for x in (weight, grad, m, v)]
    ops.adam(weight, grad, m, v, step=1, learning_rate=0.1)
    ops.adam(*flat, step=1, learning_rate=0.1)
    np.testing.assert_array_equal(weight.reshape(-1), flat[0])


def test_a_gradient_that_is_nan_reaches_its_own_weight_alone(isa, rng):
    weight, grad, m, v = (x.copy() for x in state(rng, 50))
    grad[20] = np.nan
    ops.adam(weight, grad, m, v, step=1, learning_rate=0.1)
    assert np.flatnonzero(np.isnan(weight)).tolist() == [20]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1023, 1024, 1025, 200_000])
def test_the_sum_of_squares_follows_the_formula(size, isa, rng):
    x = rng.standard_normal(size).astype(np.float32)
    reference.assert_within_rule(ops.sum_squares(x), (x.astype(np.float64) ** 2).sum(), (x**2).sum())


def test_the_sum_of_squares_of_nan_is_nan(isa):
    x = np.ones((30, 30), np.float32)
    assert ops.sum_squares(x) == 900
    x[3, 4] = np.nan
    assert np.isnan(ops.sum_squares(x))


ZEROS = np.zeros(4, np.float32)
WRONG = [
    ({"step": 0}, ValueError, "step: expected at least 1, got 0"),
    ({"beta1": 1.0}, ValueError, "beta1: expected from 0 to below 1, got 1.0"),
    ({"beta2": -0.1}, ValueError, "beta2: expected from 0 to below 1, got -0.1"),
    ({"grad": np.zeros(4)}, TypeError, "grad: expected a float32 array (4,), got float64 (4,)"),
    ({"m": ZEROS[:3]}, ValueError, "m: expected shape (4,), got (3,)"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(change, error, message):
    arguments = {"weight": ZEROS, "grad": ZEROS, "m": ZEROS, "v": ZEROS, "step": 1, "learning_rate": 0.1} | change
    with pytest.raises(error) as caught:
        ops.adam(**arguments)
    assert message in str(caught.value)


def test_a_weight_that_cannot_be_written_is_refused():
    weight = np.zeros(4, np.float32)
    weight.setflags(write=False)
    with pytest.raises(ValueError, match="weight: expected a writeable array, got a read-only one"):
        ops.adam(weight, ZEROS, ZEROS.copy(), ZEROS.copy(), step=1, learning_rate=0.1)
