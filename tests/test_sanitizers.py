"""Models and sessions under the address, undefined-behaviour and thread sanitizers, with damaged files and threads."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_c_serving import saved
from test_serving import untrained

from regard import _core

ROOT = Path(__file__).parents[1]
FLAGS = "-std=c++17 -O1 -g -fPIC -fopenmp-simd -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None or not (ROOT / "csrc").exists(), reason="no g++ or no sources")
@pytest.mark.parametrize(
    ("sanitizers", "rounds"), [("address,undefined", 1000), ("thread", 20)], ids=["address-undefined", "thread"]
)
def test_no_sanitizer_complains(sanitizers, rounds, tmp_path):
    name = next(isa for isa in ("x86-64-v3", "x86-64-v2", "generic") if isa in _core.isa_available())
    identifier = name.replace("-", "_")
    (tmp_path / "isa_list.inc").write_text(f"REGARD_KERNELS({identifier})\n")
    flags = [*FLAGS.split(), f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{tmp_path}"]
    flags += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}", f"-DREGARD_ISA_ID={identifier}"]
    flags += [f'-DREGARD_ISA_NAME="{name}"', '-DREGARD_VERSION="0"', '-DREGARD_COMPILER=""']
    sources = [*(ROOT / "csrc" / "serve").glob("*.cpp"), ROOT / "tests" / "sanitized" / "driver.cpp"]
    sources += [ROOT / "csrc" / path for path in ("api/serving.cpp", "api/status.cpp", "dispatch.cpp", "pool.cpp")]
    sources += [ROOT / "csrc" / "cpu" / "kernels.cpp"]

    def compiled(source):
        target = tmp_path / f"{source.stem}.o"
        march = (
            [] if name == "generic" or source.stem != "kernels" else [f"-march={name}", "-fno-exceptions", "-fno-rtti"]
        )
        subprocess.run(["g++", *flags, *march, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run(
        ["g++", f"-fsanitize={sanitizers}", *objects, "-lpthread", "-o", str(tmp_path / "driver")], check=True
    )

    rng = np.random.default_rng(0)
    models = [
        untrained(rng, 1100, dim=8, n_heads=2),
        untrained(rng, 30, positions="absolute", norm="rms", ffn="gated", residual="gate", output_table="separate"),
        untrained(rng, 30, time_bias=True, dim=7, pointer=True),
    ]
    models[1].item_ids_ = np.array(sorted(f"é{i:02}" for i in range(30)))
    paths = [str(saved(tmp_path / f"m{i}", model)) for i, model in enumerate(models)]
    done = subprocess.run(
        [str(tmp_path / "driver"), str(rounds), *paths],
        text=True, capture_output=True, check=False, env=os.environ | {"REGARD_NUM_THREADS": "2"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-4000:]
