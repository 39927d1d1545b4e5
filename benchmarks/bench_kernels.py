"""Kernels beside NumPy, and beside PyTorch, faiss and implicit where they are installed. Every answer is asserted.

    pytest benchmarks --benchmark-enable

One thread each: compare within a group, within one run.
"""

from __future__ import annotations

import numpy as np
import pytest

from contest import attention, cross_entropy, embedding, topk
from contest.cases import arrays
from regard import num_threads, ops, set_num_threads

LENGTH, DIM, BATCH, N_ITEMS = 200, 64, 16, 3416


@pytest.fixture(autouse=True)
def one_thread():
    before = num_threads()
    set_num_threads(1)
    yield
    set_num_threads(before)


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


# ---- causal self-attention -----------------------------------------------------------------------------------------

Q, K, V, DOUT = (normal(BATCH * LENGTH, 1, DIM, seed=seed) for seed in range(4))
CU = np.arange(BATCH + 1) * LENGTH


def numpy_attention():
    q, k, v = (x.reshape(BATCH, LENGTH, DIM) for x in (Q, K, V))
    z = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(DIM))
    z[:, np.triu(np.ones((LENGTH, LENGTH), bool), 1)] = -np.inf
    p = np.exp(z - z.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    return (p @ v).reshape(Q.shape)


@pytest.mark.benchmark(group="attention, causal, (16, 1, 200, 64), forward")
def test_attention_forward_regard(benchmark):
    out, _ = benchmark(ops.attention_forward, Q, K, V, CU, CU, causal=True)
    np.testing.assert_allclose(out, numpy_attention(), rtol=0, atol=1e-5)


@pytest.mark.benchmark(group="attention, causal, (16, 1, 200, 64), forward")
def test_attention_forward_numpy(benchmark):
    assert benchmark(numpy_attention).shape == Q.shape


@pytest.mark.benchmark(group="attention, causal, (16, 1, 200, 64), forward")
def test_attention_forward_torch(benchmark, torch):
    q, k, v = (torch.from_numpy(x.reshape(BATCH, 1, LENGTH, DIM)) for x in (Q, K, V))
    with torch.no_grad():
        out = benchmark(torch.nn.functional.scaled_dot_product_attention, q, k, v, is_causal=True)
    np.testing.assert_allclose(out.numpy().reshape(Q.shape), numpy_attention(), rtol=0, atol=1e-5)


@pytest.mark.benchmark(group="attention, causal, (16, 1, 200, 64), forward and backward")
def test_attention_both_ways_regard(benchmark):
    def both_ways():
        out, lse = ops.attention_forward(Q, K, V, CU, CU, causal=True)
        return ops.attention_backward(DOUT, Q, K, V, out, lse, CU, CU, causal=True)

    dq, dk, dv, _ = benchmark(both_ways)
    step = 1e-3  # along a direction: the gradient predicts the change of the loss
    direction = normal(*Q.shape, seed=9)
    ahead, behind = (ops.attention_forward(Q + s * direction, K, V, CU, CU, causal=True)[0] for s in (step, -step))
    change = np.sum((ahead - behind).astype(np.float64) * DOUT) / (2 * step)
    assert np.sum(dq.astype(np.float64) * direction) == pytest.approx(change, rel=1e-2, abs=1.0)
    assert dk.shape == K.shape and dv.shape == V.shape


@pytest.mark.benchmark(group="attention, causal, (16, 1, 200, 64), forward and backward")
def test_attention_both_ways_torch(benchmark, torch):
    q, k, v, dout = (torch.from_numpy(x.reshape(BATCH, 1, LENGTH, DIM)) for x in (Q, K, V, DOUT))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]

    def both_ways():
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
        return torch.autograd.grad(out, leaves, dout)

    grads = benchmark(both_ways)
    out, lse = ops.attention_forward(Q, K, V, CU, CU, causal=True)
    ours = ops.attention_backward(DOUT, Q, K, V, out, lse, CU, CU, causal=True)
    for a, b in zip(grads, ours[:3], strict=True):
        np.testing.assert_allclose(a.numpy().reshape(Q.shape), b, rtol=0, atol=1e-4)


# ---- cross-entropy over the catalogue --------------------------------------------------------------------------------

H, ITEMS = normal(1024, DIM, scale=0.3), normal(N_ITEMS, DIM, seed=1, scale=0.3)
TARGETS = np.random.default_rng(2).integers(0, N_ITEMS, len(H)).astype(np.int32)


def numpy_cross_entropy():
    s = H @ ITEMS.T
    s -= s.max(axis=1, keepdims=True)
    lse = np.log(np.exp(s).sum(axis=1))
    rows = np.arange(len(H))
    loss = float((lse - s[rows, TARGETS]).mean())
    p = np.exp(s - lse[:, None])
    p[rows, TARGETS] -= 1
    p /= len(H)
    return loss, p @ ITEMS, p.T @ H


@pytest.mark.benchmark(group="cross-entropy, value and gradient, (1024, 64) x 3416")
def test_cross_entropy_regard(benchmark):
    loss, dh, ditems = benchmark(ops.cross_entropy_value_and_grad, H, ITEMS, TARGETS)
    expected = numpy_cross_entropy()
    assert loss == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(dh, expected[1], rtol=0, atol=1e-7)
    np.testing.assert_allclose(ditems, expected[2], rtol=0, atol=1e-7)


@pytest.mark.benchmark(group="cross-entropy, value and gradient, (1024, 64) x 3416")
def test_cross_entropy_numpy(benchmark):
    assert benchmark(numpy_cross_entropy)[0] > 0


@pytest.mark.benchmark(group="cross-entropy, value and gradient, (1024, 64) x 3416")
def test_cross_entropy_torch(benchmark, torch):
    h, items = (torch.from_numpy(x).requires_grad_() for x in (H.copy(), ITEMS.copy()))
    targets = torch.from_numpy(TARGETS.astype(np.int64))

    def value_and_grad():
        loss = torch.nn.functional.cross_entropy(h @ items.T, targets)
        return loss.detach(), *torch.autograd.grad(loss, (h, items))

    assert float(benchmark(value_and_grad)[0]) == pytest.approx(numpy_cross_entropy()[0], rel=1e-5)


# ---- exact top-k -----------------------------------------------------------------------------------------------------


def numpy_topk(h, k):
    s = h @ ITEMS.T
    part = np.argpartition(-s, k, axis=1)[:, :k]
    order = np.take_along_axis(-s, part, 1).argsort(axis=1, kind="stable")
    return np.take_along_axis(part, order, 1)


@pytest.mark.parametrize("n", [1, 64])
@pytest.mark.benchmark(group="top 10 of 3416")
def test_topk_regard(benchmark, n):
    items, scores = benchmark(ops.topk, H[:n], ITEMS, 10)
    np.testing.assert_array_equal(items, numpy_topk(H[:n], 10))
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("n", [1, 64])
@pytest.mark.benchmark(group="top 10 of 3416")
def test_topk_numpy(benchmark, n):
    assert benchmark(numpy_topk, H[:n], 10).shape == (n, 10)


# ---- contenders of performance.py, at sizes for a quick look ---------------------------------------------------------

RAGGED = {"batch": 64, "length": 50, "mean": 7, "causal": True, "pass": "both"}
ONE = {"batch": 1, "length": 50, "causal": True, "pass": "forward"}
CASES = (
    attention.case("attention, ragged, 64 histories of 7 events, forward and backward", RAGGED),
    attention.case("attention, causal, (1, 1, 50, 64), forward", ONE),
    cross_entropy.case("cross-entropy, (1024, 64) x 3416, precisions and chunks", 1024, N_ITEMS, cross_entropy.ALL),
    topk.case(1, 20_000, (*topk.OURS, *topk.EXACT_PEERS)),
    topk.case(16, 20_000, (*topk.OURS, *topk.EXACT_PEERS, topk.BF16)),
    embedding.case(2_000, 20_000),
)


@pytest.mark.parametrize(
    ("case", "contender"),
    [
        pytest.param(case, contender, id=f"{contender.name}-{case.name}", marks=pytest.mark.benchmark(group=case.name))
        for case in CASES
        for contender in case.contenders
        if not contender.tuned  # that needs a process of its own
    ],
)
def test_contender(benchmark, case, contender):
    library = pytest.importorskip(contender.library)
    if contender.library == "torch":
        library.set_num_threads(1)
    if contender.library == "faiss":
        library.omp_set_num_threads(1)
    sizes = case.sizes | case.checked_with
    error = case.error(arrays(contender.make(sizes)()), case.reference(sizes))
    assert error <= contender.tolerance
    benchmark(contender.make(case.sizes))
