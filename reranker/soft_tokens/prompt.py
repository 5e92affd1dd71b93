"""Soft prompts: learned vectors in place of tokens, the bank that picks one, and PEFT's file format."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reranker.errors import PromptError
from reranker.types import ModelInfo, TokenSequence

SHIPPED = Path(__file__).parent.parent / "trained_prompts" / "smollm2-135m"
"""The soft prompt that comes with the product, for the default base model: docs/results/model-card.md."""


class TokenEmbedder(Protocol):
    """The part of an engine that soft prompts start from."""

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """(len(token_ids), dim) rows of the input embedding table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftPrompt:
    """k vectors that a frozen model reads in place of k tokens.

    Attributes:
        vectors: (k, dim) float32, finite, k >= 1.
        name: for people and file names, for instance the domain.
        base_model_id: the model they were made for; "" when not known.
        base_model_sha256: hash of that model's weights; "" when not known.
        relative: the vectors are no prompt yet: they are added to the embeddings of each domain's written instruction.

    Raises:
        PromptError: another shape, or a value that is not finite.
    """

    vectors: NDArray[np.float32]
    name: str = "meta"
    base_model_id: str = ""
    base_model_sha256: str = ""
    relative: bool = False

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or 0 in self.vectors.shape:
            raise PromptError(f"soft prompt {self.name!r} needs vectors of shape (k, dim), got {self.vectors.shape}")
        if not np.isfinite(self.vectors).all():
            raise PromptError(f"soft prompt {self.name!r} has values that are not finite: training diverged, lower lr")
        object.__setattr__(self, "vectors", np.ascontiguousarray(self.vectors, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Width of the vectors: the model's embedding width."""
        return int(self.vectors.shape[1])

    @cached_property
    def sha256(self) -> str:
        """Hash of shape and values."""
        header = f"{self.vectors.shape[0]}x{self.vectors.shape[1]}{' relative' * self.relative}\0".encode()
        return hashlib.sha256(header + self.vectors.astype("<f4").tobytes()).hexdigest()

    def as_sequence(self) -> TokenSequence:
        """The prompt as positions of a token sequence.

        Raises:
            PromptError: it is relative: `beside` an instruction it can be read.
        """
        if self.relative:
            raise PromptError(f"soft prompt {self.name!r} is relative to a written instruction: add it to one first")
        return TokenSequence.from_vectors(self.vectors)

    def beside(self, instruction: "SoftPrompt") -> "SoftPrompt":
        """What a relative prompt makes of a domain's written instruction, `from_instruction` of as many tokens."""
        return replace(self, vectors=instruction.vectors + self.vectors, relative=False)

    def is_for(self, model: ModelInfo) -> bool:
        """Whether it was made for a base model of these weights, or of this name (another conversion of them)."""
        same_weights = bool(model.sha256) and self.base_model_sha256 == model.sha256
        return (same_weights or self.base_model_id == model.model_id) and self.dim == model.dim

    def require_model(self, model: ModelInfo) -> None:
        """Raises PromptError when the prompt was made for another model than `model`."""
        if self.dim != model.dim:
            raise PromptError(
                f"soft prompt {self.name!r} has vectors of width {self.dim}, the model {model.model_id!r} reads "
                f"{model.dim}. Use a prompt made for this model"
            )
        if self.base_model_sha256 and model.sha256 and self.base_model_sha256 != model.sha256:
            raise PromptError(
                f"soft prompt {self.name!r} was made for {self.base_model_id!r} (weights "
                f"{self.base_model_sha256[:12]}), the model is {model.model_id!r} ({model.sha256[:12]}). Use a prompt "
                "made for these weights"
            )

    @classmethod
    def from_token_embeddings(cls, vectors: NDArray[np.float32], k: int, name: str = "meta") -> "SoftPrompt":
        """k rows of `vectors`, (n, dim) token embeddings: repeated from the start when n < k, cut when n > k."""
        if k < 1 or len(vectors) == 0:
            raise PromptError(
                f"a soft prompt of {k} tokens cannot be made from {len(vectors)} token embeddings; "
                "both must be 1 or more"
            )
        return cls(vectors=vectors[np.arange(k) % len(vectors)], name=name)

    @classmethod
    def from_instruction(
        cls, engine: TokenEmbedder, token_ids: Sequence[int], k: int, name: str = "meta"
    ) -> "SoftPrompt":
        """Starts from the token embeddings of a written instruction, never from noise.

        Gradients through bf16 are then far closer to those in fp32, and the untrained prompt means something.

        Args:
            engine: gives the embeddings; its `model`, if it has one, is noted as the base model.
            token_ids: the instruction, see `PromptRenderer.instruction_token_ids`.
            k: number of soft tokens.
            name: name of the prompt.
        """
        vectors = engine.embed_tokens(token_ids) if len(token_ids) else np.zeros((0, 0), dtype=np.float32)
        prompt = cls.from_token_embeddings(vectors, k, name)
        model = getattr(engine, "model", None)
        if not isinstance(model, ModelInfo):
            return prompt
        return cls(vectors=prompt.vectors, name=name, base_model_id=model.model_id, base_model_sha256=model.sha256)
