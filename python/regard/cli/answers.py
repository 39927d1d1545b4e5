"""``regard recommend``, ``regard similar`` and ``regard explain``: questions to a saved model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from regard.cli.inputs import check_picture, save_picture
from regard.cli.text import print_json, print_table
from regard.recommender import Flag, Recommendations, Recommender, load


def recommend_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, histories, how many, what may and what must not come up."""
    parser.add_argument("model", metavar="MODEL", help="file of a saved model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--history", metavar="IDS", help="one history, oldest first: ids with blanks or commas between")
    source.add_argument(
        "--histories",
        metavar="FILE.jsonl",
        help='one history a line: a JSON list of ids, or an object with the list as "history"; - is standard input',
    )
    parser.add_argument("-k", type=int, default=10, metavar="N", help="how many items (default: 10)")
    parser.add_argument("--allow", metavar="IDS", help="only these items; @FILE reads the ids from a file")
    parser.add_argument("--deny", metavar="IDS", help="none of these items; @FILE reads the ids from a file")
    parser.add_argument(
        "--include-seen", action="store_true", help="also recommend what the history holds; of use if trained so"
    )


def recommend(arguments: argparse.Namespace) -> int:
    """Print the best items for each history."""
    model = load(arguments.model)
    if arguments.history is not None:
        histories = [ids_of("--history", arguments.history, model)]
    else:
        histories = list(read_histories(arguments.histories))
    result = model.recommend(
        histories or np.empty((0, 0), int),  # a file without histories: no answers
        k=arguments.k,
        allow_items=ids_of("--allow", arguments.allow, model),
        deny_items=ids_of("--deny", arguments.deny, model),
        exclude_seen=not arguments.include_seen,
    )
    _print(model, result, arguments.json)
    return 0


def similar_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, item, how many."""
    parser.add_argument("model", metavar="MODEL", help="file of a saved model")
    parser.add_argument("item", metavar="ITEM", help="its id")
    parser.add_argument("-k", type=int, default=10, metavar="N", help="how many items (default: 10)")


def similar(arguments: argparse.Namespace) -> int:
    """Print the items that go best with one."""
    model = load(arguments.model)
    item = _id("ITEM", arguments.item, model)
    if model.titles_ is not None and not arguments.json:
        known = model.titles_[model.item_ids_ == item]
        print(f"similar to {item}{f': {known[0]}' if len(known) else ''}")
    _print(model, model.similar_items([item], arguments.k), arguments.json)
    return 0


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, history, item, picture."""
    parser.add_argument("model", metavar="MODEL", help="file of a saved model")
    parser.add_argument(
        "--history", metavar="IDS", required=True, help="oldest first: ids with blanks or commas between"
    )
    parser.add_argument("--item", metavar="ID", required=True, help="the item whose score is explained")
    parser.add_argument("--out", metavar="FILE", help="also draw it: .png, .svg or .pdf")


def explain(arguments: argparse.Namespace) -> int:
    """Print how much each event changes an item's score, and where attention leads."""
    check_picture("--out", arguments.out)
    model = load(arguments.model)
    if not hasattr(model, "explain"):
        raise NotImplementedError(f"explain: expected a model with attention, got a {type(model).__name__}")
    reasons = model.explain(ids_of("--history", arguments.history, model), _id("--item", arguments.item, model))
    if arguments.out is not None:
        save_picture(arguments.out, reasons.plot()[0].figure)
    if not arguments.json:
        print(reasons)
        return 0
    answer: dict[str, Any] = {"item": reasons.item, "score": reasons.score, "items": reasons.item_ids.tolist()}
    answer |= {name: getattr(reasons, name).tolist() for name in ("effect", "rollout", "attention")}
    if reasons.titles:
        answer["title"] = reasons.titles[reasons.item]
        answer["titles"] = [reasons.titles[item] for item in answer["items"]]
    print_json(answer | {"n_older": reasons.n_older, "n_unknown": reasons.n_unknown})
    return 0


def ids_of(flag: str, text: str | None, model: Recommender) -> list[int | str] | None:
    """Ids as they are written after a flag, in the type of the model's ids; None stays None."""
    if text is None:
        return None
    if text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    return [_id(flag, word, model) for word in text.replace(",", " ").split()]


def _id(flag: str, word: str, model: Recommender) -> int | str:
    if model.item_ids_.dtype.kind != "i":
        return word
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{flag}: expected whole numbers, as the item ids of this model are, got {word!r}") from None


def read_histories(path: str) -> Iterable[list[int | str]]:
    """Histories of a file with one JSON value a line."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        history = value.get("history") if isinstance(value, dict) else value
        if not isinstance(history, list):
            raise ValueError(
                f'{path}, line {number}: expected a list of ids or {{"history": [...]}}, got {line.strip()}'
            )
        yield history


def _print(model: Recommender, result: Recommendations, as_json: bool) -> None:
    titles = None if model.titles_ is None else dict(zip(model.item_ids_.tolist(), model.titles_.tolist(), strict=True))
    answers: list[dict[str, Any]] = []
    for items, scores, flags, n_unknown in zip(*(part.tolist() for part in result), strict=True):
        filled = [score > -float("inf") for score in scores]
        answer: dict[str, Any] = {
            "items": [item for item, there in zip(items, filled, strict=True) if there],
            "scores": [score for score, there in zip(scores, filled, strict=True) if there],
            "flags": [str(flag.name).lower() for flag in Flag(flags)],
            "n_unknown": n_unknown,
        }
        if titles is not None:
            answer["titles"] = [titles[item] for item in answer["items"]]
        answers.append(answer)
    if as_json:
        print_json({"results": answers})
        return
    for number, answer in enumerate(answers, 1):
        if len(answers) > 1:
            print(f"history {number}")
        columns = [range(1, len(answer["items"]) + 1), answer["items"], answer["scores"]]
        header = ["rank", "item", "score"]
        if titles is not None:
            columns.append(answer["titles"])
            header.append("title")
        print_table([header, *zip(*columns, strict=True)])
        for flag, meaning in _MEANINGS.items():
            if flag in answer["flags"]:
                print(f"  {meaning}")
        if answer["n_unknown"]:
            print(f"  {answer['n_unknown']} events with unknown items were skipped")


_MEANINGS = {
    "popular": "no known item in the history: these are the most popular ones",
    "short": "fewer items are allowed than were asked for",
}
