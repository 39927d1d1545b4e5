"""Attention forward, backward and weights: `reference.py` against itself, then the kernel against `reference.py`."""

import functools
import itertools

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import _core, ops
from regard.workspace import Workspace

# Around every width at which a kernel changes its path: register tiles of 3, 6 and 12 rows, vectors of 4, 8 and 16,
# panels of 16, row blocks of 48, key blocks of 128, key tiles of 256; 1024 keys are packed at once.
TILES = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 15, 16, 17, 47, 48, 49]
LONG_TILES = [127, 128, 129, 255, 256, 257]


def offsets(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def batch(rng, n_q, n_k, heads, dim, size=1.0):
    """q, k, v, dout float32 and both offsets for sequences with n_q and n_k rows."""
    cu_q, cu_k = offsets(n_q), offsets(n_k)
    q, dout = (rng.standard_normal((2, cu_q[-1], heads, dim)) * [[[[size]]], [[[1.0]]]]).astype(np.float32)
    k, v = (rng.standard_normal((2, cu_k[-1], heads, dim)) * [[[[size]]], [[[1.0]]]]).astype(np.float32)
    return q, k, v, dout, cu_q, cu_k


def kernel(q, k, v, dout, cu_q, cu_k, *, softmax_scale=None, **options):
    """All results by name."""
    options["softmax_scale"] = softmax_scale
    out, lse = ops.attention_forward(q, k, v, cu_q, cu_k, **options)
    dq, dk, dv, dbias = ops.attention_backward(dout, q, k, v, out, lse, cu_q, cu_k, **options)
    found = {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv}
    return found if dbias is None else found | {"dbias": dbias}


def by_reference(dtype, q, k, v, dout, cu_q, cu_k, *, softmax_scale=None, causal=False, causal_align="end", **rest):
    q, k, v, dout = (x.astype(dtype) for x in (q, k, v, dout))
    if rest.get("bias") is not None:
        rest["bias"] = rest["bias"].astype(dtype)
    scale = q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale
    rest |= {"scale": scale, "causal": causal, "align": causal_align}
    out, lse, _ = reference.ragged_attention(q, k, v, cu_q, cu_k, **rest)
    dq, dk, dv, dbias, _ = reference.ragged_attention_backward(dout, q, k, v, cu_q, cu_k, **rest)
    found = {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv}
    return found if dbias is None else found | {"dbias": dbias}


def three_ways(*arrays, **options):
    """By the kernel, exactly, and in plain float32."""
    ways = kernel(*arrays, **options), *(by_reference(dtype, *arrays, **options) for dtype in (np.float64, np.float32))
    assert ways[0].keys() == ways[1].keys()
    return ways


def check(*arrays, **options):
    found, exact, naive = three_ways(*arrays, **options)
    for name in exact:
        reference.assert_within_rule(found[name], exact[name], naive[name], name)
    return found


def several(draw, n=8):
    """For the rules over several draws: `draw` gives the arrays and the options."""
    draws = [three_ways(*arrays, **options) for arrays, options in (draw() for _ in range(n))]
    return [tuple(list(way.values()) for way in ways) for ways in draws], [*draws[0][0]]


MASKS = [{}, {"causal": True}, {"causal": True, "causal_align": "start"}]
MASK_NAMES = ["all keys", "causal at the end", "causal at the start"]
every_mask = pytest.mark.parametrize("mask", MASKS, ids=MASK_NAMES)


@every_mask
@pytest.mark.parametrize("extra", ["nothing", "bias", "dropout"])
def test_reference_gradients_are_those_of_central_differences(mask, extra, rng):
    q, k, v, dout, cu_q, cu_k = (
        x.astype(np.float64) if x.dtype == np.float32 else x for x in batch(rng, [3, 2, 0], [2, 4, 1], 2, 3)
    )
    options = {"scale": 0.7, "causal": bool(mask), "align": mask.get("causal_align", "end")}
    if extra == "dropout":
        options["dropout"] = ops.Dropout(0.4, 1, 2, 3)
    arrays = {"q": q, "k": k, "v": v}
    if extra == "bias":
        arrays["bias"] = rng.standard_normal((2, 3))

    def loss(name, x):
        changed = arrays | {name: x}
        return (reference.ragged_attention(cu_q=cu_q, cu_k=cu_k, **changed, **options)[0] * dout).sum()

    gradients = reference.ragged_attention_backward(dout, cu_q=cu_q, cu_k=cu_k, **arrays, **options)
    for name, gradient in zip(arrays, gradients, strict=False):
        expected = reference.central_differences(functools.partial(loss, name), arrays[name])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8, err_msg=name)


@every_mask
@pytest.mark.parametrize(("heads", "dim"), [(1, 1), (1, 3), (3, 8), (2, 50), (1, 64)])
def test_self_attention_of_every_tile_length_follows_the_formula(mask, heads, dim, isa, rng):
    check(*batch(rng, TILES, TILES, heads, dim), **mask)


@every_mask
@pytest.mark.parametrize(("heads", "dim"), [(1, 50), (2, 16)])
def test_long_sequences_follow_the_formula(mask, heads, dim, isa, rng):
    check(*batch(rng, LONG_TILES, LONG_TILES, heads, dim), **mask)


@every_mask
def test_the_widest_head_follows_the_formula(mask, isa, rng):
    check(*batch(rng, [13, 49], [17, 49], 1, 256), **mask)


@every_mask
@pytest.mark.parametrize("n_k", [1023, 1024, 1025, 1300])
def test_keys_that_are_packed_once_or_tile_by_tile_give_the_formula(mask, n_k, isa, rng):
    def draw():
        return batch(rng, [50], [n_k], 1, 5), mask | {"bias": rng.standard_normal((1, 77)).astype(np.float32)}

    reference.assert_draws_within_rule(*several(draw))


def test_a_history_longer_than_what_is_packed_at_once_follows_the_formula(isa, rng):
    check(*batch(rng, [1025], [1025], 1, 8), causal=True)


@every_mask
def test_queries_and_keys_of_different_numbers_follow_the_formula(mask, isa, rng):
    pairs = list(itertools.product([0, 1, 5, 13, 48, 50], [0, 1, 7, 16, 129, 260]))
    check(*batch(rng, *zip(*pairs, strict=True), 1, 8), **mask)


@every_mask
@pytest.mark.parametrize("n_distances", [3, 7, 401])  # the gradient of a single one is 0, and no measure
def test_distance_bias_and_its_gradient_follow_the_formula(mask, n_distances, isa, rng):
    def draw():
        bias = rng.standard_normal((2, n_distances)).astype(np.float32)
        return batch(rng, [0, 1, 13, 49, 130, 20, 5], [3, 1, 13, 49, 130, 5, 20], 2, 8), mask | {"bias": bias}

    reference.assert_draws_within_rule(*several(draw))


@every_mask
@pytest.mark.parametrize("p", [0.0, 0.2, 0.9])
def test_dropped_weights_are_those_of_the_reference_generator(mask, p, isa, rng):
    arrays = batch(rng, [1, 13, 0, 49, 130, 7], [1, 13, 4, 49, 130, 300], 2, 8)
    check(*arrays, **mask, dropout=ops.Dropout(p, seed=2**63 + 5, step=7, site=3))


def test_dropout_and_bias_work_together(isa, rng):
    def draw():
        bias = rng.standard_normal((2, 20)).astype(np.float32)
        options = {"causal": True, "bias": bias, "dropout": ops.Dropout(0.5, seed=1)}
        return batch(rng, [13, 70], [13, 70], 2, 8), options

    reference.assert_draws_within_rule(*several(draw))


@every_mask
@pytest.mark.parametrize("scale", [0.0, -0.3, 1.0])
def test_the_scale_is_taken_as_given(mask, scale, isa, rng):
    check(*batch(rng, [13, 5, 49], [13, 9, 60], 3, 8), **mask, softmax_scale=scale)


@every_mask
def test_scores_of_ten_thousand_neither_overflow_nor_lose_their_digits(mask, isa, rng):
    q, k, v, dout, cu_q, cu_k = batch(rng, [40, 300], [40, 300], 1, 8, size=40)
    found = check(q, k, v, dout, cu_q, cu_k, **mask, softmax_scale=1.0)
    assert np.abs(found["lse"]).max() > 1e4
    alike = np.full((30, 1, 8), 35.0, np.float32)  # every score is 9,800 exactly: the weights are 1 / n
    for sign in (1, -1):
        arrays = (alike, alike * sign, v[:30], dout[:30], offsets([30]), offsets([30]))
        found = check(*arrays, **mask, softmax_scale=1.0)
        assert found["lse"][-1, 0] == pytest.approx(sign * 9800 + np.log(30), abs=1e-9)


@every_mask
def test_weights_are_the_softmax_itself(mask, isa, rng):
    pairs = [(0, 3), (1, 1), (13, 13), (49, 49), (20, 300), (300, 20), (5, 1030)]
    q, k, v, _, cu_q, cu_k = batch(rng, *zip(*pairs, strict=True), 2, 8)
    bias = rng.standard_normal((2, 9)).astype(np.float32)
    options = {"scale": 0.5, "causal": bool(mask), "align": mask.get("causal_align", "end")}
    found = ops.attention_weights(q, k, cu_q, cu_k, softmax_scale=0.5, bias=bias, **mask)
    naive = reference.ragged_attention(q, k, v, cu_q, cu_k, bias=bias, **options)[2]
    q, k, v, bias = (x.astype(np.float64) for x in (q, k, v, bias))
    exact = reference.ragged_attention(q, k, v, cu_q, cu_k, bias=bias, **options)[2]
    for one, other, plain in zip(found, exact, naive, strict=True):
        assert one.shape == other.shape
        if one.size:
            reference.assert_within_rule(one, other, plain, "weights")


def test_a_query_without_keys_gives_zero_and_no_gradient(isa, rng):
    # 5 queries before 3 keys: the first two see none; a sequence without any key; one without a query.
    q, k, v, dout, cu_q, cu_k = batch(rng, [5, 4, 0], [3, 0, 6], 2, 8)
    found = kernel(q, k, v, dout, cu_q, cu_k, causal=True, bias=np.ones((2, 3), np.float32))
    lonely = [0, 1, 5, 6, 7, 8]
    assert (found["out"][lonely] == 0).all()
    assert (found["lse"][lonely] == -np.inf).all()
    assert (found["dq"][lonely] == 0).all()
    assert (found["dk"][3:] == 0).all()
    assert (found["dv"][3:] == 0).all()
    assert all(np.isfinite(found[name]).all() for name in ("out", "dq", "dk", "dv", "dbias"))


def test_an_empty_batch_is_allowed(isa):
    none = np.zeros((0, 2, 4), np.float32)
    for cu in (offsets([]), offsets([0, 0])):
        found = kernel(none, none, none, none, cu, cu, causal=True)
        assert found["out"].shape == found["dk"].shape == (0, 2, 4)
        assert len(ops.attention_weights(none, none, cu, cu)) == len(cu) - 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["q", "k", "v", "dout"])
@pytest.mark.parametrize("n", [5, 60, 300])
def test_what_is_not_finite_stays_where_it_is_seen_and_reaches_nothing_else(bad, where, n, isa, rng):
    """Row n - 3 of the second sequence, head 0, is bad. Earlier rows, other heads and sequences keep every bit."""
    names = ["q", "k", "v", "dout"]
    arrays = dict(zip(names, batch(rng, [4, n, 7], [4, n, 7], 2, 8), strict=False))
    cu = offsets([4, n, 7])
    clean = kernel(*arrays.values(), cu, cu, causal=True)
    place = 4 + n - 3
    arrays[where][place, 0, 3] = bad
    found = kernel(*arrays.values(), cu, cu, causal=True)

    touched = {name: np.zeros(clean[name].shape[:2], bool) for name in clean}
    seeing, upto = slice(place, 4 + n), slice(4, place + 1)  # rows that see the bad one; rows that it sees
    if where == "q":
        touched["out"][place, 0] = touched["lse"][place, 0] = touched["dq"][place, 0] = True
        touched["dk"][upto, 0] = touched["dv"][upto, 0] = True
    elif where == "dout":
        touched["dq"][place, 0] = True
        touched["dk"][upto, 0] = touched["dv"][upto, 0] = True
    else:
        touched["out"][seeing, 0] = touched["dq"][seeing, 0] = True
        touched["lse"][seeing, 0] = where == "k"
        for name in ("dk", "dv"):  # the seeing rows are bad now, and so is all that they see
            touched[name][4 : 4 + n, 0] = True
    for name in clean:
        np.testing.assert_array_equal(found[name][~touched[name]], clean[name][~touched[name]], err_msg=name)
    if np.isnan(bad):
        if where != "dout":
            rows = [place] if where == "q" else list(range(place, 4 + n))
            assert np.isnan(found["out"][rows, 0, 3]).all()
            assert np.isnan(found["lse"][rows, 0]).all() == (where != "v")
        assert np.isnan(found["dq"][place, 0]).any()
        assert np.isnan(found["dk"][4 : place + 1, 0]).any(axis=1).all()


def test_a_later_key_that_is_not_finite_does_not_touch_the_bias_gradient_of_earlier_queries(isa, rng):
    # Causal at the start with more keys than queries: the last 10 keys are seen by nobody.
    q, k, v, dout, cu_q, cu_k = batch(rng, [50], [60], 1, 8)
    bias = rng.standard_normal((1, 12)).astype(np.float32)
    options = {"causal": True, "causal_align": "start", "bias": bias}
    clean = kernel(q, k, v, dout, cu_q, cu_k, **options)
    k[50:] = np.nan
    v[50:] = np.inf
    found = kernel(q, k, v, dout, cu_q, cu_k, **options)
    for name in clean:
        np.testing.assert_array_equal(found[name], clean[name], err_msg=name)


SEQUENCES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=5)
CASES = {
    "pairs": SEQUENCES,
    "dim": st.sampled_from([1, 3, 8, 17]),
    "heads": st.integers(1, 3),
    "mask": st.sampled_from(MASKS),
    "seed": st.integers(0, 2**16),
    "level": st.sampled_from(_core.isa_available()),
}


@pytest.fixture
def _restored_isa():
    before = _core.isa()
    yield
    _core.set_isa(before)


@pytest.mark.usefixtures("_restored_isa")
class TestProperties:
    @settings(max_examples=30, deadline=None)
    @given(**CASES)
    def test_sequences_of_a_batch_do_not_see_each_other(self, pairs, dim, heads, mask, seed, level):
        _core.set_isa(level)
        rng = np.random.default_rng(seed)
        q, k, v, dout, cu_q, cu_k = batch(rng, *zip(*pairs, strict=True), heads, dim)
        whole = kernel(q, k, v, dout, cu_q, cu_k, **mask)
        for s in range(len(pairs)):
            rows, keys = slice(cu_q[s], cu_q[s + 1]), slice(cu_k[s], cu_k[s + 1])
            zero_q, zero_k = offsets([pairs[s][0]]), offsets([pairs[s][1]])
            alone = kernel(q[rows], k[keys], v[keys], dout[rows], zero_q, zero_k, **mask)
            for name in ("out", "lse", "dq"):
                np.testing.assert_array_equal(alone[name], whole[name][rows], err_msg=name)
            for name in ("dk", "dv"):
                np.testing.assert_array_equal(alone[name], whole[name][keys], err_msg=name)

    @settings(max_examples=30, deadline=None)
    @given(n=st.integers(1, 300), later=st.integers(0, 80), seed=st.integers(0, 2**16), level=CASES["level"])
    def test_later_events_do_not_change_earlier_outputs(self, n, later, seed, level):
        _core.set_isa(level)
        rng = np.random.default_rng(seed)
        q, k, v, _, cu, _ = batch(rng, [n + later], [n + later], 2, 9)
        bias = rng.standard_normal((2, 30)).astype(np.float32)
        options = {"causal": True, "bias": bias, "dropout": ops.Dropout(0.3, seed)}
        whole = ops.attention_forward(q, k, v, cu, cu, **options)
        early = ops.attention_forward(q[:n], k[:n], v[:n], offsets([n]), offsets([n]), **options)
        for one, other in zip(early, whole, strict=True):
            np.testing.assert_array_equal(one, other[:n])

    @settings(max_examples=30, deadline=None)
    @given(constant=st.floats(-1000, 1000, width=32), **CASES)
    def test_a_constant_added_to_all_scores_changes_only_lse(self, constant, pairs, dim, heads, mask, seed, level):
        """By the bias. Beyond rounding: of the scores, which are as large as the constant."""
        _core.set_isa(level)
        rng = np.random.default_rng(seed)
        arrays = batch(rng, *zip(*pairs, strict=True), heads, dim)
        plain = kernel(*arrays, **mask)
        moved = kernel(*arrays, **mask, bias=np.full((heads, 1), constant, np.float32))
        rounding = float(np.spacing(np.float32(abs(constant) + 20)))
        for name in ("out", "dq", "dk", "dv"):
            room = 16 * rounding * max(1.0, np.abs(plain[name]).max(initial=0)) * max(1, arrays[0].shape[0] ** 0.5)
            np.testing.assert_allclose(moved[name], plain[name], rtol=0, atol=room, err_msg=name)
        seen = np.isfinite(plain["lse"])
        np.testing.assert_allclose(moved["lse"][seen], plain["lse"][seen] + constant, rtol=0, atol=2 * rounding)
        assert (moved["lse"][~seen] == -np.inf).all()

    @settings(max_examples=30, deadline=None)
    @given(**CASES)
    def test_random_batches_follow_the_formula(self, pairs, dim, heads, mask, seed, level):
        _core.set_isa(level)
        # A full sequence in every batch: where each query has a single key, the gradients are 0 and no measure.
        pairs, rng = [*pairs, (40, 40)], np.random.default_rng(seed)
        arrays = functools.partial(batch, rng, *zip(*pairs, strict=True), heads, dim)
        reference.assert_typical_error_within_rule(*several(lambda: (arrays(), mask)))


def test_a_workspace_and_given_arrays_give_the_same_bits(isa, rng):
    q, k, v, dout, cu_q, cu_k = batch(rng, [13, 49], [13, 49], 2, 8)
    bias = np.ones((2, 4), np.float32)
    plain = kernel(q, k, v, dout, cu_q, cu_k, causal=True, bias=bias)
    ws = Workspace()
    for _ in range(2):  # the second time in the arena
        ws.reset()
        mine, dbias = np.full_like(q, np.nan), np.full_like(bias, 2)
        out, lse = ops.attention_forward(q, k, v, cu_q, cu_k, causal=True, bias=bias, out=mine, workspace=ws)
        assert out is mine
        gradients = ops.attention_backward(
            dout, q, k, v, out, lse, cu_q, cu_k, causal=True, bias=bias, dbias=dbias, workspace=ws
        )
        assert gradients[3] is dbias
        for name, found in zip(["out", "lse", "dq", "dk", "dv"], [out, lse, *gradients[:3]], strict=True):
            np.testing.assert_array_equal(found, plain[name], err_msg=name)
        np.testing.assert_array_equal(dbias, plain["dbias"] + 2)


F, G = np.float32, np.float64
GOOD = {
    "q": np.zeros((5, 2, 4), F),
    "k": np.zeros((6, 2, 4), F),
    "v": np.zeros((6, 2, 4), F),
    "cu_seqlens_q": offsets([2, 3]),
    "cu_seqlens_k": offsets([3, 3]),
}
READ_ONLY = np.zeros((5, 2, 4), F)
READ_ONLY.setflags(write=False)
WRONG = [
    ({"q": np.zeros((5, 2, 4), G)}, TypeError, "q: expected a float32 array (5, 2, 4), got float64 (5, 2, 4)"),
    ({"v": np.zeros((6, 2, 3), F)}, ValueError, "v: expected shape (6, 2, 4), got (6, 2, 3)"),
    ({"k": np.zeros((6, 1, 4), F)}, ValueError, "k: expected shape (6, 2, 4), got (6, 1, 4)"),
    ({"k": np.zeros((6, 8), F)}, ValueError, "k: expected 3 dimensions, got shape (6, 8)"),
    ({"v": np.zeros((6, 4, 2), F).swapaxes(1, 2)}, ValueError, "v: expected a C-contiguous array"),
    ({"q": np.zeros((5, 2, 4), ">f4")}, TypeError, "q: expected a float32 array"),
    ({"q": [1.0]}, TypeError, "q: expected a NumPy array, got list"),
    ({"q": np.zeros(3, F)}, ValueError, "q: expected 3 dimensions, got shape (3,)"),
    ({"k": [1.0]}, TypeError, "k: expected a NumPy array, got list"),
    (
        {"q": np.zeros((5, 2, 0), F), "k": np.zeros((6, 2, 0), F), "v": np.zeros((6, 2, 0), F), "softmax_scale": 1.0},
        ValueError,
        "head_dim: expected 1 to 256, got 0",
    ),
    (
        {"q": np.zeros((5, 1, 257), F), "k": np.zeros((6, 1, 257), F), "v": np.zeros((6, 1, 257), F)},
        ValueError,
        "head_dim: expected 1 to 256, got 257",
    ),
    ({"cu_seqlens_q": offsets([2, 3]).astype(np.int32)}, TypeError, "cu_seqlens_q: expected a int64 array"),
    ({"cu_seqlens_q": np.array([1, 2, 5])}, ValueError, "cu_seqlens_q: expected to start with 0, got 1"),
    (
        {"cu_seqlens_k": np.array([0, 7, 6])},
        ValueError,
        "cu_seqlens_k: expected offsets that never fall, got 7 before 6",
    ),
    ({"cu_seqlens_k": np.array([0, 3, 5])}, ValueError, "cu_seqlens_k: expected to end with 6, got 5"),
    ({"cu_seqlens_k": np.array([0, 6])}, ValueError, "cu_seqlens_k: expected shape (3,), got (2,)"),
    ({"cu_seqlens_q": np.zeros(0, np.int64)}, ValueError, "cu_seqlens_q: expected at least one offset, got none"),
    ({"bias": np.zeros((3, 5), F)}, ValueError, "bias: expected shape (2, 5), got (3, 5)"),
    ({"bias": np.zeros((2, 4), F)}, ValueError, "bias: expected an odd number of distances, got 4"),
    ({"bias": np.zeros((2, 0), F), "causal": True}, ValueError, "bias: expected at least 1 distance, got 0"),
    ({"dropout": ops.Dropout(1.0)}, ValueError, "dropout: expected a rate from 0 to below 1, got 1.0"),
    ({"dropout": ops.Dropout(float("nan"))}, ValueError, "dropout: expected a rate from 0 to below 1, got nan"),
    ({"causal_align": "left"}, ValueError, "causal_align: expected one of 'end', 'start', got 'left'"),
    ({"out": READ_ONLY}, ValueError, "out: expected a writeable array, got a read-only one"),
    ({"out": np.zeros((5, 2, 5), F)}, ValueError, "out: expected shape (5, 2, 4), got (5, 2, 5)"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[case[2][:60] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(change, error, message):
    with pytest.raises(error) as caught:
        ops.attention_forward(**(GOOD | change))
    assert message in str(caught.value)


def test_the_backward_pass_checks_its_own_arguments_too():
    q, k = GOOD["q"], GOOD["k"]
    cu_q, cu_k = GOOD["cu_seqlens_q"], GOOD["cu_seqlens_k"]
    lse = np.zeros((5, 2))
    with pytest.raises(TypeError, match="lse: expected a float64 array"):
        ops.attention_backward(q, q, k, k, q, lse.astype(F), cu_q, cu_k)
    with pytest.raises(ValueError, match=r"dout: expected shape \(5, 2, 4\), got \(4, 2, 4\)"):
        ops.attention_backward(q[:4], q, k, k, q, lse, cu_q, cu_k)
    with pytest.raises(ValueError, match=r"dbias: expected shape \(2, 3\), got \(2, 4\)"):
        ops.attention_backward(
            q, q, k, k, q, lse, cu_q, cu_k, causal=True, bias=np.zeros((2, 3), F), dbias=np.zeros((2, 4), F)
        )
