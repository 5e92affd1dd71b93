"""A random model of a few thousand weights, on disk and as an engine."""

from pathlib import Path

import pytest

from reranker.engines.torch.engine import TorchEngine
from tests.engines.models import save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(tiny: Path) -> TorchEngine:
    return TorchEngine(tiny, dtype="float32", device="cpu")
