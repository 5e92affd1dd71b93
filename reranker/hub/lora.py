"""A LoRA in PEFT's format on disk -> base model and LoRA merged into one model directory, made once and kept."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from reranker.errors import ConfigError, ModelError
from reranker.hub.cache import build_once, cache_dir
from reranker.hub.hashing import TOKENIZER_FILES, file_sha256, settings_sha256
from reranker.utils.safetensors_io import let_others_read

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BASE_NAME, _BASE_SHA256 = "base_model_name_or_path", "base_model_sha256"
_CHECKED = "every tensor has its place"  # merges without this in their key were made before it was checked
_NAMED = 3  # tensors that an error names


def is_lora(path: Path) -> bool:
    """Whether the directory holds an adapter and no whole model."""
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def merged(path: Path, resolve: Callable[[str], Any]) -> Path:
    """Directory of the merged model; built on the first call, in the cache.

    Args:
        path: the adapter's directory.
        resolve: base model's name -> `ResolvedModel`.

    Raises:
        ModelError: the adapter is damaged, is no LoRA, was made for other weights than those of its base model, or does
            not fit it.
        ConfigError: torch, transformers or peft is not installed.
    """
    config, made_for = _adapter(path)
    base_id = str(config[_BASE_NAME])
    base = resolve(base_id)
    if made_for and made_for != base.sha256:
        raise ModelError(
            f"the LoRA in {path} was made for {base_id!r} with weights {made_for[:12]}, but these are "
            f"{base.sha256[:12]}: use the model it was trained on, or train it again"
        )
    key = _key(path, config, base.path, base.sha256)
    return build_once(cache_dir() / "models" / f"lora-{key[:24]}", lambda partial: merge_lora(path, base.path, partial))


def _key(path: Path, config: dict[str, Any], base: Path, base_sha256: str) -> str:
    """Hash of all that a merge is made of: both models' weights, the LoRA's settings, the base's and its tokenizer."""
    settings = {name: value for name, value in config.items() if name != _BASE_NAME}  # its weights tell which it is
    parts = [
        _CHECKED,
        file_sha256(path / WEIGHTS),
        base_sha256,
        json.dumps(settings),  # as they stand: of PEFT's rank and alpha patterns the first that fits counts
        settings_sha256(base),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _adapter(path: Path) -> tuple[dict[str, Any], str]:
    """Its settings, and the SHA-256 of the base model it was made for, or ""."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        with safe_open(path / WEIGHTS, framework="numpy") as file:
            notes = file.metadata() or {}
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{path} holds no readable adapter ({error}): save it there again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG} is no JSON object: save the adapter there again")
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"{path} holds an adapter of type {config.get('peft_type')!r}: only LORA can be merged into a model. A "
            "soft prompt is given as a prompt, not as a model"
        )
    if not config.get(_BASE_NAME):
        raise ModelError(f"{path / CONFIG} does not name its base model: set {_BASE_NAME}")
    return config, notes.get(_BASE_SHA256, "")


def merge_lora(adapter: Path, base: Path, directory: Path) -> None:
    """Writes base model + LoRA and the tokenizer to `directory`, in the base's dtype; the sum is taken in float32.

    Raises:
        ModelError: the adapter does not fit the model: it has tensors that the model has no place for, lacks some that
            its settings promise, or some of another shape.
        ConfigError: torch, transformers or peft is not installed.
    """
    try:
        import torch
        from peft import PeftConfig, PeftModel
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise ConfigError(f"merging a LoRA needs torch, transformers and peft ({error}): pip install peft") from error
    dtype = AutoConfig.from_pretrained(str(base), trust_remote_code=False).dtype or torch.float32
    lm: Any = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        config.inference_mode = True
        tuned: Any = PeftModel(lm, config)
        # `PeftModel.from_pretrained` would only warn of what is missing, and say nothing of what has no place.
        loaded = tuned.load_adapter(
            str(adapter), "default", key_mapping=getattr(lm, "_checkpoint_conversion_mapping", {})
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"the LoRA in {adapter} does not fit the model in {base}: {error}") from error
    _require_fit(adapter, base, missing=loaded.missing_keys, placeless=loaded.unexpected_keys)
    tuned.merge_and_unload().to(dtype).save_pretrained(directory)
    let_others_read(directory)
    copy_tokenizer(base, directory)


def _require_fit(adapter: Path, base: Path, *, missing: Sequence[str], placeless: Sequence[str]) -> None:
    """ModelError if a tensor is missing or has no place in the model."""
    faults = [
        f"{fault}: {len(names)} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
        for fault, names in (("tensors it lacks", missing), ("tensors without a place in the model", placeless))
        if names
    ]
    if faults:
        raise ModelError(
            f"the LoRA in {adapter} does not fit the model in {base}. {'; '.join(faults)}. Name the model it was "
            f"trained on as {_BASE_NAME} in {CONFIG}, or save the adapter again with PEFT's save_pretrained"
        )


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copies the files of a model's tokenizer."""
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, directory / file.name)
