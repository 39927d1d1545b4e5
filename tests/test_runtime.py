"""What surrounds the kernels: instruction sets, threads, fork, symbols, stubs, import."""

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import regard
from regard import _core, ops
from regard.ragged import Ragged

ROOT = Path(__file__).parents[1]
PACKAGE = Path(regard.__file__).parent
CPP = shutil.which("g++")


def python(code, timeout=60, **environment):
    """Runs code in a fresh interpreter with this regard; gives the finished process."""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environment,
        timeout=timeout,
        text=True,
        capture_output=True,
        check=False,
    )


# ---- instruction sets ----


def test_the_best_available_instruction_set_is_in_use():
    done = python("import regard; print(regard.isa())", REGARD_ISA="")
    assert done.stdout.split() == _core.isa_available()[-1:]
    assert set(_core.isa_available()) <= set(_core.isa_built())


@pytest.mark.parametrize("name", _core.isa_available())
def test_an_instruction_set_can_be_forced_by_the_environment(name):
    assert python("import regard; print(regard.isa())", REGARD_ISA=name).stdout.split() == [name]


def test_an_unknown_forced_instruction_set_is_an_error_that_lists_what_there_is():
    done = python("import regard", REGARD_ISA="pdp-11")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert "ImportError: REGARD_ISA: instruction set 'pdp-11' cannot be used" in last
    assert all(name in last for name in _core.isa_built())


def test_the_fixture_runs_every_kernel_with_its_instruction_set(isa):
    assert regard.isa() == isa


# ---- threads ----


def test_the_number_of_threads_can_be_set():
    before = regard.num_threads()
    regard.set_num_threads(3)
    assert regard.num_threads() == 3
    assert _core.num_threads_reason() == "set_num_threads"
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"num_threads: expected at least 1, got {wrong}"):
            regard.set_num_threads(wrong)
    regard.set_num_threads(before)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "REGARD_NUM_THREADS"])
def test_the_environment_limits_the_number_of_threads(name):
    code = "import regard; from regard import _core; print(regard.num_threads(), _core.num_threads_reason())"
    words = python(code, **{"OMP_NUM_THREADS": "", "REGARD_NUM_THREADS": ""} | {name: "1"}).stdout.split(maxsplit=1)
    assert words[0] == "1"
    if python(code, OMP_NUM_THREADS="", REGARD_NUM_THREADS="").stdout.split()[0] != "1":
        assert words[1].strip() == name


def everything():
    """Results of every kernel, at sizes that are cut into several parts, by name."""
    rng = np.random.default_rng(3)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    found = {}
    lengths = rng.integers(0, 40, 30)
    cu = np.concatenate([[0], np.cumsum(lengths)])
    q, k, v, dout = (normal(cu[-1], 2, 9) for _ in range(4))
    options = {"causal": True, "bias": normal(2, 20), "dropout": ops.Dropout(0.3, 1)}
    found["out"], found["lse"] = ops.attention_forward(q, k, v, cu, cu, **options)
    gradients = ops.attention_backward(dout, q, k, v, found["out"], found["lse"], cu, cu, **options)
    found |= zip(["dq", "dk", "dv", "dbias"], gradients, strict=True)
    found["weights"] = np.concatenate([w.ravel() for w in ops.attention_weights(q, k, cu, cu, causal=True)])

    h, items, targets = normal(1100, 6), normal(2300, 6), rng.integers(0, 2300, 1100).astype(np.int32)
    found["loss"], found["ce lse"] = ops.cross_entropy_forward(h, items, targets)
    found["dh"], found["ditems"] = ops.cross_entropy_backward(h, items, targets, found["ce lse"])
    found |= zip(["loss 1", "dh 1", "di 1"], ops.cross_entropy_value_and_grad(h, items, targets), strict=True)
    negatives = rng.integers(0, 2300, 700).astype(np.int32)
    for kind in ("softmax", "bce"):
        results = ops.sampled_loss_value_and_grad(h, items, targets, negatives, loss=kind)
        found |= zip([f"sampled {kind}", f"dh {kind}", f"ditems {kind}"], results, strict=True)
    deny = Ragged.from_lists([rng.integers(0, 2300, 9) for _ in range(1100)], np.int32)
    found |= zip(["items", "scores"], ops.topk(h, items, 10, None, deny), strict=True)
    found["8-bit"] = ops.quantize_items(items)
    found |= zip(["q items", "q scores"], ops.topk(h, items, 10, None, deny, quantized=found["8-bit"]), strict=True)
    found |= zip(["above", "equal"], ops.rank_counts(h, items, deny, deny), strict=True)

    x, weight, bias, dy = normal(2000, 30), normal(70, 30), normal(70), normal(2000, 70)
    found["y"], saved = ops.linear_forward(x, weight, bias, activation="gelu")
    gradients = ops.linear_backward(dy, x, weight, activation="gelu", saved=saved)
    found |= zip(["dx", "dweight", "dbias linear"], gradients, strict=True)
    found["norm"], mean, rstd = ops.layer_norm_forward(dy, bias, bias)
    gradients = ops.layer_norm_backward(dy, dy, bias, mean, rstd)
    found |= zip(["norm dx", "norm dweight", "norm dbias"], gradients, strict=True)
    found["rms"], rstd = ops.rms_norm_forward(dy, bias)
    found |= zip(["rms dx", "rms dweight"], ops.rms_norm_backward(dy, dy, bias, rstd), strict=True)
    found["relu"] = ops.activation_forward(dy, activation="relu")
    found["gated"] = ops.gate_forward(dy, found["relu"], activation="silu")
    found |= zip(["dgate", "dvalue"], ops.gate_backward(dy, dy, found["relu"], activation="silu"), strict=True)
    found["rows"] = ops.embedding_forward(items, targets, scale=2.0)
    found["table"] = ops.embedding_backward(h, targets, np.zeros_like(items))
    found["dropped"] = ops.dropout(dy, ops.Dropout(0.5, 3))
    w, m, s = dy.copy(), np.zeros_like(dy), np.zeros_like(dy)
    ops.adam(w, found["relu"], m, s, step=1, learning_rate=0.1, weight_decay=0.1, decoupled=True)
    found |= {"adam": w, "m": m, "v": s, "squares": ops.sum_squares(dy)}
    w, m, s, rows = dy.copy(), np.zeros_like(dy), np.zeros_like(dy), np.arange(0, len(dy), 2, dtype=np.int32)
    ops.sgd(w, dy, m, learning_rate=0.1, momentum=0.9)
    ops.adagrad(w, dy[rows], s, learning_rate=0.1, rows=rows)
    found |= {"sgd, adagrad": w, "buffer": m, "adagrad's squares": s}
    return found


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_the_number_of_threads_changes_no_bit_of_any_kernel(isa):
    before = regard.num_threads()
    regard.set_num_threads(1)
    expected = everything()
    for threads in (2, 3, 8):
        regard.set_num_threads(threads)
        assert_same_bits(everything(), expected)
    regard.set_num_threads(before)


def test_the_same_call_gives_the_same_bits_again(threads):
    assert_same_bits(everything(), everything())


def test_many_python_threads_may_call_at_once(threads):
    expected = everything()
    found, errors = [], []

    def work():
        try:
            found.append(everything())
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert not errors
    for one in found:
        assert_same_bits(one, expected)


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else TESTS)
import numpy as np, regard
from test_runtime import assert_same_bits, everything
regard.set_num_threads(3)
expected = everything()
for child in range(3):
    pid = os.fork()
    if pid == 0:
        assert_same_bits(everything(), expected)
        grandchild = os.fork()
        if grandchild == 0:
            assert_same_bits(everything(), expected)
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert_same_bits(everything(), expected)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_computes_as_its_parent_does():
    # Python warns of a fork beside threads; the pool's threads are exactly what this is about.
    warn = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
    done = python(f"{warn}TESTS = {str(Path(__file__).parent)!r}\n{FORK}", timeout=120)
    assert done.stdout.split() == ["done"], done.stderr


def test_it_works_beside_torch(rng):
    torch = pytest.importorskip("torch")
    expected = everything()
    for _ in range(3):
        x = torch.randn(200, 200, requires_grad=True)
        (x @ x).sum().backward()
        assert_same_bits(everything(), expected)


def test_no_openmp_library_is_linked():
    done = python("import regard, regard.ops; print(open('/proc/self/maps').read())")
    assert "regard" in done.stdout
    assert not re.search(r"libgomp|libomp|libiomp", done.stdout)


# ---- symbols ----


def instruction_sets():
    """name: (source, flags) of every line `regard_kernels(source name flags)` in CMakeLists.txt that was built."""
    text = (ROOT / "CMakeLists.txt").read_text()
    lines = re.findall(r"^\s*regard_kernels\((\w+) (\S+)\s*(.*)\)$", text, re.MULTILINE)
    return {name: (source, flags.split()) for source, name, flags in lines if name in _core.isa_built()}


FLAGS = "-std=c++17 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -fopenmp-simd -fno-math-errno"
FLAGS += " -fno-trapping-math -ffp-contract=fast -fno-exceptions -fno-rtti -Wno-psabi"
C_FUNCTIONS = {"memcpy", "memset", "memmove", "memcmp", "exp", "expf", "log", "logf", "sqrt", "sqrtf"}


@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="no sources beside the tests")
@pytest.mark.skipif(CPP is None or shutil.which("nm") is None, reason="no g++ or nm")
@pytest.mark.parametrize("name", _core.isa_built())
@pytest.mark.parametrize("build", [pytest.param("-O3 -DNDEBUG", id="release"), pytest.param("-O0 -g", id="debug")])
def test_kernels_export_one_symbol_and_import_plain_c_alone(name, build, tmp_path):
    """Nothing compiled with wide instructions may end up serving a machine without them (an inline function that the
    linker keeps once for everybody is a weak symbol)."""
    source, flags = instruction_sets()[name]
    identifier = re.sub(r"\W", "_", name)
    command = [CPP, *FLAGS.split(), *build.split(), *flags, f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]
    command += [f"-DREGARD_ISA_ID={identifier}", f'-DREGARD_ISA_NAME="{name}"', "-c", "-o", "kernels.o"]
    subprocess.run([*command, str(ROOT / "csrc" / "cpu" / f"{source}.cpp")], cwd=tmp_path, check=True)
    listing = subprocess.run(["nm", "-C", "kernels.o"], cwd=tmp_path, check=True, text=True, capture_output=True).stdout
    symbols = [re.fullmatch(r"[0-9a-f]*\s+(\S) (.*)", line).groups() for line in listing.splitlines()]
    defined = [symbol for kind, symbol in symbols if kind.isupper() and kind != "U"]
    one = {"kernels": "table", "level": "extend(regard::Kernels&)"}[source]
    assert defined == [f"regard::{identifier}::{one}"]
    assert not [symbol for kind, symbol in symbols if kind in "vVwWu"]
    imported = {symbol for kind, symbol in symbols if kind == "U"} - {"_GLOBAL_OFFSET_TABLE_"}
    assert imported <= C_FUNCTIONS


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_the_library_exports_the_c_interface_alone():
    library = PACKAGE / "libregard.so.0"
    if not library.exists():
        pytest.skip("libregard is not beside the package")
    listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True, text=True, capture_output=True).stdout
    names = [line.split()[-1].split("@")[0] for line in listing.splitlines()]
    assert "regard_topk" in names
    assert [name for name in names if not name.startswith("regard_")] == []


# ---- the compiled module's stub ----


def stub_signatures():
    """{name: parameters}, methods as Class.method."""
    tree = ast.parse((PACKAGE / "_core.pyi").read_text())
    found = {}
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for function in inner:
            if isinstance(function, ast.FunctionDef):
                arguments = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
                found[prefix + function.name] = arguments
    return found


def test_the_stub_lists_the_functions_of_the_module_with_their_parameters():
    def parameters(function):
        name = function.__name__
        return re.findall(r"(\w+):", re.match(rf"{name}\((.*)\)", function.__doc__.splitlines()[0]).group(1))

    found = {}
    for name in dir(_core):
        thing = getattr(_core, name)
        if name.startswith("_"):
            continue
        if isinstance(thing, type):
            methods = [method for method in dir(thing) if method == "__init__" or not method.startswith("_")]
            found |= {f"{name}.{method}": parameters(getattr(thing, method)) for method in methods}
        else:
            found[name] = parameters(thing)
    assert stub_signatures() == found


# ---- import ----


def test_the_package_says_that_it_is_typed():
    folder = Path(regard.__file__).parent
    assert (folder / "py.typed").is_file() and (folder / "_core.pyi").is_file()


def test_importing_regard_imports_numpy_alone():
    code = "import sys, numpy; before = set(sys.modules); import regard; print(*sorted(set(sys.modules) - before))"
    packages = {name.partition(".")[0] for name in python(code).stdout.split()}
    assert packages - set(sys.stdlib_module_names) == {"regard"}


@pytest.mark.slow
def test_the_time_of_import_beyond_numpy_is_reported(record_property, capsys):
    code = "import numpy, time; t = time.perf_counter(); import regard; print(time.perf_counter() - t)"
    times = [float(python(code).stdout) for _ in range(15)]
    record_property("import_ms", 1e3 * statistics.median(times))
    with capsys.disabled():
        print(f" median {1e3 * statistics.median(times):.1f} ms, best {1e3 * min(times):.1f} ms", end=" ")
