"""Data and splits as they are named on the command line."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
from pathlib import Path
from typing import Any

from regard import datasets, whole_file
from regard.data import Interactions
from regard.features import ItemFeatures
from regard.splits import Split, by_time, leave_one_out

PICTURES = (".png", ".svg", ".pdf")


def add_data(parser: argparse.ArgumentParser, *, needed: bool = True, split: str | None = "leave-one-out") -> None:
    """DATA and how to read and split it; ``split`` None: given where the set has one, else leave-one-out."""
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs=None if needed else "?",
        help="name of a data set (see regard datasets), or a file",
    )
    parser.add_argument(
        "--columns",
        metavar="LIST",
        help="columns of the file: user_id=who,item_id=what renames; user_id,item_id,-,datetime names the columns of "
        "a file without a header, - for those to ignore",
    )
    parser.add_argument("--separator", metavar="TEXT", help="between the columns of the file (default: found out)")
    parser.add_argument(
        "--features",
        metavar="FILE",
        help="what is known of the items: a text file with item_id and columns of numbers or categories (a|b for "
        "several); data sets bring their own",
    )
    parser.add_argument(
        "--split",
        choices=("leave-one-out", "time", "given", "none"),
        default=split,
        help="leave-one-out: each user's last event is the test, the one before it the validation; time: what happened "
        "from --at on; given: the test that a set of sessions comes with; none: train on everything, test nothing "
        f"(default: {split or 'given where the set has one, else leave-one-out'})",
    )
    parser.add_argument("--at", metavar="TIME", help="with --split time: ISO 8601 or Unix seconds")
    parser.add_argument("--validation-at", metavar="TIME", help="with --split time: where the validation begins")


def load_data(arguments: argparse.Namespace) -> Interactions:
    """The data set of that name, else the file."""
    name = arguments.data
    if name is None:
        raise ValueError("DATA: expected the name of a data set or a file")
    features = None if arguments.features is None else ItemFeatures.from_file(arguments.features)
    if name in datasets.names():
        data = datasets.load(name)
        return data if features is None else data.with_features(features)
    if not Path(name).is_file():
        raise ValueError(f"DATA: {name!r} is neither a file nor one of the data sets {', '.join(datasets.names())}")
    data = Interactions.from_file(name, columns=_columns(arguments.columns), separator=arguments.separator)
    return data.with_features(features)


def split_data(arguments: argparse.Namespace, data: Interactions) -> Split | None:
    """The split that is asked for; None for none."""
    if arguments.split is None:
        given = arguments.data in datasets.names() and datasets.has_given_split(arguments.data)
        arguments.split = "given" if given else "leave-one-out"
    if arguments.split == "time":
        if arguments.at is None:
            raise ValueError("--split time needs --at")
        until = None if arguments.validation_at is None else _time(arguments.validation_at)
        return by_time(data, at=_time(arguments.at), validation_at=until)
    if arguments.at is not None or arguments.validation_at is not None:
        raise ValueError("--at and --validation-at belong to --split time")
    if arguments.split == "given":
        if arguments.data not in datasets.names():
            raise ValueError(f"--split given: expected the name of a data set, got {arguments.data}")
        return datasets.given_split(arguments.data)
    return leave_one_out(data) if arguments.split == "leave-one-out" else None


def check_out(flag: str, path: str | None) -> None:
    """Say before the work, not after it, that a file cannot be written."""
    if path is None:
        raise ValueError(f"{flag}: expected a file to write to")
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "it is a folder" if Path(path).is_dir() else f"cannot write in the folder {folder}"
        raise ValueError(f"{flag}: cannot save as {path}: {reason}")


def check_drawn(flag: str, path: str | None) -> None:
    """The same for what is drawn, which needs matplotlib, too. None is nothing to draw."""
    if path is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"{flag} needs matplotlib: pip install 'regard[plots]'")
    check_out(flag, path)


def check_picture(flag: str, path: str | None) -> None:
    """The same for a picture, whose name says its kind."""
    check_drawn(flag, path)
    if path is not None and Path(path).suffix not in PICTURES:
        raise ValueError(f"{flag}: expected a name that ends in one of {', '.join(PICTURES)}, got {path}")


def save_picture(path: str, figure: Any) -> None:
    """Write a matplotlib figure, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=Path(path).suffix[1:])
    whole_file.write(path, [picture.getvalue()])


def _time(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _columns(text: str | None) -> dict[str, str] | list[str | None] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not any("=" in part for part in parts):
        return [None if part in ("", "-") else part for part in parts]
    pairs = [part.partition("=") for part in parts]
    if any(not ours or not theirs for ours, _, theirs in pairs):
        raise ValueError(f"--columns: expected user_id=NAME,item_id=NAME,... or names alone, got {text!r}")
    return {theirs: ours for ours, _, theirs in pairs}
