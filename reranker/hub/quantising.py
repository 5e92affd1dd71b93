"""A causal LM with int8 products, in the compressed-tensors format that vLLM reads."""

from pathlib import Path
from typing import Any

from reranker.errors import ConfigError, ModelError
from reranker.hub.cache import build_once
from reranker.hub.lora import copy_tokenizer
from reranker.hub.models import ResolvedModel
from reranker.utils.safetensors_io import let_others_read

_LEVELS = 127  # symmetric: -127 to 127


def quantise(model: ResolvedModel, directory: Path) -> Path:
    """Writes a model whose layers multiply in int8: weights with a scale a row, activations with a scale a token.

    Weights are rounded to the nearest level, without calibration data. Embeddings, norms and the output head stay as
    they are.

    Args:
        model: what to quantise.
        directory: where it goes; must not exist.

    Raises:
        ConfigError: the directory exists, or torch or transformers is not installed.
        ModelError: the model is quantised already, cannot be loaded, or the disk refused.
    """
    if directory.exists():
        raise ConfigError(f"{directory} exists: name a folder that does not")
    return build_once(directory, lambda partial: _write(model, partial))


def _write(model: ResolvedModel, directory: Path) -> None:
    try:
        import torch
        from huggingface_hub import save_torch_state_dict
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise ConfigError(
            f"quantising needs torch and transformers ({error}): pip install 'reranker[torch]'"
        ) from error
    try:
        if getattr(AutoConfig.from_pretrained(model.path, trust_remote_code=False), "quantization_config", None):
            raise ModelError(f"{model.model_id} is quantised already: start from the model that it was made of")
        lm: Any = AutoModelForCausalLM.from_pretrained(model.path, dtype="auto", trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load a causal language model from {model.path}: {error}") from error
    head = lm.get_output_embeddings()
    state: dict[str, torch.Tensor] = lm.state_dict()
    for name, layer in lm.named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        if layer is head:
            lm.config.quantization_config = _settings(kept=name)
            if layer.weight is lm.get_input_embeddings().weight:
                del state[f"{name}.weight"]  # vLLM looks for the table under the embeddings' name
            continue
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(dim=1, keepdim=True) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        state[f"{name}.weight"] = torch.round(weight / scale).to(torch.int8)
        state[f"{name}.weight_scale"] = scale
    save_torch_state_dict(state, directory)
    let_others_read(directory)
    lm.config.save_pretrained(directory)
    lm.generation_config.save_pretrained(directory)
    copy_tokenizer(model.path, directory)


def _settings(kept: str) -> dict[str, Any]:
    """What compressed-tensors is told; `kept` is the layer that is not quantised."""
    shared = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**shared, "strategy": "channel", "dynamic": False},
        "input_activations": {**shared, "strategy": "token", "dynamic": True},
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": [kept],
        "config_groups": {"group_0": group},
    }
