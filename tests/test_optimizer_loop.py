"""The optimiser loop's arithmetic: schedules, clipping, decay."""

import numpy as np

from regard import ops
from regard.optim import Adam, learning_rate_factor


def test_schedules_rise_and_fall_as_documented():
    def factor(step, schedule):
        return learning_rate_factor(step, 110, schedule=schedule, warmup_steps=10)

    for schedule in ("constant", "linear", "cosine"):
        assert factor(1, schedule) == 0.1 and factor(10, schedule) == 1.0
    assert factor(110, "constant") == 1.0
    assert factor(60, "linear") == factor(60, "cosine") == 0.5
    assert factor(110, "linear") == factor(110, "cosine") == 0.0


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
