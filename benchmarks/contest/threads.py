"""Two threads against one: regard's kernels for batches, and the training step."""

from __future__ import annotations

from dataclasses import replace

from contest import attention, cross_entropy, topk, training
from contest.cases import Case, Contender, Row, Subject


def both(one: Case, name: str, ours: Contender) -> Case:
    """The case with one contender, on one thread and on two."""
    contenders = tuple(replace(ours, name=f"regard, {n}", threads=i) for i, n in ((1, "1 thread"), (2, "2 threads")))
    return replace(one, name=f"threads, {name}", contenders=contenders, threads=2)


def subject(quick: bool) -> Subject:
    attend = attention.subject(quick).cases
    batches = [one for one in topk.subject(quick).cases if one.sizes["n"] > 1]
    cases = {
        "attention, causal, forward and backward": both(attend[1], "attention", attention.CONTENDERS[0]),
        "cross-entropy, N 25,600, V 3,416, `high`": both(
            cross_entropy.subject(quick).cases[0], "cross-entropy", cross_entropy.HIGH
        ),
        "top 10 of 100,000, batch 256": both(batches[2], "top 10", topk.OURS[-1]),
        "training step (`high`), MovieLens-1M": both(
            training.case(quick, "training step", ()), "training step", training.OURS
        ),
    }
    rows = [
        Row(work, "1 thread", one.name, "regard, 2 threads", ("regard, 1 thread",), 1.6, 1.8)
        for work, one in cases.items()
    ]
    return Subject(tuple(cases.values()), tuple(rows))
