"""Top-k on 8-bit copies: the answer of the float32 path and of a plain sort, items and scores to the bit, always."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import _core, ops
from regard.ragged import Ragged


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].view(np.int32), expected[1].view(np.int32))


def check(h, items, k, deny=None):
    found = ops.topk(h, items, k, None, deny, quantized=ops.quantize_items(items))
    same(found, ops.topk(h, items, k, None, deny))
    return found


def own_scores(h, items):
    """The kernel's float32 scores of all items, -inf where it has NaN."""
    rows = np.arange(len(h))[:, None]
    scores = np.full((len(h), len(items)), -np.inf, np.float32)
    found, values = ops.topk(h, items, len(items))
    kept = found >= 0
    scores[np.broadcast_to(rows, found.shape)[kept], found[kept]] = values[kept]
    return scores


def normal(rng, *shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def lists(rng, n, n_items, longest):
    return Ragged.from_lists([rng.integers(0, n_items, rng.integers(0, longest + 1)) for _ in range(n)], np.int32)


@pytest.mark.parametrize("n_items", [1, 15, 16, 17, 255, 256, 257, 808])
@pytest.mark.parametrize("dim", [1, 3, 5, 50, 64, 100, 300])
def test_every_size_gives_the_answer_of_a_stable_sort_of_the_float32_scores(n_items, dim, isa, rng):
    h, items = normal(rng, 14, dim), normal(rng, n_items, dim)
    deny = lists(rng, 14, n_items, 30)
    scores = own_scores(h, items)
    for k in (1, 10, 300):
        same(check(h, items, k), reference.topk(scores, k))
        same(check(h, items, k, deny), reference.topk(scores, k, None, deny))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 47, 48, 49, 60, 97, 250])
def test_every_number_of_queries_is_served(n, isa, rng):
    h, items = normal(rng, n, 20), normal(rng, 900, 20)
    check(h, items, 10)
    check(h, items, 10, lists(rng, n, 900, 20))


def test_the_number_of_threads_does_not_change_the_answer(threads, rng):
    check(normal(rng, 250, 16), normal(rng, 2000, 16), 10)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_whatever_the_vectors_the_answer_is_that_of_a_stable_sort(data):
    """Small integers, so that many scores are equal, with other scales and special values among them."""
    before = _core.isa()
    _core.set_isa(data.draw(st.sampled_from(_core.isa_available())))
    try:
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        n, n_items = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 1200))
        dim, k = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 2, 10, 100, 255, 257, 1300]))
        h, items = (rng.integers(-2, 3, (rows, dim)).astype(np.float32) for rows in (n, n_items))
        for array in (h, items):
            scale = data.draw(st.sampled_from([0, 1e-42, 1e-30, 1e-3, 1e4, 2.0**59, 2.0**61, 1e20]))
            array[rng.random(len(array)) < data.draw(st.sampled_from([0, 0.02, 0.5, 1]))] *= np.float32(scale)
            special = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-42, 0]))
            array[rng.random(array.shape) < data.draw(st.sampled_from([0, 0.002, 0.1]))] = special
        deny = lists(rng, n, n_items, data.draw(st.sampled_from([0, 5, 300])))
        scores = own_scores(h, items)
        same(check(h, items, k), reference.topk(scores, k))
        same(check(h, items, k, deny), reference.topk(scores, k, None, deny))
    finally:
        _core.set_isa(before)


def adversarial(rng):
    """Tables that an 8-bit copy describes badly, by name."""
    tables = {"gaussian": normal(rng, 1500, 24)}
    tables["equal rows"] = np.repeat(normal(rng, 1, 24), 1500, axis=0)
    tables["few different rows"] = normal(rng, 5, 24)[rng.integers(0, 5, 1500)]
    tables["all but equal rows"] = tables["equal rows"] * (1 + 1e-6 * normal(rng, 1500, 1))
    tables["zeros"] = np.zeros((1500, 24), np.float32)
    tables["lengths from 1e-6 to 1e6"] = normal(rng, 1500, 24) * 10 ** rng.uniform(-6, 6, (1500, 1)).astype(np.float32)
    tables["one large item"] = tables["gaussian"] * np.where(np.arange(1500) == 700, 1e5, 1).astype(np.float32)[:, None]
    tables["one large element in each"] = tables["gaussian"] * np.where(np.arange(24) == 3, 1e4, 1).astype(np.float32)
    tables["denormal"] = tables["gaussian"] * np.float32(1e-40)
    tables["denormal and not"] = tables["gaussian"] * 10 ** rng.uniform(-45, 0, (1500, 1)).astype(np.float32)
    tables["huge"] = tables["gaussian"] * np.float32(1e30)
    tables["huge and not"] = tables["gaussian"] * np.where(rng.random((1500, 1)) < 0.01, 1e30, 1).astype(np.float32)
    tables["NaN, infinity and zeros"] = tables["gaussian"].copy()
    tables["NaN, infinity and zeros"][rng.integers(0, 1500, 9)] = [[np.nan], [np.inf], [-np.inf]] * 3
    tables["NaN, infinity and zeros"][rng.integers(0, 1500, 50)] = 0
    return tables


@pytest.mark.parametrize("name", adversarial(np.random.default_rng(0)))
def test_an_8_bit_copy_that_says_little_costs_time_and_not_the_answer(name, isa, rng):
    items = adversarial(rng)[name]
    h = np.concatenate([normal(rng, 12, 24), items[[3, 700]], normal(rng, 9, 24, scale=1e-38), np.zeros((1, 24))])
    h = np.concatenate([h, [[np.nan] * 24, [np.inf] * 24, [1e25] * 24]]).astype(np.float32)
    with np.errstate(all="ignore"):
        h[:12] /= np.abs(h[:12]).max()
    scores, deny = own_scores(h, items), lists(rng, len(h), 1500, 40)
    for k in (1, 10, 200):
        same(check(h, items, k), reference.topk(scores, k))
        same(check(h, items, k, deny), reference.topk(scores, k, None, deny))


def test_the_best_of_the_8_bit_scores_may_all_be_denied(isa, rng):
    h, items = normal(rng, 5, 16), normal(rng, 1000, 16)
    best = ops.topk(h, items, 300)[0]
    for denied in (9, 10, 200, 246, 247, 300):
        check(h, items, 10, Ragged.from_lists(list(best[:, :denied]), np.int32))
    everything = Ragged.from_lists([np.arange(1000)] * 5, np.int32)
    assert (check(h, items, 10, everything)[0] == -1).all()


def alike(rng, what):
    """A query and items with the same sum in 8 bits, whose scores differ all the same."""
    steps = rng.integers(-127, 128, (2000, 1))
    if what == "the rounding of the items":
        h, items = np.array([[1.0]]), np.append(100 + steps[1:] / 300, [[127]], axis=0)
    elif what == "the rounding of the query":
        h, items = np.array([[127, 0.4]]), np.append(np.full((2000, 1), 50), steps, axis=1)
        items[::16, 1] = 127
    else:  # of the scores: one item in many orders, so that the sum is 0 and what is left are rounding errors
        one = rng.integers(1, 128, 30)
        h, items = np.full((1, 60), 0.1), np.stack([rng.permutation(np.append(one, -one)) for _ in range(2000)])
    return h.astype(np.float32), items.astype(np.float32)


@pytest.mark.parametrize("what", ["the rounding of the items", "the rounding of the query", "that of the scores"])
def test_items_that_8_bits_cannot_tell_apart_are_told_apart_by_their_vectors(what, isa, rng):
    h, items = alike(rng, what)
    scores = own_scores(h, items)
    assert len(np.unique(scores)) > 50
    for k in (1, 3, 20):
        same(check(h, items, k), reference.topk(scores, k))


def test_items_that_cannot_be_among_the_best_are_not_looked_at(isa, rng):
    """Their vectors are changed behind the table's back: what is never read cannot change the answer."""
    h, items = normal(rng, 1, 64), normal(rng, 5000, 64)
    expected, table = ops.topk(h, items, 10), ops.quantize_items(items)
    low = np.argsort(-(items @ h[0]))[500:]
    items[low] = 100 * h
    same(ops.topk(h, items, 10, quantized=table), expected)
    assert (ops.topk(h, items, 10)[0] != expected[0]).all()


def test_the_longest_vectors_do_not_overflow(isa):
    signs = np.where(np.arange(40) % 3 == 0, 1, -1).astype(np.float32)[:, None]
    items = np.repeat(signs, 16384, axis=1)
    check(items[:2], items, 5)
    check(items[:2], items, 39, Ragged.from_lists([np.arange(20)] * 2, np.int32))


def test_a_table_holds_bounds_of_its_own_error(isa, rng):
    """No lower than the truth, and no higher than rounding to the nearest of 255 steps explains."""
    items = normal(rng, 700, 30) * 10 ** rng.uniform(-3, 3, (700, 1)).astype(np.float32)
    items[5] = np.nan
    items[40:48] = 0
    table = ops.quantize_items(items)
    assert table.ctypes.data % 64 == 0
    inverse, error, norm = table[:, :192].copy().view(np.float32).reshape(-1, 3, 16).transpose(1, 0, 2).reshape(3, -1)
    whole = table[:, 192:].reshape(-1, 16, 8, 16, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 32).astype(int) - 128
    assert whole.min() >= -127
    assert np.isinf(error).nonzero()[0].tolist() == [0]
    assert not whole[700 // 16 + 1 :].any() and not whole[:, :, 30:].any()
    for panel in range(1, 43):
        exact, copy = items[16 * panel : 16 * panel + 16].astype(np.float64), whole[panel, :, :30] / inverse[panel]
        truth = np.linalg.norm(exact - copy, axis=1).max(), np.linalg.norm(copy, axis=1).max()
        assert truth[0] <= error[panel] * (1 + 1e-6) and truth[1] <= norm[panel] * (1 + 1e-6)
        assert norm[panel] <= truth[1] * (1 + 1e-5)
        assert error[panel] <= np.sqrt(30) * np.abs(exact).max() / 254 * (1 + 1e-5)


def test_an_allow_list_is_answered_as_without_a_table(isa, rng):
    h, items, allow = normal(rng, 9, 8), normal(rng, 600, 8), lists(rng, 9, 600, 40)
    same(ops.topk(h, items, 10, allow, quantized=ops.quantize_items(items)), ops.topk(h, items, 10, allow))


H, ITEMS = np.ones((2, 4), np.float32), np.ones((300, 4), np.float32)
TABLE = ops.quantize_items(ITEMS)


def test_a_table_may_lie_at_any_address_that_floats_may(isa):
    memory = np.empty(TABLE.size + 4, np.uint8)
    moved = memory[4:].reshape(TABLE.shape)
    moved[:] = TABLE
    same(ops.topk(H, ITEMS, 5, quantized=moved), ops.topk(H, ITEMS, 5))


def unaligned():
    memory = np.empty(TABLE.size + 4, np.uint8)
    return memory[1 : TABLE.size + 1].reshape(TABLE.shape)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (TABLE[:1], ValueError, "quantized: expected shape (2, 1216), got (1, 1216)"),
        (TABLE.ravel(), ValueError, "quantized: expected shape (2, 1216), got (2432,)"),
        (TABLE.view(np.int8), TypeError, "quantized: expected a uint8 array (2, 1216), got int8 (2, 1216)"),
        (TABLE[:, ::-1], ValueError, "quantized: expected a C-contiguous array"),
        (unaligned(), ValueError, "quantized: expected an address that is a multiple of 4"),
    ],
)
def test_a_wrong_table_is_named_with_what_was_expected_and_what_came(table, error, message):
    with pytest.raises(error) as caught:
        ops.topk(H, ITEMS, 3, quantized=table)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (ITEMS.astype(np.float64), TypeError, "item_vectors: expected a float32 array (300, 4), got float64 (300, 4)"),
        (ITEMS.T, ValueError, "item_vectors: expected a C-contiguous array"),
        (ITEMS[0], ValueError, "item_vectors: expected 2 dimensions, got shape (4,)"),
        (ITEMS[:0], ValueError, "n_items: expected at least 1, got 0"),
        (np.zeros((1, 16385), np.float32), ValueError, "dim: expected 1 to 16384, got 16385"),
    ],
)
def test_vectors_that_cannot_be_quantised_are_named_too(items, error, message):
    with pytest.raises(error) as caught:
        ops.quantize_items(items)
    assert message in str(caught.value)
