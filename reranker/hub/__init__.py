"""The store of base models: fetched once, verified, kept in a cache."""

from reranker.hub.cache import cache_dir, is_offline
from reranker.hub.hashing import settings_sha256, weights_sha256
from reranker.hub.models import (
    DEFAULT_MODEL,
    ResolvedModel,
    available_models,
    resolve_model,
    resolve_tokenizer,
    states_layer,
)
from reranker.hub.quantising import quantise

__all__ = [
    "DEFAULT_MODEL",
    "ResolvedModel",
    "available_models",
    "cache_dir",
    "is_offline",
    "quantise",
    "resolve_model",
    "resolve_tokenizer",
    "settings_sha256",
    "states_layer",
    "weights_sha256",
]
