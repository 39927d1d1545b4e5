"""The CUDA kernels against the references of the CPU kernels: in a shim that runs them on the CPU, and on a device."""

import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import on_device
import pytest
import reference
import test_attention
import test_cross_entropy
import test_layers_kernels
import test_norms
import test_optimizer
import test_topk
from on_device import ORDERS, SOURCES, Moved
from reference import both

from regard import cuda, ops
from regard.ragged import Ragged

CHECKED = [test_attention, test_cross_entropy, test_layers_kernels, test_norms, test_optimizer, test_topk]


@pytest.fixture(autouse=True)
def moved(monkeypatch):
    """The checks of the CPU kernels call those of the device."""
    for module in CHECKED:
        monkeypatch.setattr(module, "ops", Moved())


# ---- kernels, by the checks of the CPU's ----

every_mask = pytest.mark.parametrize("mask", test_attention.MASKS, ids=test_attention.MASK_NAMES)


@every_mask
@pytest.mark.parametrize(("heads", "dim"), [(1, 1), (3, 8), (1, 64)])
def test_attention_of_every_length_around_a_tile_follows_the_formula(mask, heads, dim, place, rng):
    lengths = [0, 1, 3, 31, 32, 33, 65]
    test_attention.check(*test_attention.batch(rng, lengths, lengths, heads, dim), **mask)


@every_mask
def test_attention_of_the_widest_head_follows_the_formula(mask, place, rng):
    test_attention.check(*test_attention.batch(rng, [13, 35], [17, 35], 1, 256), **mask)


@every_mask
def test_attention_with_other_numbers_of_keys_than_queries_follows_the_formula(mask, place, rng):
    n_q, n_k = [0, 5, 0, 33, 40, 3], [0, 0, 7, 70, 10, 1]
    test_attention.check(*test_attention.batch(rng, n_q, n_k, 1, 8), **mask)


@every_mask
@pytest.mark.parametrize("n_distances", [3, 31, 101])
def test_attention_with_a_distance_bias_follows_the_formula(mask, n_distances, place, rng):
    arrays = test_attention.batch(rng, [0, 1, 13, 70, 20, 5], [3, 1, 13, 70, 5, 40], 2, 8)
    test_attention.check(*arrays, **mask, bias=rng.standard_normal((2, n_distances)).astype(np.float32))


@every_mask
def test_attention_drops_the_weights_of_the_reference_generator(mask, place, rng):
    arrays = test_attention.batch(rng, [1, 13, 0, 70, 7], [1, 13, 4, 70, 100], 2, 8)
    rate = ops.Dropout(0.3, seed=2**63 + 5, step=7, site=3)
    test_attention.check(*arrays, **mask, dropout=rate, bias=np.ones((2, 5), np.float32))


@every_mask
def test_scores_of_ten_thousand_keep_their_digits(mask, place, rng):
    arrays = test_attention.batch(rng, [40], [40], 1, 8, size=40)
    found = test_attention.check(*arrays, **mask, softmax_scale=1.0)
    assert np.abs(found["lse"]).max() > 5e3


def test_what_a_query_must_not_see_does_not_reach_it(place, rng):
    q, k, v, dout, cu, _ = test_attention.batch(rng, [4, 40, 7], [4, 40, 7], 2, 8)
    clean = test_attention.kernel(q, k, v, dout, cu, cu, causal=True)
    k[41, 0] = v[41, 0] = np.nan
    found = test_attention.kernel(q, k, v, dout, cu, cu, causal=True)
    for name in ("out", "lse", "dq"):
        np.testing.assert_array_equal(found[name][:41], clean[name][:41], err_msg=name)
        np.testing.assert_array_equal(found[name][44:], clean[name][44:], err_msg=name)
        np.testing.assert_array_equal(found[name][:, 1], clean[name][:, 1], err_msg=name)
        assert np.isnan(found[name][41:44, 0]).any(axis=-1).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 31, 3), (70, 100, 64), (20, 40, 129)], ids=str)
def test_cross_entropy_and_its_gradients_follow_the_formula(shape, place, rng):
    draws = [
        test_cross_entropy.draw(*test_cross_entropy.arrays(rng, *shape, size=shape[2] ** -0.25), *weights)
        for weights in ([], [rng.random(shape[0]).astype(np.float32)])
    ]
    reference.assert_draws_within_rule(draws, test_cross_entropy.NAMES)


def test_cross_entropy_with_weights_of_nothing_is_nothing(place, rng):
    h, items, targets = test_cross_entropy.arrays(rng, 5, 9, 4)
    loss, *gradients = Moved().cross_entropy_value_and_grad(h, items, targets, np.zeros(5, np.float32))
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(("n_items", "k"), [(1, 1), (17, 20), (700, 10), (2100, 1500)])
def test_the_best_items_are_those_of_a_stable_sort(n_items, k, place, rng):
    h, items = test_topk.integers(rng, 3, n_items, 5)
    allow, deny = (test_topk.lists(rng, 3, n_items, min(n_items, 300)) for _ in range(2))
    test_topk.check(h, items, k)
    test_topk.check(h, items, k, deny=deny)
    test_topk.check(h, items, k, allow, deny)


def test_ranks_count_what_is_above_and_what_is_equal(place, rng):
    h, items = test_topk.integers(rng, 7, 600, 5)
    test_topk.check_ranks(h, items, test_topk.lists(rng, 7, 600, 4), test_topk.lists(rng, 7, 600, 50))


@pytest.mark.parametrize("kind", test_layers_kernels.ACTIVATIONS)
def test_linear_layers_follow_the_formula(kind, place, rng):
    for shape in ((1, 3, 5), (70, 9, 20), (0, 4, 4)):
        test_layers_kernels.check_linear(rng, *shape, kind, with_bias=shape[0] != 70)


@pytest.mark.parametrize("shape", [(50, 65, 130), (300, 16, 70), (10, 130, 1)], ids=str)
def test_linear_layers_of_several_tiles_follow_the_formula(shape, place, rng):
    test_layers_kernels.check_linear(rng, *shape)


def test_several_linear_maps_and_what_is_added_into_follow_the_formula(place, rng):
    test_layers_kernels.test_linear_adds_into_the_gradients_it_is_given(None, rng)
    test_layers_kernels.test_several_linear_maps_at_once_are_each_of_them_and_their_gradients_add_up(9, 5, None, rng)


@pytest.mark.parametrize("with_residual", [False, True])
def test_dropout_and_residual_within_linear_give_the_bits_of_single_steps(with_residual, place, rng):
    test = test_layers_kernels.test_dropout_and_residual_within_linear_give_the_bits_of_single_steps
    test("gelu", with_residual, 70, None, rng)


def test_dropout_keeps_what_the_reference_generator_keeps(place, rng):
    x, rate = np.ones((5, 200), np.float32), ops.Dropout(0.4, 3, 2, 1)
    np.testing.assert_array_equal(Moved().dropout(x, rate), reference.dropout_keep(rate, 5, 200, np.float32))


@pytest.mark.parametrize("kind", test_layers_kernels.ACTIVATIONS[1:])
def test_activations_and_gates_follow_the_formula(kind, place, rng):
    test_layers_kernels.test_activations_and_their_slopes_follow_the_formula(kind, None, rng)
    gate, value, dy = rng.standard_normal((3, 7, 9)).astype(np.float32)
    exact, naive = both(reference.gate, gate, value, kind=kind)
    reference.assert_within_rule(Moved().gate_forward(gate, value, activation=kind), exact, naive)
    slopes = both(reference.gate_backward, dy, gate, value, kind=kind)
    for three in zip(Moved().gate_backward(dy, gate, value, activation=kind), *slopes, strict=True):
        reference.assert_within_rule(*three)


@pytest.mark.parametrize("kind", test_norms.NORMS)
@pytest.mark.parametrize(("n", "dim"), [(0, 3), (50, 2), (50, 33), (300, 64)])
def test_norms_follow_the_formula(kind, n, dim, place, rng):
    draws = [test_norms.draw(rng, kind, n, dim, 0.0, 1e-5) for _ in range(3)]
    names = {"layer": ["y", "mean", "rstd", "dx", "dweight", "dbias"], "rms": ["y", "rstd", "dx", "dweight"]}[kind]
    reference.assert_draws_within_rule(draws, names)


@pytest.mark.parametrize("integers", [False, True])
def test_embeddings_take_rows_and_add_gradients_back_to_the_bits_of_the_cpu(integers, place, rng):
    there, ids = Moved(integers), rng.integers(0, 9, 60).astype(np.int32)
    table, dy = rng.standard_normal((11, 5)).astype(np.float32), rng.standard_normal((60, 5)).astype(np.float32)
    np.testing.assert_array_equal(there.embedding_forward(table, ids, scale=1.5), table[ids] * np.float32(1.5))
    mine, expected = np.ones_like(table), np.ones_like(table)
    there.embedding_backward(dy, ids, mine, scale=0.5)
    ops.embedding_backward(dy, ids, expected, scale=0.5)
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_follows_the_formula_on_all_rows_and_on_some(decoupled, place, rng):
    for size in (0, 1, 1000):
        test_optimizer.test_every_step_follows_the_formula(decoupled, size, None, rng)
    weight, grad = rng.standard_normal((2, 6, 4)).astype(np.float32)
    rows, how = np.array([1, 2, 5], np.int32), test_optimizer.SETTINGS | {"step": 3, "decoupled": decoupled}
    whole, some = ([weight.copy(), np.zeros_like(weight), np.zeros_like(weight)] for _ in range(2))
    Moved().adam(whole[0], grad, *whole[1:], **how)
    Moved().adam(some[0], grad[rows], *some[1:], rows=rows, **how)
    for one, other in zip(some, whole, strict=True):
        np.testing.assert_array_equal(one[rows], other[rows])
    np.testing.assert_array_equal(some[0][[0, 3, 4]], weight[[0, 3, 4]])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_follows_the_formula_on_all_rows_and_on_some(momentum, place, rng):
    for size in (0, 1, 1000):
        test_optimizer.test_every_step_of_sgd_follows_the_formula(momentum, size, None, rng)
    weight, grad, buffer = rng.standard_normal((3, 6, 4)).astype(np.float32)
    rows, how = np.array([1, 2, 5], np.int32), {"learning_rate": 0.1, "momentum": momentum, "weight_decay": 0.1}
    whole, some = ([weight.copy(), buffer.copy()] for _ in range(2))
    Moved().sgd(whole[0], grad, whole[1], **how)
    Moved().sgd(some[0], grad[rows], some[1], rows=rows, **how)
    for before, one, other in zip((weight, buffer), some, whole, strict=True):
        np.testing.assert_array_equal(one[rows], other[rows])
        np.testing.assert_array_equal(one[[0, 3, 4]], before[[0, 3, 4]])


@pytest.mark.parametrize("size", [0, 1, 1000, 40_000])
def test_the_sum_of_squares_is_that_of_float64(size, place, rng):
    x = rng.standard_normal(size).astype(np.float32)
    assert Moved().sum_squares(x) == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-12)


# ---- what the shim watches over ----


def test_new_device_memory_is_nan_and_cannot_be_touched_from_the_host(in_shim):
    there = cuda.array.empty((1_000_003,))
    assert np.isnan(there.numpy()).all()
    touch = """
        import ctypes, faulthandler
        from regard import cuda
        faulthandler.disable()
        there = cuda.asarray([1.0])
        assert there.numpy() == 1
        ctypes.c_double.from_address(there.pointer).value
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(touch)], check=False)
    assert done.returncode == -signal.SIGSEGV


BARRIERS = [
    f"{path.name}:{number}"
    for path in sorted((SOURCES / "cuda").glob("*"))
    if path.suffix in (".cu", ".h")
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if re.search(r"__sync(threads|warp)\(\)", line)
]


def everything():
    """Results of all kernels with barriers, in small."""
    rng, there = np.random.default_rng(5), Moved()
    q, k, v, dout, cu, _ = test_attention.batch(rng, [40], [40], 1, 3)
    yield from test_attention.kernel(q, k, v, dout, cu, cu, causal=True).values()
    bias = rng.standard_normal((1, 9)).astype(np.float32)
    yield from test_attention.kernel(q, k, v, dout, cu, cu, bias=bias).values()
    h, items, targets = test_cross_entropy.arrays(rng, 40, 70, 3)
    yield from there.cross_entropy_value_and_grad(h, items, targets)
    x, weight, dy = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 20), (5, 20), (40, 5)))
    yield there.linear_forward(x, weight)[0]
    yield from there.linear_backward(dy, x, weight)
    yield np.array(there.sum_squares(x))
    h, items = test_topk.integers(rng, 1, 1300, 5)
    yield from there.topk(h, items, 1100, None, Ragged(np.arange(100, dtype=np.int32), [0, 100]))
    yield from there.rank_counts(h, items, Ragged(np.array([3], np.int32), [0, 1]))


def found_out(right):
    """Whether any order of threads shows that something is wrong."""
    for order in ORDERS:
        on_device.set_order(order)
        try:
            for one, other in zip(everything(), right, strict=True):
                np.testing.assert_array_equal(one, other)
        except (RuntimeError, AssertionError, ValueError):
            return True
    return False


def test_every_barrier_is_needed_and_its_loss_is_noticed(in_shim):
    assert len(BARRIERS) > 15
    right = list(everything())
    assert not found_out(right)
    unnoticed = []
    for barrier in BARRIERS:
        on_device.leave_out(barrier)
        if not found_out(right):
            unnoticed.append(barrier)
    assert not unnoticed
