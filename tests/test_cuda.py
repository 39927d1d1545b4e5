"""The CUDA kernels against the references of the CPU kernels: in a shim that runs them on the CPU, and on a device."""

import re

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
from small_models import chains, small

import regard
from regard import cuda, ops
from regard.layers import Run, forward
from regard.ragged import Ragged

CHECKED = [test_attention, test_cross_entropy, test_layers_kernels, test_norms, test_optimizer, test_topk]


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The path of the kernels compiled for the CPU."""
    if on_device.CPP is None or not SOURCES.exists():
        pytest.skip("no g++, or no sources beside the tests")
    return on_device.compile_shim(tmp_path_factory.mktemp("cuda"))


def use(path, monkeypatch):
    monkeypatch.setenv("REGARD_CUDA_LIBRARY", str(path))
    for module in CHECKED:
        monkeypatch.setattr(module, "ops", Moved())


@pytest.fixture
def in_shim(shim, monkeypatch):
    use(shim, monkeypatch)
    on_device.set_order("forward")
    on_device.leave_out("")


def devices():
    """The name of the device of a CUDA build, if there are both."""
    try:
        return [cuda.device_name()]
    except RuntimeError:
        return []


@pytest.fixture(params=[*ORDERS, *devices()])
def place(request, monkeypatch):
    """Where kernels run: in the shim with its threads in one of three orders, and on a device where there is one."""
    if request.param in ORDERS:
        request.getfixturevalue("in_shim")
        on_device.set_order(request.param)
    else:
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


@pytest.mark.parametrize("size", [0, 1, 1000, 40_000])
def test_the_sum_of_squares_is_that_of_float64(size, place, rng):
    x = rng.standard_normal(size).astype(np.float32)
    assert Moved().sum_squares(x) == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-12)


# ---- barriers ----

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


# ---- arrays ----


def test_an_array_goes_to_the_device_and_back(in_shim, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    there = cuda.asarray(x)
    assert cuda.asarray(there) is there
    assert (there.shape, there.ndim, there.size, there.nbytes, len(there)) == ((3, 4), 2, 12, 48, 3)
    np.testing.assert_array_equal(np.asarray(there), x)
    np.testing.assert_array_equal(there.reshape(2, -1).numpy(), x.reshape(2, 6))
    copy = there.copy()
    copy += there
    np.testing.assert_array_equal(copy.numpy(), x + x)
    np.testing.assert_array_equal(np.add(copy, there).numpy(), x + x + x)
    np.copyto(copy, x * 3)
    np.testing.assert_array_equal(copy.numpy(), x * 3)
    copy.fill(0)
    assert not copy.numpy().any()
    copy.fill(2)
    assert (copy.numpy() == 2).all()
    assert not np.zeros_like(there).numpy().any()
    np.testing.assert_array_equal(there.numpy(), x)


class Lent:
    """Another library's array: only what the exchange needs."""

    def __init__(self, array, *, by_dlpack, strides=None):
        self.array = array
        if by_dlpack:
            self.__dlpack__ = array.__dlpack__
            self.__dlpack_device__ = array.__dlpack_device__
        else:
            self.__cuda_array_interface__ = array.__cuda_array_interface__ | {"strides": strides}


@pytest.mark.parametrize("by_dlpack", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint8])
def test_arrays_of_other_libraries_are_read_without_a_copy(by_dlpack, dtype, in_shim):
    mine = cuda.asarray(np.arange(6).astype(dtype).reshape(2, 3))
    found = cuda.asarray(Lent(mine, by_dlpack=by_dlpack))
    assert (found.pointer, found.dtype, found.shape) == (mine.pointer, mine.dtype, mine.shape)
    np.testing.assert_array_equal(found.numpy(), mine.numpy())


def test_what_is_lent_by_dlpack_lives_until_it_is_given_back(in_shim):
    before = len(cuda.dlpack._lent)
    unread = cuda.asarray(np.ones(3)).__dlpack__()
    assert len(cuda.dlpack._lent) == before + 1
    del unread
    assert len(cuda.dlpack._lent) == before
    found = cuda.asarray(Lent(cuda.asarray(np.ones(3)), by_dlpack=True))
    assert len(cuda.dlpack._lent) == before + 1
    np.testing.assert_array_equal(found.numpy(), np.ones(3))
    del found
    assert len(cuda.dlpack._lent) == before


def test_numpy_reads_and_writes_the_same_capsules(monkeypatch):
    """The layout of DLPack, by another library: with NumPy's memory, and its kind of device in the place of CUDA's."""
    monkeypatch.setattr(cuda.dlpack, "CUDA", 1)
    host = np.arange(12, dtype=np.int32).reshape(3, 4)
    read = np.from_dlpack(cuda.DeviceArray(host.shape, host.dtype, host.ctypes.data, host))
    np.testing.assert_array_equal(read, host)
    assert np.shares_memory(read, host)
    shape, dtype, address, lender = cuda.dlpack.from_capsule(host)
    assert (shape, dtype, address) == (host.shape, host.dtype, host.ctypes.data)
    del read, lender
    with pytest.raises(ValueError, match="C-contiguous"):
        cuda.dlpack.from_capsule(host.T)


def test_an_array_in_another_order_is_refused(in_shim):
    mine = cuda.asarray(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"array: expected a C-contiguous array, got shape \(2, 3\) with strides"):
        cuda.asarray(Lent(mine, by_dlpack=False, strides=(4, 8)))


def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(in_shim):
    x, weight = cuda.asarray(np.zeros((4, 3), np.float32)), cuda.asarray(np.zeros((5, 2), np.float32))
    ids = np.array([0, 4], np.int32)
    wrong = [
        (lambda: ops.linear_forward(x, weight), ValueError, "weight: expected shape (5, 3), got (5, 2)"),
        (
            lambda: ops.linear_forward(x, np.zeros((5, 3), np.float32)),
            TypeError,
            "weight: expected an array on the CUDA",
        ),
        (lambda: ops.linear_forward(cuda.asarray(np.zeros((4, 3))), weight), TypeError, "x: expected a float32 array"),
        (lambda: ops.embedding_forward(x, ids), ValueError, "ids: expected rows from 0 to 3, got 4 at place 1"),
        (lambda: ops.dropout(x, ops.Dropout(1.0)), ValueError, "dropout: expected a rate from 0 to below 1, got 1"),
        (lambda: ops.sgd(x, x, learning_rate=1.0), NotImplementedError, "sgd: not written for arrays on a CUDA device"),
    ]
    for call, error, message in wrong:
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [case for case in test_attention.WRONG if "array" not in case[2] and "read-only" not in case[2]],
    ids=lambda case: case[2][:50],
)
def test_attention_on_the_device_refuses_what_it_refuses_on_the_cpu(change, in_shim):
    arguments, error, message = change
    with pytest.raises(error) as caught:
        Moved().attention_forward(**(test_attention.GOOD | arguments))
    assert message in str(caught.value)


# ---- models ----

MODELS = {
    "plain": {"n_heads": 2},
    "gated": {"ffn": "gated", "activation": "silu", "residual": "gate", "norm": "rms", "positions": "absolute"},
    "two tables": {"output_table": "separate", "activation": "gelu", "weight_decay": 0.01, "positions": "none"},
}


def fit(device, path=None, **settings):
    how = {"epochs": 2, "dropout": 0.2, "precision": "highest", "n_blocks": 2, "dim": 8, "device": device}
    return small(**how | settings).fit(chains(30), checkpoint=path, checkpoint_seconds=0)


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_loss_and_gradients_of_a_batch_are_those_of_the_cpu(settings, place, rng):
    model = small(n_blocks=2, dim=8, dropout=0.2, **settings)
    host, steps = model.initial_parameters(12), model.steps()
    items, targets = rng.integers(0, 12, (2, 20)).astype(np.int32)
    found = []
    for params in (host, {name: cuda.asarray(weight) for name, weight in host.items()}):
        grads = {name: np.zeros_like(weight) for name, weight in params.items()}
        run = Run(items, np.array([0, 8, 9, 9, 17, 20]), params, grads, seed=1, step=2)
        h, backward = forward(steps, run)
        table = steps[-1]["table"]
        loss, dh, _ = ops.cross_entropy_value_and_grad(h, params[table], targets, ditem_vectors=grads[table])
        backward(dh)
        found.append((loss, {name: np.asarray(grad).astype(np.float64) for name, grad in grads.items()}))
    (loss, expected), (other_loss, gradients) = found
    assert other_loss == pytest.approx(loss, abs=1e-6)
    largest = max(np.abs(grad).max() for grad in expected.values())
    for name, grad in expected.items():
        assert np.abs(gradients[name] - grad).max() < max(1e-5 * np.abs(grad).max(), 1e-6 * largest), name


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_a_model_on_the_device_is_that_of_the_cpu(settings, in_shim):
    there, here = fit("cuda", **settings), fit("cpu", **settings)
    for name, weight in here.params_.items():
        assert isinstance(there.params_[name], np.ndarray)
        if name.endswith("key.bias"):  # no softmax sees it: its gradient is rounding alone, which Adam makes large
            continue
        np.testing.assert_allclose(there.params_[name], weight, rtol=0, atol=2e-5, err_msg=name)  # one step: 1e-2
    for one, other in zip(there.history_, here.history_, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=2e-5)
        assert one["metric"] == pytest.approx(other["metric"], abs=1e-9)


def test_answers_from_the_device_are_those_of_the_cpu(in_shim):
    model = fit("cpu")
    histories = [[100, 101, 102], [105], [], [107, 108, 109, 110, 111, 100, 101, 102, 103, 104]]

    def answers():
        found = model.recommend(histories, k=5, deny_items=[103])
        allowed = model.recommend(histories, k=5, allow_items=[103, 104, 105])
        held_out = regard.splits.leave_one_out(chains(30)).test
        report = regard.evaluate(model, held_out, k=(5,))
        return [*found, *allowed, model.scores(histories), model.encode(histories), np.array(report["ndcg@5"])]

    here, before = answers(), on_device.launches()
    there = (model.set_params(device="cuda"), answers())[1]
    assert on_device.launches() > before + 50
    for one, other in zip(there, here, strict=True):
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_bits_in_every_order_of_threads(in_shim):
    models = []
    for order in ORDERS:
        on_device.set_order(order)
        models.append(fit("cuda", epochs=1, n_blocks=1))
    for model in models[1:]:
        for name, weight in models[0].params_.items():
            np.testing.assert_array_equal(model.params_[name], weight, err_msg=name)


def test_an_interrupted_run_on_the_device_goes_on_with_the_same_bits(in_shim, tmp_path):
    def stop(entry):
        raise KeyboardInterrupt

    whole, path = fit("cuda", n_blocks=1), tmp_path / "run"
    how = {"epochs": 2, "dropout": 0.2, "precision": "highest", "n_blocks": 1, "dim": 8, "device": "cuda"}
    small(**how).fit(chains(30), checkpoint=path, checkpoint_seconds=0, callbacks=[stop])
    resumed = fit("cuda", path, n_blocks=1)
    for name, weight in whole.params_.items():
        np.testing.assert_array_equal(resumed.params_[name], weight, err_msg=name)
    with pytest.warns(UserWarning, match="cuda"):
        fit("cpu", path, n_blocks=1)


def test_a_file_does_not_say_where_the_model_was_trained(in_shim, tmp_path):
    model = fit("cuda", n_blocks=1, epochs=1)
    model.save(tmp_path / "m.safetensors")
    loaded = regard.load(tmp_path / "m.safetensors")
    assert loaded.device == "cpu"
    expected, found = model.recommend([100, 101]), loaded.recommend([100, 101])
    np.testing.assert_array_equal(found.items, expected.items)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "bce"}, "loss: expected 'softmax' with device='cuda', got 'bce'"),
        ({"optimizer": "sgd"}, "optimizer: expected 'adam' with device='cuda', got 'sgd'"),
        ({"time_bias": True}, "time_bias: expected False with device='cuda', got True"),
        ({"dim": 258, "n_heads": 2}, "dim: expected at most 256 with device='cuda', got 258"),
        ({"device": "gpu"}, "device: expected one of cpu, cuda, got 'gpu'"),
    ],
)
def test_what_is_not_written_for_the_device_is_refused_by_name(settings, message, in_shim):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**{"device": "cuda"} | settings).fit(chains())


def test_without_a_cuda_build_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("REGARD_CUDA_LIBRARY", str(tmp_path / "missing.so"))
    with pytest.raises(
        RuntimeError, match=r"device: expected 'cpu', as this build has no CUDA kernels.*REGARD_CUDA=ON"
    ):
        small(device="cuda").fit(chains())
    with pytest.raises(RuntimeError, match="no CUDA kernels"):
        cuda.asarray(np.zeros(3))
    model = small(epochs=1).fit(chains()).set_params(device="cuda")
    with pytest.raises(RuntimeError, match="no CUDA kernels"):
        model.recommend([100])


def test_without_a_device_the_error_says_what_cuda_says(shim, monkeypatch, tmp_path):
    other = tmp_path / "libregard_cuda.so"
    other.write_bytes(shim.read_bytes())
    monkeypatch.setenv("REGARD_CUDA_LIBRARY", str(other))
    monkeypatch.setenv("REGARD_SHIM_WITHOUT_DEVICE", "1")
    with pytest.raises(RuntimeError, match=r"no CUDA device that can be used.*no CUDA-capable device is detected"):
        small(device="cuda").fit(chains())
