"""Models of `regard.nn`: the tape, training, files, and the tutorial's model."""

import json

import numpy as np
import pytest

import regard
from regard import nn, tensor_file


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(autouse=True)
def seed():
    nn.set_random_seed(0)


# ---- the tape ----


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (np.exp, "numpy.exp on a tensor.*use regard.nn.exp"),
        (np.tanh, "use regard.nn.tanh"),
        (np.mean, "numpy.mean on a tensor.*use regard.nn.mean"),
        (np.sum, "use regard.nn.sum"),
        (np.negative, "use regard.nn.subtract"),
        (lambda t: np.add(t, t), "use regard.nn.add"),
        (lambda t: np.concatenate([t, t]), "use regard.nn.concatenate"),
        (lambda t: np.einsum("ij->i", t), "numpy.einsum on a tensor.*regard.nn has add, subtract"),
        (np.floor, "regard.nn has add, subtract"),
        (np.asarray, r"numpy.asarray on a tensor.*or \.numpy\(\)"),
        (lambda t: np.zeros((2, 3)).__iadd__(t), "numpy.add on a tensor"),
    ],
)
def test_numpy_functions_on_tracked_values_raise_and_name_what_to_use(function, instead):
    x = nn.Tensor(np.ones((2, 3)))
    with nn.Tape() as tape:
        tape.watch(x)
        with pytest.raises(TypeError, match=instead):
            function(x * 2)


def test_a_model_that_calls_numpy_says_so_in_fit(rng):
    class Wrong(nn.Model):
        def __init__(self):
            super().__init__()
            self.dense = nn.Dense(1)

        def call(self, x):
            return np.tanh(self.dense(x))

    model = Wrong()
    model.compile("adam", "mse")
    with pytest.raises(TypeError, match=r"use regard\.nn\.tanh"):
        model.fit(normal(rng, 4, 2), normal(rng, 4, 1), verbose=0)


def test_an_array_times_a_tensor_is_tracked(rng):
    x, array = nn.Tensor(normal(rng, 3)), normal(rng, 3)
    with nn.Tape() as tape:
        tape.watch(x)
        y = array * x + np.float32(2) * x - (1 - x) / array[0]
    gradient = tape.gradient(y, [x])[0]
    np.testing.assert_allclose(gradient, array + 2 + 1 / array[0], rtol=1e-6)


def test_values_leave_the_tape_by_numpy_and_after_it(rng):
    x = nn.Tensor(normal(rng, 3))
    with nn.Tape() as tape:
        tape.watch(x)
        y = x * x
        np.testing.assert_array_equal(y.numpy(), x.numpy() ** 2)
    np.testing.assert_array_equal(np.asarray(y), x.numpy() ** 2)


def test_a_value_used_twice_gets_both_gradients_and_an_unused_one_zero():
    x, unused = nn.Tensor([3.0]), nn.Tensor([1.0, 2.0])
    with nn.Tape() as tape:
        tape.watch(x)
        tape.watch(unused)
        y = x + x
        z = y * y + y
    one, other = tape.gradient(z, [x, unused])
    assert one.tolist() == [2 * (2 * 6 + 1)] and other.tolist() == [0, 0]
    with pytest.raises(ValueError, match="target: expected a tensor computed from tracked values"):
        tape.gradient(nn.Tensor(1.0), [x])


# ---- training ----


def regression(rng, n=60):
    x = normal(rng, n, 4)
    return x, x @ normal(rng, 4, 2) + 0.5


def small():
    return nn.Sequential([nn.Dense(16, activation="relu"), nn.Dropout(0.1), nn.Dense(2)])


def test_fit_lowers_the_loss_and_evaluate_and_predict_agree_with_it(rng, capsys):
    x, y = regression(rng)
    model = small()
    model.compile(nn.Adam(0.01), "mse", metrics=["mae"])
    history = model.fit(x, y, epochs=60, batch_size=16, validation_data=(x[:9], y[:9]))
    assert set(history.history) == {"loss", "mae", "val_loss", "val_mae"} and history.epoch == list(range(60))
    assert history.history["loss"][-1] < 0.2 * history.history["loss"][0]
    assert capsys.readouterr().out.startswith("Epoch 1/60 - loss: ")
    predicted = model.predict(x, batch_size=7)
    assert predicted.shape == (60, 2) and type(predicted) is np.ndarray
    loss, mae = model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(((predicted - y) ** 2).mean(), rel=1e-5)
    assert mae == pytest.approx(np.abs(predicted - y).mean(), rel=1e-5)
    assert model.evaluate(x[:9], y[:9], verbose=0, return_dict=True)["loss"] == pytest.approx(
        history.history["val_loss"][-1], rel=1e-5
    )


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(rng, threads):
    x, y = regression(rng)
    found = []
    for number in (threads, 1):
        regard.set_num_threads(number)
        nn.set_random_seed(7)
        model = small()
        model.compile("adam", "mse")
        model.fit(x, y, epochs=3, verbose=0)
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_callbacks_are_functions_that_see_the_losses_and_can_stop(rng):
    x, y = regression(rng)
    model, seen = small(), []
    model.compile("sgd", "mse")

    def stop_after_two(epoch, logs):
        seen.append((epoch, logs["loss"]))
        model.stop_training = epoch == 1
        model.optimizer.learning_rate *= 0.5

    history = model.fit(x, y, epochs=5, callbacks=[stop_after_two], verbose=0)
    assert [epoch for epoch, _ in seen] == history.epoch == [0, 1]
    assert model.optimizer.learning_rate == 0.0025


def test_a_function_can_be_the_loss(rng):
    x, y = regression(rng)
    models = [small(), small()]
    models[1](x)
    models[0](x)
    models[1].set_weights(models[0].get_weights())
    models[0].compile("sgd", "mse")
    models[1].compile("sgd", lambda y_true, y_pred: nn.mean(nn.square(y_pred - y_true), axis=-1))
    for model in models:
        model.layers[1].rate = 0
        model.layers[1]._rate.p = 0.0
        model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_frozen_layers_do_not_change(rng):
    x, y = regression(rng)
    model = small()
    model(x)
    model.layers[0].trainable = False
    before = model.get_weights()
    model.compile("adamw", "mse")
    model.fit(x, y, verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert same == [True, True, False, False]


class Pair(nn.Model):
    """Two inputs, a list of layers, weights of its own."""

    def __init__(self):
        super().__init__()
        self.sides = [nn.Dense(4, activation="tanh"), nn.Dense(4)]
        self.out = nn.Dense(1)

    def build(self, input_shape):
        self.shift = self.add_weight("shift", (4,), "zeros")

    def call(self, inputs, training=False):
        a, b = inputs
        h = self.sides[0](a) * self.sides[1](b) + self.shift
        return self.out(h * 0.5 if training else h)


def test_a_subclassed_model_has_inputs_layers_in_lists_own_weights_and_the_training_flag(rng):
    a, b, y = normal(rng, 20, 3), normal(rng, 20, 5), normal(rng, 20, 1)
    model = Pair()
    model.compile("adam", "mse")
    before = model.predict([a, b])
    assert list(model.named_weights()) == [
        "shift", "sides.0.kernel", "sides.0.bias", "sides.1.kernel", "sides.1.bias", "out.kernel", "out.bias"
    ]  # fmt: skip
    np.testing.assert_allclose(model([a, b], training=True).numpy(), before / 2, rtol=1e-5, atol=1e-6)
    history = model.fit([a, b], y, epochs=30, verbose=0).history["loss"]
    assert history[-1] < history[0] and model.shift.numpy().any()


def test_an_input_builds_a_sequential_and_summary_counts_its_weights():
    model = nn.Sequential([nn.Input((5, 3)), nn.Dense(4), nn.LayerNormalization(), nn.Dense(2)])
    lines = []
    model.summary(print_fn=lines.append)
    assert model.count_params() == 16 + 8 + 10
    assert "dense_1 (Dense)" in lines[0] and "(None, 5, 2)" in lines[0] and "34 weights" in lines[0]
    with pytest.raises(ValueError, match="not built yet"):
        nn.Sequential([nn.Dense(4)]).count_params()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, x, y: m.fit(x, y), RuntimeError, "not compiled"),
        (lambda m, x, y: m.compile("adam", "mean"), ValueError, "loss: expected .* got 'mean'"),
        (lambda m, x, y: m.compile("lion", "mse"), ValueError, "optimizer: expected .* got 'lion'"),
        (lambda m, x, y: m.compile("adam", "mse", metrics=["auc"]), ValueError, "metrics: expected .* got 'auc'"),
        (
            lambda m, x, y: (m.compile(loss="mse"), m.fit(x, y[:-1])),
            ValueError,
            "y: expected 60 entries as in x, got 59",
        ),
        (lambda m, x, y: (m.compile(loss="mse"), m.fit(x, y[:, :1])), ValueError, "target has 1 columns.* gives 2"),
        (lambda m, x, y: (m.compile(loss="mse"), m.fit(x, y, epochs=0)), ValueError, "epochs: expected"),
        (lambda m, x, y: (m.compile(loss="mse"), m.fit(x[:0], y[:0])), ValueError, "x: expected at least one"),
        (
            lambda m, x, y: (m.compile(loss="sparse_categorical_crossentropy"), m.fit(x, np.full(60, 2))),
            ValueError,
            "y: expected classes from 0 to 1, got 2",
        ),
        (lambda m, x, y: m.set_weights([x]), ValueError, "weights: expected 0 arrays, got 1 .*no weights yet"),
        (lambda m, x, y: m.save("x.safetensors"), ValueError, "not built yet"),
    ],
)
def test_wrong_use_is_named(call, error, words, rng):
    with pytest.raises(error, match=words):
        call(small(), *regression(rng))


# ---- files ----


def test_a_sequential_is_whole_again_from_its_file(tmp_path, rng):
    ids = rng.integers(0, 9, (30, 5))
    model = nn.Sequential(
        [
            nn.Embedding(9, 4, mask_zero=True),
            nn.LayerNormalization(epsilon=1e-5),
            nn.Dropout(0.2),
            nn.Dense(9, "softmax"),
        ]
    )
    model.compile(nn.AdamW(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(ids, ids, verbose=0)
    model.save(tmp_path / "m.safetensors")
    again = nn.load_model(tmp_path / "m.safetensors", verify=True)
    np.testing.assert_array_equal(again.predict(ids), model.predict(ids))
    assert again.optimizer.get_config() == model.optimizer.get_config() and again.metrics == ["accuracy"]
    assert again.evaluate(ids, ids, verbose=0) == model.evaluate(ids, ids, verbose=0)
    assert [repr(layer) for layer in again.layers] == [repr(layer) for layer in model.layers]
    with pytest.raises(ValueError, match=r"use regard\.nn\.load_model"):
        regard.load(tmp_path / "m.safetensors")


def test_a_subclassed_model_takes_its_weights_from_a_file_that_cannot_make_it(tmp_path, rng):
    inputs = [normal(rng, 4, 3), normal(rng, 4, 5)]
    model, other = Pair(), Pair()
    expected = model.predict(inputs)
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="the weights of Pair, which only its own code can make"):
        nn.load_model(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="not built yet"):
        other.load_weights(tmp_path / "m.safetensors")
    other(inputs)
    other.load_weights(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(other.predict(inputs), expected)
    stranger = small()
    stranger(inputs[0])
    with pytest.raises(ValueError, match=r"is missing|not of this model"):
        stranger.load_weights(tmp_path / "m.safetensors")


def changed(path, change):
    """The file with another header, under a digest that fits."""
    import hashlib  # noqa: PLC0415

    metadata, tensors = tensor_file.read(path)
    header = json.loads(metadata["regard"])
    change(header["settings"]["model"])
    text = json.dumps(header)
    tensor_file.write(path, tensors, {"regard": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model["layers"][0].update({"class": "os.system"}),
        lambda model: model["layers"][0]["config"].update({"units": 10**12}),
        lambda model: model["layers"][0]["config"].update({"kernel_initializer": "ones", "no_such": 1}),
        lambda model: model.update({"input_shape": [1, 3]}),
        lambda model: model.update({"input_shape": None}),
        lambda model: model.update({"layers": []}),
        lambda model: model.update({"class": "Dense"}),
    ],
)
def test_a_hostile_header_is_refused_without_running_or_allocating_anything(change, tmp_path, rng):
    path = tmp_path / "m.safetensors"
    model = nn.Sequential([nn.Dense(3), nn.Dense(2)])
    model(normal(rng, 2, 4))
    model.save(path)
    changed(path, lambda model: model.update({"input_shape": [10**9, 10**15]}))  # harmless: features no tensor has
    nn.load_model(path)
    changed(path, change)
    with pytest.raises(ValueError, match=r"m\.safetensors: "):
        nn.load_model(path)


def test_a_cut_file_is_refused(tmp_path, rng):
    path = tmp_path / "m.safetensors"
    model = nn.Sequential([nn.Dense(3)])
    model(normal(rng, 2, 4))
    model.save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="truncated or damaged"):
        nn.load_model(path)


# ---- the tutorial's model ----

X = np.arange(1, 10).reshape(3, 3)


def test_the_four_calls_of_the_tutorial_run_and_learn():
    model = regard.AttentionModel(input_dim=3, output_dim=3)
    model.compile(optimizer="adam", loss="mse")
    history = model.fit(X, X, epochs=10, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert model.predict(X).shape == (3, 3)
    assert model.count_params() == 3 * 64 + 64 + 64 * 64 + 64 + 3 * 3 + 3


def test_its_representation_is_the_weighted_sum_of_the_raw_features(rng):
    x = normal(rng, 5, 3)
    model = regard.AttentionModel(3, 2)
    a = model.attention_weights(x)
    np.testing.assert_allclose(a.sum(axis=1), 1, rtol=1e-5)
    kernel, bias = model.output.get_weights()
    np.testing.assert_allclose(model.predict(x), (a @ x) @ kernel + bias, rtol=1e-4, atol=1e-5)
    w1, b1, w2, b2 = model.get_weights()[:4]
    u = np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0)
    z = np.exp(u @ u.T / 8)
    np.testing.assert_allclose(a, z / z.sum(axis=1, keepdims=True), rtol=1e-4)


def test_one_history_is_a_batch_of_one(rng):
    x = normal(rng, 4, 5, 3)
    model = regard.AttentionModel(3, 2)
    np.testing.assert_array_equal(model.predict(x[1]), model.predict(x)[1])
    np.testing.assert_array_equal(model.attention_weights(x[1]), model.attention_weights(x)[1])
    np.testing.assert_array_equal(model(x[1]).numpy(), model(x).numpy()[1])


def test_one_output_for_a_target_of_three_columns_is_refused_with_both_numbers():
    model = regard.AttentionModel(input_dim=3, output_dim=1)
    model.compile(optimizer="adam", loss="mse")
    with pytest.raises(ValueError, match=r"y: expected 1 columns \(output_dim=1\), got 3"):
        model.fit(X, X, epochs=10)
    with pytest.raises(ValueError, match=r"x: expected 3 features \(input_dim\), got 2"):
        model.fit(X[:, :2], X[:, :1])
    with pytest.raises(ValueError, match=r"x: expected numbers \(n, 3\) or \(batch, n, 3\), got shape \(3,\)"):
        model.predict(X[0])
    model.fit(X, X[:, 0], verbose=0)
    with pytest.raises(ValueError, match="input_dim: expected a whole number from 1, got 0"):
        regard.AttentionModel(0, 1)


def test_the_attention_model_is_whole_again_from_its_file(tmp_path, rng):
    x = normal(rng, 5, 3)
    model = regard.AttentionModel(3, 2, activation="tanh")
    model.save(tmp_path / "m.safetensors")
    again = nn.load_model(tmp_path / "m.safetensors", verify=True)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_what_was_computed_on_the_way_has_a_gradient_too():
    x = nn.Tensor(np.array([1.0, 2.0], np.float32))
    with nn.Tape() as tape:
        tape.watch(x)
        h = x * x
        y = h * 3.0
    found = [gradient.tolist() for gradient in tape.gradient(y, [x, h, y])]
    assert found == [[6, 12], [3, 3], [1, 1]]
