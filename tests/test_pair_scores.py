"""Scores of pairs by a network, and sums weighted by them: `reference_pairs.py` against itself, then the kernels."""

import functools
import itertools

import numpy as np
import pytest
import reference
import reference_pairs as pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import _core, ops
from regard.workspace import Workspace

ACTIVATIONS = [None, "relu", "gelu", "silu", "sigmoid"]
NORMALIZE = ["softmax", "none"]
UNIT = [f"d{name}" for name in ops.ActivationUnit._fields]
NAMES = {"additive": ["z", "dq", "dk", "dv"], "unit": ["z", "dq", "dk", *UNIT], "sum": ["out", "dz", "dv"]}
# Around every width at which a kernel changes its path: register tiles of 3, 6, 12, vectors of 4, 8, 16, blocks of 48
# queries, of 96 and 128 keys, tiles of 256 keys.
LENGTHS = list(itertools.product([0, 1, 5, 13, 49], [0, 1, 7, 16, 50, 97, 129, 260]))


def offsets(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def unit_of(rng, dim, hidden1, hidden2):
    widths = [(hidden1, 4 * dim), (hidden1,), (hidden2, hidden1), (hidden2,), (hidden2,), (1,)]
    return ops.ActivationUnit(*(normal(rng, *shape) * np.float32(shape[-1] ** -0.5) for shape in widths))


def draw(what, rng, lengths, dim, how, hidden=(9, 5), size=1.0):
    """Arguments in the order of `by_kernel`, the gradient first."""
    cu_q, cu_k = offsets([n for n, _ in lengths]), offsets([m for _, m in lengths])
    n_pairs, scale = sum(n * m for n, m in lengths), np.float32(size)
    if what == "sum":
        return normal(rng, cu_q[-1], dim), normal(rng, n_pairs) * scale, normal(rng, cu_k[-1], dim), cu_q, cu_k, how
    q, k = normal(rng, cu_q[-1], dim) * scale, normal(rng, cu_k[-1], dim) * scale
    parameters = (normal(rng, dim),) if what == "additive" else tuple(unit_of(rng, dim, *hidden))
    return normal(rng, n_pairs), q, k, parameters, cu_q, cu_k, how


def by_kernel(what, *arguments):
    """All results in the order of NAMES."""
    if what == "sum":
        dout, *rest, how = arguments
        options = {"normalize": how}
        return [ops.weighted_sum_forward(*rest, **options), *ops.weighted_sum_backward(dout, *rest, **options)]
    dz, q, k, parameters, cu_q, cu_k, how = arguments
    if what == "additive":
        rest = (q, k, *parameters, cu_q, cu_k)
        return [ops.additive_scores_forward(*rest), *ops.additive_scores_backward(dz, *rest)]
    rest = (q, k, ops.ActivationUnit(*parameters), cu_q, cu_k)
    dq, dk, dunit = ops.activation_unit_backward(dz, *rest, activation=how)
    return [ops.activation_unit_forward(*rest, activation=how), dq, dk, *dunit]


def by_reference(dtype, what, *arguments):
    cast = [
        tuple(y.astype(dtype) for y in x) if isinstance(x, tuple) else x.astype(dtype) if x.dtype == np.float32 else x
        for x in arguments[:-1]
    ]
    how = arguments[-1]
    if what == "sum":
        dout, *rest = cast
        return [pairs.weighted_sum(*rest, how), *pairs.weighted_sum_backward(dout, *rest, how)]
    functions = {
        "additive": (pairs.additive, pairs.additive_backward),
        "unit": (pairs.unit(how), pairs.unit_backward(how)),
    }
    forward, backward = functions[what]
    return [pairs.scores(forward, *cast[1:]), *pairs.scores_backward(backward, *cast)]


def three_ways(what, arguments):
    return by_kernel(what, *arguments), *(by_reference(t, what, *arguments) for t in (np.float64, np.float32))


def check(what, arguments):
    for name, *ways in zip(NAMES[what], *three_ways(what, arguments), strict=True):
        reference.assert_within_rule(*ways, name)


CASES = [("additive", None), *(("unit", kind) for kind in ACTIVATIONS), *(("sum", how) for how in NORMALIZE)]
every_case = pytest.mark.parametrize(("what", "how"), CASES, ids=[f"{what} {how}" for what, how in CASES])


@every_case
def test_reference_gradients_are_those_of_central_differences(what, how, rng):
    arguments = draw(what, rng, [(3, 2), (0, 2), (2, 0), (1, 3)], 3, how, hidden=(4, 3))
    dy, *arrays = (x.astype(float) for x in arguments[: 3 if what == "sum" else 1])
    if what == "sum":
        forward = functools.partial(pairs.weighted_sum, cu_q=arguments[3], cu_k=arguments[4], normalize=how)
        names = {"z": arrays[0], "v": arrays[1]}
    else:
        function = pairs.additive if what == "additive" else pairs.unit(how)
        arrays = [x.astype(float) for x in (*arguments[1:3], *arguments[3])]
        names = {f"x{i}": x for i, x in enumerate(arrays)}

        def forward(x0, x1, **parameters):
            return pairs.scores(function, x0, x1, tuple(parameters.values()), *arguments[4:6])

    reference.check_differences(forward, dy, names, by_reference(np.float64, what, *arguments)[1:])


@every_case
@pytest.mark.parametrize("dim", [1, 3, 16, 33])
def test_sequences_of_every_length_follow_the_formula(what, how, dim, isa, rng):
    n = 16 if what == "unit" else 1  # a gradient of five numbers
    draws = [three_ways(what, draw(what, rng, LENGTHS, dim, how)) for _ in range(n)]
    reference.assert_draws_within_rule(draws, NAMES[what])


@pytest.mark.parametrize("hidden", [(1, 1), (16, 1), (17, 33), (36, 64), (80, 40)])
@pytest.mark.parametrize("kind", ["relu", "sigmoid"])
def test_units_of_every_width_follow_the_formula(hidden, kind, isa, rng):
    for dim in (4, 50):
        arguments = functools.partial(draw, "unit", rng, [(3, 20), (2, 101)], dim, kind, hidden)
        draws = [three_ways("unit", arguments()) for _ in range(4 + 60 // hidden[1])]
        reference.assert_draws_within_rule(draws, NAMES["unit"])


@pytest.mark.parametrize("size", [1e-3, 0.1, 5.0, 100.0])
def test_additive_scores_keep_their_digits_near_zero_and_where_tanh_is_one(size, isa, rng):
    check("additive", draw("additive", rng, [(9, 40), (2, 3)], 8, None, size=size))


def test_tanh_follows_the_formula_everywhere(isa):
    x = np.concatenate([np.linspace(-12, 12, 4001), [0.0, 0.6, -0.6, 1e-30, 50, -50, 1e4, -1e30]]).astype(np.float32)
    z = ops.additive_scores_forward(
        np.zeros((1, 1), np.float32), x[:, None], np.ones(1, np.float32), *[offsets([1]), offsets([len(x)])]
    )
    np.testing.assert_allclose(z, np.tanh(x.astype(float)), rtol=3e-7, atol=0)


@pytest.mark.parametrize("level", [1e4, -1e4])
def test_softmax_weights_of_large_scores_neither_overflow_nor_vanish(level, isa, rng):
    dout, z, *rest = draw("sum", rng, [(13, 40), (3, 300)], 8, "softmax")
    check("sum", (dout, z + np.float32(level), *rest))


def test_bilinear_scores_are_attention_with_linearly_mapped_queries(isa, rng):
    """The lines of the module's documentation, and their gradients."""
    cu_q, cu_k = offsets([3, 0, 5]), offsets([7, 2, 4])
    q, k, weight, dout = normal(rng, 8, 6), normal(rng, 13, 9), normal(rng, 9, 6) * np.float32(0.3), normal(rng, 8, 9)
    v = normal(rng, 13, 9)
    mapped, _ = ops.linear_forward(q, weight)
    heads = (mapped[:, None], k[:, None], v[:, None])
    out, lse = ops.attention_forward(*heads, cu_q, cu_k, softmax_scale=1.0)
    dmapped, *_ = ops.attention_backward(dout[:, None], *heads, out, lse, cu_q, cu_k, softmax_scale=1.0)
    dq, dweight, _ = ops.linear_backward(dmapped[:, 0], q, weight)

    def formula(q, weight):
        z = pairs.scores(lambda q, k: q @ weight.T @ k.T, q, k.astype(float), (), cu_q, cu_k)
        return pairs.weighted_sum(z, v.astype(float), cu_q, cu_k, "softmax")

    q, weight = q.astype(float), weight.astype(float)
    np.testing.assert_allclose(out[:, 0], formula(q, weight), rtol=0, atol=2e-6)
    for gradient, x, of in ((dq, q, lambda x: formula(x, weight)), (dweight, weight, lambda x: formula(q, x))):
        expected = reference.central_differences(lambda x, of=of: (of(x) * dout).sum(), x)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-5)


@every_case
def test_the_number_of_threads_does_not_change_a_bit(what, how, threads, rng):
    arguments = draw(what, rng, [(7, 50), (0, 3), (30, 41), (2, 0)] * 12, 16, how)
    found = by_kernel(what, *arguments)
    _core.set_num_threads(1)
    for name, one, other in zip(NAMES[what], found, by_kernel(what, *arguments), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


@every_case
def test_rows_without_keys_and_keys_without_rows_give_zero(what, how, isa, rng):
    found = dict(zip(NAMES[what], by_kernel(what, *draw(what, rng, [(3, 0), (0, 4)], 5, how)), strict=True))
    for name, value in found.items():
        assert (value == 0).all(), name
        assert value.size or name in ("z", "dz"), name
    for lengths in ([], [(0, 0)]):
        for name, value in zip(NAMES[what], by_kernel(what, *draw(what, rng, lengths, 5, how)), strict=True):
            assert (value == 0).all(), name


def nan_in(what, where, rng, how):
    """Results without and with one NaN in sequence 1, whose 4 queries and 30 keys are rows 2.. and 5.. ."""
    arguments = draw(what, rng, [(2, 5), (4, 30), (3, 6)], 7, how)
    clean = by_kernel(what, *arguments)
    arguments[where][(10 + 30 + 9) if arguments[where].ndim == 1 else (3 if where == 1 else 5 + 9, 2)] = np.nan
    return dict(zip(NAMES[what], zip(clean, by_kernel(what, *arguments), strict=True), strict=True))


@pytest.mark.parametrize(("what", "how"), CASES[:-2], ids=[f"{what} {how}" for what, how in CASES[:-2]])
@pytest.mark.parametrize("where", ["q", "k"])
def test_a_vector_that_is_nan_makes_its_own_scores_nan_and_no_others(what, how, where, isa, rng):
    found = nan_in(what, 1 if where == "q" else 2, rng, how)
    touched = np.zeros((4, 30), bool)
    touched[(1, slice(None)) if where == "q" else (slice(None), 9)] = True
    clean, z = found["z"]
    np.testing.assert_array_equal(np.isnan(z[10:130]).reshape(4, 30), touched)
    np.testing.assert_array_equal(z[~np.isnan(z)], clean[~np.isnan(z)])
    (dq_clean, dq), (dk_clean, dk) = found["dq"], found["dk"]
    rows, keys = np.isnan(dq).any(axis=1), np.isnan(dk).any(axis=1)
    if what == "unit" and how is None:  # the slope is 1 everywhere: only the product carries it
        rows[2:6] |= where == "k"
        rows[3] |= where == "q"
    assert rows[:2].any() == rows[6:].any() == keys[:5].any() == keys[35:].any() == False  # noqa: E712
    np.testing.assert_array_equal(dq[~rows], dq_clean[~rows])
    np.testing.assert_array_equal(dk[~keys], dk_clean[~keys])


@pytest.mark.parametrize("how", NORMALIZE)
def test_a_score_that_is_nan_stays_in_its_row(how, isa, rng):
    found = nan_in("sum", 1, rng, how)
    clean, out = found["out"]
    assert np.isnan(out).all(axis=1).nonzero()[0].tolist() == [3]
    np.testing.assert_array_equal(np.delete(out, 3, 0), np.delete(clean, 3, 0))
    clean, dz = found["dz"]
    assert np.isnan(dz).sum() == (30 if how == "softmax" else 0)
    np.testing.assert_array_equal(dz[~np.isnan(dz)], clean[~np.isnan(dz)])


def test_a_row_whose_scores_are_all_minus_infinity_gives_zero(isa, rng):
    dout, z, v, cu_q, cu_k, _ = draw("sum", rng, [(2, 20)], 5, "softmax")
    z[:20] = -np.inf
    out, dz, dv = by_kernel("sum", dout, z, v, cu_q, cu_k, "softmax")
    assert (out[0] == 0).all()
    assert (dz[:20] == 0).all()
    assert np.isfinite(dv).all()


@pytest.fixture
def _restored_isa():
    before = _core.isa()
    yield
    _core.set_isa(before)


RAGGED = {
    "lengths": st.lists(st.tuples(st.integers(0, 30), st.integers(0, 120)), min_size=1, max_size=4),
    "dim": st.sampled_from([1, 3, 8, 17]),
    "case": st.sampled_from(CASES),
    "seed": st.integers(0, 2**16),
    "level": st.sampled_from(_core.isa_available()),
}


@pytest.mark.usefixtures("_restored_isa")
class TestProperties:
    @settings(max_examples=40, deadline=None)
    @given(**RAGGED)
    def test_random_batches_follow_the_formula(self, lengths, dim, case, seed, level):
        _core.set_isa(level)
        (what, how), rng = case, np.random.default_rng(seed)
        draws = [three_ways(what, draw(what, rng, [*lengths, (5, 40)], dim, how)) for _ in range(8)]
        reference.assert_typical_error_within_rule(draws, NAMES[what])

    @settings(max_examples=40, deadline=None)
    @given(**RAGGED)
    def test_sequences_of_a_batch_do_not_see_each_other(self, lengths, dim, case, seed, level):
        _core.set_isa(level)
        what, how = case
        dy, a, b, *parameters, cu_q, cu_k, _ = draw(what, np.random.default_rng(seed), lengths, dim, how)
        whole = by_kernel(what, dy, a, b, *parameters, cu_q, cu_k, how)
        for (rows, keys, place, _), (n, m) in zip(pairs.blocks(cu_q, cu_k), lengths, strict=True):
            parts = (rows, place, keys) if what == "sum" else (place, rows, keys)
            own = (x[part] for x, part in zip((dy, a, b), parts, strict=True))
            alone = by_kernel(what, *own, *parameters, offsets([n]), offsets([m]), how)
            for name, found, expected, part in zip(NAMES[what], alone, whole, parts, strict=False):
                np.testing.assert_array_equal(found, expected[part], err_msg=name)


def test_gradients_that_are_given_are_added_to_and_a_workspace_gives_the_same_bits(isa, rng):
    ws = Workspace()
    dz, q, k, parameters, cu_q, cu_k, _ = draw("unit", rng, [(3, 20), (4, 7)], 6, "silu")
    unit, how = ops.ActivationUnit(*parameters), {"activation": "silu"}
    plain = ops.activation_unit_backward(dz, q, k, unit, cu_q, cu_k, **how)
    for _ in range(2):
        ws.reset()
        mine = ops.ActivationUnit(*(np.ones_like(x) for x in unit))
        dq, dk, dunit = ops.activation_unit_backward(dz, q, k, unit, cu_q, cu_k, dunit=mine, workspace=ws, **how)
        assert dunit is mine
        np.testing.assert_array_equal(dq, plain[0])
        np.testing.assert_array_equal(dk, plain[1])
        for found, expected in zip(dunit, plain[2], strict=True):
            np.testing.assert_allclose(found, expected + 1, rtol=0, atol=2e-6)
        v, dv = parameters[0][0, :6].copy(), np.ones(6, np.float32)
        expected = ops.additive_scores_backward(dz, q, k, v, cu_q, cu_k)[2] + 1
        assert ops.additive_scores_backward(dz, q, k, v, cu_q, cu_k, dv=dv, workspace=ws)[2] is dv
        np.testing.assert_allclose(dv, expected, rtol=0, atol=2e-6)
    z = np.full_like(dz, np.nan)
    assert ops.activation_unit_forward(q, k, unit, cu_q, cu_k, out=z, **how) is z
    np.testing.assert_array_equal(z, ops.activation_unit_forward(q, k, unit, cu_q, cu_k, workspace=ws, **how))


F = np.float32
Q, K, V, Z, CU_Q, CU_K = (
    np.zeros((3, 4), F),
    np.zeros((5, 4), F),
    np.zeros(4, F),
    np.zeros(7, F),
    *[offsets(x) for x in ([1, 2], [3, 2])],
)
U = ops.ActivationUnit(*(np.zeros(s, F) for s in ((6, 16), (6,), (2, 6), (2,), (2,), (1,))))
WRONG = [
    (lambda: ops.additive_scores_forward(Q.astype(float), K, V, CU_Q, CU_K), TypeError, "q: expected a float32 array"),
    (lambda: ops.additive_scores_forward(Q, K[:, :3], V, CU_Q, CU_K), ValueError, "k: expected shape (5, 4)"),
    (lambda: ops.additive_scores_forward(Q, K, V[:3], CU_Q, CU_K), ValueError, "v: expected shape (4,), got (3,)"),
    (lambda: ops.additive_scores_forward(Q, K, V, [0], CU_K), TypeError, "cu_seqlens_q: expected a NumPy array"),
    (
        lambda: ops.additive_scores_forward(Q, K, V, CU_Q, np.array([0, 6, 5])),
        ValueError,
        "cu_seqlens_k: expected offsets that never fall, got [0, 6, 5]",
    ),
    (
        lambda: ops.additive_scores_forward(Q, K, V, CU_Q, offsets([5])),
        ValueError,
        "cu_seqlens_k: expected shape (3,), got (2,)",
    ),
    (
        lambda: ops.additive_scores_forward(Q, K, V, CU_Q, offsets([3, 1])),
        ValueError,
        "cu_seqlens_k: expected to end with 5, got 4",
    ),
    (
        lambda: ops.additive_scores_forward(Q, K, V, CU_Q + 1, CU_K, out=Z),
        ValueError,
        "cu_seqlens_q: expected to end with 3, got 4",
    ),
    (
        lambda: ops.additive_scores_forward(Q, K, V, np.array([1, 1, 3]), CU_K),
        ValueError,
        "cu_seqlens_q: expected to start with 0, got 1",
    ),
    (lambda: ops.additive_scores_forward(Q, K, V, CU_Q, CU_K, out=Z[:6]), ValueError, "out: expected shape (7,)"),
    (
        lambda: ops.additive_scores_forward(Q[:, :0].copy(), K[:, :0].copy(), V[:0], CU_Q, CU_K),
        ValueError,
        "dim: expected 1 to 16384, got 0",
    ),
    (lambda: ops.additive_scores_backward(Z[:6], Q, K, V, CU_Q, CU_K), ValueError, "dz: expected shape (7,), got (6,)"),
    (
        lambda: ops.activation_unit_forward(Q, K, U._replace(weight1=U.weight1[:, :12]), CU_Q, CU_K),
        ValueError,
        "weight1: expected 4 columns for each of q's 4, got shape (6, 12)",
    ),
    (
        lambda: ops.activation_unit_forward(Q, K, U._replace(weight1=U.weight1.astype(float)), CU_Q, CU_K),
        TypeError,
        "weight1: expected a float32 array (6, 16), got float64",
    ),
    (
        lambda: ops.activation_unit_forward(Q, K, U._replace(weight2=U.weight1), CU_Q, CU_K),
        ValueError,
        "weight2: expected shape (6, 6), got (6, 16)",
    ),
    (
        lambda: ops.activation_unit_forward(Q, K, U._replace(weight3=V), CU_Q, CU_K),
        ValueError,
        "weight3: expected shape (2,), got (4,)",
    ),
    (
        lambda: ops.activation_unit_forward(Q, K, U, CU_Q, CU_K, activation="prelu"),
        ValueError,
        "activation: expected one of None, 'relu', 'gelu', 'silu', 'sigmoid', got 'prelu'",
    ),
    (
        lambda: ops.activation_unit_backward(Z, Q, K, U, CU_Q, CU_K, dunit=U._replace(bias2=V)),
        ValueError,
        "dbias2: expected shape (2,), got (4,)",
    ),
    (
        lambda: ops.activation_unit_backward(Z, Q, K, U, CU_Q, CU_K, dunit=U._replace(weight1=Q)),
        ValueError,
        "dweight1: expected shape (6, 16), got (3, 4)",
    ),
    (lambda: ops.weighted_sum_forward(Z[:5], K, CU_Q, CU_K), ValueError, "z: expected shape (7,), got (5,)"),
    (lambda: ops.weighted_sum_forward(Z, Q, CU_Q, CU_K), ValueError, "cu_seqlens_k: expected to end with 3, got 5"),
    (
        lambda: ops.weighted_sum_forward(Z, K, CU_Q, CU_K, normalize="sum"),
        ValueError,
        "normalize: expected one of 'softmax', 'none', got 'sum'",
    ),
    (
        lambda: ops.weighted_sum_backward(K, Z, K, CU_Q, CU_K),
        ValueError,
        "cu_seqlens_q: expected to end with 5, got 3",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[case[2][:60] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
