"""The command ``regard``: one file for each group of commands, argparse only.

A command is two functions in its file, ``x_arguments(parser)`` and ``x(arguments) -> exit code``. Only the file of the
command that is asked for is imported, so that ``regard --help`` does not wait for NumPy.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

# command: (file, what it does)
COMMANDS = {
    "demo": ("demo", "train on embedded data, compare with baselines and the best possible, recommend"),
    "train": ("training", "train an attention recommender and save it"),
    "tune": ("tuning", "search for settings on the validation part (extra tune)"),
    "evaluate": ("training", "rank held-out items with a saved model and with baselines"),
    "compare": ("compare", "simple methods and attention on one test: a table, and whether attention is worth it"),
    "recommend": ("answers", "recommend items for histories"),
    "similar": ("answers", "items that go with an item"),
    "explain": ("answers", "what in a history an item's score comes from"),
    "serve": ("serve", "answer over HTTP with a saved model"),
    "datasets": ("machine", "list the public data sets that are known by name"),
    "doctor": ("machine", "what was built, what this machine has, what is in use"),
}
FAILED, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # the latter two as a shell reports SIGINT and SIGPIPE

# What a user can cause; anything else is a fault of the library and shows its traceback.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, ArithmeticError, NotImplementedError, MemoryError)


class Parser(argparse.ArgumentParser):
    """Reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv : list of str, default None: those of the process

    Returns
    -------
    int
        Exit code: 0, or 2 after an error, which is told on standard error in one line (REGARD_DEBUG=1 shows the
        traceback instead); 1 if ``doctor`` found a problem.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parser(words).parse_args(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except ImportError as error:  # the command needs an extra
        _say("error", error)
        return FAILED
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: _say("note", message)
            code: int = arguments.run(arguments)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        _say("error", "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the flush at exit fails once more
        return PIPE_CLOSED
    except USER_ERRORS as error:
        if os.environ.get("REGARD_DEBUG", "0") not in ("", "0"):
            raise
        _say("error", error or type(error).__name__)
        return FAILED


def _parser(words: list[str]) -> Parser:
    asked = next((word for word in words if not word.startswith("-")), None)
    parser = Parser(prog="regard", description="Attention-based recommendation on plain CPUs.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"regard {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (file, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        if name == asked:
            module = importlib.import_module(f"regard.cli.{file}")
            getattr(module, f"{name}_arguments")(command)
            command.add_argument("--json", action="store_true", help="print one JSON object")
            command.set_defaults(run=getattr(module, name))
    return parser


def _version() -> str:
    from regard import __version__  # noqa: PLC0415

    return __version__


def _say(kind: str, message: object) -> None:
    print(f"regard: {kind}: {' '.join(str(message).split())}", file=sys.stderr)
