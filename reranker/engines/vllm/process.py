"""How vLLM is set up for reranking."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reranker.errors import ConfigError, ModelError

LABELS_A_REQUEST = 128  # vLLM's bound on SamplingParams.logprob_token_ids
_GPU_STEP = 8192  # tokens: a GPU is not full of fewer
_EXTENSION = "reranker.engines.vllm.worker.SlotWorkerExtension"


def load(
    path: Path,
    *,
    dtype: str,
    kv_cache_gib: float,
    gpu_memory_utilization: float,
    max_length: int | None,
    options: dict[str, Any],
) -> Any:
    """A `vllm.LLM`; the arguments are those of `VLLMEngine`, and `options` come last.

    Raises:
        ConfigError: vLLM is not installed.
        ModelError: vLLM cannot load the model.
    """
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError(
            f"the vllm engine needs a package that is not installed ({error}). "
            "Run `pip install 'reranker[cpu]'` (no GPU) or `pip install 'reranker[gpu]'`"
        ) from error
    window = json.loads((path / "config.json").read_text()).get("max_position_embeddings")
    settings: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": max_length or window,
        "enable_prefix_caching": True,
        "enforce_eager": True,  # compiled graphs would hold the embedding table from before the slots
        "hf_overrides": {"head_dtype": "float32"},
        "max_logprobs": LABELS_A_REQUEST,
        "max_num_batched_tokens": 2048,  # prompt log-probabilities hold (tokens, vocabulary) float32 logits
        "disable_log_stats": True,
        "worker_extension_cls": _EXTENSION,
    }
    if current_platform.is_cpu():
        # 128, the default on a CPU, halves the speed: prefixes seldom end near a block's end.
        settings |= {
            "block_size": 32,
            "kv_cache_memory_bytes": int(kv_cache_gib * 2**30),
            "kv_transfer_config": {
                "kv_connector": "PrefixTails",
                "kv_connector_module_path": "reranker.engines.vllm.partial_blocks",
                "kv_role": "kv_both",
            },
        }
    else:
        settings |= {"gpu_memory_utilization": gpu_memory_utilization, "max_num_batched_tokens": _GPU_STEP}
    try:
        return LLM(model=str(path), **(settings | options))
    except TypeError:
        raise  # an option that it does not have
    except Exception as error:
        raise ModelError(f"vLLM cannot load {path}: {error}") from error


def prepare(llm: Any) -> None:
    """Has a `vllm.LLM`'s workers end with this process and spare memory and norms, and has it take any ids."""
    llm.collective_rpc("reranker_end_with", args=(os.getpid(),))
    llm.collective_rpc("reranker_fuse_norms")
    llm.collective_rpc("reranker_keep_memory")
    take_any_ids(llm)


def take_any_ids(llm: Any) -> None:
    """Lets a `vllm.LLM` take slots and aliases; from then on it is for callers to check ids."""

    def taken(token_ids: Sequence[int], *, parameter: str | None = None) -> None:
        """In the place of vLLM's check."""

    llm.llm_engine.renderer.validate_token_ids = taken


@contextmanager
def quiet_vllm() -> Iterator[None]:
    """Keeps vLLM's log to errors while it loads, unless the user asked for more; the environment is left as found."""
    settings = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
