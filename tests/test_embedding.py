"""The programs of docs/embedding.md compile and answer as Python does; the package files are found and used."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_c_interface import HEADER, LIBRARY
from test_c_serving import saved
from test_serving import untrained

import regard
from regard import embedding

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "embedding.md"
TEMPLATES = ROOT / "csrc" / "package"
pytestmark = pytest.mark.skipif(
    HEADER is None or not LIBRARY.exists() or not PAGE.exists(), reason="no header, library or page"
)


def program(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)


def run(*command, **how):
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def needs(tool):
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"no {tool}")


@pytest.fixture
def model_and_best(tmp_path, rng):
    model = untrained(rng)
    path = saved(tmp_path / "model", model)
    return path, [str(i) for i in model.recommend([101, 102, 103], k=5).items[0].tolist()]


@pytest.fixture
def package(tmp_path):
    """What is installed, laid out as in a wheel."""
    package = tmp_path / "regard"
    for folder in ("include", "cmake", "pkgconfig"):
        (package / folder).mkdir(parents=True)
    shutil.copy(HEADER, package / "include")
    shutil.copy(LIBRARY, package)
    values = {"REGARD_LIBRARY": "../libregard.so.0", "REGARD_LIBRARY_FOLDER": "..", "REGARD_INCLUDE": "../include"}
    values["PROJECT_VERSION"] = regard.__version__
    for folder, name in (
        ("cmake", "regard-config.cmake"),
        ("cmake", "regard-config-version.cmake"),
        ("pkgconfig", "regard.pc"),
    ):
        text = (TEMPLATES / f"{name}.in").read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        assert "@" not in text
        (package / folder / name).write_text(text)
    return package


def built_with_pkg_config(package, tmp_path):
    (tmp_path / "service.c").write_text(program("c"))
    flags = run("pkg-config", "--cflags", "--libs", "regard", env={"PKG_CONFIG_PATH": package / "pkgconfig"})
    strict = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    run("gcc", *strict, tmp_path / "service.c", *flags, "-o", tmp_path / "service")
    return tmp_path / "service"


def built_with_cmake(package, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "service.cpp").write_text(program("cpp"))
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(service CXX)\nset(CMAKE_CXX_STANDARD 17)\n"
        f"find_package(regard {regard.__version__} REQUIRED)\nadd_executable(service service.cpp)\n"
        "target_compile_options(service PRIVATE -Wall -Wextra -Werror)\n"
        "target_link_libraries(service PRIVATE regard::regard)\n"
    )
    run("cmake", "-S", source, "-B", source / "build", f"-Dregard_ROOT={package / 'cmake'}")
    run("cmake", "--build", source / "build")
    return source / "build" / "service"


@needs("gcc")
@needs("pkg-config")
def test_the_c_program_is_built_with_pkg_config_and_answers_as_python_does(package, model_and_best, tmp_path):
    path, best = model_and_best
    service = built_with_pkg_config(package, tmp_path)
    assert run(service, path)[::2] == best
    done = subprocess.run([service, tmp_path / "no"], text=True, capture_output=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"{tmp_path / 'no'}: No such file")


@needs("g++")
@needs("cmake")
def test_the_cpp_program_is_built_with_the_cmake_package_and_answers_as_python_does(package, model_and_best, tmp_path):
    path, best = model_and_best
    assert run(built_with_cmake(package, tmp_path), path) == best


@pytest.mark.slow
@needs("gcc")
@needs("g++")
@needs("pkg-config")
@needs("cmake")
def test_a_wheel_carries_what_the_programs_are_built_with(model_and_best, tmp_path):
    path, best = model_and_best
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT)
    site, (wheel,) = tmp_path / "site", tmp_path.glob("regard-*.whl")
    run(*pip, "install", "--no-deps", "--target", site, wheel)
    ask = "import regard; print(regard.get_include(), regard.get_library())"
    told = run(sys.executable, "-c", ask, env=os.environ | {"PYTHONPATH": str(site)}, cwd=tmp_path)
    package = site / "regard"
    assert told == [str(package / "include"), str(package / "libregard.so.0")]
    assert run(built_with_pkg_config(package, tmp_path), path)[::2] == best
    assert run(built_with_cmake(package, tmp_path), path) == best


@needs("rustc")
def test_the_rust_program_answers_as_python_does(model_and_best, tmp_path):
    path, best = model_and_best
    (tmp_path / "service.rs").write_text(program("rust"))
    linked = ["-C", f"link-arg={LIBRARY}", "-C", f"link-arg=-Wl,-rpath,{LIBRARY.parent}"]
    run("rustc", "-D", "warnings", tmp_path / "service.rs", *linked, "-o", tmp_path / "service")
    assert run(tmp_path / "service", path) == best


def test_the_package_says_where_header_and_library_are(package, monkeypatch, tmp_path):
    monkeypatch.setattr(embedding, "_PACKAGE", package)
    assert (Path(regard.get_include()) / "regard.h").exists()
    assert Path(regard.get_library()).exists()
    monkeypatch.setattr(embedding, "_PACKAGE", tmp_path / "nowhere")
    for function in (regard.get_include, regard.get_library):
        with pytest.raises(FileNotFoundError, match="it comes with an installed regard"):
            function()


COUNTING = """
#include "regard.h"
#include <stdio.h>
#include <stdlib.h>
void* __libc_malloc(size_t);
void* __libc_memalign(size_t, size_t);
static long made = 0;
void* malloc(size_t size) { return ++made, __libc_malloc(size); }
void* aligned_alloc(size_t unit, size_t size) { return ++made, __libc_memalign(unit, size); }
int main(int argc, char** argv) {
  regard_model* model = NULL;
  if (argc < 2 || regard_model_open(argv[1], &model) != REGARD_OK) return 1;
  const int32_t events[] = {1, 2, -1, 3};
  const int64_t offsets[] = {0, 4}, lists[] = {0, 2};
  const regard_histories histories = {sizeof histories, events, offsets, 1, NULL, NULL};
  int32_t items[5];
  float scores[5];
  uint8_t flags[1];
  const regard_recommend_args args = {sizeof args, &histories, 5, 1, NULL, NULL, lists, events, items, scores, flags};
  long before = made;
  regard_recommend(model, &args);
  printf("%d ", made > before);
  before = made;
  for (int i = 0; i < 100; ++i) regard_recommend(model, &args);
  printf("%ld\\n", made - before);
  return 0;
}
"""


@needs("gcc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of another name")
def test_a_request_of_one_history_allocates_only_once(model_and_best, tmp_path):
    path, _ = model_and_best
    (tmp_path / "count.c").write_text(COUNTING)
    linked = [f"-I{HEADER.parent}", LIBRARY, f"-Wl,-rpath,{LIBRARY.parent}"]
    run("gcc", "-std=c11", "-O1", tmp_path / "count.c", *linked, "-o", tmp_path / "count")
    assert run(tmp_path / "count", path) == ["1", "0"]
