"""Every example runs as it stands, where its library is installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {
    "langchain_compressor": "langchain_core",
    "llama_index_postprocessor": "llama_index",
    "rectools_two_stages": "rectools",
    "rerankers_ranker": "rerankers",
}
SHOWN = {
    "own_candidate_generator": "serving ",
    "implicit_recommend": "user 851: ",
    "langchain_compressor": "Aliens",
    "llama_index_postprocessor": "Aliens",
    "rectools_two_stages": "serving ",
    "rerankers_ranker": "Aliens",
}


SLOW = {"own_candidate_generator", "implicit_recommend"}  # half a minute and one, for they fit; `make test-examples`
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.model
@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in NAMES])
def test_it_runs(name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SHOWN[name] in done.stdout
