"""Layers and functions of `regard.nn`: float64 formulas, gradients by central differences, masks."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import nn
from regard.nn.attention import gathered


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def check(layer, formula, arrays, rng, call=None):
    """Output and all gradients of a layer against its formula in float64.

    `formula` takes the inputs, then the weights. Gradients of the formula are central differences, 1e-8 from exact;
    the limit is some float32 roundings of sums of a few hundred terms, relative to the largest value.
    """
    call = call or (lambda tensors: layer(*tensors))
    call([nn.Tensor(x) for x in arrays])
    layer.set_weights([normal(rng, *weight.shape) for weight in layer.weights])
    tensors = [nn.Tensor(x) for x in arrays]
    with nn.Tape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        out = call(tensors)
        dout = normal(rng, *out.shape)
        total = nn.sum(out * dout)
    found = tape.gradient(total, [*tensors, *layer.weights])

    exact = [np.asarray(x, np.float64) for x in [*arrays, *layer.get_weights()]]
    expected = formula(*exact)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=2e-6 * max(1, np.abs(expected).max()))
    gradients = []
    for i in range(len(exact)):

        def loss(x, i=i):
            return float((formula(*exact[:i], x, *exact[i + 1 :]) * dout).sum())

        gradients.append(reference.central_differences(loss, exact[i]))
    largest = max(np.abs(gradient).max() for gradient in gradients)
    for i, (gradient, difference) in enumerate(zip(found, gradients, strict=True)):
        assert gradient.dtype == np.float32 and gradient.shape == difference.shape
        np.testing.assert_allclose(gradient, difference, rtol=0, atol=1e-5 * largest, err_msg=f"argument {i}")


# ---- formulas ----


def softmax(z, visible=None):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    e = e if visible is None else e * visible
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def attention(query, value, key, visible, scores):
    return softmax(scores(query, key), visible) @ value


def dot(scale=1.0):
    return lambda q, k: scale * np.einsum("nid,njd->nij", q, k)


def additive(weight, scale=1.0):
    return lambda q, k: (weight * np.tanh(scale * (q[:, :, None] + k[:, None]))).sum(axis=-1)


KINDS = {None: lambda z: z, "tanh": np.tanh, "softmax": softmax} | {
    kind: lambda z, kind=kind: reference.activation(z, kind) for kind in ("relu", "gelu", "silu", "sigmoid")
}


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
@pytest.mark.parametrize("kind", list(KINDS))
def test_dense_is_its_formula(kind, shape, rng):
    check(nn.Dense(3, kind), lambda x, w, b: KINDS[kind](x @ w + b), [normal(rng, *shape)], rng)


def test_dense_without_bias_has_none(rng):
    layer = nn.Dense(3, use_bias=False)
    check(layer, lambda x, w: x @ w, [normal(rng, 4, 5)], rng)
    assert len(layer.weights) == 1


def test_layer_normalization_is_its_formula(rng):
    def formula(x, gamma, beta):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-3) * gamma + beta

    check(nn.LayerNormalization(), formula, [normal(rng, 2, 3, 5)], rng)


def test_a_layer_built_by_hand_keeps_its_weights_at_the_first_call(rng):
    layer = nn.Dense(3)
    layer.build((None, 5))
    layer.set_weights([normal(rng, 5, 3), normal(rng, 3)])
    x, (kernel, bias) = normal(rng, 4, 5), layer.get_weights()
    np.testing.assert_allclose(layer(x).numpy(), x @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_embedding_is_a_row_for_each_id_and_its_gradient_their_sum(rng):
    layer, ids = nn.Embedding(5, 3, mask_zero=True), np.array([[1, 0, 4], [4, 4, 2]])
    layer(ids)
    dout = normal(rng, 2, 3, 3)
    with nn.Tape() as tape:
        out = layer(ids)
        total = nn.sum(out * dout)
    np.testing.assert_array_equal(out.numpy(), layer.embeddings.numpy()[ids])
    np.testing.assert_array_equal(out.mask, ids != 0)
    expected = np.zeros((5, 3))
    np.add.at(expected, ids, dout)
    np.testing.assert_allclose(tape.gradient(total, layer.weights)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", ["dot", "scale", "concat", "scaled concat", "additive"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 2)])
def test_attention_is_its_formula(shape, mode, causal, rng):
    n_q, n_k = shape
    arrays = [normal(rng, 2, n_q, 3), normal(rng, 2, n_k, 7), normal(rng, 2, n_k, 3)]
    visible = np.tri(n_q, n_k) if causal else np.ones(shape)
    layer, scores = {
        "dot": (nn.Attention(), dot),
        "scale": (nn.Attention(use_scale=True), dot),
        "concat": (nn.Attention(score_mode="concat"), additive),
        "scaled concat": (nn.Attention(True, "concat"), lambda scale, weight: additive(weight, scale)),
        "additive": (nn.AdditiveAttention(), additive),
    }[mode]

    def formula(q, v, k, *weights):
        return attention(q, v, k, visible, scores(*weights))

    check(layer, formula, arrays, rng, lambda tensors: layer(list(tensors), use_causal_mask=causal))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("value_dim", [None, 5])
def test_multi_head_attention_is_its_formula(value_dim, pairs, rng):
    layer = nn.MultiHeadAttention(2, 3, value_dim)
    arrays = [normal(rng, 2, 4, 6), normal(rng, 2, 5, 7)]
    visible = rng.random((2, 4, 5)) < 0.6 if pairs else np.ones((2, 4, 5), bool)

    def formula(x, value, wq, bq, wk, bk, wv, bv, wo, bo):
        q, k, v = (
            np.einsum("nid,dhk->nhik", a, w) + b[:, None] for a, w, b in ((x, wq, bq), (value, wk, bk), (value, wv, bv))
        )
        weights = softmax(np.einsum("nhik,nhjk->nhij", q, k) / np.sqrt(3), visible[:, None])
        return np.einsum("nhij,nhjk,hko->nio", weights, v, wo) + bo

    how = {"attention_mask": visible} if pairs else {}
    check(layer, formula, arrays, rng, lambda tensors: layer(*tensors, **how))


FUNCTIONS = {
    "add, stretched": (lambda x, y: x + y[0], lambda x, y: x + y[0]),
    "subtract": (lambda x, y: 1 - x - y, lambda x, y: 1 - x - y),
    "multiply, stretched": (lambda x, y: x * y[:, :1], lambda x, y: x * y[:, :1]),
    "divide": (lambda x, y: x / nn.exp(y), lambda x, y: x / np.exp(y)),
    "matmul": (lambda x, y: x @ nn.transpose(y), lambda x, y: x @ y.T),
    "matmul of a batch": (
        lambda x, y: nn.reshape(x, (2, 2, 3)) @ nn.reshape(y, (2, 3, 2)),
        lambda x, y: x.reshape(2, 2, 3) @ y.reshape(2, 3, 2),
    ),
    "log and square": (lambda x, y: nn.log(nn.square(x) + 1), lambda x, y: np.log(x**2 + 1)),
    "sqrt": (lambda x, y: nn.sqrt(nn.square(x) + 1), lambda x, y: np.sqrt(x**2 + 1)),
    "relu": (lambda x, y: nn.relu(x), lambda x, y: np.maximum(x, 0)),
    "sigmoid and tanh": (lambda x, y: nn.sigmoid(x) * nn.tanh(y), lambda x, y: np.tanh(y) / (1 + np.exp(-x))),
    "gelu": (lambda x, y: nn.gelu(x), lambda x, y: reference.activation(x, "gelu")),
    "silu": (lambda x, y: nn.silu(x), lambda x, y: reference.activation(x, "silu")),
    "softmax": (lambda x, y: nn.softmax(x), lambda x, y: softmax(x)),
    "concatenate": (lambda x, y: nn.concatenate([x, y, x], axis=0), lambda x, y: np.concatenate([x, y, x])),
    "gather": (lambda x, y: nn.gather(x, [3, 0, 3]), lambda x, y: x[[3, 0, 3]]),
    "mean": (lambda x, y: nn.mean(x, axis=1), lambda x, y: x.mean(axis=1)),
    "sum of two axes": (lambda x, y: nn.sum(x * y, axis=(0, 1)), lambda x, y: (x * y).sum()),
    "minus and index": (lambda x, y: (-x)[1:, None, -1], lambda x, y: (-x)[1:, None, -1]),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions_are_their_formulas(name, rng):
    ours, formula = FUNCTIONS[name]
    check(nn.Layer(), formula, [normal(rng, 4, 3), normal(rng, 4, 3)], rng, lambda tensors: ours(*tensors))


# ---- masks ----


@st.composite
def masked_batches(draw):
    n, n_q, n_k = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)

    def mask(length):
        kind = draw(st.sampled_from(["none", "right", "left", "any"]))
        ends = np.arange(length) < rng.integers(0, length + 1, (n, 1))
        return {"none": None, "right": ends, "left": ends[:, ::-1], "any": rng.random((n, length)) < 0.5}[kind]

    return n, n_q, n_k, mask(n_q), mask(n_k), draw(st.booleans()), rng


@given(masked_batches())
@settings(deadline=None, max_examples=150)
def test_masks_hide_keys_whichever_way_the_sum_is_taken(batch):
    n, n_q, n_k, query_mask, value_mask, causal, rng = batch
    q, v, k = normal(rng, n, n_q, 4), normal(rng, n, n_k, 3), normal(rng, n, n_k, 4)
    visible = np.ones((n, n_q, n_k), bool) if value_mask is None else np.repeat(value_mask[:, None], n_q, axis=1)
    visible &= np.tri(n_q, n_k, dtype=bool) if causal else True
    weights = softmax(dot()(q.astype(np.float64), k.astype(np.float64)), visible)
    expected = weights @ v * (1 if query_mask is None else query_mask[:, :, None])
    how = {"mask": [query_mask, value_mask], "use_causal_mask": causal}
    out = nn.Attention()([q, v, k], **how)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-5)
    dense, scores = nn.Attention()([q, v, k], return_attention_scores=True, **how)
    np.testing.assert_allclose(dense.numpy(), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores.numpy(), weights, rtol=0, atol=1e-5)

    dout, found = normal(rng, *expected.shape), []
    for options in ({}, {"return_attention_scores": True}):
        tensors = [nn.Tensor(x) for x in (q, v, k)]
        with nn.Tape() as tape:
            for tensor in tensors:
                tape.watch(tensor)
            result = nn.Attention()(tensors, **how, **options)
            total = nn.sum((result[0] if options else result) * dout)
        found.append(tape.gradient(total, tensors))
    for ragged, plain in zip(*found, strict=True):
        np.testing.assert_allclose(ragged, plain, rtol=0, atol=1e-4)


@given(masked_batches())
@settings(deadline=None, max_examples=150)
def test_what_is_masked_cannot_change_a_bit(batch):
    n, n_q, n_k, query_mask, value_mask, causal, rng = batch
    q, v = normal(rng, n, n_q, 4), normal(rng, n, n_k, 4)
    spoilt = v.copy()
    if value_mask is not None:
        spoilt[~value_mask] = np.nan
    how = {"mask": [query_mask, value_mask], "use_causal_mask": causal}
    for layer in (nn.Attention(), nn.AdditiveAttention(use_scale=False)):
        np.testing.assert_array_equal(layer([q, spoilt], **how).numpy(), layer([q, v], **how).numpy())
    heads = nn.MultiHeadAttention(2, 3)
    plain = heads(q, v, query_mask=query_mask, value_mask=value_mask, use_causal_mask=causal)
    other = heads(q, spoilt, query_mask=query_mask, value_mask=value_mask, use_causal_mask=causal)
    np.testing.assert_array_equal(other.numpy(), plain.numpy())


def test_masks_of_padding_take_the_kernels_and_only_odd_ones_the_dense_formula():
    right, left = np.arange(4) < np.array([[2], [4]]), np.arange(4) >= np.array([[2], [0]])
    holes = np.array([[True, False, True, False], [True] * 4])
    for causal in (False, True):
        assert gathered(2, 4, 4, None, None, causal) is not None
        assert gathered(2, 4, 4, right, right, causal) is not None
        assert gathered(2, 4, 4, None, right, causal) is not None
        assert gathered(2, 4, 4, left, left, causal) is not None
        assert gathered(2, 4, 4, None, left, causal) is not None
        assert gathered(2, 4, 4, holes, holes, causal) is not None
    assert gathered(2, 4, 4, None, holes, False) is not None
    assert gathered(2, 4, 4, None, holes, True) is None


def test_a_query_without_any_key_gives_zero(rng):
    x, hidden = normal(rng, 1, 3, 4), np.zeros((1, 3), bool)
    assert not nn.Attention()([x, x], mask=[None, hidden]).numpy().any()
    assert not nn.AdditiveAttention()([x, x], mask=[None, hidden]).numpy().any()
    layer = nn.MultiHeadAttention(2, 4)
    layer(x, x)
    layer.attention_output.bias.data[:] = [1, 2, 3, 4]
    found = layer(x, x, value_mask=hidden).numpy()
    np.testing.assert_array_equal(found, np.broadcast_to([1.0, 2, 3, 4], (1, 3, 4)))


def test_causality_is_aligned_at_the_start(rng):
    q, v = normal(rng, 1, 3, 4), normal(rng, 1, 5, 4)
    first = nn.Attention()([q, v], use_causal_mask=True).numpy()[0, 0]
    np.testing.assert_allclose(first, v[0, 0], rtol=1e-6)


def test_heads_wider_than_the_kernels_take_work_too(rng):
    q, v = normal(rng, 2, 3, 300) * 0.1, normal(rng, 2, 5, 300)
    exact = attention(*(x.astype(np.float64) for x in (q, v, v)), None, dot())
    np.testing.assert_allclose(nn.Attention()([q, v]).numpy(), exact, rtol=0, atol=1e-4)


def test_the_mask_of_an_embedding_reaches_attention_through_other_layers():
    ids = np.array([[3, 1, 0, 0], [2, 0, 0, 0]])
    embed, norm, dense = nn.Embedding(4, 6, mask_zero=True), nn.LayerNormalization(), nn.Dense(6)
    x = dense(norm(embed(ids)))
    np.testing.assert_array_equal(x.mask, ids != 0)
    attend = nn.MultiHeadAttention(1, 4)
    short = nn.Tensor(x.numpy()[:1, :2])
    np.testing.assert_allclose(attend(x, x).numpy()[:1, :2], attend(short, short).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ragged", [True, False])
def test_dropout_of_attention_keeps_the_mean_and_stops_outside_training(ragged, rng):
    q, v = np.zeros((1, 2000, 1), np.float32), np.ones((1, 50, 1), np.float32)
    layer = nn.Attention(dropout=0.4, seed=3)
    how = {} if ragged else {"return_attention_scores": True}

    def run(**options):
        result = layer([q, v], **options, **how)
        return (result if ragged else result[0]).numpy()

    np.testing.assert_allclose(run(), 1, rtol=1e-5)
    first, second = run(training=True), run(training=True)
    assert first.std() > 0.05 and (first != second).any()
    assert first.mean() == pytest.approx(1, abs=0.02)
    again = nn.Attention(dropout=0.4, seed=3)
    result = again([q, v], training=True, **how)
    np.testing.assert_array_equal((result if ragged else result[0]).numpy(), first)


def test_dropout_drops_in_training_alone_and_its_gradient_is_the_same_mask(rng):
    x, layer = nn.Tensor(np.ones((100, 20), np.float32)), nn.Dropout(0.25, seed=1)
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    with nn.Tape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        total = nn.sum(y)
    assert set(np.unique(y.numpy())) == {0, np.float32(1 / 0.75)}
    np.testing.assert_array_equal(tape.gradient(total, [x])[0], y.numpy())


# ---- bad input ----


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (nn.Attention(), r"expected a list \[query, value\]"),
        (lambda x: nn.Attention()([x, x[:, :, :3]]), "value .*expected 4 features as in query, got 3"),
        (lambda x: nn.Attention()([x, x[:1]]), "one batch"),
        (lambda x: nn.Attention()([x[0], x[0]]), r"query: expected \(batch, length, features\), got shape \(5, 4\)"),
        (lambda x: nn.Attention()([x, x], mask=np.ones((2, 5))), "mask: expected a list"),
        (lambda x: nn.Attention()([x, x], mask=[None, np.ones((2, 4))]), r"value_mask: expected shape \(2, 5\)"),
        (lambda x: nn.MultiHeadAttention(2, 3)(x, x, attention_mask=np.ones((2, 3, 3))), "attention_mask: expected"),
        (lambda x: nn.Attention(score_mode="cosine"), "score_mode: expected 'dot' or 'concat', got 'cosine'"),
        (lambda x: nn.MultiHeadAttention(0, 3), "num_heads: expected a whole number from 1, got 0"),
        (lambda x: nn.Dense(0), "units: expected"),
        (lambda x: nn.Dense(3, "cube"), "activation: expected .* got 'cube'"),
        (lambda x: nn.Dropout(1.0), "rate: expected"),
        (lambda x: nn.Embedding(5, 2)(np.array([5])), "ids: expected from 0 to 4, got 5"),
        (lambda x: nn.Embedding(5, 2)(np.array([-1])), "ids: expected from 0 to 4, got -1"),
        (lambda x: nn.LayerNormalization(axis=1), "axis: expected -1"),
    ],
)
def test_wrong_arguments_are_named(call, words, rng):
    with pytest.raises(ValueError, match=words):
        call(normal(rng, 2, 5, 4))


def test_a_layer_refuses_another_width_than_it_was_built_for(rng):
    layer = nn.Dense(3)
    layer(normal(rng, 2, 4))
    with pytest.raises(ValueError, match=r"expected 4 features on the last axis, got \(2, 5\)"):
        layer(normal(rng, 2, 5))
