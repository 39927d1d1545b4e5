"""Instructions that four kernels need: a change of speed that shows on a busy machine too.

    python benchmarks/instructions.py            # compare with results/instructions.json
    python benchmarks/instructions.py --update   # a change is meant: write the new numbers there

A small program (`instructions.cpp`) calls one kernel of the installed library on fixed inputs, on one thread, at the
level x86-64-v3, which most machines and valgrind have. A kernel's number is the difference between two calls and one
under callgrind, so neither the interpreter nor the start of the process counts. It says nothing about memory.

The numbers hold for the compiler that they were taken with. The comparison is left out, and a line says so, where
valgrind or a C++ compiler is missing, or the library was built by another compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
RECORDED = FOLDER / "results" / "instructions.json"
SOURCES = FOLDER.parent / "csrc"
KERNELS = ("attention_forward", "attention_backward", "cross_entropy_value_and_grad", "topk")
ISA = "x86-64-v3"
TOLERANCE = 0.03


def problems(recorded: dict[str, int], counted: dict[str, int], tolerance: float = TOLERANCE) -> list[str]:
    """One sentence for each kernel whose count is further from the recorded one than ``tolerance``, a share of it.

    Fewer is a problem too: left unrecorded, later losses would hide behind it.
    """
    found = []
    for kernel in sorted(recorded.keys() | counted.keys()):
        before, now = recorded.get(kernel), counted.get(kernel)
        if before is None or now is None:
            found.append(f"{kernel}: recorded {before}, counted {now}")
        elif abs(now - before) > tolerance * before:
            how = "more" if now > before else "fewer"
            found.append(
                f"{kernel}: {now:,} instructions, {abs(now / before - 1):.1%} {how} than the {before:,} recorded"
            )
    return found


def build(folder: Path) -> Path:
    """The program, linked to the library of the package that this interpreter imports."""
    import regard  # noqa: PLC0415

    library = Path(regard.__file__).parent / "libregard.so.0"
    program = folder / "instructions"
    headers = [f"-I{SOURCES / name}" for name in ("api", "include")]
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++17", "-O2", *headers, str(FOLDER / "instructions.cpp"), str(library)]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}", "-o", str(program)], check=True)
    return program


def count(program: Path, kernel: str) -> int:
    """Instructions of one call: two calls less one."""
    environment = os.environ | {"REGARD_ISA": ISA, "REGARD_NUM_THREADS": "1"}
    totals = []
    for calls in (1, 2):
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), kernel, str(calls)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        collected = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode or collected is None:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        totals.append(int(collected[1]))
    return totals[1] - totals[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the counts instead of comparing them")
    arguments = parser.parse_args()

    from regard import _core  # noqa: PLC0415

    compiler = _core.compiler()
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {"compiler": None, "instructions": {}}
    for needed in ("valgrind", os.environ.get("CXX", "c++")):
        if shutil.which(needed) is None:
            print(f"skipped: {needed} is not installed")
            return 0
    if ISA not in _core.isa_available():
        print(f"skipped: this machine or build has no {ISA}")
        return 0
    if compiler != recorded["compiler"] and not arguments.update:
        print(f"skipped: the counts were recorded with {recorded['compiler']}, this library was built by {compiler}")
        return 0

    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        counted = {kernel: count(program, kernel) for kernel in KERNELS}
    for kernel, instructions in counted.items():
        print(f"{kernel:30} {instructions:12,}")
    if arguments.update:
        content = {"isa": ISA, "compiler": compiler, "instructions": counted}
        RECORDED.write_text(json.dumps(content, indent=1) + "\n")
        return 0
    found = problems(recorded["instructions"], counted)
    for sentence in found:
        print(sentence, file=sys.stderr)
    if found:
        print("If the change is meant: python benchmarks/instructions.py --update", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
