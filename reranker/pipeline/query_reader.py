"""What tells how well a text answers a query: the engine of the ranking, or a sentence encoder beside it."""

import threading
from importlib.util import find_spec

from reranker.config import RerankerConfig
from reranker.engines import load_engine
from reranker.engines.encoder import ENCODER
from reranker.engines.sentence_encoder import PACKAGE
from reranker.protocols import Engine

LANGUAGE_MODELS = frozenset({"auto", "torch", "vllm", "openai"})
"""Engines beside which "auto" takes the encoder."""

_PACKAGES = (PACKAGE, "torch", "transformers")
_loading = threading.Lock()
_loaded: list[Engine] = []


def reads_by_encoder(config: RerankerConfig, loaded: Engine | None) -> bool:
    """Whether queries are read by the sentence encoder.

    Args:
        config: `query_reader` asks for the encoder, for the engine, or for what is better of those that are there.
        loaded: the engine, where it is loaded already; else `config` names it.
    """
    if config.query_reader == "auto":
        is_llm = (loaded.name if loaded else config.engine) in LANGUAGE_MODELS
        return is_llm and all(map(find_spec, _PACKAGES))
    return config.query_reader == "encoder"


def sentence_encoder() -> Engine:
    """The default sentence encoder, loaded once a process.

    Raises:
        ConfigError: its package, torch or transformers is not installed.
    """
    with _loading:
        if not _loaded:
            _loaded.append(load_engine(ENCODER))
        return _loaded[0]
