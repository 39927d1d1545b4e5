"""The optimiser loop's arithmetic: schedules, clipping, decay."""

import numpy as np
import pytest
from small_models import chains, small

from regard import ops
from regard.optim import Adam, learning_rate_factor
from regard.train import Training


def test_schedules_rise_and_fall_as_documented():
    def factor(step, schedule):
        return learning_rate_factor(step, 110, schedule=schedule, warmup_steps=10)

    for schedule in ("constant", "linear", "cosine"):
        assert factor(1, schedule) == 0.1 and factor(10, schedule) == 1.0
    assert factor(110, "constant") == 1.0
    assert factor(60, "linear") == factor(60, "cosine") == 0.5
    assert factor(110, "linear") == factor(110, "cosine") == 0.0


def test_a_run_of_one_step_takes_it():
    for schedule in ("constant", "linear", "cosine"):
        assert learning_rate_factor(1, 1, schedule=schedule) == 1.0
    model = small(epochs=1, batch_size=1000)
    before = model.initial_parameters(12)
    model.fit(chains(), validation=None)
    assert any((model.params_[name] != weight).any() for name, weight in before.items())


def test_gradients_are_clipped_to_the_given_norm():
    params = {"w": np.zeros((1, 2), np.float32)}
    clipped, plain = (Adam({"w": params["w"].copy()}, max_norm=m) for m in (5.0, None))
    grads = {"w": np.array([[30.0, 40.0]], np.float32)}
    assert clipped.step(grads) == plain.step(grads) == 50.0
    np.testing.assert_allclose(clipped.state["w"][0], plain.state["w"][0] / 10, rtol=1e-6)


def test_weight_decay_leaves_vectors_alone():
    params = {"matrix": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    optimizer = Adam(params, learning_rate=0.1, weight_decay=0.5)
    optimizer.step({name: np.zeros_like(weight) for name, weight in params.items()})
    np.testing.assert_allclose(params["matrix"], 0.95, rtol=1e-6)
    np.testing.assert_array_equal(params["bias"], 1.0)


def test_sum_squares_is_what_clipping_uses():
    x = np.arange(10, dtype=np.float32)
    assert ops.sum_squares(x) == 285.0


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_the_mean_of_weights_is_that_of_polynomial_decay(loss):
    data, model = chains(), small(weight_averaging=True, loss=loss, n_negatives=4)
    parameters = model.initial_parameters(data.n_items)
    run = Training(model.steps(), parameters, data.sequences, model._settings(), data.popularity())
    run.begin_epoch()
    steps = []
    for _ in range(run.n_batches):
        run.step()
        steps.append(run.params["items.weight"].astype(np.float64))
    # As it is published: (1 - (eta + 1) / (t + eta)) of the mean remain at step t. So step t weighs, in the end,
    shares = np.array([9 / (t + 8) for t in range(1, len(steps) + 1)])
    weights = [share * np.prod(1 - shares[t + 1 :]) for t, share in enumerate(shares)]
    assert np.isclose(sum(weights), 1)
    expected = sum(weight * step for weight, step in zip(weights, steps, strict=True))
    np.testing.assert_allclose(run.result["items.weight"], expected, atol=1e-6)
    assert np.abs(run.result["items.weight"] - run.params["items.weight"]).max() > 1e-3


def test_the_mean_of_weights_is_what_is_validated_and_kept():
    data = chains()
    averaged, plain = (small(weight_averaging=on, epochs=2, schedule="constant").fit(data) for on in (True, False))
    assert averaged.history_[0]["loss"] == plain.history_[0]["loss"]  # the steps are the same
    assert averaged.history_[0]["metric"] != plain.history_[0]["metric"]
    assert np.abs(averaged.params_["items.weight"] - plain.params_["items.weight"]).max() > 1e-3
