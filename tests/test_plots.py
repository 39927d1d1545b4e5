"""Pictures: that they show the numbers that they are given; and the page that holds them."""

import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from small_models import chains, small

import regard
from regard import ops, plots, report
from regard.baselines import Popularity
from regard.cli import main
from regard.layers import Run, attention, forward

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def split():
    data = chains()
    data.titles = np.array([f"<script>{i}</script> costs $5 & $6" for i in data.item_ids.tolist()])
    return regard.splits.leave_one_out(data)


@pytest.fixture(scope="module")
def model(split):
    return small(n_heads=2, n_blocks=2, epochs=4).fit(split.train, validation=split.validation)


@pytest.fixture(scope="module")
def reports(model, split):
    others = {"popularity": Popularity().fit(split.train), "regard": model}
    return {name: regard.evaluate(other, split.test) for name, other in others.items()}


# ---- attention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("block", [0, 1, -1])
def test_attention_weights_are_those_that_the_model_sums_with(block, positions, split):
    model = small(n_heads=2, n_blocks=2, epochs=2, positions=positions).fit(split.train)
    history = [101, 102, 55, 103, 104]
    weights, items = model.attention_weights(history, block)
    assert items.tolist() == [101, 102, 103, 104] and weights.shape == (2, 4, 4)
    np.testing.assert_allclose(weights.sum(axis=2), 1, rtol=1e-6)
    assert (np.triu(weights, 1) == 0).all()
    steps = model.steps()
    place = [i for i, step in enumerate(steps) if step["kind"] == "attention"][block]
    rows = np.array([1, 2, 3, 4], np.int32)
    run = Run(rows, np.array([0, 4]), model.params_)
    x, _ = forward(steps[:place], run)
    out, _ = attention(x, steps[place] | {"newest": False}, run)
    name = steps[place]["value"]
    values = ops.linear_forward(x, model.params_[f"{name}.weight"], model.params_[f"{name}.bias"])[0].reshape(4, 2, -1)
    summed = np.einsum("hij,jhd->ihd", weights, values).reshape(4, -1)
    np.testing.assert_allclose(out, summed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("history", "block", "message"),
    [
        ([[101], [102]], -1, "expected one history with a known event, got 2"),
        ([5], -1, "expected one history with a known event, got 1, 0 known"),
        ([101], 2, "block: expected one of 2, got 2"),
    ],
)
def test_attention_of_no_history_or_block_is_refused(model, history, block, message):
    with pytest.raises(ValueError, match=message):
        model.attention_weights(history, block)


# ---- plots ----------------------------------------------------------------------------------------------------------


def test_the_learning_curve_shows_the_history_and_the_epoch_that_was_kept(model):
    ax = plots.learning_curve(model)
    assert ax.lines[0].get_ydata().tolist() == [entry["loss"] for entry in model.history_]
    curve, dot = ax.figure.axes[1].lines
    assert curve.get_ydata().tolist() == [entry["metric"] for entry in model.history_]
    assert dot.get_xdata().tolist() == [model.best_epoch_]
    plain = small(epochs=2).fit(chains(), validation=None)
    assert len(plots.learning_curve({"a": plain, "b": plain}).figure.axes) == 1


def test_bins_hold_every_value_once():
    names, place = plots.bins(np.array([0, 1, 3, 3.5, 4, 7, 150, 10**6]))
    assert names == ["0", "1", "2-4", "5-9", "100-199", "100,000+"]
    assert place.tolist() == [0, 1, 2, 2, 2, 3, 4, 5]


def test_the_means_of_the_bins_are_those_of_their_users(reports, split):
    ax = plots.metric_by_history_length(reports, split.test, metric="ndcg@5")
    lengths = split.test.histories.lengths
    for container, one in zip(ax.containers, reports.values(), strict=True):
        values = one.per_user("ndcg@5")
        expected = [values[part].mean() for part in (lengths < 5, lengths >= 5) if part.any()]
        np.testing.assert_allclose(container.lines[0].get_ydata(), expected)
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels == [f"2-4\n{(lengths < 5).sum()}", f"5-9\n{(lengths >= 5).sum()}"]


def test_targets_are_counted_in_the_training_part(reports, split):
    ax = plots.metric_by_popularity(reports["regard"], split.test, split.train)
    counts = split.train.popularity()[split.test.targets.values]
    _, place = plots.bins(counts)
    shown = [int(text.get_text().rpartition("\n")[2]) for text in ax.get_xticklabels()]
    assert shown == np.bincount(place).tolist()


def test_a_report_of_another_holdout_is_refused(reports, split, model):
    other = regard.evaluate(model, split.validation)
    with pytest.raises(ValueError, match="reports: regard is of another holdout"):
        plots.metric_by_history_length({"popularity": reports["popularity"], "regard": other}, split.test)


def test_more_models_than_colours_are_all_shown_and_dollars_are_no_mathematics(reports, split):
    many = {f"${i}_$": reports["regard"] for i in range(9)}
    ax = plots.metric_by_history_length(many, split.test)
    assert len(ax.containers) == 9
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == list(many)
    report.figure(ax)


def test_the_heat_map_shows_the_weights_of_a_head_with_titles(model):
    ax = plots.attention_heatmap(model, [101, 102, 103], head=1)
    weights, _ = model.attention_weights([101, 102, 103])
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(shown, 0), np.tril(weights[1]))
    assert ax.get_yticklabels()[0].get_text().startswith("<script>101</script>")
    with pytest.raises(ValueError, match="head: expected from 0 to 1, got 2"):
        plots.attention_heatmap(model, [101], head=2)


def test_a_plot_goes_where_it_is_told_and_leaves_no_state(model, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    ax = plots.learning_curve(model)
    assert plots.attention_heatmap(model, [101, 102], ax=ax) is ax
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_the_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'regard\[plots\]'"):
        plots.learning_curve(model)


# ---- the page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        links = [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.links += [link for link in links if not link.startswith(("#", "data:image/png;base64,"))]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_escaped_and_needs_nothing_else(model, split, reports, tmp_path):
    report.write(tmp_path / "r.html", model, split, reports, data="<b>data</b>")
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags and page.links == []
    assert page.tags.count("svg") == 4 and page.tags.count("h2") == 8
    words = " ".join(page.words)
    for expected in (
        "<b>data</b>",
        "ndcg@10",
        "popularity",
        f"{reports['regard']['ndcg@10']:.4f}",
        split.fingerprint[:12],
    ):
        assert expected in words
    assert "<script>" in words  # a title, as text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.html"]


def test_a_page_of_a_training_without_test_has_what_there_is(tmp_path):
    report.write(tmp_path / "r.html", small(epochs=2).fit(chains(), validation=None))
    page = Page((tmp_path / "r.html").read_text())
    assert page.tags.count("svg") == 1 and page.tags.count("h2") == 3


def test_train_and_evaluate_write_the_page(tmp_path, capsys):
    pairs = [(user, item) for user, row in enumerate(chains().sequences.tolist()) for item in row]
    (tmp_path / "d.csv").write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    model, first, second = (str(tmp_path / name) for name in ("m", "a.html", "b.html"))
    data = str(tmp_path / "d.csv")
    assert main(["train", data, "--out", model, "--epochs", "2", "--dim", "8", "--report", first]) == 0
    assert main(["evaluate", model, data, "-k", "3", "--report", second]) == 0
    for path in (first, second):
        page = Page((tmp_path / path).read_text())
        assert page.tags.count("svg") == 4
        assert {"regard", "rules", "ease", "item-knn", "popularity"} <= set(page.words)
    assert main(["evaluate", model, data, "--report", "/nowhere/r.html"]) == 2
    assert "--report: cannot save as /nowhere/r.html" in capsys.readouterr().err
