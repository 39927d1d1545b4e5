"""The best items and the rank counts. Vectors of small integers: scores are exact, and many are equal."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import _core, ops
from regard.ragged import Ragged


def integers(rng, n, n_items, dim, most=3):
    h, items = rng.integers(-most, most + 1, (n, dim)), rng.integers(-most, most + 1, (n_items, dim))
    return h.astype(np.float32), items.astype(np.float32)


def lists(rng, n, n_items, longest):
    """Unsorted, with repetitions, some empty."""
    return Ragged.from_lists([rng.integers(0, n_items, rng.integers(0, longest + 1)) for _ in range(n)], np.int32)


def check(h, items, k, allow=None, deny=None):
    found = ops.topk(h, items, k, allow, deny)
    expected = reference.topk(h @ items.T, k, allow, deny)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (found[0].dtype, found[1].dtype) == (np.int32, np.float32)


def check_ranks(h, items, targets, deny=None):
    found = ops.rank_counts(h, items, targets, deny)
    expected = reference.rank_counts(h @ items.T, targets, deny)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("n_items", [1, 3, 15, 16, 17, 511, 512, 513, 1025])
@pytest.mark.parametrize("k", [1, 2, 10, 600])
def test_the_best_items_are_those_of_a_stable_sort(n_items, k, isa, rng):
    check(*integers(rng, 13, n_items, 5), k)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 6, 7, 11, 12, 13, 47, 48, 49, 100])
def test_every_number_of_queries_is_served(n, isa, rng):
    h, items = integers(rng, n, 70, 4)
    check(h, items, 7)
    check_ranks(h, items, lists(rng, n, 70, 3), lists(rng, n, 70, 20))


@pytest.mark.parametrize("dim", [1, 3, 8, 50, 64, 256])
def test_every_width_is_served(dim, isa, rng):
    h, items = integers(rng, 20, 600, dim)
    check(h, items, 10)
    check_ranks(h, items, lists(rng, 20, 600, 3))


@pytest.mark.parametrize("order", ["rising", "falling", "all alike"])
def test_every_order_of_scores_is_served(order, isa):
    scores = {"rising": np.arange(1200), "falling": -np.arange(1200), "all alike": np.zeros(1200)}[order]
    items = scores.astype(np.float32)[:, None]
    h = np.array([[1], [-1], [0]], np.float32)
    for k in (1, 5, 100, 1200, 1300):
        check(h, items, k)


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("longest", [0, 1, 15, 16, 17, 60])
def test_allowed_and_denied_lists_may_be_unsorted_repeated_and_empty(k, longest, isa, rng):
    h, items = integers(rng, 50, 40, 4)
    allow, deny = lists(rng, 50, 40, longest), lists(rng, 50, 40, longest)
    check(h, items, k, allow)
    check(h, items, k, None, deny)
    check(h, items, k, allow, deny)


def test_when_everything_is_denied_nothing_is_found(isa, rng):
    h, items = integers(rng, 3, 20, 4)
    everything = Ragged.from_lists([np.arange(20)] * 3, np.int32)
    nothing = Ragged.from_lists([[]] * 3, np.int32)
    for found in (ops.topk(h, items, 5, None, everything), ops.topk(h, items, 5, nothing)):
        assert (found[0] == -1).all()
        assert (found[1] == -np.inf).all()


def test_real_scores_follow_the_rule_and_the_same_scores_come_from_both_paths(isa, rng):
    h, items = (rng.standard_normal((n, 50)).astype(np.float32) for n in (60, 700))
    found, scores = ops.topk(h, items, 700)
    exact, naive = h.astype(np.float64) @ items.T.astype(np.float64), h @ items.T
    rows = np.arange(60)[:, None]
    reference.assert_within_rule(scores, exact[rows, found], naive[rows, found], "scores")
    # The kernel's own scores, by item: sorting them gives back what it returned, and an allow list the same bits.
    own = np.empty_like(scores)
    own[rows, found] = scores
    again = reference.topk(own, 700)
    np.testing.assert_array_equal(found, again[0])
    allowed = ops.topk(h, items, 700, Ragged.from_lists([np.arange(700)] * 60, np.int32))
    np.testing.assert_array_equal(allowed[0], found)
    np.testing.assert_array_equal(allowed[1], scores)


def test_scores_of_ten_thousand_are_ordered_like_others(isa, rng):
    h, items = integers(rng, 13, 600, 8, most=100)
    assert np.abs(h @ items.T).max() > 1e4
    check(h, items, 20)
    check_ranks(h, items, lists(rng, 13, 600, 4))


def test_a_nan_is_never_chosen_nor_counted_and_infinity_is_the_best(isa, rng):
    h, items = integers(rng, 5, 600, 4)
    h = np.abs(h) + 1
    clean = ops.topk(h, items, 10, None, Ragged.from_lists([[3, 550, 599]] * 5, np.int32))
    items[[3, 550]] = np.nan
    items[599] = -np.inf  # never above -inf, so never chosen
    found = ops.topk(h, items, 10)
    np.testing.assert_array_equal(found[0], clean[0])
    np.testing.assert_array_equal(found[1], clean[1])
    assert not np.isin([3, 550, 599], ops.topk(h, items, 600)[0]).any()
    assert (ops.topk(h, items, 600, Ragged.from_lists([[3, 599, 550]] * 5, np.int32))[0] == -1).all()
    targets = Ragged.from_lists([[7]] * 5, np.int32)
    check_ranks(h, items, targets)
    items[100] = np.inf
    assert (ops.topk(h, items, 1)[0] == 100).all()


def test_a_query_that_is_nan_finds_nothing_and_does_not_touch_the_others(isa, rng):
    h, items = integers(rng, 60, 100, 4)
    clean = ops.topk(h, items, 5)
    h[30, 2] = np.nan
    found = ops.topk(h, items, 5)
    assert (found[0][30] == -1).all()
    others = np.arange(60) != 30
    np.testing.assert_array_equal(found[0][others], clean[0][others])
    np.testing.assert_array_equal(found[1][others], clean[1][others])


@pytest.mark.parametrize("n_items", [1, 15, 17, 511, 512, 513, 1030])
def test_rank_counts_leave_out_the_target_and_what_is_denied(n_items, isa, rng):
    h, items = integers(rng, 20, n_items, 3)
    targets, deny = lists(rng, 20, n_items, 5), lists(rng, 20, n_items, 30)
    check_ranks(h, items, targets)
    check_ranks(h, items, targets, deny)
    check_ranks(h, items, targets, targets)  # a denied target still has its rank among the rest


LEVELS = st.sampled_from(_core.isa_available())


@settings(max_examples=30, deadline=None)
@given(data=st.data(), n=st.integers(0, 20), n_items=st.integers(1, 60), dim=st.integers(1, 6), level=LEVELS)
def test_best_items_and_ranks_agree_with_a_stable_sort(data, n, n_items, dim, level):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    h, items = integers(rng, n, n_items, dim, most=1)
    rows = st.lists(st.lists(st.integers(0, n_items - 1), max_size=25), min_size=n, max_size=n)
    ragged = rows.map(lambda some: Ragged.from_lists(some, np.int32))
    allow, deny = data.draw(st.none() | ragged), data.draw(st.none() | ragged)
    before = _core.isa()
    _core.set_isa(level)
    try:
        check(h, items, data.draw(st.integers(1, 70)), allow, deny)
        check_ranks(h, items, data.draw(ragged), deny)
    finally:
        _core.set_isa(before)


H, ITEMS = np.zeros((2, 4), np.float32), np.zeros((5, 4), np.float32)


def ragged(*rows, dtype=np.int32):
    return Ragged.from_lists(rows, dtype)


WRONG = [
    ({"h": H.astype(np.float64)}, TypeError, "h: expected a float32 array (2, 4), got float64 (2, 4)"),
    ({"item_vectors": ITEMS[:, :3].copy()}, ValueError, "item_vectors: expected shape (5, 4), got (5, 3)"),
    ({"item_vectors": np.asfortranarray(ITEMS)}, ValueError, "item_vectors: expected a C-contiguous array"),
    ({"item_vectors": ITEMS[:0]}, ValueError, "n_items: expected at least 1, got 0"),
    ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
    ({"k": -3}, ValueError, "k: expected at least 1, got -3"),
    ({"allow": ragged([0], [1], [2])}, ValueError, "allow offsets: expected shape (3,), got (4,)"),
    ({"allow": ragged([0], [5])}, ValueError, "allow: expected rows from 0 to 4, got 5 at place 1"),
    ({"deny": ragged([-1], [2])}, ValueError, "deny: expected rows from 0 to 4, got -1 at place 0"),
    ({"deny": ragged([1], [2], dtype=np.int64)}, TypeError, "deny: expected a int32 array (any,), got int64 (2,)"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[case[2][:50] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(change, error, message):
    with pytest.raises(error) as caught:
        ops.topk(**({"h": H, "item_vectors": ITEMS, "k": 3} | change))
    assert message in str(caught.value)


def test_rank_counts_name_wrong_arguments_too():
    with pytest.raises(ValueError, match="targets: expected rows from 0 to 4, got 9 at place 1"):
        ops.rank_counts(H, ITEMS, ragged([1], [9]))
    with pytest.raises(ValueError, match=r"targets offsets: expected shape \(3,\), got \(2,\)"):
        ops.rank_counts(H, ITEMS, ragged([1]))


def test_offsets_that_were_changed_afterwards_are_refused():
    deny = ragged([1, 2], [3])
    for broken, message in (([0, 4, 3], "never fall"), ([1, 2, 3], "start with 0"), ([0, 2, 2], "end with 3")):
        deny.offsets[:] = broken
        with pytest.raises(ValueError, match=f"deny.offsets: expected .*{message}"):
            ops.topk(H, ITEMS, 3, None, deny)
