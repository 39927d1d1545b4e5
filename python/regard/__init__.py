"""Attention-based recommendation on plain CPUs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from regard._core import isa, num_threads, set_num_threads
from regard._core import version as _version

if TYPE_CHECKING:
    from regard import baselines, click_metrics, datasets, nn, ops, plots, splits
    from regard import cuda as cuda
    from regard import serve as serve
    from regard import sessions as sessions
    from regard.blend import Blend
    from regard.comparison import compare
    from regard.data import Interactions
    from regard.embedding import get_include, get_library
    from regard.features import ItemFeatures
    from regard.impressions import Impressions
    from regard.metrics import evaluate
    from regard.models.self_attention import SelfAttentionRecommender
    from regard.models.target_attention import TargetAttentionRecommender
    from regard.nn.attention_model import AttentionModel
    from regard.ragged import Ragged
    from regard.recommender import Recommendations, load
    from regard.timed import TimedHistories

__version__ = _version()

__all__ = [
    "AttentionModel",
    "Blend",
    "Impressions",
    "Interactions",
    "ItemFeatures",
    "Ragged",
    "Recommendations",
    "SelfAttentionRecommender",
    "TargetAttentionRecommender",
    "TimedHistories",
    "__version__",
    "baselines",
    "click_metrics",
    "compare",
    "datasets",
    "evaluate",
    "get_include",
    "get_library",
    "isa",
    "load",
    "nn",
    "num_threads",
    "ops",
    "plots",
    "set_num_threads",
    "splits",
]

# Imported at first use, so that `import regard` costs little more than NumPy.
_HOME = {
    "AttentionModel": "regard.nn.attention_model",
    "Blend": "regard.blend",
    "Impressions": "regard.impressions",
    "Interactions": "regard.data",
    "ItemFeatures": "regard.features",
    "Ragged": "regard.ragged",
    "Recommendations": "regard.recommender",
    "SelfAttentionRecommender": "regard.models.self_attention",
    "TimedHistories": "regard.timed",
    "TargetAttentionRecommender": "regard.models.target_attention",
    "compare": "regard.comparison",
    "evaluate": "regard.metrics",
    "get_include": "regard.embedding",
    "get_library": "regard.embedding",
    "load": "regard.recommender",
}
_ON_DEMAND = ("cuda", "serve", "sessions")  # not in __all__: they may need what is not installed


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in __all__ or name in _ON_DEMAND:
        return importlib.import_module(f"regard.{name}")
    raise AttributeError(f"module 'regard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
