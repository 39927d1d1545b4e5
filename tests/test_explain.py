"""Reasons: the numbers against independent computations, their window, their words, their picture and the command."""

import json

import numpy as np
import pytest
from small_models import chains, small

import regard
from regard.cli import main

HISTORY = [100, 101, 55, 102, 103, 103]  # 55 is unknown


def titled(item_ids):
    return np.array([f"Film <{i}> for $5 & $6" for i in item_ids.tolist()])


@pytest.fixture(scope="module")
def model():
    data = chains()
    data.titles = titled(data.item_ids)
    return small(n_heads=2, n_blocks=2, epochs=8, max_len=6).fit(data)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model.save(path)
    return str(path)


def softmax(z):
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def layer_norm(x, p, name):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * p[f"{name}.weight"] + p[f"{name}.bias"]


def by_hand(model, rows):
    """Attention of every block, (n_blocks, n_heads, n, n), and the vector of the history, in float64 NumPy."""
    p = {name: value.astype(np.float64) for name, value in model.params_.items()}
    n, dim, heads = len(rows), model.dim, model.n_heads
    x = p["items.weight"][rows] * np.sqrt(dim)
    distance = np.arange(n)[:, None] - np.arange(n)
    weights = []
    for block in range(model.n_blocks):
        b = f"blocks.{block}"
        h = layer_norm(x, p, f"{b}.attention_norm")
        q, k, v = (
            (h @ p[f"{b}.attention.{part}.weight"].T + p[f"{b}.attention.{part}.bias"]).reshape(n, heads, -1)
            for part in ("query", "key", "value")
        )
        z = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(dim // heads)
        z += p[f"{b}.attention.distance_bias"][:, np.abs(distance)]
        a = softmax(np.where(distance >= 0, z, -np.inf))
        weights.append(a)
        y = np.einsum("hij,jhd->ihd", a, v).reshape(n, dim)
        x = x + y @ p[f"{b}.attention.out.weight"].T + p[f"{b}.attention.out.bias"]
        h = layer_norm(x, p, f"{b}.ffn_norm")
        h = np.maximum(h @ p[f"{b}.ffn.1.weight"].T + p[f"{b}.ffn.1.bias"], 0)
        x = x + h @ p[f"{b}.ffn.2.weight"].T + p[f"{b}.ffn.2.bias"]
    return np.array(weights), layer_norm(x, p, "norm")[-1]


def test_attention_rollout_and_score_equal_a_model_written_in_numpy(model):
    reasons = model.explain(HISTORY, 104)
    weights, h = by_hand(model, [0, 1, 2, 3, 3])
    np.testing.assert_allclose(reasons.attention, weights[:, :, -1], rtol=1e-4, atol=1e-6)
    mixed = [0.5 * a.mean(axis=0) + 0.5 * np.eye(5) for a in weights]
    np.testing.assert_allclose(reasons.rollout, (mixed[1] @ mixed[0])[-1], rtol=1e-4, atol=1e-6)
    assert reasons.rollout.sum() == pytest.approx(1) and (reasons.rollout > 0).all()
    assert reasons.score == pytest.approx(h @ model.params_["items.weight"][4], rel=1e-4)


@pytest.mark.parametrize("output_table", ["tied", "separate"])
@pytest.mark.parametrize("positions", ["relative", "absolute"])
def test_effects_equal_the_scores_of_histories_with_one_event_less(positions, output_table):
    model = small(n_blocks=2, epochs=2, positions=positions, output_table=output_table).fit(chains())
    reasons = model.explain(HISTORY, 104)
    known = [item for item in HISTORY if item != 55]
    whole = model.scores(known)[0, 4]
    without = [model.scores(known[:j] + known[j + 1 :])[0, 4] for j in range(len(known))]
    assert reasons.score == pytest.approx(whole, rel=1e-6)
    np.testing.assert_allclose(reasons.effect, whole - without, rtol=1e-5, atol=1e-5)
    recommended = model.recommend(known, k=12, exclude_seen=False)
    assert recommended.scores[0][recommended.items[0] == 104][0] == pytest.approx(reasons.score, rel=1e-5)
    assert reasons.item_ids.tolist() == known and reasons.item == 104
    assert reasons.n_unknown == 1 and reasons.n_older == 0 and reasons.titles == {}


def test_the_newest_max_len_events_count_and_no_older_one_moves_up(model):
    long = [104, 105, 106, 107, 108, 109, 110, 111]
    reasons, window = model.explain(long, 100), model.explain(long[2:], 100)
    assert reasons.item_ids.tolist() == long[2:] and (reasons.n_older, window.n_older) == (2, 0)
    for name in ("score", "effect", "rollout", "attention"):
        np.testing.assert_array_equal(getattr(reasons, name), getattr(window, name))
    without_newest = model.scores(long[2:-1])[0, 0]
    assert reasons.effect[-1] == pytest.approx(model.scores(long)[0, 0] - without_newest, rel=1e-5)
    assert "Left out: 2 events older than the 6 that the model looks at." in reasons.text()
    assert "Left out" not in window.text()


def test_the_only_event_has_all_attention_and_the_whole_score(model):
    reasons = model.explain([103], 104)
    assert reasons.effect.tolist() == [reasons.score] and reasons.rollout.tolist() == [1]
    np.testing.assert_allclose(reasons.attention, np.ones((2, 2, 1)), rtol=1e-6)


def test_reasons_do_not_depend_on_the_number_of_threads(model, threads):
    reasons = model.explain(HISTORY, 104)
    regard.set_num_threads(1)
    alone = model.explain(HISTORY, 104)
    for name in ("effect", "rollout", "attention"):
        np.testing.assert_array_equal(getattr(reasons, name), getattr(alone, name))


@pytest.mark.parametrize(
    ("history", "item", "error", "message"),
    [
        ([100], 55, ValueError, "item: 55 is not among the 12 items of the model"),
        ([100], "tea", TypeError, "item: expected int64 item ids, got str"),
        ([100], [101], TypeError, "item: expected int64 item ids, got list"),
        ([], 101, ValueError, "history: expected one history with a known event, got 1, 0 known"),
        ([5, 6], 101, ValueError, "history: expected one history with a known event, got 1, 0 known"),
        ([[100], [101]], 101, ValueError, "history: expected one history with a known event, got 2"),
        ([1.5], 101, TypeError, "expected int64 item ids, got float"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, history, item, error, message):
    with pytest.raises(error, match=message):
        model.explain(history, item)


def test_a_model_that_is_not_fitted_has_no_reasons():
    with pytest.raises(RuntimeError, match="not fitted yet"):
        small().explain([100], 101)


def test_the_text_names_the_largest_effects_in_their_order(model):
    reasons = model.explain(HISTORY, 104)
    order = np.argsort(-np.abs(reasons.effect)).tolist()
    lines = reasons.text({104: "Tea", **{i: f"no. {i}" for i in HISTORY}}).split("\n")
    assert lines[0] == f"Tea scores {reasons.score:.2f} after 5 events."
    for line, j in zip(lines[1:4], order, strict=False):
        name = f"no. {reasons.item_ids[j]}"
        place = {0: "the newest event", 1: "1 event before the newest"}.get(4 - j, f"{4 - j} events before the newest")
        change = "lower" if reasons.effect[j] > 0 else "higher"
        assert line == f"Without {name}, {place}, it would be {abs(reasons.effect[j]):.2f} {change}."
    assert lines[4] == f"No other event changes it by more than {abs(reasons.effect[order[3]]):.2f}."
    top = reasons.rollout.argmax()
    assert lines[5].startswith(f"Attention leads most to no. {reasons.item_ids[top]}, ")
    assert lines[5].endswith(f": {reasons.rollout[top]:.0%}.")
    assert lines[6:] == ["Skipped: 1 event with unknown items."]
    assert str(reasons).startswith("Film <104> for $5 & $6 scores") and reasons.text({}).startswith("104 scores")


def test_the_table_for_notebooks_is_escaped(model):
    table = model.explain(HISTORY, 104)._repr_html_()
    assert table.count("<tr>") == 6 and "<td>Film &lt;100&gt; for $5 &amp; $6</td>" in table and "Film <" not in table


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_the_picture_shows_effects_rollout_and_a_heat_map_for_each_block(model):
    pytest.importorskip("matplotlib")
    reasons = model.explain(HISTORY, 104)
    effect, rollout, *blocks = reasons.plot()
    for ax, values in ((effect, reasons.effect), (rollout, reasons.rollout)):
        np.testing.assert_allclose([bar.get_height() for bar in ax.patches], values, rtol=1e-6)
    assert len(blocks) == 2
    for ax, weights in zip(blocks, reasons.attention, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), weights)
    names = [text.get_text() for text in blocks[-1].get_xticklabels()]
    assert names == [reasons.titles[item] for item in reasons.item_ids.tolist()]
    assert {ax.figure for ax in (effect, rollout, *blocks)} == {effect.figure}
    signs = {tuple(bar.get_facecolor()) for bar, value in zip(effect.patches, reasons.effect, strict=True) if value > 0}
    others = {tuple(bar.get_facecolor()) for bar in effect.patches} - signs
    assert len(signs) == 1 and len(others) == ((reasons.effect <= 0).any())


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_gives_what_the_library_gives(path, capsys):
    words = ["explain", path, "--history", "100 101, 55 102 103 103", "--item", "104"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    reasons = regard.load(path).explain(HISTORY, 104)
    assert answer.pop("titles") == [reasons.titles[item] for item in reasons.item_ids.tolist()]
    assert answer == {
        "item": 104,
        "title": "Film <104> for $5 & $6",
        "score": reasons.score,
        "items": [100, 101, 102, 103, 103],
        "effect": reasons.effect.tolist(),
        "rollout": reasons.rollout.tolist(),
        "attention": reasons.attention.tolist(),
        "n_older": 0,
        "n_unknown": 1,
    }
    assert main(words) == 0
    assert capsys.readouterr().out == f"{reasons}\n"


def test_the_command_draws(path, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "why.png"
    words = ["explain", path, "--history", "100 101", "--item", "102"]
    assert main([*words, "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and "scores" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "why.tea")]) == 2
    assert "tea" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("history", "item", "message"),
    [
        ("100", "5", "item: 5 is not among the 12 items"),
        ("5 6", "100", "history: expected one history with a known event"),
        ("", "100", "history: expected one history with a known event"),
        ("tea", "100", "--history: expected whole numbers"),
        ("100", "tea", "--item: expected whole numbers"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(path, capsys, history, item, message):
    assert main(["explain", path, "--history", history, "--item", item]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
