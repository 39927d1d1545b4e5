"""``regard datasets`` and ``regard doctor``."""

from __future__ import annotations

import argparse
import os
import textwrap
from dataclasses import asdict

from regard import datasets as sets
from regard import doctor as facts
from regard.cli.text import print_json
from regard.download import ARCHIVES


def datasets_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def datasets(arguments: argparse.Namespace) -> int:
    """List the data sets with their cards."""
    cards = [sets.card(name) for name in sets.names()]
    if arguments.json:
        print_json({"datasets": [{**asdict(card), "here": facts.is_here(card.name)} for card in cards]})
        return 0
    for card in cards:
        here = "files not found: set REGARD_DATA to the folder that has them"
        if facts.is_here(card.name):
            here = "ready"
        elif card.name in ARCHIVES and not os.environ.get("REGARD_DATA"):
            here = f"fetched from {ARCHIVES[card.name].url} when it is first loaded"
        has = {"times": card.has_times, "titles": card.has_titles, "features of items": card.has_features}
        about = ", ".join(word for word, there in has.items() if there) or "ids only"
        print(f"{card.name}: {card.title} ({here})")
        for line in (
            f"{card.n_users:,} users, {card.n_items:,} items, {card.n_events:,} events; {about}",
            card.protocol,
            f"source: {card.source}",
            f"terms: {card.terms}",
            *([f"files: {', '.join(card.files)}"] if card.files else []),
        ):
            print(textwrap.fill(line, 110, initial_indent="  ", subsequent_indent="    ", break_long_words=False))
    return 0


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def doctor(arguments: argparse.Namespace) -> int:
    """Print the facts; exit code 1 if there is a problem."""
    report = facts.report()
    if arguments.json:
        print_json(report)
        return int(bool(report["problems"]))
    sets_, threads, data = report["instruction_sets"], report["threads"], report["data"]
    none = "none"
    extras = [
        f"{name} {version or 'not found'}{_brought_by(name) if version is None else ''}"
        for name, version in report["extras"].items()
    ]
    lines = {
        "regard": f"{report['regard']} in {report['location']}",
        "compiler": report["compiler"],
        "python": f"{report['python']}, {report['machine']}",
        "numpy": report["numpy"],
        "safetensors": report["safetensors"],
        "instruction sets": f"built {', '.join(sets_['built'])}; available {', '.join(sets_['available'])}; "
        f"in use {sets_['in_use']} ({sets_['why']})",
        "threads": f"{threads['count']} ({threads['why']})",
        "extras": ", ".join(extras),
        "environment": ", ".join(f"{name}={value}" for name, value in report["environment"].items()) or none,
        "data folder": data["folder"] or "none: REGARD_DATA is not set",
        "data sets": f"ready {', '.join(data['found']) or none}; not found {', '.join(data['missing']) or none}",
    }
    for name, value in lines.items():
        print(f"{name:17} {value}")
    for problem in report["problems"]:
        print(f"{'PROBLEM':17} {problem}")
    return int(bool(report["problems"]))


def _brought_by(package: str) -> str:
    extra = facts.OPTIONAL[package]
    return f" (pip install 'regard[{extra}]')" if extra else ""
