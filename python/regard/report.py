"""One self-contained page about a training or a test: tables and pictures, no scripts, nothing from elsewhere."""

from __future__ import annotations

import datetime
import io
import os
import platform
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from regard import _core, html, plots, whole_file
from regard.sequence_model import SequenceModel

if TYPE_CHECKING:
    from regard.metrics import Report
    from regard.splits import Holdout, Split

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0 } caption { text-align: left; color: #666; padding-bottom: .3rem }
td, th { padding: .15rem .9rem .15rem 0; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal }
td:first-child, th:first-child { text-align: left } th { color: #666 }
svg { max-width: 100%; height: auto }
"""


def figure(ax: Any) -> str:
    """The figure of these axes as an inline SVG."""
    import matplotlib as mpl  # noqa: PLC0415

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "regard"}):
        ax.figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def page(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page; headings are escaped, contents are HTML."""
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def write(
    path: str | os.PathLike[str],
    model: SequenceModel,
    split: Split | None = None,
    reports: dict[str, Report] | None = None,
    *,
    part: str = "test",
    data: str = "",
) -> None:
    """Write the page of a model: settings, training, and with a split and reports its answers beside others'.

    Parameters
    ----------
    path : path of the page
    model : fitted
    split : Split, optional
    reports : report of each model on that part by name, optional
    part : "test" or "validation"
        What the reports are of.
    data : str
        Name of the data, for the title.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is missing.
    """
    sections = [("Training", figure(plots.learning_curve(model)))] if model.history_ else []
    holdout: Holdout | None = None if split is None else getattr(split, part)
    if split is not None and holdout is not None and reports:
        metrics = list(dict.fromkeys(name for report in reports.values() for name in report))
        ndcg = [metric for metric in metrics if metric.startswith("ndcg@")]
        shown = "ndcg@10" if "ndcg@10" in ndcg else ndcg[-1]
        length = plots.metric_by_history_length(reports, holdout, metric=shown)
        popularity = plots.metric_by_popularity(reports, holdout, split.train, metric=shown)
        rows = [[metric, *(report.get(metric, "") for report in reports.values())] for metric in metrics]
        sections += [
            (part.capitalize(), html.table(f"fingerprint of the test {split.fingerprint[:12]}", rows, ["", *reports])),
            ("Users with short and long histories", figure(length)),
            ("Rare and popular targets", figure(popularity)),
        ]
    if split is not None and holdout is not None:
        if isinstance(model, SequenceModel):
            longest = int(holdout.histories.lengths.argmax())
            history = holdout.histories[longest : longest + 1].tail(25)
            history = history.with_values(holdout.item_ids[history.values])
            sections.append(("Attention in one history", figure(plots.attention_heatmap(model, history))))
        sections.append(("Data", split.train._repr_html_() + split._repr_html_()))
    sections += [
        ("Settings", html.table("", model.get_params().items())),
        ("Made with", html.table("", _machine())),
    ]
    text = page(f"{type(model).__name__} on {data}" if data else type(model).__name__, sections)
    whole_file.write(path, [text.encode()])


def _machine() -> list[tuple[str, str]]:
    return [
        ("regard", _core.version()),
        ("instruction set", _core.isa()),
        ("threads", str(_core.num_threads())),
        ("machine", f"{platform.machine()}, {platform.system()}"),
        ("date", datetime.date.today().isoformat()),
    ]
