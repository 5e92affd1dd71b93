"""What an evaluation found, in words: the verdict, what each system is, and how the report was made."""

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from reranker.engines.encoder import ENCODER, LLM
from reranker.engines.lexical import LEXICAL
from reranker.evaluation.runner import Results
from reranker.evaluation.significance import POOLED, Comparison

FEW_USERS = 100
"""A group with fewer users is marked: one list more or less moves its mean."""

LADDER = (
    ("fused", "lexical_fused", "{Reader}", "what words without a model add"),
    ("fused", "baseline", "Reading texts by {reader}", "interaction features"),
    ("lexical_fused", "baseline", "Words, without a model,", "interaction features"),
    ("baseline", "first_stage", "Interaction features", "the list that came in"),
    ("served", "first_stage", "What the guard serves", "the list that came in"),
)
"""System, what it is compared with, and both in words; the first that is a gain is what pays."""

READERS = {LLM: "the LLM", ENCODER: "the sentence encoder", LEXICAL: "words alone"}
"""What reads texts, in words."""

_PACKAGES = ("reranker", "torch", "transformers", "vllm", "implicit", "numpy", "pandas")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a report was made.

    Attributes:
        command: as it was typed.
        date: of the run, as text.
        versions: package -> version.
    """

    command: str
    date: str
    versions: dict[str, str]

    @classmethod
    def of(cls, arguments: Sequence[str], date: str) -> "Provenance":
        """With the versions that are installed here."""
        versions = {"Python": platform.python_version()}
        for package in _PACKAGES:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return cls(command=shlex.join(["reranker", *arguments]), date=date, versions=versions)


def verdict(results: Results) -> list[str]:
    """Sentences, the most important first; empty where nothing was compared."""
    metric, baseline = results.settings.compared[0], results.settings.baseline
    found = [one for one in results.comparisons if one.metric == metric]
    # Pooled over domains where there are several, and of the first split.
    splits = list(dict.fromkeys(one.split for one in found))
    found = [one for one in found if one.split == splits[0]] if splits else []
    pooled = [one for one in found if one.domain == POOLED]
    of = {(one.system, one.versus): one for one in pooled or found}
    against = [one for (_, versus), one in of.items() if versus == baseline]
    if not against:
        return []
    best = max(against, key=lambda one: one.mean)
    reader = READERS[results.settings.reader]
    said = {"reader": reader, "Reader": reader[0].upper() + reader[1:]}
    sentences = [_headline(of, best, said)]
    said_once = results.settings.reader == LEXICAL and ("lexical_fused", "baseline") in of  # it is the fused order, too
    for system, versus, what, over in LADDER:
        if (one := of.get((system, versus))) is not None and not (said_once and system == "fused"):
            sentences.append(f"{what.format(**said)} over {over}: {gain_in_words(one)}.")
    named = {(system, versus) for system, versus, _, _ in LADDER}
    if (best.system, best.versus) not in named:
        sentences.append(f"{best.system} over {best.versus}: {gain_in_words(best)}.")
    sentences.append(_users(best))
    return sentences


def gain_in_words(one: Comparison) -> str:
    """The difference, its interval, and whether it can be told from 0."""
    if one.mean == one.low == one.high == 0:
        return f"the same {one.metric} for every user"
    if np.isnan(one.relative):
        size = f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
    else:
        size = f"{one.relative:+.1%} [{one.relative_low:+.1%}, {one.relative_high:+.1%}]"
    if one.decided:
        return f"{size} {one.metric}, a {'gain' if one.mean > 0 else 'loss'}"
    return f"{size} {one.metric}, which cannot be told from 0"


def _headline(of: dict[tuple[str, str], Comparison], best: Comparison, said: dict[str, str]) -> str:
    def gains(system: str, versus: str) -> bool:
        one = of.get((system, versus))
        return one is not None and one.low > 0

    if ("fused", "lexical_fused") in of and gains("fused", "lexical_fused") and gains("fused", "first_stage"):
        return f"{said['Reader']} pays on these lists: it adds to what words without a model add."
    if gains("lexical_fused", "baseline"):
        return "Texts help on these lists, and words without a model are enough."
    if gains("fused", "baseline"):
        asked = ("fused", "lexical_fused") in of or said["reader"] == READERS[LEXICAL]
        unasked = "" if asked else " Whether words would do as well was not asked."
        return f"Texts, read by {said['reader']}, add to interaction features on these lists.{unasked}"
    if gains("baseline", "first_stage"):
        return "Interaction features are enough on these lists: reading texts adds nothing that can be told from 0."
    if best.low > 0:
        return f"{best.system} ranks these lists better than {best.versus}."
    return f"Nothing ranks these lists better than {best.versus} beyond doubt: serve them as they come."


def _users(one: Comparison) -> str:
    few = " That is few: expect another verdict from another sample." if one.n_users < FEW_USERS else ""
    where = "pooled over domains" if one.domain == POOLED else one.domain
    return f"Judged on {one.n_users} users ({where}{', ' + one.split if one.split else ''}).{few}"
