"""Recommenders without attention: what an attention model has to beat.

All are deterministic and fit in seconds. Those that count and `ContentBased` use NumPy only; `MatrixFactorization`
needs the extra ``compare``. A score of 0 says that nothing is known.
"""

from regard.baselines.content import ContentBased
from regard.baselines.factorization import MatrixFactorization
from regard.baselines.item_to_item import EASE, ItemKNN, Popularity, Repeats, SequentialRules
from regard.baselines.tuning import tune

__all__ = [
    "EASE",
    "ContentBased",
    "ItemKNN",
    "MatrixFactorization",
    "Popularity",
    "Repeats",
    "SequentialRules",
    "tune",
]
