"""PEFT's PROMPT_TUNING file format of a soft prompt."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from reranker.errors import PromptError
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.utils.atomic_io import whole_folder
from reranker.utils.safetensors_io import as_float32, write_tensors

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


_KEY = "prompt_embeddings"


_RELATIVE_KEY = "added_to_instruction"  # PEFT must not take these for a prompt


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
    config = read_json(directory / _CONFIG)
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
    declared = (config.get("num_virtual_tokens"), config.get("token_dim"))
    if vectors.shape != declared:
        raise PromptError(f"{path} holds a tensor of shape {vectors.shape}, but {_CONFIG} says {declared}")
    return SoftPrompt(
        vectors=vectors,
        name=notes.get("name", directory.name),
        base_model_id=str(config.get("base_model_name_or_path") or ""),
        base_model_sha256=notes.get("base_model_sha256", ""),
        relative=relative,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        PromptError: it is missing, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(f"{path} cannot be read ({error}): it is missing or damaged") from error
    if not isinstance(content, dict):
        raise PromptError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
