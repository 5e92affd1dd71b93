"""Soft prompts: learned vectors in place of tokens, the bank that picks one, and PEFT's file format."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from reranker.errors import PromptError
from reranker.files import whole_folder
from reranker.tensorfile import as_float32, write_tensors
from reranker.types import ModelInfo, TokenSequence, UserId

Level = Literal["user", "domain", "meta"]

SHIPPED = Path(__file__).parent / "trained_prompts" / "smollm2-135m"
"""The soft prompt that comes with the product, for the default base model: docs/default-prompt.md."""

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = "prompt_embeddings"
_RELATIVE_KEY = "added_to_instruction"  # PEFT must not take these for a prompt
_INDEX = "index.json"


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


@dataclass(kw_only=True, eq=False)
class PromptBank:
    """Soft prompts by level. The most specific one wins: the user's, else the domain's, else the meta prompt.

    Attributes:
        meta: for domains that have none of their own.
        domains: by the domain's name.
        users: by user.
        shipped: what comes with the product, for domains that have no prompt at all; other models than its own go
            without. A saved bank notes that there is one, and gets that of the product that loads it.
    """

    meta: SoftPrompt | None = None
    domains: dict[str, SoftPrompt] = field(default_factory=dict)
    users: dict[UserId, SoftPrompt] = field(default_factory=dict)
    shipped: SoftPrompt | None = None

    def add_meta(self, prompt: SoftPrompt) -> None:
        """Sets the prompt for domains that have none of their own."""
        self._require_width(prompt)
        self.meta = prompt

    def add_domain(self, domain: str, prompt: SoftPrompt) -> None:
        """Sets the prompt of one domain."""
        self._require_width(prompt)
        self.domains[domain] = prompt

    def add_user(self, user_id: UserId, prompt: SoftPrompt) -> None:
        """Sets the prompt of one user."""
        self._require_width(prompt)
        self.users[user_id] = prompt

    def remove_domain(self, domain: str) -> None:
        """Forgets a domain's prompt, if there is one."""
        self.domains.pop(domain, None)

    def remove_user(self, user_id: UserId) -> None:
        """Forgets a user's prompt, if there is one."""
        self.users.pop(user_id, None)

    def resolve(self, domain: str | None = None, user_id: UserId | None = None) -> SoftPrompt | None:
        """The prompt to use; None when there is not even a meta prompt. `level` says where it comes from."""
        if user_id is not None and user_id in self.users:
            return self.users[user_id]
        if domain is not None and domain in self.domains:
            return self.domains[domain]
        return self.meta

    def level(self, domain: str | None = None, user_id: UserId | None = None) -> Level | None:
        """Which level `resolve` takes the prompt from; None when it finds none."""
        if user_id is not None and user_id in self.users:
            return "user"
        if domain is not None and domain in self.domains:
            return "domain"
        return None if self.meta is None else "meta"

    def save(self, directory: Path) -> None:
        """Writes every prompt in PEFT's format and an index. An older bank there is replaced as a whole.

        Raises:
            PromptError: a user id is neither text nor an integer, or `directory` holds something else than a bank.
            OSError: the disk refused; what stood there is untouched.
        """
        for user_id in self.users:
            if not isinstance(user_id, str | int) or isinstance(user_id, bool):
                raise PromptError(f"the prompt of user {user_id!r} cannot be saved: the id must be str or int")
        if directory.exists() and any(directory.iterdir()) and not (directory / _INDEX).is_file():
            raise PromptError(f"{directory} exists and is not a prompt bank: choose another folder")
        with whole_folder(directory) as fresh:
            self._write(fresh)

    @classmethod
    def load(cls, directory: Path) -> "PromptBank":
        """Reads what `save` wrote. Raises PromptError when something is missing or damaged."""
        index = _read_json(directory / _INDEX)
        bank = cls()
        try:
            if index["meta"] is not None:
                bank.add_meta(load_peft(directory / index["meta"]))
            for domain, folder in index["domains"]:
                bank.add_domain(domain, load_peft(directory / folder))
            for user_id, folder in index["users"]:
                bank.add_user(user_id, load_peft(directory / folder))
            if index.get("shipped"):
                bank.shipped = load_peft(SHIPPED)
        except (KeyError, TypeError, ValueError) as error:
            raise PromptError(f"{directory / _INDEX} is damaged ({error!r}): save the bank again") from error
        return bank

    def _write(self, directory: Path) -> None:
        # Folders are numbered because domains and user ids may not be legal file names.
        index: dict[str, Any] = {"meta": None, "domains": [], "users": [], "shipped": self.shipped is not None}
        if self.meta is not None:
            index["meta"] = "meta"
            save_peft(self.meta, directory / "meta")
        levels: list[tuple[str, dict[Any, SoftPrompt]]] = [("domains", self.domains), ("users", self.users)]
        for level, prompts in levels:
            for number, (key, prompt) in enumerate(prompts.items()):
                folder = f"{level}/{number:06d}"
                save_peft(prompt, directory / folder)
                index[level].append([key, folder])
        (directory / _INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")

    def _require_width(self, prompt: SoftPrompt) -> None:
        others = [other for other in (self.meta, *self.domains.values()) if other is not None]
        if others and others[0].dim != prompt.dim:
            raise PromptError(
                f"soft prompt {prompt.name!r} has width {prompt.dim}, those in the bank have {others[0].dim}: one bank "
                "belongs to one base model"
            )


def save_peft(prompt: SoftPrompt, directory: Path) -> None:
    """Writes a PEFT PROMPT_TUNING checkpoint: adapter_config.json and adapter_model.safetensors.

    `peft.PeftModel.from_pretrained(model, directory)` loads it, and refuses a relative one, which is no prompt without
    an instruction. Name and weights' hash travel in the safetensors metadata. Nothing is ever half written: a folder is
    filled beside `directory` and renamed.

    Raises:
        PromptError: `directory` holds something else than such a checkpoint.
        OSError: the disk refused; what stood there is untouched.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / _CONFIG).is_file():
        raise PromptError(f"{directory} exists and is not a soft prompt: choose another folder")
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": prompt.base_model_id,
        "num_virtual_tokens": len(prompt),
        "token_dim": prompt.dim,
        "num_transformer_submodules": 1,
        # PEFT reads these two off the model when they are null; prompt tuning does not depend on them.
        "num_attention_heads": None,
        "num_layers": None,
        "prompt_tuning_init": "RANDOM",
        "inference_mode": True,
    }
    notes = {"format": "pt", "name": prompt.name, "base_model_sha256": prompt.base_model_sha256}
    with whole_folder(directory) as fresh:
        (fresh / _CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        write_tensors(fresh / _WEIGHTS, {_RELATIVE_KEY if prompt.relative else _KEY: prompt.vectors}, notes)


def load_peft(directory: Path) -> SoftPrompt:
    """Reads a PEFT PROMPT_TUNING checkpoint, ours or one that PEFT saved.

    Raises:
        PromptError: a file is missing or damaged, the method is another, or shapes contradict the config.
    """
    config = _read_json(directory / _CONFIG)
    method = config.get("peft_type")
    if method != "PROMPT_TUNING":
        raise PromptError(f"{directory / _CONFIG}: peft_type is {method!r}, only 'PROMPT_TUNING' is a soft prompt")
    path = directory / _WEIGHTS
    try:
        with safe_open(path, framework="np") as file:
            keys, notes = list(file.keys()), file.metadata() or {}
            relative = _RELATIVE_KEY in keys
        key = _RELATIVE_KEY if relative else _KEY
        vectors = as_float32(path, key) if key in keys else None
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise PromptError(
            f"{path} cannot be read ({error}): it is missing or damaged, save the prompt again"
        ) from error
    if vectors is None:
        raise PromptError(f"{path} has no tensor {_KEY!r}; it has {', '.join(keys)}")
    told = (config.get("num_virtual_tokens"), config.get("token_dim"))
    if vectors.shape != told:
        raise PromptError(f"{path} holds a tensor of shape {vectors.shape}, but {_CONFIG} says {told}")
    return SoftPrompt(
        vectors=vectors,
        name=notes.get("name", directory.name),
        base_model_id=str(config.get("base_model_name_or_path") or ""),
        base_model_sha256=notes.get("base_model_sha256", ""),
        relative=relative,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(f"{path} cannot be read ({error}): it is missing or damaged") from error
    if not isinstance(content, dict):
        raise PromptError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
