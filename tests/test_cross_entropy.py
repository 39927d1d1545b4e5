"""Softmax cross-entropy over the catalogue: the pair, and loss and gradients in one call."""

import functools
import itertools

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import _core, ops
from regard.losses import smoothing
from regard.ragged import Ragged
from regard.workspace import NEW, Workspace


def arrays(rng, n, n_items, dim, size=1.0):
    h = (rng.standard_normal((n, dim)) * size).astype(np.float32)
    item_vectors = (rng.standard_normal((n_items, dim)) * size).astype(np.float32)
    return h, item_vectors, rng.integers(0, n_items, n).astype(np.int32)


NAMES = ["loss", "lse", "dh", "ditem_vectors", "loss at once", "dh at once", "ditem_vectors at once"]


def draw(h, item_vectors, targets, weights=None):
    """What the pair and the one call found, what the formula gives, and plain float32."""
    exact, naive = [], []
    for dtype, results in ((np.float64, exact), (np.float32, naive)):
        w = None if weights is None else weights.astype(dtype)
        given_arrays = h.astype(dtype), item_vectors.astype(dtype), targets
        results += [*reference.cross_entropy(*given_arrays, w), *reference.cross_entropy_backward(*given_arrays, w)]
    loss, lse = ops.cross_entropy_forward(h, item_vectors, targets, weights)
    dh, ditems = ops.cross_entropy_backward(h, item_vectors, targets, lse, weights)
    whole = ops.cross_entropy_value_and_grad(h, item_vectors, targets, weights)
    found = [loss, lse, dh, ditems, *whole]
    return found, [*exact, exact[0], *exact[2:]], [*naive, naive[0], *naive[2:]]


def check(*arrays):
    """Holds all results to the rule; gives what the pair found."""
    one = draw(*arrays)
    reference.assert_draws_within_rule([one], NAMES)
    return one[0][:4]


def histories(rng, lengths, targets, n_items):
    """Events of histories, some of before the first row, where sequences begin, and what each row leaves out.

    Some events come again, and some are the row's own target.
    """
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = []
    left_out = np.zeros((len(targets), n_items), bool)
    for begin, end in itertools.pairwise(cu_seqlens):
        own = rng.integers(0, n_items, end - begin)
        again = rng.random(len(own)) < 0.2
        own[again] = targets[begin:end][again]
        before = rng.integers(0, n_items, rng.choice([0, 3, 150]))
        rows.append(np.concatenate([before, own]).astype(np.int32))
        for row in range(begin, end):
            left_out[row, rows[-1][: len(before) + row - begin + 1]] = True
    left_out[np.arange(len(targets)), targets] = False
    return Ragged.from_lists(rows, np.int32), cu_seqlens, left_out


def draw_unseen(rng, lengths, n_items, dim, weights=None):
    h, item_vectors, targets = arrays(rng, sum(lengths), n_items, dim)
    seen, cu_seqlens, left_out = histories(rng, lengths, targets, n_items)
    found = ops.cross_entropy_value_and_grad(h, item_vectors, targets, weights, seen=seen, cu_seqlens=cu_seqlens)
    expected = []
    for dtype in (np.float64, np.float32):
        w = None if weights is None else weights.astype(dtype)
        given_arrays = h.astype(dtype), item_vectors.astype(dtype), targets, w
        loss, _ = reference.cross_entropy(*given_arrays, left_out=left_out)
        expected.append([loss, *reference.cross_entropy_backward(*given_arrays, left_out=left_out)])
    return found, *expected


@pytest.mark.parametrize("lengths", [[1], [0, 3, 0, 1, 7], [64, 64], [1, 63, 2, 62], [200, 1, 130], [5] * 40])
@pytest.mark.parametrize("n_items", [2, 37, 256, 700, 65537])
def test_a_softmax_without_what_was_seen_follows_the_formula(lengths, n_items, isa, rng):
    n = 1 if n_items == 65537 else max(1, 100 // sum(lengths))
    draws = [draw_unseen(rng, lengths, n_items, 8) for _ in range(n)]
    reference.assert_draws_within_rule(draws, ["loss", "dh", "ditem_vectors"])


def test_rows_of_weight_zero_leave_out_nothing_of_the_others(isa, rng):
    weights = rng.uniform(1, 3, 90).astype(np.float32)
    weights[::3] = 0
    draws = [draw_unseen(rng, [30, 60], 300, 8, weights)]
    reference.assert_draws_within_rule(draws, ["loss", "dh", "ditem_vectors"])


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("n_items", [500, 70_000])
def test_what_is_left_out_has_no_gradient_and_does_not_count_however_great_its_score(precision, n_items, isa, rng):
    h, item_vectors, targets = arrays(rng, 130, n_items, 16)
    targets[targets == 3] = 4
    seen = Ragged(np.full(130, 3, np.int32), [0, 130])
    few = {"seen": seen, "cu_seqlens": np.array([0, 130]), "precision": precision}
    loss, dh, ditems = ops.cross_entropy_value_and_grad(h, item_vectors, targets, **few)
    item_vectors[3] *= 1000
    for one, other in zip(
        ops.cross_entropy_value_and_grad(h, item_vectors, targets, **few), (loss, dh, ditems), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert (ditems[3] == 0).all()
    assert (ditems[targets] != 0).all()


def test_where_only_the_target_is_left_nothing_is_lost(isa, rng):
    h, item_vectors, _ = arrays(rng, 3, 2, 5)
    seen, targets = Ragged(np.array([0, 0, 1], np.int32), [0, 3]), np.array([1, 1, 0], np.int32)
    loss, dh, ditems = ops.cross_entropy_value_and_grad(h, item_vectors, targets, seen=seen, cu_seqlens=seen.offsets)
    assert loss == 0
    assert not dh.any()
    assert not ditems.any()


@pytest.mark.parametrize("weighted", [False, True])
def test_reference_gradients_are_those_of_central_differences(weighted, rng):
    h, item_vectors, targets = arrays(rng, 4, 6, 3)
    h, item_vectors = h.astype(np.float64), item_vectors.astype(np.float64)
    weights = np.array([1.0, 0.0, 2.5, 0.3]) if weighted else None
    *_, left_out = histories(rng, [1, 3], targets, 6)
    how = {"targets": targets, "row_weights": weights, "left_out": left_out if weighted else None}
    found = reference.cross_entropy_backward(h, item_vectors, **how, dloss=1.7)
    values = {"h": h, "item_vectors": item_vectors}

    def loss(name, x):
        return 1.7 * reference.cross_entropy(**(values | {name: x}), **how)[0]

    for name, gradient in zip(values, found, strict=True):
        expected = reference.central_differences(functools.partial(loss, name), values[name])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 11, 12, 13, 47, 48, 49, 97])
@pytest.mark.parametrize("n_items", [1, 15, 17, 300])
def test_every_number_of_rows_follows_the_formula(n, n_items, isa, rng):
    draws = [draw(*arrays(rng, n, n_items, 8)) for _ in range(max(1, 100 // n))]
    reference.assert_draws_within_rule(draws, NAMES)


@pytest.mark.parametrize("n_items", [2, 3, 7, 16, 31, 511, 512, 513, 1023, 1025, 2100])
def test_every_number_of_items_follows_the_formula(n_items, isa, rng):
    check(*arrays(rng, 50, n_items, 6))


@pytest.mark.parametrize("dim", [1, 3, 8, 15, 50, 64, 256])
def test_every_width_follows_the_formula(dim, isa, rng):
    check(*arrays(rng, 61, 530, dim, size=dim**-0.25))


def test_rows_and_items_in_many_parts_follow_the_formula(isa, rng):
    check(*arrays(rng, 1100, 2100, 5))


def test_a_catalogue_too_large_to_keep_its_probabilities_follows_the_formula(isa, rng):
    check(*arrays(rng, 9, 65537, 4))


def test_row_weights_are_those_of_a_weighted_mean(isa, rng):
    h, item_vectors, targets = arrays(rng, 70, 100, 8)
    weights = rng.uniform(0, 3, 70).astype(np.float32)
    weights[::5] = 0
    loss, _, dh, _ = check(h, item_vectors, targets, weights)
    assert (dh[::5] == 0).all()
    some = weights > 0
    assert loss == pytest.approx(ops.cross_entropy_forward(h[some], item_vectors, targets[some], weights[some])[0])


def test_a_row_of_weight_zero_may_hold_anything(isa, rng):
    h, item_vectors, targets = rng.standard_normal((70, 9)), rng.standard_normal((600, 9)), rng.integers(0, 600, 70)
    h, item_vectors, targets = h.astype(np.float32), item_vectors.astype(np.float32), targets.astype(np.int32)
    weights = rng.uniform(1, 3, 70).astype(np.float32)
    weights[::5] = 0
    spoilt = h.copy()
    spoilt[::10], spoilt[5::10] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        for one, other in zip(
            results(h, item_vectors, targets, weights), results(spoilt, item_vectors, targets, weights), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def results(h, item_vectors, targets, weights):
    loss, lse = ops.cross_entropy_forward(h, item_vectors, targets, weights)
    return (
        loss,
        *ops.cross_entropy_backward(h, item_vectors, targets, lse, weights),
        *ops.cross_entropy_value_and_grad(h, item_vectors, targets, weights),
    )


def test_weights_that_sum_to_zero_give_loss_zero_and_no_gradient(isa, rng):
    h, item_vectors, targets = arrays(rng, 5, 20, 8)
    nothing = np.zeros(5, np.float32)
    loss, lse = ops.cross_entropy_forward(h, item_vectors, targets, nothing)
    dh, ditems = ops.cross_entropy_backward(h, item_vectors, targets, lse, nothing)
    assert loss == 0
    assert not dh.any()
    assert not ditems.any()
    loss, dh, ditems = ops.cross_entropy_value_and_grad(h, item_vectors, targets, nothing)
    assert (loss, dh.any(), ditems.any()) == (0, False, False)


def test_no_rows_give_loss_zero_and_no_gradient(isa, rng):
    h, item_vectors, targets = arrays(rng, 0, 20, 8)
    loss, lse = ops.cross_entropy_forward(h, item_vectors, targets)
    assert (loss, lse.shape) == (0, (0,))
    assert not ops.cross_entropy_backward(h, item_vectors, targets, lse)[1].any()
    loss, dh, ditems = ops.cross_entropy_value_and_grad(h, item_vectors, targets)
    assert (loss, dh.shape, ditems.any()) == (0, (0, 8), False)


def test_scores_of_ten_thousand_neither_overflow_nor_lose_their_digits(isa, rng):
    h, item_vectors, targets = arrays(rng, 1000, 600, 8, size=50)  # in many rows two scores are near
    _, lse, _, _ = check(h, item_vectors, targets)
    assert lse.max() > 1e4
    alike = np.full((30, 8), 35.0, np.float32)  # every score is 9,800 or its negative exactly
    for sign in (1, -1):
        loss, lse, _, _ = check(alike[:4], alike * sign, targets[:4] % 30)
        np.testing.assert_allclose(lse, sign * 9800 + np.log(30), rtol=0, atol=1e-9)
        assert loss == pytest.approx(np.log(30), abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_does_not_touch_the_other_rows(bad, isa, rng):
    h, item_vectors, targets = arrays(rng, 60, 600, 8)
    _, lse = ops.cross_entropy_forward(h, item_vectors, targets)
    dh, _ = ops.cross_entropy_backward(h, item_vectors, targets, lse)
    h[20, 3] = bad
    loss, found = ops.cross_entropy_forward(h, item_vectors, targets)
    assert np.isnan(loss)
    others = np.arange(60) != 20
    np.testing.assert_array_equal(found[others], lse[others])
    found, ditems = ops.cross_entropy_backward(h, item_vectors, targets, found)
    np.testing.assert_array_equal(found[others], dh[others])
    assert np.isnan(found[20]).all()
    assert np.isnan(ditems).all()
    clean = ops.cross_entropy_value_and_grad(np.where(np.isfinite(h), h, 0), item_vectors, targets)[1]
    loss, found, ditems = ops.cross_entropy_value_and_grad(h, item_vectors, targets)
    np.testing.assert_array_equal(found[others], clean[others])
    assert np.isnan(loss)
    assert np.isnan(found[20]).all()
    assert np.isnan(ditems).all()


def test_gradients_are_multiplied_by_dloss_and_added_to_what_is_there(isa, rng):
    h, item_vectors, targets = arrays(rng, 30, 100, 8)
    _, lse = ops.cross_entropy_forward(h, item_vectors, targets)
    dh, ditems = ops.cross_entropy_backward(h, item_vectors, targets, lse)
    table = np.zeros_like(item_vectors)
    twice = ops.cross_entropy_backward(h, item_vectors, targets, lse, dloss=2.0, ditem_vectors=table)
    assert twice[1] is table
    np.testing.assert_array_equal(twice[0], 2 * dh)
    np.testing.assert_array_equal(table, 2 * ditems)
    start = rng.standard_normal(table.shape).astype(np.float32)
    for call in (
        lambda t: ops.cross_entropy_backward(h, item_vectors, targets, lse, ditem_vectors=t)[1],
        lambda t: ops.cross_entropy_value_and_grad(h, item_vectors, targets, ditem_vectors=t)[2],
    ):
        table = start.copy()
        assert call(table) is table
        np.testing.assert_allclose(table - start, ditems, rtol=0, atol=2e-6)


def test_a_workspace_gives_the_same_bits(isa, rng):
    h, item_vectors, targets = arrays(rng, 30, 100, 8)
    plain = ops.cross_entropy_value_and_grad(h, item_vectors, targets)
    ws = Workspace()
    for _ in range(2):
        ws.reset()
        found = ops.cross_entropy_value_and_grad(h, item_vectors, targets, workspace=ws)
        assert found[0] == plain[0]
        np.testing.assert_array_equal(found[1], plain[1])
        np.testing.assert_array_equal(found[2], plain[2])


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 60),
    n_items=st.integers(1, 700),
    seed=st.integers(0, 2**16),
    constant=st.integers(-1000, 1000),
    level=st.sampled_from(_core.isa_available()),
)
def test_a_constant_added_to_all_scores_changes_only_lse(n, n_items, seed, constant, level):
    """By one more column: 1 in every item, the constant in every row. Beyond the rounding of scores that large."""
    before = _core.isa()
    _core.set_isa(level)
    try:
        h, item_vectors, targets = arrays(np.random.default_rng(seed), n, n_items, 4)
        rows = np.column_stack([np.full(n, constant), h]).astype(np.float32)
        items = np.column_stack([np.ones(n_items), item_vectors]).astype(np.float32)
        loss, lse = ops.cross_entropy_forward(h, item_vectors, targets)
        moved, moved_lse = ops.cross_entropy_forward(rows, items, targets)
        rounding = float(np.spacing(np.float32(abs(constant) + 40)))
        np.testing.assert_allclose(moved_lse, lse + constant, rtol=0, atol=4 * rounding)
        assert moved == pytest.approx(loss, abs=8 * rounding)
    finally:
        _core.set_isa(before)


def test_rows_do_not_see_each_other(isa, rng):
    h, item_vectors, targets = arrays(rng, 100, 700, 9)
    _, lse = ops.cross_entropy_forward(h, item_vectors, targets)
    ones = [ops.cross_entropy_forward(h[i : i + 1], item_vectors, targets[i : i + 1])[1][0] for i in range(100)]
    np.testing.assert_array_equal(lse, ones)


H, ITEMS, TARGETS = np.zeros((3, 4), np.float32), np.zeros((5, 4), np.float32), np.array([0, 4, 2], np.int32)
WRONG = [
    ((H.astype(np.float64), ITEMS, TARGETS), TypeError, "h: expected a float32 array (3, 4), got float64 (3, 4)"),
    ((H[0], ITEMS, TARGETS), ValueError, "h: expected 2 dimensions, got shape (4,)"),
    ((H, ITEMS[:, :3].copy(), TARGETS), ValueError, "item_vectors: expected shape (5, 4), got (5, 3)"),
    ((H, ITEMS[::2], TARGETS), ValueError, "item_vectors: expected a C-contiguous array, got strides (32, 4)"),
    ((H, ITEMS[:0], TARGETS), ValueError, "n_items: expected at least 1, got 0"),
    ((H[:, :0], ITEMS[:, :0], TARGETS), ValueError, "dim: expected at least 1, got 0"),
    ((H, ITEMS, TARGETS.astype(np.int64)), TypeError, "targets: expected a int32 array (3,), got int64 (3,)"),
    ((H, ITEMS, TARGETS[:2]), ValueError, "targets: expected shape (3,), got (2,)"),
    ((H, ITEMS, np.array([0, 5, 1], np.int32)), ValueError, "targets: expected rows from 0 to 4, got 5 at place 1"),
    ((H, ITEMS, np.array([0, 1, -1], np.int32)), ValueError, "targets: expected rows from 0 to 4, got -1 at place 2"),
    ((H, ITEMS, TARGETS, np.ones(4, np.float32)), ValueError, "row_weights: expected shape (3,), got (4,)"),
    ((H, ITEMS, TARGETS, np.ones(3)), TypeError, "row_weights: expected a float32 array (3,), got float64 (3,)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG, ids=[case[2][:50] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(arguments, error, message):
    for function in (ops.cross_entropy_forward, ops.cross_entropy_value_and_grad):
        with pytest.raises(error) as caught:
            function(*arguments)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("seen", "cu_seqlens", "message"),
    [
        ([[0, 5, 1]], [0, 3], "seen: expected rows from 0 to 4, got 5 at place 1"),
        ([[0, 1], [2]], [0, 1, 3], "seen: expected at least the 2 events of sequence 1, got 1"),
        ([[0, 1, 2]], [0, 1, 3], "seen offsets: expected shape (3,), got (2,)"),
        ([[0, 1, 2]], [0, 2], "cu_seqlens: expected to end with 3, got 2"),
        ([[0], [1], [2]], [0, 2, 1, 3], "cu_seqlens: expected offsets that never fall, got 2 before 1 at 1"),
        ([[0, 1, 2]], None, "cu_seqlens: expected a int64 array (any,), got NoneType"),
    ],
)
def test_wrong_histories_are_named(seen, cu_seqlens, message):
    offsets = None if cu_seqlens is None else np.array(cu_seqlens)
    with pytest.raises((ValueError, TypeError)) as caught:
        ops.cross_entropy_value_and_grad(H, ITEMS, TARGETS, seen=Ragged.from_lists(seen, np.int32), cu_seqlens=offsets)
    assert message in str(caught.value)


def test_wrong_precision_and_gradients_are_named():
    with pytest.raises(ValueError, match="precision: expected one of 'highest', 'high', 'medium', got 'low'"):
        ops.cross_entropy_value_and_grad(H, ITEMS, TARGETS, precision="low")
    table = np.zeros_like(ITEMS)
    table.setflags(write=False)
    with pytest.raises(ValueError, match="ditem_vectors: expected a writeable array, got a read-only one"):
        ops.cross_entropy_value_and_grad(H, ITEMS, TARGETS, ditem_vectors=table)
    with pytest.raises(TypeError, match=r"lse: expected a float64 array \(3,\), got float32 \(3,\)"):
        ops.cross_entropy_backward(H, ITEMS, TARGETS, np.zeros(3, np.float32))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_smoothing_makes_it_the_cross_entropy_of_smoothed_targets(share, rng):
    h, item_vectors, targets = arrays(rng, 70, 40, 7)
    loss, dh, ditems = ops.cross_entropy_value_and_grad(h, item_vectors, targets)
    loss += smoothing(h, item_vectors, targets, share, dh, ditems, ws=NEW)

    h, item_vectors = h.astype(np.float64), item_vectors.astype(np.float64)
    scores = h @ item_vectors.T
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    wanted = np.full((70, 40), share / 40)
    wanted[np.arange(70), targets] += 1 - share
    slopes = (np.exp(log_p) - wanted) / 70
    np.testing.assert_allclose(loss, -(wanted * log_p).sum(axis=1).mean(), rtol=1e-6)
    np.testing.assert_allclose(dh, slopes @ item_vectors, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ditems, slopes.T @ h, rtol=0, atol=1e-6)
