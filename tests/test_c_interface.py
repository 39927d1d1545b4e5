"""The C interface: the header is plain C, and wrong arguments come back as a status and a message, never as a crash."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reference

import regard

PACKAGE = Path(regard.__file__).parent
LIBRARY = PACKAGE / "libregard.so.0"
HEADERS = [Path(__file__).parents[1] / "csrc" / "include" / "regard.h", PACKAGE / "include" / "regard.h"]
HEADER = next((path for path in HEADERS if path.exists()), None)
OK, INVALID, UNAVAILABLE = 0, 1, 3

PROGRAM = """
#include "regard.h"
#include <stdio.h>

int main(void) {
  const float h[] = {1, 2}, items[] = {1, 0, 0, 1, 1, 1};
  int32_t best[2];
  float scores[2];
  regard_topk_args args = {0};
  args.struct_size = sizeof args;
  args.h = h, args.item_vectors = items, args.n = 1, args.n_items = 3, args.dim = 2, args.k = 2;
  args.items = best, args.scores = scores;
  if (regard_topk(&args) != REGARD_OK) return 1;
  printf("%d %d %g %g %d\\n", (int)best[0], (int)best[1], scores[0], scores[1], regard_abi_version());
  args.k = 0;
  if (regard_topk(&args) != REGARD_INVALID_ARGUMENT) return 2;
  printf("%s\\n", regard_last_error());
  return 0;
}
"""


@pytest.mark.skipif(HEADER is None, reason="regard.h is neither in the repository nor in the package")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
class TestHeader:
    @pytest.mark.parametrize("language", ["c11", "c++17"])
    def test_it_compiles_without_a_warning(self, language):
        flags = ["-x", language.rstrip("0123456789"), f"-std={language}", "-Wall", "-Wextra", "-pedantic", "-Werror"]
        if language == "c++17" and shutil.which("g++") is None:
            pytest.skip("no g++")
        source = f'#include "{HEADER}"\n#include "{HEADER}"\n'
        done = subprocess.run(
            ["gcc", *flags, "-fsyntax-only", "-"], input=source, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def test_a_c_program_finds_its_items(self, tmp_path):
        if not LIBRARY.exists():
            pytest.skip("libregard is not beside the package")
        (tmp_path / "main.c").write_text(PROGRAM)
        command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{HEADER.parent}", "main.c"]
        command += [str(LIBRARY), f"-Wl,-rpath,{PACKAGE}", "-o", "main"]
        subprocess.run(command, cwd=tmp_path, check=True)
        lines = subprocess.run(["./main"], cwd=tmp_path, check=True, text=True, capture_output=True).stdout.splitlines()
        assert lines == ["2 1 3 2 0", "k: expected at least 1, got 0"]


class Attention(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k")),
        *((name, ctypes.c_int64) for name in ("batch", "n_heads", "head_dim")),
        ("softmax_scale", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("causal", "causal_align_start")),
        ("bias", ctypes.c_void_p),
        ("bias_len", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("out", "lse")),
    )


class TopK(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("h", "item_vectors")),
        *((name, ctypes.c_int64) for name in ("n", "n_items", "dim", "k")),
        *((name, ctypes.c_void_p) for name in ("allow_offsets", "allow", "deny_offsets", "deny", "items", "scores")),
        ("quantized", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def lib():
    if not LIBRARY.exists():
        pytest.skip("libregard is not beside the package")
    lib = ctypes.CDLL(str(LIBRARY))
    for name in ("regard_last_error", "regard_version", "regard_compiler", "regard_isa", "regard_isa_available"):
        getattr(lib, name).restype = ctypes.c_char_p
    lib.regard_attention_forward.argtypes = [ctypes.POINTER(Attention)]
    lib.regard_topk.argtypes = [ctypes.POINTER(TopK)]
    lib.regard_quantized_size.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    lib.regard_quantize_items.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return lib


def filled(kind, **values):
    """The struct, with arrays as pointers, and the arrays, so that they stay alive."""
    made = kind(struct_size=ctypes.sizeof(kind))
    for name, value in values.items():
        setattr(made, name, value.ctypes.data if isinstance(value, np.ndarray) else value)
    made.arrays = values
    return made


def attention_arguments(**change):
    rng = np.random.default_rng(1)
    values = {
        "q": rng.standard_normal((5, 2, 4)).astype(np.float32),
        "k": rng.standard_normal((6, 2, 4)).astype(np.float32),
        "v": rng.standard_normal((6, 2, 4)).astype(np.float32),
        "cu_seqlens_q": np.array([0, 2, 5]),
        "cu_seqlens_k": np.array([0, 3, 6]),
        "out": np.zeros((5, 2, 4), np.float32),
        "lse": np.zeros((5, 2)),
    } | {"batch": 2, "n_heads": 2, "head_dim": 4, "softmax_scale": 0.5}
    return filled(Attention, **(values | change))


def topk_arguments(**change):
    values = {
        "h": np.arange(8, dtype=np.float32).reshape(2, 4),
        "item_vectors": np.arange(20, dtype=np.float32).reshape(5, 4),
        "items": np.zeros((2, 3), np.int32),
        "scores": np.zeros((2, 3), np.float32),
    } | {"n": 2, "n_items": 5, "dim": 4, "k": 3}
    return filled(TopK, **(values | change))


def test_attention_answers_as_the_formula_does(lib):
    args = attention_arguments(causal=1)
    assert lib.regard_attention_forward(args) == OK
    a = args.arrays
    arrays = [a[name].astype(np.float64) for name in ("q", "k", "v")]
    out, lse, _ = reference.ragged_attention(*arrays, a["cu_seqlens_q"], a["cu_seqlens_k"], scale=0.5, causal=True)
    np.testing.assert_allclose(a["out"], out, rtol=0, atol=1e-6)
    np.testing.assert_allclose(a["lse"], lse, rtol=0, atol=1e-6)


def test_topk_answers_as_a_sort_does(lib):
    deny_offsets, deny = np.array([0, 2, 3]), np.array([4, 0, 1], np.int32)
    args = topk_arguments(deny_offsets=deny_offsets, deny=deny)
    assert lib.regard_topk(args) == OK
    assert args.arrays["items"].tolist() == [[3, 2, 1], [4, 3, 2]]


def quantized(lib, items):
    size = ctypes.c_size_t()
    assert lib.regard_quantized_size(*items.shape, ctypes.byref(size)) == OK
    table = np.full(size.value + 4, 77, np.uint8)
    assert lib.regard_quantize_items(items.ctypes.data, *items.shape, table.ctypes.data) == OK
    assert (table[size.value :] == 77).all()
    return table


def test_topk_on_8_bit_copies_answers_as_without(lib, rng):
    items = rng.standard_normal((1000, 4)).astype(np.float32)
    plain, fast = (topk_arguments(item_vectors=items, n_items=1000) for _ in range(2))
    table = quantized(lib, items)
    fast.quantized = table.ctypes.data
    assert (lib.regard_topk(plain), lib.regard_topk(fast)) == (OK, OK)
    for name in ("items", "scores"):
        np.testing.assert_array_equal(fast.arrays[name], plain.arrays[name])
    table[3 * 16 * 4 :] = 128  # the copy is what is searched
    assert lib.regard_topk(fast) == OK
    assert (fast.arrays["items"] != plain.arrays["items"]).any()


def test_a_caller_that_knows_no_quantized_field_is_served(lib):
    args = topk_arguments(struct_size=TopK.quantized.offset, quantized=1)  # what follows the struct is not read
    assert lib.regard_topk(args) == OK
    assert args.arrays["items"].tolist() == [[4, 3, 2], [4, 3, 2]]


def test_wrong_sizes_of_a_quantised_table_are_named(lib):
    size, x = ctypes.c_size_t(7), np.zeros(64, np.float32)
    wrong = [
        ((0, 4), "n_items: expected at least 1, got 0"),
        ((2**31, 4), "n_items: expected below 2^31, got 2147483648"),
        ((3, 0), "dim: expected 1 to 16384, got 0"),
        ((3, 16385), "dim: expected 1 to 16384, got 16385"),
    ]
    for sizes, message in wrong:
        assert lib.regard_quantized_size(*sizes, ctypes.byref(size)) == INVALID
        assert lib.regard_last_error().decode() == message
        assert lib.regard_quantize_items(x.ctypes.data, *sizes, x.ctypes.data) == INVALID
        assert lib.regard_last_error().decode() == message
    assert size.value == 7
    for function, args, name in (
        (lib.regard_quantized_size, (3, 4, None), "bytes"),
        (lib.regard_quantize_items, (None, 3, 4, x.ctypes.data), "item_vectors"),
        (lib.regard_quantize_items, (x.ctypes.data, 3, 4, None), "quantized"),
    ):
        assert function(*args) == INVALID
        assert lib.regard_last_error().decode() == f"{name}: expected an array, got NULL"


OFFSETS = {"falling": np.array([0, 4, 3]), "late": np.array([1, 2, 5]), "negative": np.array([0, -2, 5])}
BIAS = np.zeros((2, 4), np.float32)
WRONG_ATTENTION = [
    ({"struct_size": 0}, "struct_size: expected at least"),
    ({"struct_size": 8}, "struct_size: expected at least"),
    *(
        ({name: None}, f"{name}: expected an array, got NULL")
        for name in ("q", "k", "v", "out", "lse", "cu_seqlens_q", "cu_seqlens_k")
    ),
    ({"batch": -1}, "batch: expected at least 0, got -1"),
    ({"n_heads": 0}, "n_heads: expected at least 1, got 0"),
    ({"n_heads": -5}, "n_heads: expected at least 1, got -5"),
    ({"head_dim": 0}, "head_dim: expected 1 to 256, got 0"),
    ({"head_dim": 257}, "head_dim: expected 1 to 256, got 257"),
    ({"head_dim": -(2**63)}, "head_dim: expected 1 to 256, got -9223372036854775808"),
    ({"cu_seqlens_q": OFFSETS["falling"]}, "cu_seqlens_q: expected offsets that never fall, got 4 before 3 at 1"),
    ({"cu_seqlens_k": OFFSETS["late"]}, "cu_seqlens_k: expected to start with 0, got 1"),
    ({"cu_seqlens_k": OFFSETS["negative"]}, "cu_seqlens_k: expected offsets that never fall, got 0 before -2 at 0"),
    ({"bias": BIAS, "bias_len": 4}, "bias: expected an odd number of distances, got 4"),
    ({"bias": BIAS, "bias_len": 0, "causal": 1}, "bias: expected at least 1 distance, got 0"),
]
WRONG_TOPK = [
    ({"struct_size": 0}, "struct_size: expected at least"),
    ({"struct_size": TopK.quantized.offset - 1}, "struct_size: expected at least"),
    ({"quantized": 2}, "quantized: expected an address that is a multiple of 4"),
    *(({name: None}, f"{name}: expected an array, got NULL") for name in ("h", "item_vectors", "items", "scores")),
    ({"n": -1}, "n: expected at least 0, got -1"),
    ({"n_items": 0}, "n_items: expected at least 1, got 0"),
    ({"n_items": 2**31}, "n_items: expected below 2^31, got 2147483648"),
    ({"dim": 0}, "dim: expected at least 1, got 0"),
    ({"k": 0}, "k: expected at least 1, got 0"),
    ({"allow_offsets": OFFSETS["falling"]}, "allow_offsets: expected offsets that never fall"),
    ({"deny_offsets": OFFSETS["late"]}, "deny_offsets: expected to start with 0, got 1"),
    ({"deny_offsets": np.array([0, 1, 2])}, "deny: expected an array, got NULL"),
    (
        {"deny_offsets": np.array([0, 1, 2]), "deny": np.array([0, 5], np.int32)},
        "deny: expected rows from 0 to 4, got 5 at place 1",
    ),
    (
        {"allow_offsets": np.array([0, 1, 1]), "allow": np.array([-1], np.int32)},
        "allow: expected rows from 0 to 4, got -1 at place 0",
    ),
]
CASES = [("attention_forward", attention_arguments, *case) for case in WRONG_ATTENTION]
CASES += [("topk", topk_arguments, *case) for case in WRONG_TOPK]


@pytest.mark.parametrize(("name", "arguments", "change", "message"), CASES, ids=[f"{c[0]} {c[3][:40]}" for c in CASES])
def test_a_wrong_argument_comes_back_as_status_and_message(lib, name, arguments, change, message):
    args = arguments(**change)
    before = args.arrays["out" if "out" in args.arrays else "items"]
    before = None if before is None else before.copy()
    assert getattr(lib, f"regard_{name}")(args) == INVALID
    assert message in lib.regard_last_error().decode()
    if before is not None:  # nothing was written
        np.testing.assert_array_equal(args.arrays["out" if "out" in args.arrays else "items"], before)


def test_null_instead_of_arguments_is_an_error(lib):
    for function in (lib.regard_attention_forward, lib.regard_topk):
        assert function(None) == INVALID
        assert lib.regard_last_error() == b"args: expected an array, got NULL"
    assert lib.regard_set_isa(None) == INVALID


def test_an_empty_call_needs_no_arrays(lib):
    nothing = np.zeros(1, np.int64)
    args = attention_arguments(q=None, k=None, v=None, out=None, lse=None, cu_seqlens_q=nothing, cu_seqlens_k=nothing)
    args.batch = 0
    assert lib.regard_attention_forward(args) == OK
    assert lib.regard_topk(topk_arguments(n=0, h=None, items=None, scores=None)) == OK


def test_an_unknown_instruction_set_is_unavailable_and_changes_nothing(lib):
    before = lib.regard_isa()
    assert lib.regard_set_isa(b"pdp-11") == UNAVAILABLE
    message = lib.regard_last_error().decode()
    assert "'pdp-11' cannot be used" in message
    assert all(name in message for name in lib.regard_isa_available().decode().split())
    assert lib.regard_isa() == before


def test_the_number_of_threads_must_be_positive(lib):
    before = lib.regard_num_threads()
    for n in (0, -1, -(2**31)):
        assert lib.regard_set_num_threads(n) == INVALID
    assert lib.regard_num_threads() == before


def test_the_version_is_that_of_the_package(lib):
    assert lib.regard_version().decode() == regard.__version__
    assert lib.regard_compiler()
    assert lib.regard_abi_version() == 0


def test_the_lists_of_instruction_sets_stay_as_they_were_given(lib):
    names = ("regard_isa_built", "regard_isa_available")
    built, available = (ctypes.cast(getattr(lib, name), ctypes.CFUNCTYPE(ctypes.c_void_p)) for name in names)
    first = built()
    before = ctypes.string_at(first)
    assert available() != first and ctypes.string_at(first) == before
