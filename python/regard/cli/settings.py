"""The settings of a model as flags and as a TOML file: both are read off the constructor, so they cannot differ."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regard.models.self_attention import SelfAttentionRecommender
from regard.recipes import PRESETS, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from regard.data import Interactions

Value = bool | int | float | str | None


class Parameter(NamedTuple):
    """One argument of the constructor."""

    name: str
    kind: type[bool] | type[int] | type[float] | type[str]
    optional: bool  # None is allowed, written "none"
    default: Value
    text: str

    def parse(self, text: str) -> Value:
        """A value as it is written on the command line."""
        if self.optional and text.lower() == "none":
            return None
        try:
            return {"true": True, "false": False}[text.lower()] if self.kind is bool else self.kind(text)
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(f"expected {self.expected}, got {text!r}") from None

    def check(self, value: object) -> Value:
        """A value as it stands in a settings file."""
        if self.optional and isinstance(value, str) and value.lower() == "none":
            return None
        allowed = (int, float) if self.kind is float else self.kind
        if isinstance(value, bool) != (self.kind is bool) or not isinstance(value, allowed):
            raise ValueError(f"expected {self.expected}, got {value!r}")
        return self.kind(value)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[self.kind]
        return f'{words} or "none"' if self.optional else words


def parameters() -> dict[str, Parameter]:
    """Those of the attention recommender, in the order of its constructor."""
    texts = descriptions(inspect.getdoc(SelfAttentionRecommender) or "")
    found = {}
    for name, argument in inspect.signature(SelfAttentionRecommender).parameters.items():
        words = [word.strip() for word in str(argument.annotation).split("|")]
        kind = {"bool": bool, "int": int, "float": float, "str": str}[words[0]]
        found[name] = Parameter(name, kind, "None" in words, argument.default, texts.get(name, ""))
    return found


def add_flags(parser: argparse.ArgumentParser, *, printed: bool = True) -> None:
    """A flag for each parameter, ``--preset``, ``--config`` and, where they can be printed, ``--print-config``."""
    group = parser.add_argument_group("settings of the model")
    group.add_argument(
        "--preset",
        choices=PRESETS,
        help="settings that follow from the data, best or fast; --config and flags go before them (default: best)",
    )
    for name, parameter in parameters().items():
        default = "by the preset"
        if name not in Recipe.__annotations__:
            default = "none" if parameter.default is None else str(parameter.default).lower()
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=parameter.parse,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{parameter.text.replace('%', '%%')} (default: {default})".lstrip(),
        )
    group.add_argument("--config", metavar="FILE.toml", help="settings from a file; flags go before it")
    if printed:
        group.add_argument(
            "--print-config", action="store_true", help="print the settings as a file for --config, and stop"
        )


def chosen(arguments: argparse.Namespace, data: Callable[[], Interactions]) -> dict[str, Value]:
    """All settings: flags before the file, that before the preset for the data, that before the defaults, which are all
    there is without data.
    """
    changes: dict[str, Any] = given(arguments)
    if arguments.preset is None and arguments.data is None:
        return SelfAttentionRecommender(**changes).get_params()
    how = {"exclude_seen": not arguments.include_seen}
    return SelfAttentionRecommender.for_data(data(), arguments.preset or "best", **how, **changes).get_params()


def given(arguments: argparse.Namespace) -> dict[str, Value]:
    """The settings that flags or the file give, flags first."""
    values = {} if arguments.config is None else read(arguments.config)
    return values | {name: getattr(arguments, name) for name in parameters() if hasattr(arguments, name)}


def read(path: str) -> dict[str, Value]:
    """Settings of a TOML file, checked by name and type; ``-`` and ``_`` in names are the same."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None
    known, values = parameters(), {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ValueError(f"{path}: unknown setting {key!r}; {hint}")
        try:
            values[name] = known[name].check(value)
        except ValueError as error:
            raise ValueError(f"{path}: {key}: {error}") from None
    return values


def as_toml(values: dict[str, Value]) -> str:
    """Text that `read` reads back as the same values."""
    return "".join(
        f"{name} = {json.dumps('none' if value is None else value, ensure_ascii=False)}\n"
        for name, value in values.items()
    )


def descriptions(doc: str) -> dict[str, str]:
    """What the Parameters section of a docstring says of each name."""
    section = re.search(r"Parameters\n-+\n(.*?)(?:\n\n|\Z)", doc, re.DOTALL)
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        if line.startswith(" "):
            for name in names:
                texts[name] = f"{texts[name]} {line.strip()}".lstrip().replace("``", "")
            continue
        names = []
        for head in line.split("; "):
            left, _, right = head.partition(" : ")
            names = [name.strip() for name in left.split(",")]
            texts |= dict.fromkeys(names, right if '"' in right else "")
    return texts
