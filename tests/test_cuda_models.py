"""Arrays and models on a CUDA device: in the shim, and on a device where there is one."""

import re

import numpy as np
import on_device
import pytest
import test_attention
from on_device import ORDERS, Moved
from small_models import chains, small

import regard
from regard import cli, cuda, ops
from regard.layers import Run, forward

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
        (lambda: ops.sgd(x, weight, learning_rate=1.0), ValueError, "grad: expected shape (12,), got (10,)"),
        (
            lambda: ops.adagrad(x, x, x, learning_rate=1.0),
            NotImplementedError,
            "adagrad: not written for arrays on a CUDA device",
        ),
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
    "averaged": {"weight_averaging": True, "optimizer": "sgd", "learning_rate": 0.1, "normalize_items": True},
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
        ({"optimizer": "adagrad"}, "optimizer: expected 'adam' or 'sgd' with device='cuda', got 'adagrad'"),
        ({"pointer": True}, "pointer: expected False with device='cuda', got True"),
        ({"time_bias": True}, "time_bias: expected False with device='cuda', got True"),
        ({"mask_seen": True}, "mask_seen: expected False with device='cuda', got True"),
        ({"dim": 258, "n_heads": 2}, "dim: expected at most 256 with device='cuda', got 258"),
        ({"device": "gpu"}, "device: expected one of cpu, cuda, got 'gpu'"),
    ],
)
def test_what_is_not_written_for_the_device_is_refused_by_name(settings, message, in_shim):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**{"device": "cuda"} | settings).fit(chains())


def test_without_a_cuda_build_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("REGARD_CUDA_LIBRARY", str(tmp_path / "missing.so"))
    with pytest.raises(ValueError, match=r"device: expected 'cpu', as this build has no CUDA kernels.*REGARD_CUDA=ON"):
        small(device="cuda").fit(chains())
    with pytest.raises(RuntimeError, match="no CUDA kernels"):
        cuda.asarray(np.zeros(3))
    model = small(epochs=1).fit(chains()).set_params(device="cuda")
    with pytest.raises(ValueError, match="no CUDA kernels"):
        model.recommend([100])


def test_the_command_says_in_a_line_that_there_is_no_cuda_build(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("REGARD_CUDA_LIBRARY", str(tmp_path / "missing.so"))
    assert cli.main(["train", "synthetic", "--device", "cuda", "--out", str(tmp_path / "m.safetensors")]) == 2
    assert "device: expected 'cpu', as this build has no CUDA kernels" in capsys.readouterr().err


def test_without_a_device_the_error_says_what_cuda_says(cuda_shim, monkeypatch, tmp_path):
    other = tmp_path / "libregard_cuda.so"
    other.write_bytes(cuda_shim.read_bytes())
    monkeypatch.setenv("REGARD_CUDA_LIBRARY", str(other))
    monkeypatch.setenv("REGARD_SHIM_WITHOUT_DEVICE", "1")
    with pytest.raises(ValueError, match=r"no CUDA device that can be used.*no CUDA-capable device is detected"):
        small(device="cuda").fit(chains())
