"""Rerank recommendation candidates with a causal LLM: never worse than the list that came in.

Importing this loads no torch, no vllm, no transformers and no implicit: engines and candidate generators load theirs on
first use.
"""

from reranker.config import RerankerConfig
from reranker.data.builtin import load_dataset
from reranker.data.dataset import Dataset
from reranker.errors import (
    BundleError,
    ConfigError,
    DataError,
    EngineError,
    ModelError,
    PromptError,
    RerankerError,
    StoreError,
)
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.results import RankingResult
from reranker.pipeline.text_ranking import RankedDocument

__all__ = [
    "BundleError",
    "ConfigError",
    "DataError",
    "Dataset",
    "EngineError",
    "ModelError",
    "PromptError",
    "RankedDocument",
    "RankingResult",
    "Reranker",
    "RerankerConfig",
    "RerankerError",
    "StoreError",
    "load_dataset",
]
