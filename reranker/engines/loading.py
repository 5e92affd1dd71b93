"""Loads a causal LM and its tokenizer from a directory, with transformers."""

import importlib
import importlib.util
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reranker.engines.precision import chosen_dtype
from reranker.errors import ConfigError, ModelError, PromptError
from reranker.hub import ResolvedModel, resolve_model

# Not needed for text models, but transformers imports them when it finds them.
_OPTIONAL_PACKAGES = ("torchvision", "torchaudio", "torchcodec")

Model = str | Path | ResolvedModel


class HubTokenizer:
    """A transformers tokenizer behind the `Tokenizer` protocol: nothing added, no special token recognised in text.

    transformers keeps in the tokenizer whether special tokens are recognised, so threads take turns. A text with a lone
    surrogate is a PromptError.
    """

    def __init__(self, path: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load the tokenizer in {path}: {error}") from error
        self._lock = threading.Lock()
        self.special_ids = frozenset(map(int, self._tokenizer.all_special_ids))
        self.end_ids = _end_ids(path) | ({self._tokenizer.eos_token_id} - {None})
        self.opening_ids = self._opening_ids()

    def encode(self, text: str) -> list[int]:
        return self._encoded(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))

    def encode_prompt(self, text: str) -> list[int]:
        return self._encoded(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        contents = [message["content"] for message in messages]
        marks = [f"\ue000{number}\ue001" for number in range(len(contents))]  # private use: in no template
        special = any(token in content for content in contents for token in self._tokenizer.all_special_tokens)
        if not special:
            return self._tokens_of(self._templated(messages))
        marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
        pieces = re.split("\ue000([0-9]+)\ue001", self._templated(marked))
        ids: list[int] = []
        for number, piece in enumerate(pieces):
            ids += self.encode(contents[int(piece)]) if number % 2 else self._tokens_of(piece)
        return ids

    def _opening_ids(self) -> tuple[int, ...]:
        """What is added in front of a text when a prompt is encoded as the model's makers meant it."""
        text = self.encode("a")
        whole = self.encode_prompt("a")
        begins = [n for n in range(len(whole)) if whole[n : n + len(text)] == text]
        return tuple(whole[: begins[0]]) if begins else ()

    def _templated(self, messages: Sequence[Mapping[str, str]]) -> str:
        from jinja2 import TemplateError

        if self._tokenizer.chat_template is None:
            raise PromptError("this model has no chat template: send a prompt to /v1/completions instead")
        try:
            return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        except (TemplateError, ValueError, TypeError) as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error

    def _tokens_of(self, text: str) -> list[int]:
        """The template writes every special token itself: none is added, those in the text are recognised."""
        return self._encoded(text, add_special_tokens=False)

    def _encoded(self, text: str, **options: bool) -> list[int]:
        try:
            text.encode()  # the tokenizer's own complaint is a TypeError that says nothing of it
        except UnicodeEncodeError as error:
            raise PromptError(
                f"character {error.start + 1} of {len(text)} of a prompt is a lone surrogate ({text[error.start]!r}), "
                "half of an emoji, say: cut texts between characters"
            ) from None
        with self._lock:
            return list(self._tokenizer.encode(text, **options))

    def save(self, directory: Path) -> None:
        """Writes the tokenizer's files beside a model's."""
        self._tokenizer.save_pretrained(directory)


def _end_ids(path: Path) -> frozenset[int]:
    """What the model's own files say ends an answer; a tokenizer's folder without a model says nothing."""
    for name in ("generation_config.json", "config.json"):
        try:
            found = json.loads((path / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError):
            continue
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def resolved(model: Model) -> ResolvedModel:
    """The model on disk; names and ids are looked up, and fetched when needed."""
    return model if isinstance(model, ResolvedModel) else resolve_model(model)


def broken_packages(
    try_import: Callable[[str], object] = importlib.import_module,
    find: Callable[[str], object] = importlib.util.find_spec,
) -> dict[str, str]:
    """Installed packages that transformers would import and that fail to import, with their errors.

    The usual case: torchvision and torchaudio built for CUDA beside a CPU torch.
    """
    broken = {}
    for name in _OPTIONAL_PACKAGES:
        if name in sys.modules or find(name) is None:
            continue
        try:
            try_import(name)
        except (ImportError, OSError, RuntimeError) as error:
            broken[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
    return broken


def require_working_packages(broken: dict[str, str]) -> None:
    """Stops before transformers fails with a message that hides the cause.

    Raises:
        ModelError: with the command that repairs the installation.
    """
    if broken:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in broken.items())
        raise ModelError(
            "installed packages do not work with this torch and would stop transformers from loading any model "
            f"({reasons}). Text models do not need them: run `pip uninstall -y {' '.join(broken)}`"
        )


def load_causal_lm(path: Path, dtype: str, device: str) -> Any:
    """A transformers causal LM, frozen, in evaluation mode, with SDPA attention.

    Args:
        dtype: "auto", "bfloat16" or "float32" (see `precision`).

    Raises:
        ConfigError: torch or transformers is not installed, or another dtype.
        ModelError: the directory does not hold a causal LM, or one whose products only vLLM has, or the installation is
            broken.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise ConfigError(
            f"the torch engine needs a package that is not installed ({error}). Run `pip install 'reranker[torch]'`"
        ) from error
    require_working_packages(broken_packages())
    shows_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        quantised = getattr(config, "quantization_config", None) or {}
        if quantised.get("quant_method") == "compressed-tensors":
            raise ModelError(
                f"the model in {path} is quantised for vLLM: use engine='vllm', or the model it was made of"
            )
        precision = getattr(torch, chosen_dtype(dtype, torch.device(device).type))
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=precision, attn_implementation="sdpa", trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load a causal language model from {path}: {error}") from error
    finally:
        if shows_progress:
            transformers_logging.enable_progress_bar()
    return model.to(device).eval().requires_grad_(False)
