"""What every model promises, over all combinations of its options. A new model joins by an entry in MODELS."""

import itertools

import numpy as np
import pytest
from small_models import chains, small

import regard
from regard import layers, ops
from regard.layers import Run, forward
from regard.losses import LOSSES, Sampler
from regard.models import self_attention
from regard.workspace import NEW

OPTIONS = {name: choices for name, choices in self_attention.CHOICES.items() if name != "precision"}
COMBINATIONS = [dict(zip(OPTIONS, chosen, strict=True)) for chosen in itertools.product(*OPTIONS.values())]
BRIEF = [combination for i, combination in enumerate(COMBINATIONS) if i % 7 == 0]


def label(settings):
    return "-".join(map(str, settings.values()))


def batch(rng, n_items, lengths=(1, 5, 8)):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return rng.integers(0, n_items, (2, offsets[-1])).astype(np.int32), offsets


@pytest.mark.parametrize("settings", BRIEF, ids=label)
def test_steps_joined_into_one_pass_give_what_single_steps_give(settings, rng, monkeypatch):
    """With dropout, so that every element must be dropped in the same places."""
    model = small(dim=16, n_heads=2, ffn_dim=24, n_blocks=2, dropout=0.3, **settings)
    params = model.initial_parameters(20)
    (items, _), offsets = batch(rng, 20)
    dy = rng.standard_normal((len(items), 16)).astype(np.float32)

    def both_ways():
        grads = {name: np.zeros_like(weight) for name, weight in params.items()}
        y, backward = forward(model.steps(), Run(items, offsets, params, grads, seed=3, step=4))
        backward(dy.copy())
        return grads | {"y": y}

    joined = both_ways()
    monkeypatch.setattr(layers, "joined", lambda steps: [step | {"site": site} for site, step in enumerate(steps)])
    single = both_ways()
    np.testing.assert_array_equal(joined.pop("y"), single.pop("y"))
    room = 1e-5 * max(np.abs(gradient).max() for gradient in single.values())
    for name, gradient in joined.items():
        np.testing.assert_allclose(gradient, single[name], rtol=0, atol=room, err_msg=name)


def test_a_gradient_that_two_steps_saved_is_not_added_to_twice(rng):
    """x + (x + norm(x)): the norm adds to a gradient that the outer sum still needs."""
    params = {"table": rng.standard_normal((5, 8)).astype(np.float32), "one": np.ones(8, np.float32)}
    norm = {"kind": "rms_norm", "weight": "one", "eps": 1e-6}
    steps = [{"kind": "embed", "table": "table", "scale": 1.0}, {"kind": "save"}, {"kind": "save"}, norm]
    steps += [{"kind": "add"}, {"kind": "add"}]
    dy = rng.standard_normal((5, 8)).astype(np.float32)
    grads = {name: np.zeros_like(weight) for name, weight in params.items()}
    run = Run(np.arange(5, dtype=np.int32), np.array([0, 5]), params, grads)
    forward(steps, run)[1](dy.copy())
    _, rstd = ops.rms_norm_forward(params["table"], params["one"], eps=1e-6)
    by_norm, _ = ops.rms_norm_backward(dy, params["table"], params["one"], rstd)
    np.testing.assert_allclose(grads["table"], 2 * dy + by_norm, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_heads", [1, 4])
def test_attention_can_begin_as_the_sum_of_what_it_reads_weighted_by_likeness(n_heads, rng):
    model = small(dim=16, n_heads=n_heads, attention_init="identity", positions="none")
    params, steps = model.initial_parameters(20), model.steps()
    place = next(place for place, step in enumerate(steps) if step["kind"] == "attention")
    items, offsets = rng.integers(0, 20, 6).astype(np.int32), np.array([0, 6])
    (x, _), (summed, _) = (forward(steps[:end], Run(items, offsets, params)) for end in (place, place + 2))

    x = x.astype(np.float64)
    expected = np.empty_like(x)
    for head in np.split(np.arange(16), n_heads):
        z = np.where(np.tri(6) > 0, x[:, head] @ x[:, head].T / 4 / np.sqrt(len(head)), -np.inf)
        a = np.exp(z - z.max(axis=1, keepdims=True))
        expected[:, head] = a / a.sum(axis=1, keepdims=True) @ x[:, head]
    np.testing.assert_allclose(summed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", COMBINATIONS, ids=label)
def test_the_gradient_is_the_slope_of_the_loss(settings, rng):
    """Along a random direction in all parameters: central differences against the backward pass."""
    model = small(dim=8, n_heads=2, ffn_dim=12, n_blocks=1, dropout=0.0, **settings)
    params = {
        name: weight + 0.3 * rng.standard_normal(weight.shape).astype(np.float32)
        for name, weight in model.initial_parameters(20).items()
    }
    (items, targets), offsets = batch(rng, 20)
    table = model.steps()[-1]["table"]

    def loss(at, grads):
        run = Run(items, offsets, at, grads)
        h, backward = forward(model.steps(), run)
        value, dh = LOSSES["softmax"](h, at[table], targets, None, grads[table], precision="highest", ws=NEW)
        backward(dh)
        return value

    grads = {name: np.zeros_like(weight) for name, weight in params.items()}
    loss(params, grads)
    length = np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in grads.values()))
    errors = []
    for _ in range(8):
        direction = {n: rng.standard_normal(weight.shape).astype(np.float32) for n, weight in params.items()}
        slope = sum(float((grads[n] * d).sum(dtype=np.float64)) for n, d in direction.items())
        ends = [
            loss(
                {n: weight + np.float32(step) * direction[n] for n, weight in params.items()},
                {n: np.zeros_like(weight) for n, weight in params.items()},
            )
            for step in (3e-4, -3e-4)
        ]
        errors.append(abs((ends[0] - ends[1]) / 6e-4 - slope) / length)
    # a direction that crosses a kink of relu is off by up to 1e-2; a wrong gradient is wrong in every direction
    assert min(errors) < 5e-4


@pytest.mark.parametrize("settings", COMBINATIONS, ids=label)
def test_a_saved_model_answers_with_the_same_bits(settings, tmp_path):
    model = small(epochs=1, batch_size=64, **settings).fit(chains(), validation=None)
    model.save(tmp_path / "m")
    loaded = regard.load(tmp_path / "m", verify=True)
    assert repr(loaded) == repr(model)
    a, b = (m.recommend([[101, 102], [], [105]], k=5) for m in (model, loaded))
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("settings", BRIEF, ids=label)
def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(settings, loss):
    before, models = regard.num_threads(), []
    try:
        for threads in (1, 3):
            regard.set_num_threads(threads)
            how = {"label_smoothing": 0.2} if loss == "softmax" else {"n_negatives": 9, "negatives": "popularity"}
            model = small(epochs=1, dropout=0.3, loss=loss, **how, **settings)
            models.append(model.fit(chains(), validation=None))
    finally:
        regard.set_num_threads(before)
    for name, weight in models[0].params_.items():
        np.testing.assert_array_equal(weight, models[1].params_[name], err_msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_loss_learns_a_certain_succession_with_every_optimizer(loss, optimizer):
    rate = {"adam": 1e-2, "adagrad": 0.1, "sgd": 0.3 if "softmax" in loss else 3.0}[optimizer]
    settings = {"loss": loss, "optimizer": optimizer, "learning_rate": rate, "n_negatives": 8, "epochs": 60}
    model = small(**settings).fit(chains(), validation=None)
    items, *_ = model.recommend([[101, 102, 103], [110, 111, 100], [105, 106]], k=1)
    assert items[:, 0].tolist() == [104, 101, 107]


@pytest.mark.parametrize("settings", BRIEF, ids=label)
def test_later_events_do_not_change_earlier_outputs(settings, rng):
    model = small(dim=8, n_heads=2, **settings)
    params = model.initial_parameters(20)
    grads = {name: np.zeros_like(weight) for name, weight in params.items()}
    items = rng.integers(0, 20, 8).astype(np.int32)
    outs = [forward(model.steps(), Run(items[:n], np.array([0, n]), params, grads, seed=1, step=1))[0] for n in (8, 5)]
    np.testing.assert_array_equal(outs[0][:5], outs[1])


# ---- negatives ------------------------------------------------------------------------------------------------------


def draw(**settings):
    chosen = {"n_negatives": 200_000, "distribution": "uniform", "logq_correction": True, "gbce_t": 0.75} | settings
    return Sampler(np.array([0, 1, 3, 6]), **chosen).draw(0, 1)


@pytest.mark.parametrize(
    ("distribution", "shares"), [("uniform", [0.25] * 4), ("popularity", [1 / 11, 1 / 11, 3 / 11, 6 / 11])]
)
def test_negatives_are_drawn_as_often_as_is_said(distribution, shares):
    drawn = draw(distribution=distribution)
    counts = np.bincount(drawn.rows, minlength=4)
    np.testing.assert_allclose(counts / 200_000, shares, atol=0.005)
    np.testing.assert_allclose(
        np.exp(drawn.log_expected[[np.argmax(drawn.rows == i) for i in range(4)]]) / 200_000, shares, rtol=1e-5
    )


def test_negatives_depend_on_seed_and_step():
    sampler = Sampler(np.ones(1000), n_negatives=50, distribution="uniform", logq_correction=False, gbce_t=0.0)
    first = sampler.draw(0, 1)
    np.testing.assert_array_equal(first.rows, sampler.draw(0, 1).rows)
    assert (first.rows != sampler.draw(0, 2).rows).any() and (first.rows != sampler.draw(1, 1).rows).any()
    assert first.log_expected is None


def test_gbce_is_plain_bce_without_calibration_or_when_everything_is_drawn():
    assert draw(gbce_t=0.0, n_negatives=2).beta == 1
    assert draw(gbce_t=1.0, n_negatives=3).beta == 1
    assert draw(gbce_t=1.0, n_negatives=1).beta == pytest.approx(1 / 3)  # alpha
