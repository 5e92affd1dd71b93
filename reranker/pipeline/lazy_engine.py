"""An engine that is loaded when it is first needed."""

import threading
from collections.abc import Collection

from reranker.config import RerankerConfig
from reranker.engines import load_engine
from reranker.protocols import Engine
from reranker.types import ModelInfo


def engine_of(config: RerankerConfig, needs: Collection[str] = ()) -> Engine:
    """The engine that the settings name, loaded; one that does what their scorers need, and `needs`.

    Raises:
        ConfigError, ModelError: as `load_engine` does.
    """
    needs = {*needs, *config.engine_needs}
    return load_engine(config.engine, config.model, dtype=config.dtype, needs=needs, **config.engine_options)


class LazyEngine:
    """An engine that is loaded when it is first asked for, for all readers that hold this.

    Args:
        config: names it.
        engine: a ready one.

    Attributes:
        needs: what whoever shares it needs of it, as `load_engine` takes it.
    """

    def __init__(self, config: RerankerConfig, engine: Engine | None = None) -> None:
        self.loaded = engine
        self.needs = frozenset(config.engine_needs)
        self._config = config
        self._loading = threading.Lock()

    def get(self) -> Engine:
        """The engine.

        Raises:
            ConfigError, ModelError: as `engine_of` does.
        """
        with self._loading:
            if self.loaded is None:
                self.loaded = engine_of(self._config, self.needs)
            return self.loaded

    def close(self) -> None:
        """Frees the engine, if it was loaded."""
        engine, self.loaded = self.loaded, None
        if engine is not None:
            engine.close()


def same_model(one: ModelInfo, other: ModelInfo) -> bool:
    """Weights and width; a model whose weights cannot be hashed (a remote one) goes by its name."""
    if one.sha256 and other.sha256:
        return (one.sha256, one.dim) == (other.sha256, other.dim)
    return (one.model_id, one.dim) == (other.model_id, other.dim)
