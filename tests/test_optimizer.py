"""SGD, Adagrad, Adam, AdamW, on whole weights and on rows; the sum of squares for gradient clipping."""

import functools

import numpy as np
import pytest
import reference

from regard import _core, ops

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


SIZES = [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 1000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_step_of_sgd_follows_the_formula(momentum, size, isa, rng):
    options = {"learning_rate": 0.05, "momentum": momentum, "weight_decay": 0.1, "grad_scale": 0.5}
    weight, grad, buffer, _ = (x.copy() for x in state(rng, size))
    for step in (1, 2, 3):
        exact, naive = (
            reference.sgd(*(x.astype(t) for x in (weight, grad, buffer)), **options) for t in (np.float64, np.float32)
        )
        bare = weight.copy()
        ops.sgd(weight, grad, buffer, **options)
        for name, *three in zip(["weight", "buffer"], [weight, buffer], exact, naive, strict=True):
            reference.assert_within_rule(*three, f"{name} at step {step}")
        if momentum == 0:
            ops.sgd(bare, grad, **options)
            reference.assert_within_rule(bare, exact[0], naive[0], f"weight without a buffer at step {step}")
        grad = rng.standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_every_step_of_adagrad_follows_the_formula(size, isa, rng):
    options = {"learning_rate": 0.05, "eps": 1e-3, "weight_decay": 0.1, "grad_scale": 0.5}
    weight, grad, squares, _ = (x.copy() for x in state(rng, size))
    for step in (1, 2, 3):
        exact, naive = (
            reference.adagrad(*(x.astype(t) for x in (weight, grad, squares)), **options)
            for t in (np.float64, np.float32)
        )
        ops.adagrad(weight, grad, squares, **options)
        for name, *three in zip(["weight", "squares"], [weight, squares], exact, naive, strict=True):
            reference.assert_within_rule(*three, f"{name} at step {step}")
        grad = rng.standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_and_adagrad_find_the_lowest_point_of_a_bowl(momentum, isa):
    start = np.array([3, -2], np.float32)
    weight, buffer = start.copy(), np.zeros(2, np.float32)
    for _ in range(200):
        ops.sgd(weight, 2 * (weight - 1), buffer, learning_rate=0.1, momentum=momentum)
    np.testing.assert_allclose(weight, 1, atol=1e-6)
    weight, squares = start.copy(), np.zeros(2, np.float32)
    for _ in range(500):
        ops.adagrad(weight, 2 * (weight - 1), squares, learning_rate=1.0)
    np.testing.assert_allclose(weight, 1, atol=1e-6)


# Name, number of state arrays, step with those settings.
STEPS = {
    "sgd": (0, functools.partial(ops.sgd, learning_rate=0.1, weight_decay=0.1, grad_scale=0.5)),
    "sgd with momentum": (1, functools.partial(ops.sgd, learning_rate=0.1, momentum=0.9, weight_decay=0.1)),
    "adagrad": (1, functools.partial(ops.adagrad, learning_rate=0.1, weight_decay=0.1, grad_scale=0.5)),
    "adam": (2, functools.partial(ops.adam, step=3, learning_rate=0.1, weight_decay=0.1)),
    "adamw": (2, functools.partial(ops.adam, step=3, learning_rate=0.1, weight_decay=0.1, decoupled=True)),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(("n_rows", "width"), [(1, 1), (40, 1), (40, 15), (40, 64), (3000, 50)])
def test_a_step_on_rows_gives_the_bits_of_the_whole_step_there_and_leaves_the_rest_alone(name, n_rows, width, isa, rng):
    n_states, step = STEPS[name]
    weight, *states = (np.abs(rng.standard_normal((n_rows, width))).astype(np.float32) for _ in range(1 + n_states))
    for share in (0.0, 0.3, 1.0):
        rows = np.flatnonzero(rng.random(n_rows) < share).astype(np.int32)
        grad = rng.standard_normal((rows.size, width)).astype(np.float32)
        whole_grad = np.zeros_like(weight)
        whole_grad[rows] = grad
        found, whole = ([x.copy() for x in (weight, *states)] for _ in range(2))
        step(found[0], grad, *found[1:], rows=rows)
        step(whole[0], whole_grad, *whole[1:])
        for before, some, all_rows in zip((weight, *states), found, whole, strict=True):
            expected = before.copy()
            expected[rows] = all_rows[rows]
            np.testing.assert_array_equal(some, expected)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_gives_the_same_bits_for_any_number_of_threads(name, threads, rng):
    n_states, step = STEPS[name]
    weight, *states = (np.abs(rng.standard_normal((5000, 50))).astype(np.float32) for _ in range(1 + n_states))
    grad, rows = rng.standard_normal((5000, 50)).astype(np.float32), np.arange(0, 5000, 2, dtype=np.int32)
    results = []
    for n in (1, threads):
        _core.set_num_threads(n)
        arrays = [x.copy() for x in (weight, *states)]
        step(arrays[0], grad, *arrays[1:])
        step(arrays[0], grad[rows], *arrays[1:], rows=rows)
        results.append(arrays)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_lazy_adam_keeps_the_moments_of_rows_without_a_gradient(isa, rng):
    weight, grad, m, v = (x.copy() for x in state(rng, 6, 5))
    ops.adam(weight, grad, m, v, step=1, learning_rate=0.1)
    before = [x.copy() for x in (weight, m, v)]
    ops.adam(weight, grad[:2], m, v, step=2, learning_rate=0.1, rows=np.array([1, 4], np.int32))
    for now, then in zip((weight, m, v), before, strict=True):
        assert (now != then).any(axis=1).tolist() == [False, True, False, False, True, False]


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
    once, twice = weight.copy(), weight.copy()
    ops.adam(weight, grad, m, v, step=1, learning_rate=0.1)
    ops.sgd(once, grad, learning_rate=0.1)
    ops.adagrad(twice, grad, np.zeros_like(m), learning_rate=0.1)
    for changed in (weight, once, twice):
        assert np.flatnonzero(np.isnan(changed)).tolist() == [20]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1023, 1024, 1025, 200_000])
def test_the_sum_of_squares_follows_the_formula(size, isa, rng):
    x = rng.standard_normal(size).astype(np.float32)
    reference.assert_within_rule(ops.sum_squares(x), (x.astype(np.float64) ** 2).sum(), (x**2).sum())


def test_the_sum_of_squares_of_nan_is_nan(isa):
    x = np.ones((30, 30), np.float32)
    assert ops.sum_squares(x) == 900
    x[3, 4] = np.nan
    assert np.isnan(ops.sum_squares(x))


ZEROS, TABLE, ROWS = np.zeros(4, np.float32), np.zeros((5, 4), np.float32), np.array([0, 2, 4], np.int32)
WRONG = [
    ({"step": 0}, ValueError, "step: expected at least 1, got 0"),
    ({"beta1": 1.0}, ValueError, "beta1: expected from 0 to below 1, got 1.0"),
    ({"beta2": -0.1}, ValueError, "beta2: expected from 0 to below 1, got -0.1"),
    ({"grad": np.zeros(4)}, TypeError, "grad: expected a float32 array (4,), got float64 (4,)"),
    ({"m": ZEROS[:3]}, ValueError, "m: expected shape (4,), got (3,)"),
    ({"weight": TABLE.T, "grad": TABLE, "m": TABLE, "v": TABLE}, ValueError, "weight: expected a C-contiguous array"),
    ({"weight": [0.0]}, TypeError, "weight: expected a NumPy array, got list"),
    ({"rows": ROWS}, ValueError, "weight: expected 2 dimensions, got shape (4,)"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(change, error, message):
    arguments = {"weight": ZEROS, "grad": ZEROS, "m": ZEROS, "v": ZEROS, "step": 1, "learning_rate": 0.1} | change
    with pytest.raises(error) as caught:
        ops.adam(**arguments)
    assert message in str(caught.value)


WRONG_ROWS = [
    ({"rows": np.array([0, 2, 5], np.int32)}, ValueError, "rows: expected rows from 0 to 4, got 5 at place 2"),
    ({"rows": np.array([-1, 2, 4], np.int32)}, ValueError, "rows: expected rows from 0 to 4, got -1 at place 0"),
    ({"rows": np.array([0, 2, 2], np.int32)}, ValueError, "rows: expected strictly rising numbers, got 2 before 2 at"),
    ({"rows": np.array([0, 3, 1], np.int32)}, ValueError, "got 3 before 1 at place 2"),
    ({"rows": ROWS.astype(np.int64)}, TypeError, "rows: expected a int32 array (3,), got int64 (3,)"),
    ({"rows": ROWS[:2]}, ValueError, "grad: expected shape (2, 4), got (3, 4)"),
    ({"grad": TABLE[:3, :3].copy()}, ValueError, "grad: expected shape (3, 4), got (3, 3)"),
    ({"weight": TABLE[0]}, ValueError, "weight: expected 2 dimensions, got shape (4,)"),
]


@pytest.mark.parametrize("step", [ops.sgd, ops.adagrad, ops.adam])
@pytest.mark.parametrize(("change", "error", "message"), WRONG_ROWS, ids=[case[2][:40] for case in WRONG_ROWS])
def test_wrong_rows_are_named_with_what_was_expected_and_what_came(step, change, error, message):
    arguments = {"weight": TABLE, "grad": TABLE[:3], "rows": ROWS, "learning_rate": 0.1} | change
    arguments |= {
        ops.sgd: {"buffer": TABLE},
        ops.adagrad: {"squares": TABLE},
        ops.adam: {"m": TABLE, "v": TABLE, "step": 1},
    }[step]
    with pytest.raises(error) as caught:
        step(**arguments)
    assert message in str(caught.value)


def test_states_of_the_wrong_shape_are_named():
    with pytest.raises(ValueError, match=r"squares: expected shape \(4,\), got \(3,\)"):
        ops.adagrad(ZEROS, ZEROS, ZEROS[:3], learning_rate=0.1)
    with pytest.raises(ValueError, match=r"buffer: expected shape \(5, 4\), got \(3, 4\)"):
        ops.sgd(TABLE, TABLE[:3], TABLE[:3], learning_rate=0.1, rows=ROWS)
    with pytest.raises(ValueError, match=r"buffer: expected an array with momentum 0.9, got None"):
        ops.sgd(ZEROS, ZEROS, learning_rate=0.1, momentum=0.9)


def test_a_weight_that_cannot_be_written_is_refused():
    weight = np.zeros(4, np.float32)
    weight.setflags(write=False)
    with pytest.raises(ValueError, match="weight: expected a writeable array, got a read-only one"):
        ops.adam(weight, ZEROS, ZEROS.copy(), ZEROS.copy(), step=1, learning_rate=0.1)
