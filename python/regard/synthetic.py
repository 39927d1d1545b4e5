"""Data with a planted structure: what follows from what, and the best that anyone can reach, are known exactly.

People watch films of eight genres in a ring. Between films they pick a *mood* (calm, rainy, festive, wistful), and it
holds until they pick another. The mood says how many genres on the next film is: with a calm mood a mystery is
followed by a comedy, with a rainy one by a western. So the next film needs two earlier events, the latest mood and the
latest film, and other events (moods, news) put them at varying distance. One of the two alone says little.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .data import Interactions
from .ragged import Ragged

__all__ = ["BestPossible", "PlantedProcess", "SyntheticInteractions", "synthetic"]

GENRES = ("mystery", "comedy", "western", "romance", "science fiction", "musical", "adventure", "fantasy")
MOODS = ("calm", "rainy", "festive", "wistful")  # 1, 2, 3, 4 genres on
NOUNS = (
    ("Lighthouse", "Witness", "Cellar", "Alibi", "Footprint", "Letter"),
    ("Wedding", "Neighbour", "Umbrella", "Holiday", "Plumber", "Parrot"),
    ("Canyon", "Sheriff", "Saddle", "Railway", "Prairie", "Stranger"),
    ("Garden", "Promise", "Orchard", "Postcard", "Waltz", "Balcony"),
    ("Orbit", "Android", "Comet", "Signal", "Colony", "Reactor"),
    ("Chorus", "Trumpet", "Stage", "Melody", "Ballroom", "Encore"),
    ("Island", "Compass", "Summit", "Jungle", "Voyage", "Treasure"),
    ("Dragon", "Wizard", "Crown", "Forest", "Spell", "Kingdom"),
)
ADJECTIVES = ("Silent", "Golden", "Lost", "Crimson", "Hidden", "Last", "Broken", "Distant")
MOOD, NEWS, STRAY = 0.12, 0.06, 0.02  # chance of a mood, of news, of any film at all; else a film by the rule
NONE = -1
BLOCK = 512  # users at a time, so that probabilities of all items take little memory


class PlantedProcess:
    """How the next item comes about.

    A catalogue of `n_items`: a tenth of them films of each genre, 3 % moods of each kind, the rest news. The first
    event is a mood, the second a film; each further one is drawn from

    - 80 %: a film of the genre that follows from the latest mood and the latest film; the film of rank r within its
      genre with weight 1 / (r + 1)
    - 12 %: a mood, 6 %: news, 2 %: any film, each evenly

    after the items that the user has had are taken out and the rest is scaled to 1.

    Parameters
    ----------
    n_items : int, default 300
        At least 100.

    Attributes
    ----------
    item_ids : (n_items,) int64
        1, 2, ...; shuffled, so that the number says nothing.
    titles : (n_items,) str
    genre, mood : (n_items,) int
        Place in ``GENRES`` or ``MOODS``, −1 for items of other kinds.
    """

    def __init__(self, n_items: int = 300) -> None:
        if n_items < 100:
            raise ValueError(f"n_items: expected at least 100, got {n_items}")
        n_films, n_moods = n_items // 10, 3 * n_items // 100
        n_news = n_items - n_films * len(GENRES) - n_moods * len(MOODS)
        other = n_items - n_films * len(GENRES)
        genre = np.concatenate([np.repeat(np.arange(len(GENRES)), n_films), np.full(other, NONE)])
        mood = np.full(n_items, NONE)
        mood[len(genre) - other : n_items - n_news] = np.repeat(np.arange(len(MOODS)), n_moods)
        rank = np.concatenate([np.tile(np.arange(n_films), len(GENRES)), np.zeros(other, int)])
        titles = [_film(g, r) for g in range(len(GENRES)) for r in range(n_films)]
        titles += [f"A {m} evening, no. {i + 1}" for m in MOODS for i in range(n_moods)]
        titles += [f"News in brief, no. {i + 1}" for i in range(n_news)]
        place = np.random.default_rng(0).permutation(n_items)  # fixed: the catalogue is the same for every seed
        self.n_items = n_items
        self.item_ids = np.arange(1, n_items + 1)
        self.genre, self.mood, self.titles = genre[place], mood[place], np.array(titles)[place]
        films, moods, news = self.genre != NONE, self.mood != NONE, (self.genre == NONE) & (self.mood == NONE)
        weight = np.where(films, 1 / (rank[place] + 1), 0)
        # before exclusion, by latest mood and latest film's genre; the last place of both axes is "none so far"
        self._table = np.empty((len(MOODS) + 1, len(GENRES) + 1, n_items))
        self._table[NONE] = moods / moods.sum()
        self._table[:NONE, NONE] = weight / weight.sum()
        anything = MOOD * moods / moods.sum() + NEWS * news / news.sum() + STRAY * films / films.sum()
        for m in range(len(MOODS)):
            for g in range(len(GENRES)):
                planted = np.where(self.genre == self.next_genre(m, g), weight, 0)
                self._table[m, g] = anything + (1 - MOOD - NEWS - STRAY) * planted / planted.sum()

    @staticmethod
    def next_genre(mood: int | NDArray[np.int_], genre: int | NDArray[np.int_]) -> int | NDArray[np.int_]:
        """The genre that follows from a mood and the genre of the latest film."""
        return (genre + mood + 1) % len(GENRES)

    def causes(self, histories: Ragged) -> NDArray[np.int64]:
        """Positions of the latest mood and the latest film in each history of item rows, (n, 2); −1 for none."""
        rows = histories.row_of
        position = np.arange(len(histories.values)) - histories.offsets[rows]
        latest = np.full((len(histories), 2), NONE)
        for column, attribute in enumerate((self.mood, self.genre)):
            found = attribute[histories.values] != NONE
            latest[rows[found], column] = position[found]  # the last of several assignments stays
        return latest

    def probabilities(self, histories: Ragged) -> NDArray[np.float64]:
        """The chance of each item to be the next one, given a history of item rows: (n, n_items), rows sum to 1."""
        latest = self.causes(histories)
        state = []
        for column, attribute in enumerate((self.mood, self.genre)):
            known = latest[:, column] != NONE
            at = np.full(len(histories), NONE)
            at[known] = attribute[histories.values[(histories.offsets[:-1] + latest[:, column])[known]]]
            state.append(at)
        chance: NDArray[np.float64] = self._table[state[0], state[1]]
        chance[histories.row_of, histories.values] = 0
        chance /= chance.sum(axis=1, keepdims=True)
        return chance

    def simulate(self, lengths: NDArray[np.int64], seed: int | np.random.Generator = 0) -> Ragged:
        """Draw sequences of the given lengths, (n_users,), as item rows (int32)."""
        rng = np.random.default_rng(seed)
        blocks = [self._simulate(lengths[i : i + BLOCK], rng) for i in range(0, len(lengths), BLOCK)]
        return Ragged.concatenate(blocks)

    def _simulate(self, lengths: NDArray[np.int64], rng: np.random.Generator) -> Ragged:
        n, longest = len(lengths), int(lengths.max())
        users = np.arange(n)
        sequence = np.empty((n, longest), np.int32)
        unseen = np.ones((n, self.n_items), bool)
        mood, genre = np.full(n, NONE), np.full(n, NONE)
        for t in range(longest):
            up_to = np.cumsum(self._table[mood, genre] * unseen, axis=1)
            drawn = rng.random((n, 1)) * up_to[:, -1:]
            item = (up_to <= drawn).sum(axis=1)
            sequence[:, t], unseen[users, item] = item, False
            mood = np.where(self.mood[item] != NONE, self.mood[item], mood)
            genre = np.where(self.genre[item] != NONE, self.genre[item], genre)
        return Ragged(sequence.ravel(), np.arange(n + 1) * longest).head(lengths)

    def last_event_scores(self, n_users: int = 10_000, seed: int = 1_000_003) -> NDArray[np.float64]:
        """What the very last event says of the next: (n_items, n_items), row i the chances after item i.

        Counted in a fresh sample of `n_users`, pooled over the last items of one genre, one mood or the news, which
        differ in nothing else. The best predictor that sees only the last event takes the highest of a row.
        """
        sequences = self.simulate(np.full(n_users, 24), seed)
        kind = np.where(self.genre != NONE, self.genre, np.where(self.mood != NONE, len(GENRES) + self.mood, NONE))
        before, after = sequences.drop_last(1), sequences.take(np.arange(n_users))
        after = Ragged(after.values.reshape(n_users, 24)[:, 1:].ravel(), before.offsets)
        counts = np.zeros((len(GENRES) + len(MOODS) + 1, self.n_items))
        np.add.at(counts, (kind[before.values], after.values), 1)
        scores: NDArray[np.float64] = (counts / counts.sum(axis=1, keepdims=True))[kind]
        return scores


class BestPossible:
    """The metrics of a predictor that knows the process and the whole history, as expectations: nothing beats them.

    The best list of a history holds the items by their chance to be next, items seen before left out. The chance that
    it holds the target is the sum of its chances: no target is drawn, and the only average is over the histories.

    Parameters
    ----------
    process : PlantedProcess
    histories : Ragged of item rows
    """

    def __init__(self, process: PlantedProcess, histories: Ragged) -> None:
        self.process, self.histories = process, histories

    def hit_rate(self, k: int) -> float:
        """Expected HR@k."""
        return self._mean(np.ones(k))

    def ndcg(self, k: int) -> float:
        """Expected NDCG@k (one target for each history)."""
        return self._mean(1 / np.log2(np.arange(2, k + 2)))

    def _mean(self, gain: NDArray[np.float64]) -> float:
        total = 0.0
        for best in self._best(len(gain)):
            total += float((best @ gain[: best.shape[1]]).sum())
        return total / len(self.histories)

    def _best(self, k: int) -> Iterator[NDArray[np.float64]]:
        for i in range(0, len(self.histories), BLOCK):
            yield -np.sort(-self.process.probabilities(self.histories[i : i + BLOCK]), axis=1)[:, :k]

    def __repr__(self) -> str:
        return f"BestPossible(hr@10={self.hit_rate(10):.4f}, ndcg@10={self.ndcg(10):.4f})"


class SyntheticInteractions(Interactions):
    """Interactions of a `PlantedProcess`, from `synthetic`.

    Attributes
    ----------
    process : PlantedProcess
        The rules.
    best_possible : BestPossible
        Of the test of ``leave_one_out``: ``best_possible.hit_rate(10)``, ``best_possible.ndcg(10)``.
    causes : Ragged of int64
        One row for each user, as in the test of ``leave_one_out``: positions in the history of the two events that the
        target follows from, ascending; empty where the target is no film of the genre that they call for.
    """

    process: PlantedProcess
    best_possible: BestPossible
    causes: Ragged


def synthetic(
    *, n_users: int = 4000, n_items: int = 300, mean_length: int = 24, seed: int = 0
) -> SyntheticInteractions:
    """Draw data from a `PlantedProcess`.

    Parameters
    ----------
    n_users : int, default 4000
        Their ids are 1, 2, ...
    n_items : int, default 300
        At least 100.
    mean_length : int, default 24
        Lengths are even from half of it to one and a half; at least 6 and at most a third of `n_items`, as nobody
        meets an item twice.
    seed : int, default 0
        The catalogue does not depend on it.

    Returns
    -------
    SyntheticInteractions
        With titles, times (Unix seconds; a start in January 2024, then a day between events on average),
        `best_possible`, `causes` and `process`.

    Notes
    -----
    Two films in a row also tell the mood, as long as it holds: a predictor can do without the mood event for a while,
    by attending to more than one film. It cannot do with less than two events.
    """
    process = PlantedProcess(n_items)
    if n_users < 1:
        raise ValueError(f"n_users: expected at least 1, got {n_users}")
    if not 6 <= mean_length <= n_items // 3:
        raise ValueError(f"mean_length: expected 6 to {n_items // 3} (a third of n_items), got {mean_length}")
    of_lengths, of_events, of_times = np.random.default_rng(seed).spawn(3)
    half = mean_length // 2
    lengths = of_lengths.integers(mean_length - half, mean_length + half, n_users, endpoint=True)
    sequences = process.simulate(lengths, of_events)
    day = 86_400
    gaps = np.ceil(of_times.exponential(day, len(sequences.values))).astype(np.int64)
    gaps[sequences.offsets[:-1]] = 0
    elapsed = np.cumsum(gaps)
    since = elapsed - np.repeat(elapsed[sequences.offsets[:-1]], lengths)
    start = 1_704_067_200 + of_times.integers(0, 31 * day, n_users)  # 2024-01-01 00:00 UTC
    data = SyntheticInteractions.from_sequences(
        np.arange(1, n_users + 1),
        process.item_ids,
        sequences,
        times=Ragged(np.repeat(start, lengths) + since, sequences.offsets),
        titles=process.titles,
    )
    histories, targets = sequences.drop_last(1), sequences.tail(1).values
    latest = process.causes(histories)
    held = histories.values[histories.offsets[:-1, None] + latest]
    planted = process.genre[targets] == process.next_genre(process.mood[held[:, 0]], process.genre[held[:, 1]])
    data.process = process
    data.best_possible = BestPossible(process, histories)
    data.causes = Ragged.from_lengths(np.sort(latest[planted], axis=1).ravel(), np.where(planted, 2, 0))
    return data


def _film(genre: int, rank: int) -> str:
    nouns = NOUNS[genre]
    part, place = divmod(rank, len(nouns) * len(ADJECTIVES))
    adjective = ADJECTIVES[(place // len(nouns) + place + genre) % len(ADJECTIVES)]
    return f"The {adjective} {nouns[place % len(nouns)]}{f' {part + 1}' if part else ''} ({GENRES[genre]})"
