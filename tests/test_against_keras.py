"""`regard.nn` against Keras 3 with the same weights: outputs, gradients, steps of optimisers.

Keras (on PyTorch) is a judge, never a dependency: without it these tests are skipped.
"""

import itertools
import os
import warnings

import numpy as np
import pytest

import regard
from regard import nn

torch = pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend than torch", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Layer .* does not support masking")


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def close(found, expected, name=""):
    """Two float32 computations of one formula: some roundings apart, relative to the largest value."""
    expected = np.asarray(expected)
    largest = max(float(np.abs(expected).max(initial=0)), 1e-6)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-5 * largest, err_msg=name)


def compare(ours, theirs, inputs, dout, rng, how_ours=None, how_theirs=None):
    """Output and gradients by inputs and weights of both layers, with the same random weights."""
    torch_inputs = [torch.tensor(x, requires_grad=True) for x in inputs]
    call_ours, call_theirs = how_ours or {}, how_theirs or {}
    as_list = isinstance(ours, nn.Attention)

    def run(layer, x, how):
        return layer(list(x), **how) if as_list else layer(*x, **how)

    run(theirs, torch_inputs, call_theirs)
    run(ours, inputs, call_ours)
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in theirs.get_weights()]
    theirs.set_weights([normal(rng, *w.shape) * 0.5 for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())

    expected = run(theirs, torch_inputs, call_theirs)
    (expected * torch.tensor(dout)).sum().backward()
    tensors = [nn.Tensor(x) for x in inputs]
    with nn.Tape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        found = run(ours, tensors, call_ours)
        total = nn.sum(found * dout)
    seen = np.abs(dout).sum(axis=-1) > 0
    close(found.numpy()[seen], expected.detach().numpy()[seen], "output")
    gradients = tape.gradient(total, [*tensors, *ours.weights])
    judged = [x.grad for x in torch_inputs] + [w.value.grad for w in theirs.trainable_weights]
    scale = max(float(g.abs().max()) for g in judged)
    for i, (gradient, judge) in enumerate(zip(gradients, judged, strict=True)):
        np.testing.assert_allclose(gradient, judge.numpy(), rtol=0, atol=1e-5 * scale, err_msg=f"gradient {i}")


def masks_of(kind, rng, n, n_q, n_k):
    """None, right or left padding, or any places; at least one key is left."""
    if kind == "none":
        return None, None
    lengths_q, lengths_k = rng.integers(1, n_q + 1, n), rng.integers(1, n_k + 1, n)
    q, k = np.arange(n_q) < lengths_q[:, None], np.arange(n_k) < lengths_k[:, None]
    if kind == "left":
        return q[:, ::-1], k[:, ::-1]
    if kind == "any":
        q, k = rng.random((n, n_q)) < 0.6, rng.random((n, n_k)) < 0.6
        k[:, 0] = True
    return q, k


def rows_with_a_key(n, n_q, n_k, key_mask, causal):
    seen = np.ones((n, n_q, n_k), bool) if key_mask is None else np.repeat(key_mask[:, None], n_q, axis=1)
    return (seen & (np.tri(n_q, n_k, dtype=bool) if causal else True)).any(axis=2)


def contiguous(*masks):
    return [None if mask is None else torch.tensor(np.ascontiguousarray(mask)) for mask in masks]


ATTENTION = {
    "dot": ({}, nn.Attention, "Attention"),
    "scaled dot": ({"use_scale": True}, nn.Attention, "Attention"),
    "concat": ({"score_mode": "concat"}, nn.Attention, "Attention"),
    "scaled concat": ({"score_mode": "concat", "use_scale": True}, nn.Attention, "Attention"),
    "additive": ({}, nn.AdditiveAttention, "AdditiveAttention"),
    "additive without scale": ({"use_scale": False}, nn.AdditiveAttention, "AdditiveAttention"),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["none", "right", "left", "any"])
@pytest.mark.parametrize("mode", list(ATTENTION))
def test_attention_layers_equal_those_of_keras(mode, kind, causal, rng):
    settings, ours, theirs = ATTENTION[mode]
    for (n_q, n_k, value_dim), keys in itertools.product([(6, 6, 5), (4, 7, 9), (7, 3, 5)], [False, True]):
        dim = 5
        inputs = [normal(rng, 3, n_q, dim), normal(rng, 3, n_k, value_dim if keys else dim)]
        inputs += [normal(rng, 3, n_k, dim)] if keys else []
        query_mask, value_mask = masks_of(kind, rng, 3, n_q, n_k)
        dout = normal(rng, 3, n_q, inputs[1].shape[-1])
        dout[~rows_with_a_key(3, n_q, n_k, value_mask, causal)] = 0
        mask = None if kind == "none" else [query_mask, value_mask]
        compare(
            ours(**settings),
            getattr(keras.layers, theirs)(**settings),
            inputs,
            dout,
            rng,
            how_ours={"mask": mask, "use_causal_mask": causal},
            how_theirs={"mask": mask and contiguous(*mask), "use_causal_mask": causal},
        )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", list(ATTENTION))
def test_attention_scores_equal_those_of_keras(mode, causal, rng):
    settings, ours, theirs = ATTENTION[mode]
    query, value = normal(rng, 2, 4, 6), normal(rng, 2, 7, 6)
    mask = [np.ones((2, 4), bool), np.arange(7) < np.array([[3], [7]])]
    judge, layer = getattr(keras.layers, theirs)(**settings), ours(**settings)
    how = {"use_causal_mask": causal, "return_attention_scores": True}
    out, scores = judge([query, value], mask=contiguous(*mask), **how)
    layer.build([query.shape, value.shape])
    layer.set_weights(judge.get_weights())
    found_out, found_scores = layer([query, value], mask=mask, **how)
    close(found_out, out.detach())
    close(found_scores, scores.detach())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["none", "right", "left", "any", "pairs"])
@pytest.mark.parametrize("settings", [{}, {"use_bias": False}, {"value_dim": 9}])
def test_multi_head_attention_equals_that_of_keras(settings, kind, causal, rng):
    for n_q, n_k in [(6, 6), (4, 7)]:
        inputs = [normal(rng, 3, n_q, 5), normal(rng, 3, n_k, 6), normal(rng, 3, n_k, 7)]
        masks = {}
        if kind == "pairs":
            masks = {"attention_mask": rng.random((3, n_q, n_k)) < 0.6}
            masks["attention_mask"][:, :, 0] = True
        elif kind != "none":
            masks = {"value_mask": masks_of(kind, rng, 3, n_q, n_k)[1]}
        dout = normal(rng, 3, n_q, 5)
        dout[~rows_with_a_key(3, n_q, n_k, masks.get("value_mask"), causal)] = 0
        theirs = {name: torch.tensor(np.ascontiguousarray(mask)) for name, mask in masks.items()}
        compare(
            nn.MultiHeadAttention(3, 4, **settings),
            keras.layers.MultiHeadAttention(3, 4, **settings),
            inputs,
            dout,
            rng,
            how_ours={**masks, "use_causal_mask": causal},
            how_theirs={**theirs, "use_causal_mask": causal},
        )


def test_scores_of_multi_head_attention_equal_those_of_keras(rng):
    x = normal(rng, 2, 5, 6)
    ours, theirs = nn.MultiHeadAttention(2, 4), keras.layers.MultiHeadAttention(2, 4)
    how = {"use_causal_mask": True, "return_attention_scores": True}
    out, scores = theirs(x, x, **how)
    ours(x, x)
    ours.set_weights(theirs.get_weights())
    found_out, found_scores = ours(x, x, **how)
    close(found_out, out.detach())
    close(found_scores, scores.detach())


ACTIVATIONS = [None, "linear", "relu", "gelu", "silu", "swish", "sigmoid", "tanh", "softmax"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_equals_that_of_keras(activation, rng):
    for shape in [(7, 5), (2, 3, 5)]:
        dout = normal(rng, *shape[:-1], 4)
        compare(nn.Dense(4, activation), keras.layers.Dense(4, activation), [normal(rng, *shape)], dout, rng)


@pytest.mark.parametrize("settings", [{}, {"epsilon": 1e-6}, {"center": False}, {"scale": False}])
def test_layer_normalization_equals_that_of_keras(settings, rng):
    x, dout = normal(rng, 2, 3, 5), normal(rng, 2, 3, 5)
    compare(nn.LayerNormalization(**settings), keras.layers.LayerNormalization(**settings), [x], dout, rng)


# ---- training ----


def both_sequential(mask_zero, units, activation):
    def layers(of):
        return [
            of.Embedding(11, 6, mask_zero=mask_zero),
            of.LayerNormalization(),
            of.Dense(9, activation="relu"),
            of.Dense(units, activation=activation),
        ]

    return nn.Sequential(layers(nn)), keras.Sequential(layers(keras.layers))


def train_both(ours, theirs, x, y, optimizers, losses, metrics, steps):
    """`steps` steps of each on the same batches from the same weights; compares weights, history, predictions."""
    ours(x)
    theirs(x)
    theirs.set_weights([w + 0.1 * np.random.default_rng(1).standard_normal(w.shape) for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    start = ours.get_weights()
    ours.compile(optimizers[0], losses[0], metrics=metrics)
    theirs.compile(optimizers[1], losses[1], metrics=metrics)
    how = {"batch_size": -(-len(y) // 2), "epochs": steps // 2, "shuffle": False, "verbose": 0}
    found = ours.fit(x, y, validation_data=(x[:5], y[:5]), **how).history
    expected = theirs.fit(x, y, validation_data=(x[:5], y[:5]), **how).history
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-6, err_msg=name)
    judged = theirs.get_weights()
    moved = max(np.abs(judge - before).max() for judge, before in zip(judged, start, strict=True))
    for i, (weight, judge) in enumerate(zip(ours.get_weights(), judged, strict=True)):
        np.testing.assert_allclose(weight, judge, rtol=0, atol=1e-3 * moved, err_msg=f"weight {i}")
    close(ours.predict(x), theirs.predict(x, verbose=0))


OPTIMIZERS = {
    "sgd": ("sgd", "sgd"),
    "sgd with momentum": (nn.SGD(0.05, momentum=0.9), lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    "adam": ("adam", "adam"),
    "adam, other settings": (nn.Adam(0.01, 0.8, 0.99, 1e-3), lambda: keras.optimizers.Adam(0.01, 0.8, 0.99, 1e-3)),
    "adamw": ("adamw", "adamw"),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_20_steps_of_every_optimiser_equal_those_of_keras(name, rng):
    ours, theirs = both_sequential(False, 4, "tanh")
    mine, other = OPTIMIZERS[name]
    other = other() if callable(other) else other
    x, y = rng.integers(0, 11, (13, 6)), normal(rng, 13, 6, 4)
    train_both(ours, theirs, x, y, (mine, other), ("mse", "mse"), ["mae"], 20)


LOSSES = {
    "mse": ("mse", lambda: "mse", "linear"),
    "binary": ("binary_crossentropy", lambda: "binary_crossentropy", "sigmoid"),
    "binary from logits": (
        nn.BinaryCrossentropy(from_logits=True),
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
        None,
    ),
    "categorical": ("categorical_crossentropy", lambda: "categorical_crossentropy", "softmax"),
    "categorical from logits": (
        nn.CategoricalCrossentropy(from_logits=True),
        lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
        None,
    ),
    "sparse": ("sparse_categorical_crossentropy", lambda: "sparse_categorical_crossentropy", "softmax"),
    "sparse from logits": (
        nn.SparseCategoricalCrossentropy(from_logits=True),
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        None,
    ),
}


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("name", list(LOSSES))
def test_20_adam_steps_with_every_loss_equal_those_of_keras(name, mask_zero, rng):
    mine, other, activation = LOSSES[name]
    ours, theirs = both_sequential(mask_zero, 4, activation)
    x = rng.integers(1, 11, (13, 6))
    x[np.arange(6) >= rng.integers(1, 7, (13, 1))] = 0
    y = rng.integers(0, 4, (13, 6))
    if not name.startswith("sparse"):
        y = np.eye(4, dtype=np.float32)[y] if name.startswith("cat") else rng.integers(0, 2, (13, 6, 4))
    train_both(ours, theirs, x, y, ("adam", "adam"), (mine, other()), ["accuracy", "mae"][: 1 + (y.ndim > 2)], 20)


def test_20_adam_steps_of_a_subclassed_transformer_block_equal_those_of_keras(rng):
    def block(model, layers):
        class Block(model):
            def __init__(self):
                super().__init__()
                self.embed = layers.Embedding(11, 8, mask_zero=True)
                self.attend = layers.MultiHeadAttention(2, 4)
                self.norm = layers.LayerNormalization()
                self.hidden = layers.Dense(16, activation="gelu")
                self.out = layers.Dense(11)

            def call(self, ids):
                x = self.embed(ids)
                x = self.norm(x + self.attend(x, x, use_causal_mask=True))
                return self.out(self.hidden(x))

        return Block()

    x = rng.integers(1, 11, (13, 6))
    ours, theirs = block(nn.Model, nn), block(keras.Model, keras.layers)
    losses = LOSSES["sparse from logits"][0], LOSSES["sparse from logits"][1]()
    train_both(ours, theirs, x, np.roll(x, -1, axis=1), ("adam", "adam"), losses, [], 20)


def test_20_adam_steps_of_the_attention_model_equal_the_same_layers_in_keras(rng):
    x = keras.Input((None, 3))
    hidden = keras.layers.Dense(64, "relu")(keras.layers.Dense(64, "relu")(x))
    h = keras.layers.Attention()([hidden * 0.125, x, hidden])
    theirs = keras.Model(x, keras.layers.Dense(2)(h))
    events = normal(rng, 13, 6, 3)
    y = normal(rng, 13, 6, 2)
    train_both(regard.AttentionModel(3, 2), theirs, events, y, ("adam", "adam"), ("mse", "mse"), ["mae"], 20)
