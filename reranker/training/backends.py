"""Where the model of a training run is: in this process with gradients, or behind an engine without."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reranker.engines import AUTO, choose_engine, load_engine
from reranker.engines.torch.engine import TorchEngine
from reranker.prompting import PromptRenderer
from reranker.protocols import Tokenizer
from reranker.soft_tokens import ItemTokens
from reranker.training.config import MetaConfig
from reranker.training.engine_loss import EngineLoss
from reranker.training.objectives import Objective
from reranker.training.torch_loss import Shifts, TorchLoss, tokens_at_once
from reranker.types import ModelInfo


class ModelSide(Protocol):
    """What training needs of a model.

    Attributes:
        model: what it is.
        tokenizer: of prompts.
        device: where the prompt is learned.
    """

    model: ModelInfo
    tokenizer: Tokenizer
    device: torch.device

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """(len(token_ids), dim) rows of the input embedding table."""

    def reader(
        self,
        renderers: Mapping[str, PromptRenderer],
        objective: Objective,
        item_tokens: Mapping[str, ItemTokens],
        shifts: Shifts,
    ) -> TorchLoss | EngineLoss:
        """What reads episodes, under the item tokens and behind the prompt of each domain."""

    def close(self) -> None:
        """Frees the model."""


class TorchSide:
    """The model in this process; gradients reach the prompt."""

    def __init__(self, config: MetaConfig) -> None:
        self._engine = TorchEngine(config.reranker.model, dtype=config.dtype, device=config.device)
        self.model, self.device = self._engine.model, self._engine.device
        self.tokenizer: Tokenizer = self._engine.tokenizer
        self.packed = self._engine.packed_lm
        self._config = config

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return self._engine.embed_tokens(token_ids)

    def reader(
        self,
        renderers: Mapping[str, PromptRenderer],
        objective: Objective,
        item_tokens: Mapping[str, ItemTokens],
        shifts: Shifts,
    ) -> TorchLoss:
        return TorchLoss(
            self.packed,
            renderers,
            objective,
            self._config.coefficients,
            evidence=self._config.evidence,
            max_tokens=tokens_at_once(self.device),
            item_tokens=item_tokens,
            shifts=shifts,
        )

    def close(self) -> None:
        self._engine.close()


class EngineSide:
    """The engine that the reranker's settings name.

    Raises:
        EngineError: it takes no soft prompts.
    """

    def __init__(self, config: MetaConfig) -> None:
        settings = config.reranker
        name, options = settings.engine, dict[str, Any](settings.engine_options)
        if "torch" in (name, choose_engine().name if name == AUTO else name):
            name = "torch"
            options.setdefault("device", config.device)
        self._engine = load_engine(name, settings.model, dtype=config.dtype, **options)
        self.model, self.tokenizer = self._engine.model, self._engine.tokenizer
        self.device = torch.device("cpu")
        self._config = config
        self.embed_tokens(
            self.tokenizer.encode("\n")
        )  # an engine without vectors says so now, not after the first stage

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return self._engine.embed_tokens(token_ids)

    def reader(
        self,
        renderers: Mapping[str, PromptRenderer],
        objective: Objective,
        item_tokens: Mapping[str, ItemTokens],
        shifts: Shifts,
    ) -> EngineLoss:
        assert not item_tokens, "MetaConfig refuses them with es"
        return EngineLoss(
            self._engine, renderers, objective, self._config.coefficients, evidence=self._config.evidence, shifts=shifts
        )

    def close(self) -> None:
        self._engine.close()
