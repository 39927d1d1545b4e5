"""Requests answered by a model: the only place where the service computes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import regard
from regard.ids import as_ids, rows_of
from regard.recommender import Flag, Recommendations

from .messages import Answer, Cause, ItemId, Limits, Rank, Recommend, RecommendBatch, Similar
from .problems import bad

if TYPE_CHECKING:
    from regard.sessions import Session

    from .live_model import Loaded

_CAUSES = 3  # that are told of an item
_WIDER = 4  # times as many items are asked for where caps left too few
_FLAGS: dict[int, list[Any]] = {
    n: [str(flag.name).lower() for flag in Flag(n)] for n in range(sum(flag.value for flag in Flag) + 1)
}


@dataclass(slots=True)
class Past:
    """What a request knows of a user: a history of its own, or the session of a user whose state is kept.

    A session may get further events while a request waits. It is then answered for these: `Tag` says for which.
    """

    history: list[ItemId]
    times: list[float] | None = None
    asked_at: float | None = None
    version: str | None = None
    session: Session | None = None

    def recommend(self, loaded: Loaded, k: int, limits: Limits) -> Recommendations:
        """The k best items; ids were checked."""
        how: dict[str, Any] = {"exclude_seen": limits.exclude_seen}
        deny: Any = limits.deny
        if self.session is None:
            if limits.allow is not None or deny is not None:
                how |= {"allow_items": limits.allow, "deny_items": deny}
            return loaded.model.recommend(self.events(loaded), k, **how)  # type: ignore[no-any-return]
        tag: Tag = self.session.tag
        self.version = tag.version
        if limits.exclude_seen and len(tag.items) > len(self.session):
            deny = [*(deny or ()), *tag.items]  # what was seen before the window of the session as well
        how |= {"allow_items": limits.allow, "deny_items": deny, "asked_at": self.asked_at}
        return self.session.recommend(k, **how)

    def events(self, loaded: Loaded) -> Any:
        """The history as the model takes it."""
        if not loaded.times:
            return self.history
        assert self.times is not None
        items = as_ids("history", self.history, loaded.model.item_ids_, known=True)
        return regard.TimedHistories.from_lists([items], times=[self.times], asked_at=self.asked_at)


@dataclass(slots=True)
class Tag:
    """What a session of a user was made of."""

    version: str | None
    items: list[ItemId]


def check(loaded: Loaded, request: Any) -> None:
    """Refuse what the model cannot take, before anything is computed."""
    for name in ("history", "allow", "deny", "candidates"):
        loaded.check_ids(name, getattr(request, name, None))
    for number, history in enumerate(getattr(request, "histories", ())):
        loaded.check_ids(f"histories[{number}]", history)
    for name in getattr(request, "caps", ()):
        if name not in loaded.categories:
            known = ", ".join(sorted(loaded.categories)) or "none"
            raise bad(f"caps: {name!r} is not a category of the model's item features, which are: {known}")
    if getattr(request, "explain", False) and not loaded.explains:
        raise bad("explain: this model cannot explain its answers")


def recommend(loaded: Loaded, past: Past, request: Recommend) -> Answer:
    """One answer."""
    if not request.boosts and not request.caps:
        answer = answer_of(loaded, past.recommend(loaded, request.k, request))
    else:
        answer = _ruled(loaded, past, request)
    answer.user_version = past.version
    if request.explain:
        answer.causes = _causes(loaded, past, answer.items)
    return answer


def together(loaded: Loaded, pasts: list[Past], request: Limits) -> list[Answer]:
    """One answer for each history, computed as one ragged batch."""
    how = {"exclude_seen": request.exclude_seen, "allow_items": request.allow, "deny_items": request.deny}
    found = loaded.model.recommend([past.history for past in pasts], request.k, **how)
    return [answer_of(loaded, found, row) for row in range(len(pasts))]


def batch(loaded: Loaded, request: RecommendBatch) -> list[Answer]:
    """One answer for each history of a request."""
    if loaded.times:
        raise bad("histories: this model needs the times of the events: ask for one user at a time")
    return together(loaded, [Past(history) for history in request.histories], request) if request.histories else []


def rank(loaded: Loaded, past: Past, request: Rank) -> Answer:
    """The candidates that the model knows, best first."""
    model, candidates = loaded.model, list(dict.fromkeys(request.candidates))
    if hasattr(model, "rank"):
        answer = answer_of(loaded, model.rank([past.history], [candidates]))
    else:
        limits = Limits(allow=candidates, exclude_seen=False)
        n_known = len(candidates) - loaded.n_unknown(candidates)
        answer = answer_of(loaded, past.recommend(loaded, max(n_known, 1), limits))
        if n_known < len(candidates):
            answer.flags = [*answer.flags, "unknown"]
    answer.user_version = past.version
    return answer


def similar(loaded: Loaded, request: Similar) -> Answer:
    """Items that go with one."""
    loaded.check_ids("item", [request.item])
    if loaded.n_unknown([request.item]):
        raise bad(f"item: the model does not know {request.item!r}")
    try:
        return answer_of(loaded, loaded.model.similar_items(request.item, request.k))
    except NotImplementedError as error:
        raise bad(str(error)) from None


def answer_of(loaded: Loaded, found: Recommendations, row: int = 0) -> Answer:
    """A row of recommendations without its padding."""
    flags = int(found.flags[row])
    items, scores = found.items[row], found.scores[row]
    if flags & Flag.SHORT:
        there = scores > -np.inf
        items, scores = items[there], scores[there]
    return Answer(items.tolist(), scores.tolist(), _FLAGS[flags], int(found.n_unknown[row]), loaded.version)


# ---- rules ----------------------------------------------------------------------------------------------------------


def _ruled(loaded: Loaded, past: Past, request: Recommend) -> Answer:
    """The k best by score and boost of which no category has more than its cap.

    The best ``wide`` items without boosts, together with all boosted ones, hold every item whose boosted score is at
    least the lowest score among the former; where the caps leave fewer than k of these, more are asked for.
    """
    boosts = {loaded.id_of("boosts", word): add for word, add in request.boosts.items()}
    boosted: dict[ItemId, float] = {}
    if boosts:
        loaded.check_ids("boosts", list(boosts))
        allow = list(boosts) if request.allow is None else [item for item in request.allow if item in boosts]
        limits = Limits(allow=allow, deny=request.deny, exclude_seen=request.exclude_seen)
        if allow:
            answer = answer_of(loaded, past.recommend(loaded, len(allow), limits))
            boosted = {item: score + boosts[item] for item, score in zip(answer.items, answer.scores, strict=True)}
    n_items, wide = len(loaded.model.item_ids_), request.k + len(boosts)
    while True:
        answer = answer_of(loaded, past.recommend(loaded, wide, request))
        all_there = len(answer.items) < wide or wide >= n_items
        lowest = -np.inf if all_there else answer.scores[-1]
        scores = dict(zip(answer.items, answer.scores, strict=True)) | boosted
        best = sorted((item for item in scores if scores[item] >= lowest), key=lambda item: -scores[item])
        chosen = _capped(loaded, best, request.caps, request.k)
        if all_there or len(chosen) == request.k:
            break
        wide *= _WIDER
    answer.items, answer.scores = chosen, [scores[item] for item in chosen]
    popular = ["popular"] if "popular" in answer.flags else []
    answer.flags = popular + (["short"] if len(chosen) < request.k else [])  # type: ignore[assignment]
    return answer


def _capped(loaded: Loaded, items: list[ItemId], caps: dict[str, int], k: int) -> list[ItemId]:
    """The first k items that keep the caps, in their order."""
    if not caps:
        return items[:k]
    chosen: list[ItemId] = []
    counts: dict[str, Counter[int]] = {name: Counter() for name in caps}
    rows = rows_of(np.array(items, loaded.model.item_ids_.dtype), loaded.model.item_ids_)
    for item, row in zip(items, rows.tolist(), strict=True):
        values = {name: loaded.categories[name][row].tolist() for name in caps}
        if all(counts[name][value] < caps[name] for name in caps for value in values[name]):
            for name in caps:
                counts[name].update(values[name])
            chosen.append(item)
            if len(chosen) == k:
                break
    return chosen


def _causes(loaded: Loaded, past: Past, items: list[ItemId]) -> list[list[Cause]]:
    """For each item the events whose removal changes its score most."""
    causes: list[list[Cause]] = []
    known = loaded.n_unknown(past.history) < len(past.history)
    for item in items if known else []:
        reasons = loaded.model.explain(past.history, item)
        largest = np.argsort(-np.abs(reasons.effect), kind="stable")[:_CAUSES]
        causes.append([Cause(reasons.item_ids[i].item(), float(reasons.effect[i])) for i in largest])
    return causes
