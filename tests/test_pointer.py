"""The loss in which items of the history have a second way to be the answer."""

import functools
from itertools import pairwise

import numpy as np
import pytest
import reference
from reference import both

from regard import _core, ops
from regard.workspace import Workspace

NAMES = ["loss", "dh", "ditem_vectors", "dby_age"]


def log_sum(x):
    greatest = x.max(initial=-np.inf)
    return greatest + np.log(np.exp(x - greatest).sum()) if np.isfinite(greatest) else x.dtype.type(-np.inf)


def formula(h, item_vectors, targets, items, by_age, cu_seqlens, negatives, log_expected):
    """Loss, dh, ditem_vectors, dby_age, row by row."""
    n, loss = max(len(h), 1), h.dtype.type(0)
    dh, dvectors, dby_age = np.zeros_like(h), np.zeros_like(item_vectors), np.zeros_like(by_age)
    for row in range(len(h)):
        start = cu_seqlens[np.searchsorted(cu_seqlens, row, "right") - 1]
        past, target = items[start : row + 1][::-1], targets[row]  # newest first
        others = np.delete(np.arange(len(item_vectors)), target) if negatives is None else negatives
        others, less = others[others != target], 0
        if log_expected is not None:
            less = log_expected[negatives != target]
        own, rest = h[row] @ item_vectors[target], item_vectors[others] @ h[row] - less
        again = by_age[row, : len(past)]
        found = past == target
        whole = log_sum(np.concatenate([[own], rest, again]))
        right = log_sum(np.concatenate([[own], again[found]]))
        loss += (whole - right) / n
        down, drest = np.exp(own - whole) - np.exp(own - right), np.exp(rest - whole)
        dagain = np.exp(again - whole) - np.exp(np.where(found, again - right, again.dtype.type(-np.inf)))
        for vectors, slopes in ((np.array([target]), np.array([down])), (others, drest)):
            dh[row] += slopes @ item_vectors[vectors] / n
            np.add.at(dvectors, vectors, slopes[:, None] * h[row] / n)
        dby_age[row, : len(past)] = dagain / n
    return loss, dh, dvectors, dby_age


def arrays(rng, lengths, n_items=30, dim=8, n_ages=None, size=1.0, n_negatives=None):
    """Arguments in the order of the formula: small catalogues, so that items come back and targets are among them."""
    n = sum(lengths)
    h, vectors = ((rng.standard_normal((rows, dim)) * size).astype(np.float32) for rows in (n, n_items))
    targets, items = rng.integers(0, n_items, (2, n)).astype(np.int32)
    by_age = rng.standard_normal((n, n_ages or max(lengths, default=1))).astype(np.float32)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    negatives = expected = None
    if n_negatives is not None:
        negatives = rng.integers(0, n_items, n_negatives).astype(np.int32)
        expected = rng.standard_normal(n_negatives).astype(np.float32)
    return h, vectors, targets, items, by_age, cu_seqlens, negatives, expected


def value_and_grad(*given, **options):
    *six, negatives, log_expected = given
    return ops.pointer_loss_value_and_grad(*six, negatives=negatives, log_expected=log_expected, **options)


def draw(*given):
    """What the kernel found, what the formula gives, and plain float32."""
    return value_and_grad(*given), *both(formula, *given)


@pytest.mark.parametrize("n_negatives", [None, 7])
def test_the_formula_has_the_gradients_of_central_differences(n_negatives, rng):
    given = [x.astype(float) if x is not None and x.dtype == np.float32 else x for x in
             arrays(rng, [3, 1, 4], n_items=6, dim=3, n_ages=5, n_negatives=n_negatives)]  # fmt: skip
    for place, gradient in zip((0, 1, 4), formula(*given)[1:], strict=True):

        def value(x, place):
            return formula(*given[:place], x, *given[place + 1 :])[0]

        expected = reference.central_differences(functools.partial(value, place=place), given[place])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


def test_it_is_the_cross_entropy_of_scores_that_items_of_the_history_gain(rng):
    given = arrays(rng, [5, 9, 1, 7], n_items=6)
    h, vectors, targets, items, by_age, cu_seqlens = (x.astype(float) if x.dtype == np.float32 else x
                                                      for x in given[:6])  # fmt: skip
    scores = h @ vectors.T
    for first, end in pairwise(cu_seqlens):
        for row in range(first, end):
            for item in range(6):
                ages = [row - k for k in range(first, row + 1) if items[k] == item]
                scores[row, item] = np.log(np.exp(scores[row, item]) + np.exp(by_age[row, ages]).sum())
    rows = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(h)), targets]
    assert value_and_grad(*given)[0] == pytest.approx(rows.mean(), rel=1e-6)


@pytest.mark.parametrize("n_negatives", [None, 40])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 47, 48, 49, 97, 130])
def test_every_length_follows_the_formula(length, n_negatives, isa, rng):
    draws = [draw(*arrays(rng, [length, 0, 3], n_negatives=n_negatives)) for _ in range(4)]
    reference.assert_draws_within_rule(draws, NAMES)


@pytest.mark.parametrize("dim", [1, 3, 15, 16, 50, 64])
def test_every_width_follows_the_formula(dim, isa, rng):
    draws = [draw(*arrays(rng, [5, 60, 9], dim=dim, size=dim**-0.25)) for _ in range(4)]
    reference.assert_draws_within_rule(draws, NAMES)


def test_a_catalogue_whose_scores_are_not_kept_follows_the_formula(isa, rng):
    draws = [draw(*arrays(rng, [3, 4, 2], n_items=66_000, dim=4)) for _ in range(3)]
    for given in draws:
        assert given[0][0] > 5
    reference.assert_draws_within_rule(draws, NAMES)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_lower_precisions_keep_what_they_promise(precision, isa, rng):
    given = arrays(rng, [40, 3, 90], n_items=2000, dim=32, size=0.5)
    found, exact = value_and_grad(*given, precision=precision), both(formula, *given)[0]
    lse, gradients = {"high": (2e-5, 5e-4), "medium": (2e-2, 5e-3)}[precision]
    assert found[0] == pytest.approx(exact[0], abs=lse)
    for one, other, name in zip(found[1:], exact[1:], NAMES[1:], strict=True):
        assert np.linalg.norm(one - other) <= gradients * np.linalg.norm(other), name


@pytest.mark.parametrize("n_negatives", [None, 40])
def test_scores_of_thousands_neither_overflow_nor_lose_their_digits(n_negatives, isa, rng):
    draws = [draw(*arrays(rng, [40, 30], size=30, n_negatives=n_negatives)) for _ in range(4)]
    assert draws[0][1][0] > 100
    reference.assert_draws_within_rule(draws, NAMES)
    for push in (-2000, 2000):  # what the pointer adds is all or nothing
        given = list(arrays(rng, [40, 30], n_negatives=n_negatives))
        given[4] += np.float32(push)
        reference.assert_draws_within_rule([draw(*given)], NAMES)


def test_a_pointer_that_points_nowhere_is_the_plain_loss(isa, rng):
    given = list(arrays(rng, [20, 7, 33]))
    given[4][:] = -np.inf
    plain = ops.cross_entropy_value_and_grad(*given[:3])
    found = value_and_grad(*given)
    assert found[0] == pytest.approx(plain[0], rel=1e-12)
    for one, other in zip(found[1:3], plain[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)
    assert not found[3].any()


def test_items_that_come_back_at_once_are_learned(rng):
    """Steps along the gradient by age alone: who foretells the newest event again and again finds that out."""
    h, vectors, targets, items, by_age, cu_seqlens, *_ = arrays(rng, [30, 30], n_items=50)
    targets, by_age = items.copy(), np.zeros((60, 30), np.float32)
    losses = []
    for _ in range(200):
        loss, _, _, slope = ops.pointer_loss_value_and_grad(h, vectors, targets, items, by_age, cu_seqlens)
        by_age -= np.float32(0.5) * 60 * slope.mean(axis=0)
        losses.append(loss)
    assert losses[0] > 3
    assert losses[-1] < 0.5
    assert by_age[0].argmax() == 0


def test_the_gradient_of_items_is_added_to_what_is_there(isa, rng):
    given = arrays(rng, [20, 7])
    plain, start = value_and_grad(*given), rng.standard_normal(given[1].shape).astype(np.float32)
    table = start.copy()
    assert value_and_grad(*given, ditem_vectors=table)[2] is table
    np.testing.assert_allclose(table - start, plain[2], rtol=0, atol=2e-6)


@pytest.mark.parametrize("n_negatives", [None, 40])
def test_a_workspace_and_any_number_of_threads_give_the_same_bits(n_negatives, threads, rng):
    given = arrays(rng, rng.integers(0, 60, 90).tolist(), n_items=700, dim=20, n_negatives=n_negatives)
    ws = Workspace()
    _core.set_num_threads(1)
    plain = value_and_grad(*given)
    _core.set_num_threads(threads)
    for _ in range(2):
        ws.reset()
        for one, other in zip(value_and_grad(*given, workspace=ws), plain, strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_rows_give_loss_zero_and_no_gradient(isa, rng):
    loss, dh, ditems, dby_age = value_and_grad(*arrays(rng, []))
    assert (loss, dh.shape, ditems.any(), dby_age.shape) == (0, (0, 8), False, (0, 1))


NAMED = dict(
    zip(
        ["h", "item_vectors", "targets", "items", "by_age", "cu_seqlens"],
        arrays(np.random.default_rng(0), [2, 3], n_items=5, dim=4)[:6],
        strict=True,
    )
)
WRONG = [
    ("items", NAMED["items"][:3], ValueError, "items: expected shape (5,), got (3,)"),
    ("items", NAMED["items"] + np.int32(9), ValueError, "items: expected rows from 0 to 4, got"),
    ("by_age", NAMED["by_age"][:, :2].copy(), ValueError, "n_ages: expected at least 3, got 2"),
    ("by_age", NAMED["by_age"].astype(float), TypeError, "by_age: expected a float32 array (5, 3), got float64 (5, 3)"),
    ("cu_seqlens", np.array([0, 2, 4]), ValueError, "cu_seqlens: expected"),
    ("cu_seqlens", np.array([0, 6, 5]), ValueError, "cu_seqlens: expected"),
    ("targets", NAMED["targets"] - np.int32(9), ValueError, "targets: expected rows from 0 to 4, got"),
    ("precision", "low", ValueError, "precision: expected one of 'highest', 'high', 'medium', got 'low'"),
    ("negatives", np.zeros(0, np.int32), ValueError, "negatives: expected 1 to 16384 items, got 0"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG, ids=[case[3][:40] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(name, value, error, message):
    with pytest.raises(error) as caught:
        ops.pointer_loss_value_and_grad(**(NAMED | {name: value}))
    assert message in str(caught.value)
