"""Engines that answer like an instruction-tuned model would, and renderers that fit the byte tokenizer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.engines.scripted import ByteTokenizer, ScriptedEngine, bigram_log_prob
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.types import IntArray, ScoringRequest

ONE_LETTER_LABELS = '{% extends "packaged/generic/en.j2" %}\n{% block labels %}{{ "y\\nn" }}{% endblock %}\n'


def renderer(directory: Path | None = None) -> PromptRenderer:
    """The generic family with budgets in bytes."""
    settings = PromptSettings(title_tokens=64, history_tokens=2048, directory=directory)
    return PromptRenderer.from_settings(settings, ByteTokenizer())


def own_labels(directory: Path) -> Path:
    """A template directory whose verbaliser words are one byte each."""
    (directory / "generic").mkdir(parents=True)
    (directory / "generic" / "en.j2").write_text(ONE_LETTER_LABELS)
    return directory


def text_of(ids: IntArray) -> str:
    return ByteTokenizer().decode([int(token) for token in ids])


def answers(prefix: IntArray, span: IntArray) -> NDArray[np.float64]:
    """A `LogProb` that follows instructions: "y" and the label of a candidate are as likely as its text is familiar."""
    text, label = text_of(span[:-1]), text_of(span[-1:])
    if text.endswith("Most likely to be chosen next: ("):
        shown = labelled(text)
        asked = shown.get(label)
        return np.full(len(span), -9.0 if asked is None else _familiarity(prefix, asked))
    if text.endswith("Answer:"):
        familiar = _familiarity(prefix, text.removesuffix("\nWill this person choose it next? Answer:"))
        return np.full(len(span), familiar if label == "y" else -1.0 - familiar)
    return bigram_log_prob(prefix, span)


def labelled(text: str) -> dict[str, str]:
    """label -> title, in order, from a listwise span."""
    lines = [line for line in text.split("\n") if line.startswith("(")]
    return {line[1]: line[4:] for line in lines}


def _familiarity(prefix: IntArray, text: str) -> float:
    span = np.array(ByteTokenizer().encode(text), dtype=np.int64)
    return float(bigram_log_prob(prefix, span)[1:].mean()) / 10.0


class HashedEngine(ScriptedEngine):
    """A scripted engine that says what its numbers rest on, and counts calls and texts whose states were asked for."""

    def __init__(self, *, sha256: str = "5" * 64, arithmetic: str = "scripted", layers: int = 0) -> None:
        super().__init__()
        self.model = replace(self.model, sha256=sha256)
        self.arithmetic = arithmetic
        self.n_layers = layers
        self.calls = 0
        self.texts = 0
        self.layers_read: set[int | None] = set()

    def span_states(self, requests: Sequence[ScoringRequest], layer: int | None = None) -> list[NDArray[np.float32]]:
        self.calls += 1
        self.texts += sum(len(request.candidates) for request in requests)
        self.layers_read.add(layer)
        return super().span_states(requests)
