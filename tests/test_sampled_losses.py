"""Losses of the target against sampled items that all rows share: softmax and binary cross-entropy."""

import functools

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import both

from regard import _core, ops
from regard.workspace import Workspace

LOSSES = ["softmax", "bce"]
NAMES = ["loss", "dh", "ditem_vectors"]


def arrays(rng, n, n_items, dim, k, size=1.0):
    """h, item_vectors, targets, negatives: repeats and targets among them where the catalogue is small."""
    h = (rng.standard_normal((n, dim)) * size).astype(np.float32)
    item_vectors = (rng.standard_normal((n_items, dim)) * size).astype(np.float32)
    return h, item_vectors, *(rng.integers(0, n_items, m).astype(np.int32) for m in (n, k))


def settings_of(rng, loss, k):
    """The options of a loss, with its own argument in use."""
    if loss == "softmax":
        return {"loss": loss, "log_expected": rng.standard_normal(k).astype(np.float32)}
    return {"loss": loss, "beta": 0.3}


def draw(h, item_vectors, targets, negatives, **options):
    """What the kernel found, what the formula gives, and plain float32."""
    expected = options.pop("log_expected", None)

    def formula(h, item_vectors, targets, negatives, log_expected):
        given_arrays = h, item_vectors, targets, negatives
        value = reference.sampled_loss(*given_arrays, log_expected=log_expected, **options)
        return value, *reference.sampled_loss_backward(*given_arrays, log_expected=log_expected, **options)

    found = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, log_expected=expected, **options)
    return found, *both(formula, h, item_vectors, targets, negatives, expected)


def check(*given_arrays, **options):
    """Holds the results to the rule; gives them."""
    one = draw(*given_arrays, **options)
    reference.assert_draws_within_rule([one], NAMES)
    return one[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_reference_gradients_are_those_of_central_differences(loss, rng):
    h, item_vectors = rng.standard_normal((4, 3)), rng.standard_normal((6, 3))
    targets, negatives = np.array([0, 5, 2, 2]), np.array([3, 5, 1, 3, 2])  # repeats, targets among them
    options = {"loss": loss} | ({"log_expected": rng.standard_normal(5)} if loss == "softmax" else {"beta": 0.3})
    found = reference.sampled_loss_backward(h, item_vectors, targets, negatives, **options)
    values = {"h": h, "item_vectors": item_vectors}

    def value(name, x):
        return reference.sampled_loss(**(values | {name: x}), targets=targets, negatives=negatives, **options)

    for name, gradient in zip(values, found, strict=True):
        expected = reference.central_differences(functools.partial(value, name), values[name])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k", [1, 2, 3, 7, 15, 16, 17, 31, 511, 512, 513, 1025])
def test_every_number_of_negatives_follows_the_formula(k, loss, isa, rng):
    draws = [draw(*arrays(rng, 60, 900, 8, k, size=0.6), **settings_of(rng, loss, k)) for _ in range(4)]
    reference.assert_draws_within_rule(draws, NAMES)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 11, 12, 13, 47, 48, 49, 97, 600])
def test_every_number_of_rows_follows_the_formula(n, loss, isa, rng):
    draws = [draw(*arrays(rng, n, 300, 8, 33), **settings_of(rng, loss, 33)) for _ in range(max(1, 100 // n))]
    reference.assert_draws_within_rule(draws, NAMES)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dim", [1, 3, 8, 15, 50, 64, 256])
def test_every_width_follows_the_formula(dim, loss, isa, rng):
    check(*arrays(rng, 61, 530, dim, 70, size=dim**-0.25), **settings_of(rng, loss, 70))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_most_negatives_that_are_allowed_follow_the_formula(loss, isa, rng):
    check(*arrays(rng, 9, 20_000, 4, 16_384), **settings_of(rng, loss, 16_384))


def test_softmax_over_every_item_once_is_the_cross_entropy_over_the_catalogue(isa, rng):
    h, item_vectors, targets, _ = arrays(rng, 100, 300, 8, 1)
    negatives = rng.permutation(300).astype(np.int32)
    for expected in (None, np.zeros(300, np.float32)):
        found = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, log_expected=expected)
        exact, naive = (
            [reference.cross_entropy(*three)[0], *reference.cross_entropy_backward(*three)]
            for three in ((h.astype(t), item_vectors.astype(t), targets) for t in (np.float64, np.float32))
        )
        reference.assert_draws_within_rule([(found, exact, naive)], NAMES)


def test_the_correction_makes_the_sum_over_samples_that_over_the_catalogue_on_average(isa, rng):
    """exp(loss + t) - exp(t) is the sum over the negatives; its mean over many samples, one at a time."""
    h, item_vectors, targets, _ = arrays(rng, 1, 40, 8, 1, size=0.5)
    share = rng.uniform(0.5, 2, 40)
    share[targets[0]] = 0
    share /= share.sum()
    t = float(h[0] @ item_vectors[targets[0]])
    sums = []
    for item in range(40):
        negative, expected = np.array([item], np.int32), np.array([share[item]], np.float32)
        if share[item] > 0:
            loss, *_ = ops.sampled_loss_value_and_grad(
                h, item_vectors, targets, negative, log_expected=np.log(expected)
            )
            sums.append(share[item] * (np.exp(loss + t) - np.exp(t)))
    whole, _ = ops.cross_entropy_forward(h, item_vectors, targets)
    assert sum(sums) == pytest.approx(np.exp(whole + t) - np.exp(t), rel=1e-5)


def test_one_negative_and_beta_one_is_the_loss_of_sasrec(isa, rng):
    h, item_vectors, _, _ = arrays(rng, 30, 100, 8, 1)
    targets, negative = np.arange(30, dtype=np.int32), np.array([99], np.int32)
    loss, *_ = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negative, loss="bce")
    t, s = (h * item_vectors[:30]).sum(axis=1), h @ item_vectors[99]
    sigmoid = [1 / (1 + np.exp(-x.astype(float))) for x in (t, s)]
    assert loss == pytest.approx(-(np.log(sigmoid[0]) + np.log(1 - sigmoid[1])).mean() / 2, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k", [1, 16, 600])
def test_a_row_whose_negatives_are_all_its_target_has_the_target_alone(k, loss, isa, rng):
    h, item_vectors, targets, _ = arrays(rng, 5, 50, 8, 1)
    targets[:], options = 7, settings_of(rng, loss, k)
    value, dh, ditems = check(h, item_vectors, targets, np.full(k, 7, np.int32), **options)
    if loss == "softmax":
        assert (value, dh.any(), ditems.any()) == (0, False, False)
    else:
        t = (h @ item_vectors[7]).astype(float)
        assert value == pytest.approx(0.3 * np.log1p(np.exp(-t)).mean(), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_target_among_the_negatives_is_left_out_of_its_row_alone(loss, isa, rng):
    h, item_vectors, _, _ = arrays(rng, 2, 50, 8, 1)
    targets, negatives = np.array([3, 4], np.int32), np.array([9, 3, 12], np.int32)
    both_rows = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, loss=loss)
    first = ops.sampled_loss_value_and_grad(h[:1], item_vectors, targets[:1], negatives[[0, 2]], loss=loss)
    second = ops.sampled_loss_value_and_grad(h[1:], item_vectors, targets[1:], negatives, loss=loss)
    assert both_rows[0] == pytest.approx((first[0] + second[0]) / 2, rel=1e-6)
    np.testing.assert_allclose(both_rows[1], np.concatenate([first[1], second[1]]) / 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(both_rows[2], (first[2] + second[2]) / 2, rtol=0, atol=1e-6)


def test_a_negative_drawn_twice_counts_twice(isa, rng):
    h, item_vectors, targets, _ = arrays(rng, 40, 10, 8, 1)
    twice = np.array([11, 12, 11], np.int32)
    item_vectors = np.concatenate([item_vectors, rng.standard_normal((3, 8)).astype(np.float32)])
    expected = np.array([-np.log(2), 0], np.float32)
    plain = ops.sampled_loss_value_and_grad(h, item_vectors, targets, twice)
    once = ops.sampled_loss_value_and_grad(h, item_vectors, targets, twice[:2], log_expected=expected)
    for found, other in zip(plain, once, strict=True):
        np.testing.assert_allclose(found, other, rtol=0, atol=1e-6)
    copies = item_vectors.copy()
    copies[10] = copies[11]
    apart = ops.sampled_loss_value_and_grad(h, copies, targets, np.array([11, 12, 10], np.int32), loss="bce")
    together = ops.sampled_loss_value_and_grad(h, copies, targets, twice, loss="bce")
    assert apart[0] == together[0]
    np.testing.assert_allclose(together[2][11], apart[2][10] + apart[2][11], rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_rows_give_loss_zero_and_no_gradient(loss, isa, rng):
    value, dh, ditems = ops.sampled_loss_value_and_grad(*arrays(rng, 0, 20, 8, 5), loss=loss)
    assert (value, dh.shape, ditems.any()) == (0, (0, 8), False)


@pytest.mark.parametrize("loss", LOSSES)
def test_scores_of_ten_thousand_neither_overflow_nor_lose_their_digits(loss, isa, rng):
    value, *_ = check(*arrays(rng, 1000, 600, 8, 100, size=50), **settings_of(rng, loss, 100))
    assert value > 1000
    h, t = np.full((1, 8), 35.0, np.float32), np.zeros(1, np.int32)
    for sign in (1, -1):  # the target's score is 9,800 or its negative, all others are the opposite
        item_vectors = np.full((30, 8), -35.0 * sign, np.float32)
        item_vectors[0] *= -1
        value, dh, _ = check(h, item_vectors, t, np.arange(30, dtype=np.int32), loss=loss)
        wrong = {"softmax": 19_600 + np.log(29), "bce": 9800}[loss]
        assert value == pytest.approx(0 if sign == 1 else wrong, rel=1e-6)
        assert dh.any() == (sign == -1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("score", [10.0, 30.0, 60.0])
def test_small_losses_keep_their_digits(loss, score, isa):
    """The target far above, the negatives far below: every term is about exp(-score)."""
    h, item_vectors = np.ones((1, 1), np.float32), np.full((20, 1), -score, np.float32)
    item_vectors[0] = score
    value, dh, _ = ops.sampled_loss_value_and_grad(
        h, item_vectors, np.zeros(1, np.int32), np.arange(1, 20, dtype=np.int32), loss=loss
    )
    if loss == "bce":
        assert value == pytest.approx(np.log1p(np.exp(-score)), rel=1e-6)
        assert dh[0, 0] == pytest.approx(-score / (1 + np.exp(score)), rel=1e-6)
    else:
        assert dh[0, 0] == pytest.approx(-2 * score * 19 / (19 + np.exp(2 * score)), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_stays_in_its_gradient_and_the_items_it_touches(bad, loss, isa, rng):
    h, item_vectors, targets, negatives = arrays(rng, 60, 600, 8, 40)
    clean = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, loss=loss)
    h[20, 3] = bad
    value, dh, ditems = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, loss=loss)
    others = np.arange(60) != 20
    np.testing.assert_array_equal(dh[others], clean[1][others])
    assert not np.isfinite(value)
    touched = np.isin(np.arange(600), [*negatives, targets[20]])
    np.testing.assert_array_equal(ditems[~touched], clean[2][~touched])
    if np.isnan(bad):
        assert np.isnan(dh[20]).all()
        assert np.isnan(ditems[touched]).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_added_to_what_is_there_and_other_items_are_left_alone(loss, isa, rng):
    h, item_vectors, targets, negatives = arrays(rng, 30, 200, 8, 20)
    plain = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, loss=loss)
    start = rng.standard_normal(item_vectors.shape).astype(np.float32)
    table = start.copy()
    found = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, loss=loss, ditem_vectors=table)
    assert found[2] is table
    np.testing.assert_allclose(table - start, plain[2], rtol=0, atol=2e-6)
    rest = ~np.isin(np.arange(200), [*negatives, *targets])
    np.testing.assert_array_equal(table[rest], start[rest])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_workspace_and_any_number_of_threads_give_the_same_bits(loss, threads, rng):
    given_arrays, ws = arrays(rng, 2000, 900, 20, 130), Workspace()
    _core.set_num_threads(1)
    plain = ops.sampled_loss_value_and_grad(*given_arrays, loss=loss)
    _core.set_num_threads(threads)
    for _ in range(2):
        ws.reset()
        found = ops.sampled_loss_value_and_grad(*given_arrays, loss=loss, workspace=ws)
        for one, other in zip(found, plain, strict=True):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 60),
    n_items=st.integers(1, 50),
    k=st.integers(1, 600),
    dim=st.integers(1, 20),
    loss=st.sampled_from(LOSSES),
    seed=st.integers(0, 2**16),
    level=st.sampled_from(_core.isa_available()),
)
def test_the_order_of_the_negatives_changes_only_the_rounding(n, n_items, k, dim, loss, seed, level):
    before = _core.isa()
    _core.set_isa(level)
    try:
        rng = np.random.default_rng(seed)
        h, item_vectors, targets, negatives = arrays(rng, n, n_items, dim, k)
        order = rng.permutation(k)
        expected = rng.standard_normal(k).astype(np.float32) if loss == "softmax" else None
        one = ops.sampled_loss_value_and_grad(h, item_vectors, targets, negatives, loss=loss, log_expected=expected)
        other = ops.sampled_loss_value_and_grad(
            h,
            item_vectors,
            targets,
            negatives[order],
            loss=loss,
            log_expected=None if expected is None else expected[order],
        )
        for found, moved in zip(one, other, strict=True):
            np.testing.assert_allclose(found, moved, rtol=2e-5, atol=2e-5)
    finally:
        _core.set_isa(before)


H, ITEMS = np.zeros((3, 4), np.float32), np.zeros((5, 4), np.float32)
TARGETS, NEGATIVES = np.array([0, 4, 2], np.int32), np.array([1, 1], np.int32)
MANY = np.zeros(16_385, np.int32)
READ_ONLY = np.zeros((5, 4), np.float32)
READ_ONLY.setflags(write=False)
WRONG = [
    ({"h": H.astype(np.float64)}, TypeError, "h: expected a float32 array (3, 4), got float64 (3, 4)"),
    ({"h": H[0]}, ValueError, "h: expected 2 dimensions, got shape (4,)"),
    ({"item_vectors": ITEMS[:, :3].copy()}, ValueError, "item_vectors: expected shape (5, 4), got (5, 3)"),
    ({"item_vectors": ITEMS[:0]}, ValueError, "n_items: expected at least 1, got 0"),
    ({"h": H[:, :0], "item_vectors": ITEMS[:, :0]}, ValueError, "dim: expected at least 1, got 0"),
    ({"targets": TARGETS[:2]}, ValueError, "targets: expected shape (3,), got (2,)"),
    ({"targets": TARGETS + np.int32(1)}, ValueError, "targets: expected rows from 0 to 4, got 5 at place 1"),
    ({"negatives": NEGATIVES.astype(int)}, TypeError, "negatives: expected a int32 array (2,), got int64 (2,)"),
    ({"negatives": NEGATIVES - np.int32(2)}, ValueError, "negatives: expected rows from 0 to 4, got -1 at place 0"),
    ({"negatives": NEGATIVES[:0]}, ValueError, "negatives: expected 1 to 16384 items, got 0"),
    ({"negatives": MANY}, ValueError, "negatives: expected 1 to 16384 items, got 16385"),
    ({"negatives": [1, 2]}, TypeError, "negatives: expected a NumPy array, got list"),
    ({"loss": "hinge"}, ValueError, "loss: expected one of 'softmax', 'bce', got 'hinge'"),
    ({"log_expected": np.zeros(2)}, TypeError, "log_expected: expected a float32 array (2,), got float64 (2,)"),
    ({"log_expected": np.zeros(3, np.float32)}, ValueError, "log_expected: expected shape (2,), got (3,)"),
    (
        {"log_expected": np.array([0, -np.inf], np.float32)},
        ValueError,
        "log_expected: expected finite numbers, got -inf",
    ),
    (
        {"loss": "bce", "log_expected": np.zeros(2, np.float32)},
        ValueError,
        "log_expected: expected none with the loss bce, got an array",
    ),
    ({"beta": 0.5}, ValueError, "beta: expected 1 with the loss softmax, got 0.5"),
    ({"loss": "bce", "beta": -0.5}, ValueError, "beta: expected at least 0, got -0.5"),
    ({"loss": "bce", "beta": np.nan}, ValueError, "beta: expected at least 0, got nan"),
    ({"ditem_vectors": READ_ONLY}, ValueError, "ditem_vectors: expected a writeable array, got a read-only one"),
    ({"ditem_vectors": H}, ValueError, "ditem_vectors: expected shape (5, 4), got (3, 4)"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[case[2][:50] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(change, error, message):
    arguments = {"h": H, "item_vectors": ITEMS, "targets": TARGETS, "negatives": NEGATIVES} | change
    with pytest.raises(error) as caught:
        ops.sampled_loss_value_and_grad(**arguments)
    assert message in str(caught.value)
