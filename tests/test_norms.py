"""Layer norm and RMS norm."""

import numpy as np
import pytest
import reference
from reference import both, check_differences

from regard import ops

NORMS = ["layer", "rms"]


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def forward(kind, x, weight, bias, **options):
    """y and what the backward pass needs besides: mean and rstd, or rstd alone."""
    if kind == "layer":
        return ops.layer_norm_forward(x, weight, bias, **options)
    return ops.rms_norm_forward(x, weight, **options)


def backward(kind, dy, x, weight, saved, **gradients):
    """dx, dweight, and for the layer norm dbias."""
    return {"layer": ops.layer_norm_backward, "rms": ops.rms_norm_backward}[kind](dy, x, weight, *saved, **gradients)


def test_reference_gradients_of_layer_norm_are_those_of_central_differences(rng):
    x, weight, bias, dy = (rng.standard_normal(s) for s in ((4, 5), (5,), (5,), (4, 5)))
    check_differences(
        lambda x, weight, bias: reference.layer_norm(x, weight, bias, 1e-3)[0],
        dy,
        {"x": x, "weight": weight, "bias": bias},
        reference.layer_norm_backward(dy, x, weight, 1e-3),
    )


def test_reference_gradients_of_rms_norm_are_those_of_central_differences(rng):
    x, weight, dy = (rng.standard_normal(s) for s in ((4, 5), (5,), (4, 5)))
    check_differences(
        lambda x, weight: reference.rms_norm(x, weight, 1e-3)[0],
        dy,
        {"x": x, "weight": weight},
        reference.rms_norm_backward(dy, x, weight, 1e-3),
    )


def check(rng, kind, n, dim, shift=0.0, eps=1e-5):
    names = {"layer": ["y", "mean", "rstd", "dx", "dweight", "dbias"], "rms": ["y", "rstd", "dx", "dweight"]}[kind]
    draws = [draw(rng, kind, n, dim, shift, eps) for _ in range(max(1, 100 // max(1, n)))]
    reference.assert_draws_within_rule(draws, names)


def draw(rng, kind, n, dim, shift, eps):
    x, dy, (weight, bias) = normal(rng, n, dim) + np.float32(shift), normal(rng, n, dim), normal(rng, 2, dim)
    y, *saved = forward(kind, x, weight, bias, eps=eps)
    found = [y, *saved, *backward(kind, dy, x, weight, saved)]
    if kind == "layer":
        values = both(reference.layer_norm, x, weight, bias, eps=eps)
        gradients = both(reference.layer_norm_backward, dy, x, weight, eps=eps)
    else:
        values = both(reference.rms_norm, x, weight, eps=eps)
        gradients = both(reference.rms_norm_backward, dy, x, weight, eps=eps)
    return found, *([*some, *others] for some, others in zip(values, gradients, strict=True))


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("n", [0, 1, 2, 17, 300, 1500])
@pytest.mark.parametrize("dim", [2, 3, 8, 15, 50, 64, 256])
def test_norms_of_every_shape_follow_the_formula(kind, n, dim, isa, rng):
    check(rng, kind, n, dim)


@pytest.mark.parametrize("kind", NORMS)
def test_norms_of_values_far_from_zero_follow_the_formula(kind, isa, rng):
    check(rng, kind, 100, 64, shift=100)


def test_layer_norm_of_a_constant_row_is_the_bias(isa, rng):
    bias = normal(rng, 8)
    for dim, value in ((8, 3.0), (1, 5.0)):
        x = np.full((4, dim), value, np.float32)
        y, _, rstd = ops.layer_norm_forward(x, normal(rng, dim), bias[:dim].copy(), eps=1e-6)
        np.testing.assert_array_equal(y, np.broadcast_to(bias[:dim], y.shape))
        np.testing.assert_allclose(rstd, 1e3, rtol=1e-6)


def test_rms_norm_of_zeros_is_zero_and_of_a_constant_row_its_sign_times_the_weight(isa, rng):
    weight = normal(rng, 50)
    y, rstd = ops.rms_norm_forward(np.zeros((4, 50), np.float32), weight, eps=1e-6)
    assert not y.any()
    np.testing.assert_allclose(rstd, 1e3, rtol=1e-6)
    y, _ = ops.rms_norm_forward(np.full((4, 50), -3, np.float32), weight, eps=0.0)
    np.testing.assert_allclose(y, np.broadcast_to(-weight, y.shape), rtol=1e-6)


def test_the_scale_of_a_row_changes_nothing_in_rms_norm_without_eps(isa, rng):
    x, weight = normal(rng, 30, 15), normal(rng, 15)
    y, _ = ops.rms_norm_forward(x, weight, eps=0.0)
    np.testing.assert_array_equal(ops.rms_norm_forward(x * np.float32(1024), weight, eps=0.0)[0], y)


@pytest.mark.parametrize("kind", NORMS)
def test_a_row_that_is_nan_touches_no_other(kind, isa, rng):
    x, weight, bias, dy = normal(rng, 30, 9), normal(rng, 9), normal(rng, 9), normal(rng, 30, 9)
    clean = forward(kind, x, weight, bias)
    dx = backward(kind, dy, x, weight, clean[1:])[0]
    x[7, 4] = np.nan
    found = forward(kind, x, weight, bias)
    others = np.arange(30) != 7
    assert np.isnan(found[0][7]).all()
    for one, other in zip(found, clean, strict=True):
        np.testing.assert_array_equal(one[others], other[others])
    spoilt = backward(kind, dy, x, weight, found[1:])[0]
    assert np.isnan(spoilt[7]).all()
    np.testing.assert_array_equal(spoilt[others], dx[others])


@pytest.mark.parametrize("kind", NORMS)
def test_norms_add_into_the_gradients_they_are_given(kind, isa, rng):
    x, weight, dy = normal(rng, 30, 9), normal(rng, 9), normal(rng, 30, 9)
    _, *saved = forward(kind, x, weight, weight)
    plain = backward(kind, dy, x, weight, saved)[1:]
    given = {name: np.full(9, 2, np.float32) for name, _ in zip(["dweight", "dbias"], plain, strict=False)}
    found = backward(kind, dy, x, weight, saved, **given)[1:]
    for mine, sums, gradient in zip(given.values(), found, plain, strict=True):
        assert sums is mine
        np.testing.assert_array_equal(mine, gradient + 2)


X, B, C, ROWS = np.zeros((3, 4), np.float32), np.zeros(5, np.float32), np.zeros(4, np.float32), np.zeros(3, np.float32)
WRONG = [
    (lambda: ops.layer_norm_forward(X, B, B), ValueError, "weight: expected shape (4,), got (5,)"),
    (lambda: ops.layer_norm_forward(X, C, B), ValueError, "bias: expected shape (4,), got (5,)"),
    (lambda: ops.layer_norm_forward(X, C, C, eps=-1.0), ValueError, "eps: expected at least 0, got -1.0"),
    (lambda: ops.layer_norm_backward(X, X, C, ROWS[:2], ROWS), ValueError, "mean: expected shape (3,), got (2,)"),
    (lambda: ops.rms_norm_forward(X[0], C), ValueError, "x: expected 2 dimensions, got shape (4,)"),
    (lambda: ops.rms_norm_forward(X, B), ValueError, "weight: expected shape (4,), got (5,)"),
    (lambda: ops.rms_norm_forward(X, C, eps=np.nan), ValueError, "eps: expected at least 0, got nan"),
    (lambda: ops.rms_norm_forward(X[:, :0], C[:0]), ValueError, "dim: expected at least 1, got 0"),
    (lambda: ops.rms_norm_backward(X[:2], X, C, ROWS), ValueError, "dy: expected shape (3, 4), got (2, 4)"),
    (lambda: ops.rms_norm_backward(X, X, C, ROWS[:2]), ValueError, "rstd: expected shape (3,), got (2,)"),
    (lambda: ops.rms_norm_backward(X, X, C, ROWS, dweight=B), ValueError, "dweight: expected shape (4,), got (5,)"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[case[2][:50] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
