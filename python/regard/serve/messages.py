"""What goes over the wire: one class for each request and answer. The OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

ItemId = int | Annotated[str, Meta(max_length=1024)]
UserId = Annotated[str, Meta(min_length=1, max_length=256)]
Times = Annotated[list[float], Meta(description="Unix seconds, one for each event")]


AskedAt = Annotated[float, Meta(description="When the next event comes, Unix seconds; default: now")]


class Limits(Struct, kw_only=True, forbid_unknown_fields=True):
    """What may come up, and how much of it."""

    k: Annotated[int, Meta(ge=1, description="How many items")] = 10
    allow: list[ItemId] | None = None
    deny: list[ItemId] | None = None
    exclude_seen: bool = True


class Recommend(Limits, kw_only=True, forbid_unknown_fields=True):
    """The k best items after a history, or after that of a user: exactly one of the two."""

    history: list[ItemId] | None = None
    user_id: UserId | None = None
    times: Times | None = None
    asked_at: AskedAt | None = None
    caps: Annotated[
        dict[str, Annotated[int, Meta(ge=0)]],
        Meta(description="Category of the item features: at most so many items of each of its values"),
    ] = {}
    boosts: Annotated[dict[str, float], Meta(description="Item id: what is added to its score before the ranking")] = {}
    explain: Annotated[bool, Meta(description="For each item the events that changed its score most")] = False


class Rank(Struct, kw_only=True, forbid_unknown_fields=True):
    """Candidates in the order of their scores after a history, or after that of a user: exactly one of the two."""

    candidates: Annotated[list[ItemId], Meta(min_length=1)]
    history: list[ItemId] | None = None
    user_id: UserId | None = None
    times: Times | None = None
    asked_at: AskedAt | None = None


class RecommendBatch(Limits, kw_only=True, forbid_unknown_fields=True):
    """The k best items after each of many histories."""

    histories: list[list[ItemId]]


class Similar(Struct, kw_only=True, forbid_unknown_fields=True):
    """Items that go with an item."""

    item: ItemId
    k: Annotated[int, Meta(ge=1)] = 10


class Events(Struct, kw_only=True, forbid_unknown_fields=True):
    """Events to append to a user's history, oldest first."""

    user_id: UserId
    items: Annotated[list[ItemId], Meta(min_length=1)]
    times: Times | None = None
    idempotency_key: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(description="The same key again within a day changes nothing and gets the same answer"),
    ] = None


# ---- answers ------------------------------------------------------------------------------------------------------


class Cause(Struct):
    """An event and what the score would lose without it."""

    item: ItemId
    effect: float


class Answer(Struct, omit_defaults=True):
    """Items, best first."""

    items: list[ItemId]
    scores: list[float]
    flags: list[Literal["popular", "short", "unknown"]]
    n_unknown: Annotated[int, Meta(description="Events that were skipped because the model does not know the item")]
    model_version: str
    causes: Annotated[list[list[Cause]] | None, Meta(description="Of each item, largest first")] = None
    user_version: Annotated[str | None, Meta(description="Of the user's state that was used")] = None


class Answers(Struct):
    """One answer for each history."""

    results: list[Answer]


class Appended(Struct):
    """The user's state after the events, which are on disk."""

    user_id: str
    version: str
    repeated: Annotated[bool, Meta(description="The idempotency key had been used: nothing was appended")]
    n_unknown: Annotated[int, Meta(description="Items that the model does not know; they are kept for a later one")]


class State(Struct):
    """What is kept of a user: the newest events, oldest first."""

    user_id: str
    version: str | None
    items: list[ItemId]
    times: list[float]


class ModelCard(Struct):
    """The model that serves."""

    version: str
    kind: str
    n_items: int
    item_ids: Literal["int64", "str"]
    caps: Annotated[list[str], Meta(description="Categories that answers can be capped by")]
    loaded_at: Annotated[float, Meta(description="Unix seconds")]
    regard_version: str
    max_len: int | None = None


class Condition(Struct):
    """Of the service."""

    status: Literal["ok", "starting", "stopping", "store unavailable"]


class Problem(Struct):
    """Why there is no answer."""

    error: str
    message: str


encode = msgspec.json.encode
