"""The guard against slower kernels: what it refuses. `.ci/run` counts the instructions themselves."""

import json

import pytest

import instructions

RECORDED = {"attention_forward": 1_000_000, "topk": 2_000_000}


@pytest.mark.parametrize(("now", "word"), [(2_100_000, "5.0% more"), (1_900_000, "5.0% fewer")])
def test_five_per_cent_more_or_fewer_is_refused_and_named(now, word):
    found = instructions.problems(RECORDED, RECORDED | {"topk": now})
    assert len(found) == 1
    assert found[0].startswith("topk:")
    assert word in found[0]


@pytest.mark.parametrize("now", [1_960_000, 2_000_000, 2_040_000])
def test_two_per_cent_are_accepted(now):
    assert instructions.problems(RECORDED, RECORDED | {"topk": now}) == []


def test_a_kernel_that_was_not_recorded_or_not_counted_is_refused():
    assert len(instructions.problems(RECORDED, RECORDED | {"new": 1})) == 1
    assert len(instructions.problems(RECORDED, {"topk": 2_000_000})) == 1


def test_the_recorded_kernels_are_those_that_are_counted():
    assert set(json.loads(instructions.RECORDED.read_text())["instructions"]) == set(instructions.KERNELS)
