"""What every template renders to, kept in goldens/<family>-<language>.txt.

After a wanted change of a template run `python tests/prompting/test_goldens.py`, which writes the files again, and
read the diff.
"""

from pathlib import Path

import pytest

from reranker.engines.scripted import ByteTokenizer
from reranker.prompting import PromptRenderer, PromptSettings, families
from reranker.prompting.rendered import RenderedPrompt

GOLDENS = Path(__file__).parent / "goldens"
ALL = [(family, language) for family, languages in families().items() for language in languages]
HISTORY = [{"title": "First thing", "category": "Red"}, {"title": "Second thing"}]
CANDIDATES = [{"title": "Third thing", "category": "Blue"}, {"title": "Fourth thing", "category": None}]


def shown(prompt: RenderedPrompt) -> str:
    prefix = "".join(span.text for span in prompt.spans)
    return "".join(f"{prefix}|{candidate}|\n" for candidate in prompt.candidate_texts)


def rendered(family: str, language: str) -> str:
    settings = PromptSettings(family=family, language=language)
    renderer = PromptRenderer.from_settings(settings, ByteTokenizer())
    prompts = {
        "likelihood": renderer.likelihood(HISTORY, CANDIDATES),
        "prior": renderer.priors(CANDIDATES[:1])[0],
        "likelihood with query": renderer.likelihood(HISTORY, CANDIDATES[:1], query="something new"),
        "query without history": renderer.likelihood([], CANDIDATES[:1], query="something new"),
        "labels": renderer.labels(HISTORY, CANDIDATES[:1]),
        "listwise": renderer.listwise(HISTORY, CANDIDATES),
    }
    parts = [f"=== {name} ===\n{shown(prompt)}" for name, prompt in prompts.items()]
    return "".join([*parts, f"=== label words ===\n{renderer.label_words()}\n"])


@pytest.mark.parametrize(("family", "language"), ALL)
def test_golden(family: str, language: str) -> None:
    assert rendered(family, language) == (GOLDENS / f"{family}-{language}.txt").read_text(encoding="utf-8")


def test_no_golden_is_left_over() -> None:
    assert {path.stem for path in GOLDENS.iterdir()} == {f"{family}-{language}" for family, language in ALL}


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    for one in ALL:
        (GOLDENS / f"{one[0]}-{one[1]}.txt").write_text(rendered(*one), encoding="utf-8")
