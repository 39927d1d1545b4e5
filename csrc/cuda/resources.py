"""The registers and spills of the CUDA kernels as a table: ``python resources.py BUILD/cuda_resources``.

Reads what `compile.sh` kept of the output of ptxas. The kernels that do one thing to every element are one line, with
the greatest of their numbers.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for '(sm_\d+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


def short(symbol: str) -> str:
    """The name of a kernel without what is the same for all."""
    name = subprocess.run(["c++filt", symbol], check=True, capture_output=True, text=True).stdout.strip()
    name = name.replace("(anonymous namespace)::", "").replace("regard::cuda::", "").removeprefix("void ")
    name = re.sub(r"\((?:bool|int)\)(\d+)", r"\1", name.split(">(")[0] + ">" if ">(" in name else name.split("(")[0])
    return re.sub(r"^(each_kernel|column_parts_kernel)<.*", r"\1", name)


def table(folder: Path) -> str:
    found: defaultdict[str, defaultdict[str, list[tuple[int, ...]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.ptxas")):
        for symbol, arch, _, stores, loads, registers in ENTRY.findall(path.read_text()):
            found[short(symbol)][arch].append((int(registers), int(stores) + int(loads)))
    archs = sorted({arch for by_arch in found.values() for arch in by_arch})
    head = ["kernel", *(f"{arch}: {what}" for arch in archs for what in ("registers", "spilled bytes"))]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name in sorted(found):
        cells = [str(max(column)) for arch in archs for column in zip(*found[name][arch], strict=True)]
        lines.append("| " + " | ".join([f"`{name}`", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
