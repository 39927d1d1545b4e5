"""Linear, activations, gated products, embedding, dropout."""

import numpy as np
import pytest
import reference
from reference import both, check_differences

from regard import _core, ops
from regard.workspace import Workspace

ROWS = [0, 1, 2, 3, 5, 6, 7, 11, 12, 13, 47, 48, 49, 130]
WIDTHS = [1, 3, 8, 15, 50, 64, 256]
ACTIVATIONS = [None, "relu", "gelu", "silu", "sigmoid"]


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def check(found, exact, naive, names):
    for name, *three in zip(names, found, exact, naive, strict=True):
        reference.assert_within_rule(*three, name)


# ---- linear ----


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_reference_gradients_of_linear_are_those_of_central_differences(kind, rng):
    x, weight, bias, dy = (rng.standard_normal(s) for s in ((4, 3), (5, 3), (5,), (4, 5)))
    check_differences(
        lambda x, weight, bias: reference.linear(x, weight, bias, kind),
        dy,
        {"x": x, "weight": weight, "bias": bias},
        reference.linear_backward(dy, x, weight, bias, kind),
    )


def check_linear(rng, n, n_in, n_out, kind=None, with_bias=True):
    names = ["y", "dx", "dweight", "dbias"]
    smallest = max(1, min(n, n_in) * n_out)
    draws = [linear_draw(rng, n, n_in, n_out, kind, with_bias) for _ in range(max(4, 200 // smallest))]
    reference.assert_draws_within_rule(draws, names)


def linear_draw(rng, n, n_in, n_out, kind, with_bias):
    x, weight, dy = normal(rng, n, n_in), normal(rng, n_out, n_in) * np.float32(n_in**-0.5), normal(rng, n, n_out)
    bias = normal(rng, n_out) if with_bias else None
    y, saved = ops.linear_forward(x, weight, bias, activation=kind)
    found = [y, *ops.linear_backward(dy, x, weight, activation=kind, saved=saved)]
    values = both(reference.linear, x, weight, bias, kind=kind)
    gradients = both(reference.linear_backward, dy, x, weight, bias, kind=kind)
    return found, *([value, *three] for value, three in zip(values, gradients, strict=True))


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_linear_of_every_number_of_rows_follows_the_formula(n, kind, isa, rng):
    check_linear(rng, n, 24, 20, kind)


@pytest.mark.parametrize("n_in", WIDTHS)
@pytest.mark.parametrize("n_out", WIDTHS)
def test_linear_of_every_width_follows_the_formula(n_in, n_out, isa, rng):
    check_linear(rng, 50, n_in, n_out, with_bias=n_in != n_out)


def test_linear_of_many_rows_follows_the_formula(isa, rng):
    check_linear(rng, 3000, 20, 17, "gelu")


def test_linear_adds_into_the_gradients_it_is_given(isa, rng):
    x, weight, dy = normal(rng, 30, 9), normal(rng, 10, 9), normal(rng, 30, 10)
    plain = ops.linear_backward(dy, x, weight)
    mine = dict(zip(["dx", "dweight", "dbias"], (np.ones_like(g) for g in plain), strict=True))
    for given, found, gradient in zip(mine.values(), ops.linear_backward(dy, x, weight, **mine), plain, strict=True):
        assert found is given
        np.testing.assert_allclose(found, gradient + 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("n_out", [5, 64, 70])
def test_dropout_and_residual_within_linear_give_the_bits_of_single_steps(kind, with_residual, n_out, isa, rng):
    x, weight, bias, dy = normal(rng, 60, 9), normal(rng, n_out, 9), normal(rng, n_out), normal(rng, 60, n_out)
    residual, rate = normal(rng, 60, n_out) if with_residual else None, ops.Dropout(0.3, 1, 2, 3)
    how = {"activation": kind, "dropout": rate}
    y, saved = ops.linear_forward(x, weight, bias, residual=residual, **how)
    gradients = ops.linear_backward(dy, x, weight, saved=saved, **how)

    plain, before = ops.linear_forward(x, weight, bias, activation=kind)
    dropped = ops.dropout(plain, rate)
    np.testing.assert_array_equal(y, dropped if residual is None else dropped + residual)
    single = ops.linear_backward(ops.dropout(dy, rate), x, weight, activation=kind, saved=before)
    for found, expected in zip(gradients, single, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("n_in", "n_out"), [(64, 64), (9, 5), (17, 70), (200, 33)])
def test_several_linear_maps_at_once_are_each_of_them_and_their_gradients_add_up(n_in, n_out, isa, rng):
    x, weights = normal(rng, 700, n_in), [normal(rng, n_out, n_in) for _ in range(3)]
    biases, dys = [normal(rng, n_out), None, normal(rng, n_out)], [normal(rng, 700, n_out) for _ in range(3)]
    for y, weight, bias in zip(ops.linear_maps_forward(x, weights, biases), weights, biases, strict=True):
        np.testing.assert_array_equal(y, ops.linear_forward(x, weight, bias)[0])
    dweights, dbiases = [np.ones_like(weight) for weight in weights], [np.ones(n_out, np.float32) for _ in range(3)]
    dx = ops.linear_maps_backward(dys, x, weights, dweights=dweights, dbiases=dbiases)
    expected = np.zeros_like(x)
    for dy, weight, dweight, dbias in zip(dys, weights, dweights, dbiases, strict=True):
        one, two = np.ones_like(weight), np.ones(n_out, np.float32)
        ops.linear_backward(dy, x, weight, dx=expected, dweight=one, dbias=two)
        np.testing.assert_array_equal(dweight, one)
        np.testing.assert_array_equal(dbias, two)
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_row_of_linear_that_is_nan_stays_nan_and_touches_no_other(kind, isa, rng):
    x, weight, bias, dy = normal(rng, 30, 9), normal(rng, 10, 9), normal(rng, 10), normal(rng, 30, 10)
    y, saved = ops.linear_forward(x, weight, bias, activation=kind)
    dx, _, _ = ops.linear_backward(dy, x, weight, activation=kind, saved=saved)
    x[7, 4] = np.nan
    found, saved = ops.linear_forward(x, weight, bias, activation=kind)
    others = np.arange(30) != 7
    assert np.isnan(found[7]).all()
    np.testing.assert_array_equal(found[others], y[others])
    gradients = ops.linear_backward(dy, x, weight, activation=kind, saved=saved)
    np.testing.assert_array_equal(gradients[0][others], dx[others])
    assert np.isnan(gradients[1][:, 4]).all()
    if kind is not None:
        assert np.isnan(gradients[0][7]).all()


# ---- activations ----


@pytest.mark.parametrize("kind", ACTIVATIONS[1:])
def test_activations_and_their_slopes_follow_the_formula(kind, isa, rng):
    x = np.concatenate(
        [np.linspace(-12, 12, 2001), [0.0, -0.0, 1e-30, 88, -88, 89, -89, 1e4, -1e4], rng.standard_normal(37)]
    )
    x, dy = x.astype(np.float32), normal(rng, x.size)
    exact, naive = both(reference.activation, x, kind=kind)
    near = np.abs(x) < 4  # on its own: the limit is in units of the largest value
    y = ops.activation_forward(x, activation=kind)
    dx = ops.activation_backward(dy, x, activation=kind)
    slopes = both(reference.activation_slope, x, kind=kind)
    for some in (near, ~near):
        reference.assert_within_rule(y[some], exact[some], naive[some], kind)
        reference.assert_within_rule(
            dx[some],
            *((d * s)[some] for d, s in zip([dy.astype(np.float64), dy], slopes, strict=True)),
            f"slope of {kind}",
        )


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 40_000])
def test_activations_of_every_size_and_shape_are_the_same(size, isa, rng):
    x, dy = normal(rng, size, 1), normal(rng, size, 1)
    for kind in ACTIVATIONS:
        y, dx = ops.activation_forward(x, activation=kind), ops.activation_backward(dy, x, activation=kind)
        assert y.shape == dx.shape == x.shape
        check(
            [y, dx],
            *both(
                lambda x, dy, kind: (reference.activation(x, kind), dy * reference.activation_slope(x, kind)),
                x,
                dy,
                kind=kind,
            ),
            "yd",
        )


@pytest.mark.parametrize("kind", ACTIVATIONS[1:])
def test_a_nan_stays_nan_in_activations(kind, isa):
    x = np.array([1, np.nan, -1, 2, np.inf], np.float32)
    y = ops.activation_forward(x, activation=kind)
    assert np.isnan(y).tolist() == [False, True, False, False, False]
    assert y[4] == (1 if kind == "sigmoid" else np.inf)
    dx = ops.activation_backward(np.ones(5, np.float32), x[[0, 1, 2, 3, 3]], activation=kind)
    assert np.isnan(dx).tolist() == [False, True, False, False, False]


# ---- gated products ----


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_reference_gradients_of_a_gate_are_those_of_central_differences(kind, rng):
    gate, value, dy = rng.standard_normal((3, 4, 5))
    check_differences(
        lambda gate, value: reference.gate(gate, value, kind),
        dy,
        {"gate": gate, "value": value},
        reference.gate_backward(dy, gate, value, kind),
    )


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (1, 15), (3, 1), (7, 9), (16, 64), (700, 70)])
def test_a_gate_of_every_shape_follows_the_formula(kind, shape, isa, rng):
    def one():
        gate, value, dy = normal(rng, 3, *shape) * np.float32(3)
        y = ops.gate_forward(gate, value, activation=kind)
        values = both(reference.gate, gate, value, kind=kind)
        gradients = both(reference.gate_backward, dy, gate, value, kind=kind)
        found = [y, *ops.gate_backward(dy, gate, value, activation=kind)]
        return found, *([result, *two] for result, two in zip(values, gradients, strict=True))

    draws = [one() for _ in range(max(1, 100 // max(1, shape[0] * shape[1])))]
    reference.assert_draws_within_rule(draws, ["y", "dgate", "dvalue"])


@pytest.mark.parametrize("kind", ["silu", "sigmoid"])
def test_a_gate_is_open_or_shut_at_ten_thousand(kind, isa, rng):
    gate = np.array([[1e4, -1e4, 89, -89, 0]], np.float32)
    value, dy = normal(rng, 1, 5), normal(rng, 1, 5)
    opened = np.array([[1, 0, 1, 0, 0.5]], np.float32) * (gate if kind == "silu" else 1)
    np.testing.assert_array_equal(ops.gate_forward(gate, value, activation=kind), opened * value)
    dgate, dvalue = ops.gate_backward(dy, gate, value, activation=kind)
    slope = [[1, 0, 1, 0, 0.5]] if kind == "silu" else [[0, 0, 0, 0, 0.25]]
    np.testing.assert_array_equal(dvalue, opened * dy)
    np.testing.assert_array_equal(dgate, dy * value * np.array(slope, np.float32))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_nan_in_a_gate_or_its_value_stays_at_its_place(kind, isa, rng):
    gate, value, dy = normal(rng, 3, 20, 9)
    gate[3, 2], value[7, 5] = np.nan, np.nan
    bad = np.isnan(gate) | np.isnan(value)
    np.testing.assert_array_equal(np.isnan(ops.gate_forward(gate, value, activation=kind)), bad)
    dgate, dvalue = ops.gate_backward(dy, gate, value, activation=kind)
    np.testing.assert_array_equal(np.isnan(dgate), bad if kind is not None else np.isnan(value))
    np.testing.assert_array_equal(np.isnan(dvalue), np.isnan(gate))


# ---- embedding ----


@pytest.mark.parametrize("dim", WIDTHS)
def test_embedding_gathers_rows_and_scatters_their_gradients_in_order(dim, isa, rng):
    table, ids = normal(rng, 700, dim), rng.integers(0, 700, 900).astype(np.int32)
    ids[100:200] = 5
    scale = np.float32(dim) ** 0.5
    np.testing.assert_array_equal(ops.embedding_forward(table, ids, scale=float(scale)), table[ids] * scale)
    dy, start = normal(rng, 900, dim), normal(rng, 700, dim)
    exact, naive = start.astype(np.float64), start.copy()
    np.add.at(exact, ids, dy.astype(np.float64) * float(scale))
    np.add.at(naive, ids, dy * scale)
    found = start.copy()
    assert ops.embedding_backward(dy, ids, found, scale=float(scale)) is found
    reference.assert_within_rule(found, exact, naive, "dtable")


def test_embedding_of_nothing_is_nothing(isa):
    table = np.ones((3, 4), np.float32)
    assert ops.embedding_forward(table, np.zeros(0, np.int32)).shape == (0, 4)
    ops.embedding_backward(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), table)
    assert (table == 1).all()


def test_a_gradient_that_is_nan_reaches_its_row_alone(isa, rng):
    ids = np.array([2, 0, 2, 1], np.int32)
    dy, table = normal(rng, 4, 5), np.zeros((4, 5), np.float32)
    dy[1] = np.nan
    ops.embedding_backward(dy, ids, table)
    assert np.isnan(table).all(axis=1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("dim", WIDTHS)
def test_bags_are_weighted_sums_of_rows(dim, isa, rng):
    table, start = normal(rng, 40, dim), normal(rng, 300, dim)
    lengths = rng.integers(0, 6, 300)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids, weights = rng.integers(0, 40, offsets[-1]).astype(np.int32), rng.random(offsets[-1], np.float32)
    matrix = np.zeros((300, 40))
    np.add.at(matrix, (np.repeat(np.arange(300), lengths), ids), weights)
    exact, naive = start + matrix @ table.astype(np.float64), start + matrix.astype(np.float32) @ table
    found = ops.embedding_bag_forward(table, ids, weights, offsets, out=start.copy())
    reference.assert_within_rule(found, exact, naive, "y")
    dy, before = normal(rng, 300, dim), normal(rng, 40, dim)
    exact = before + matrix.T @ dy.astype(np.float64)
    naive = before + matrix.T.astype(np.float32) @ dy
    found = ops.embedding_bag_backward(dy, ids, weights, offsets, before.copy())
    reference.assert_within_rule(found, exact, naive, "dtable")


def test_an_empty_bag_is_zero_and_no_bags_are_nothing(isa):
    table, none = np.ones((3, 4), np.float32), np.zeros(0, np.int32)
    empty = ops.embedding_bag_forward(table, none, none.astype(np.float32), np.zeros(3, np.int64))
    np.testing.assert_array_equal(empty, np.zeros((2, 4)))
    assert ops.embedding_bag_forward(table, none, none.astype(np.float32), np.zeros(1, np.int64)).shape == (0, 4)


# ---- dropout ----


def test_the_generator_gives_its_published_numbers():
    """Known answers of Philox4x32-10 from the authors' test vectors."""
    ones = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    for counter, key, words in [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ones,) * 4, (ones,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (*pi, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]:
        assert " ".join(f"{int(word):08x}" for word in reference.philox(counter, key)) == words


@pytest.mark.parametrize("width", [1, 3, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.99])
def test_dropped_elements_are_those_of_the_reference_generator(width, p, isa, rng):
    x = normal(rng, 40, width)
    for rate in (ops.Dropout(p), ops.Dropout(p, seed=2**64 - 1, step=2**40, site=12)):
        keep = reference.dropout_keep(rate, 40, width, np.float32)
        np.testing.assert_array_equal(ops.dropout(x, rate), x * keep)


def test_a_mask_depends_on_place_and_key_alone(isa):
    x = np.ones((300, 70), np.float32)
    whole = ops.dropout(x, ops.Dropout(0.5, 1, 2, 3))
    np.testing.assert_array_equal(ops.dropout(x[:10], ops.Dropout(0.5, 1, 2, 3)), whole[:10])
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)]:
        assert (ops.dropout(x, ops.Dropout(0.5, *other)) != whole).mean() == pytest.approx(0.5, abs=0.02)


def test_the_share_of_dropped_elements_is_p(isa):
    x = np.ones((1000, 64), np.float32)
    for p in (0.1, 0.5, 0.9):  # 5 standard deviations
        room = 5 * (p * (1 - p) / x.size) ** 0.5
        assert (ops.dropout(x, ops.Dropout(p, seed=4)) == 0).mean() == pytest.approx(p, abs=room)


def test_a_dropped_nan_is_gone_and_a_kept_one_stays(isa):
    x = np.full((10, 64), np.nan, np.float32)
    keep = reference.dropout_keep(ops.Dropout(0.5), 10, 64)
    np.testing.assert_array_equal(np.isnan(ops.dropout(x, ops.Dropout(0.5))), keep > 0)


# ---- arguments ----


def test_a_workspace_gives_the_same_bits(isa, rng):
    x, weight, bias, dy = normal(rng, 50, 9), normal(rng, 10, 9), normal(rng, 10), normal(rng, 50, 10)
    ids = rng.integers(0, 10, 50).astype(np.int32)

    def everything(ws):
        y, saved = ops.linear_forward(x, weight, bias, activation="gelu", workspace=ws)
        found = [y, saved, *ops.linear_backward(dy, x, weight, activation="gelu", saved=saved, workspace=ws)]
        found += ops.layer_norm_forward(dy, bias, bias, workspace=ws)
        found += ops.layer_norm_backward(dy, dy, bias, *found[-2:], workspace=ws)
        found += ops.rms_norm_forward(dy, bias, workspace=ws)
        found += ops.rms_norm_backward(dy, dy, bias, found[-1], workspace=ws)
        found += [ops.embedding_forward(weight, ids, workspace=ws), ops.dropout(x, ops.Dropout(0.2), workspace=ws)]
        found += [ops.activation_forward(x, activation="relu", workspace=ws)]
        found += [ops.gate_forward(x, x, activation="silu", workspace=ws)]
        found += ops.gate_backward(x, x, x, activation="silu", workspace=ws)
        return [array.copy() for array in found]

    ws = Workspace()
    everything(ws)
    ws.reset()
    for plain, found in zip(everything(ops.NEW), everything(ws), strict=True):
        np.testing.assert_array_equal(found, plain)


F = np.float32
X, W, B = np.zeros((3, 4), F), np.zeros((5, 4), F), np.zeros(5, F)
READ_ONLY = np.zeros((3, 5), F)
READ_ONLY.setflags(write=False)
IDS = np.zeros(3, np.int32)
WRONG = [
    (
        lambda: ops.linear_forward(X.astype(float), W),
        TypeError,
        "x: expected a float32 array (3, 4), got float64 (3, 4)",
    ),
    (lambda: ops.linear_forward(X, W[:, :3].copy()), ValueError, "weight: expected shape (5, 4), got (5, 3)"),
    (lambda: ops.linear_forward(X, W.T.copy().T), ValueError, "weight: expected a C-contiguous array"),
    (lambda: ops.linear_forward(X, W, B[:4]), ValueError, "bias: expected shape (5,), got (4,)"),
    (lambda: ops.linear_forward(X, W, out=READ_ONLY), ValueError, "out: expected a writeable array"),
    (
        lambda: ops.linear_forward(X, W, activation="tanh"),
        ValueError,
        "activation: expected one of None, 'relu', 'gelu', 'silu', 'sigmoid', got 'tanh'",
    ),
    (lambda: ops.linear_forward(X[:, :0], W[:, :0]), ValueError, "n_in: expected at least 1, got 0"),
    (lambda: ops.linear_forward(X, W, residual=X), ValueError, "residual: expected shape (3, 5), got (3, 4)"),
    (lambda: ops.linear_maps_forward(X, [], []), ValueError, "weight: expected at least one, got none"),
    (lambda: ops.linear_maps_forward(X, [W, W[:4]], [B, B]), ValueError, "weight: expected shape (5, 4), got (4, 4)"),
    (lambda: ops.linear_maps_forward(X, [W, W], [B]), ValueError, "bias: expected one for each of 2 weights, got 1"),
    (lambda: ops.linear_backward(X, X, W), ValueError, "dy: expected shape (3, 5), got (3, 4)"),
    (lambda: ops.linear_backward(READ_ONLY, X, W, activation="relu"), ValueError, "saved: expected the array"),
    (lambda: ops.linear_backward(READ_ONLY, X, W, dbias=B[:3]), ValueError, "dbias: expected shape (5,), got (3,)"),
    (lambda: ops.activation_backward(X, W, activation="relu"), ValueError, "dy: expected shape (20,), got (12,)"),
    (lambda: ops.activation_forward(X.T, activation="relu"), ValueError, "x: expected a C-contiguous array"),
    (lambda: ops.activation_forward([1.0], activation="relu"), TypeError, "x: expected a NumPy array, got list"),
    (lambda: ops.gate_forward(X, W, activation="silu"), ValueError, "value: expected shape (3, 4), got (5, 4)"),
    (lambda: ops.gate_forward(B, B, activation="silu"), ValueError, "gate: expected 2 dimensions, got shape (5,)"),
    (
        lambda: ops.gate_forward(X, X, activation="swish"),
        ValueError,
        "activation: expected one of None, 'relu', 'gelu'",
    ),
    (lambda: ops.gate_backward(W, X, X, activation=None), ValueError, "dy: expected shape (3, 4), got (5, 4)"),
    (
        lambda: ops.embedding_forward(W, np.array([5, 0, 0], np.int32)),
        ValueError,
        "ids: expected rows from 0 to 4, got 5 at place 0",
    ),
    (
        lambda: ops.embedding_forward(W, IDS.astype(np.int64)),
        TypeError,
        "ids: expected a int32 array (3,), got int64 (3,)",
    ),
    (lambda: ops.embedding_backward(X, IDS, W[:, :3].copy()), ValueError, "dy: expected shape (3, 3), got (3, 4)"),
    (lambda: ops.embedding_backward(X, IDS, W[:, ::-1]), ValueError, "dtable: expected a C-contiguous array"),
    (
        lambda: ops.embedding_backward(X, IDS - 1, W.copy()),
        ValueError,
        "ids: expected rows from 0 to 4, got -1 at place 0",
    ),
    (
        lambda: ops.embedding_bag_forward(W, np.array([0, 5, 0], np.int32), B[:3], np.array([0, 3])),
        ValueError,
        "ids: expected rows from 0 to 4, got 5 at place 1",
    ),
    (
        lambda: ops.embedding_bag_forward(W, IDS, B[:3], np.array([0, 2])),
        ValueError,
        "cu_seqlens: expected to end with 3, got 2",
    ),
    (
        lambda: ops.embedding_bag_backward(X, IDS, B[:2], np.array([0, 1, 2, 3]), W.copy()),
        ValueError,
        "weights: expected shape (3,), got (2,)",
    ),
    (lambda: ops.dropout(X, ops.Dropout(-0.1)), ValueError, "dropout: expected a rate from 0 to below 1, got -0.1"),
    (lambda: ops.dropout(X[0], ops.Dropout(0.1)), ValueError, "x: expected 2 dimensions, got shape (4,)"),
    (lambda: ops.dropout(X, ops.Dropout(0.1, seed=-1)), TypeError, "dropout: expected (p, seed, step, site)"),
    (lambda: ops.dropout(X, 0.1), TypeError, "dropout: expected (p, seed, step, site)"),
    (lambda: ops.dropout(X, None), TypeError, "dropout: expected (p, seed, step, site)"),
    (
        lambda: _core.activation_forward(5, B, B),
        ValueError,
        "activation: expected 0 (none), 1 (relu), 2 (gelu), 3 (silu) or 4 (sigmoid), got 5",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[case[2][:50] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
