"""Explanations in words for the person who sees the list: templates that can say nothing but the given facts.

A sentence names items of the user's own history only where leaving them out moves the candidate down, and says what
else decided where that is more. Item titles are data: they are quoted, cut, and never read as instructions.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from reranker.prompting import clean_text

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

NAMED = 2
"""Items of the history that a sentence names, at most."""

WORTH_NAMING = 0.25
"""Share of the largest effect that the next one must have to be named beside it."""

LONGEST_TITLE = 60
"""Characters of a title in a sentence."""

_VERBS: dict[str, tuple[str, str]] = {
    "movies": ("watched", "看过"),
    "video": ("watched", "看过"),
    "music": ("listened to", "听过"),
    "books": ("read", "读过"),
    "news": ("read", "读过"),
    "games": ("played", "玩过"),
    "shop": ("bought", "买过"),
}
_VERB = ("chose", "选过")

_BECAUSE = {"en": "Because you {verb} {items}", "zh": "因为您{verb}{items}"}
_AGAIN = {"en": "You {verb} it before", "zh": "您{verb}它"}
_REASONS: dict[str, dict[str, str]] = {
    "en": {
        "first_stage": "People with a taste like yours choose it",
        "collaborative": "People with a taste like yours choose it",
        "sequence": "Often chosen next",
        "popularity": "Many people choose it",
        "recency": "Many people chose it lately",
        "disliked": "Unlike what you dislike",
        "category": "Of a kind that you choose",
        "text": "Similar to what you choose",
        "vectors": "Similar to what you choose",
        "own": "Suggested for you",
        "other": "Suggested for you",
        "": "Also suggested for you",
    },
    "zh": {
        "first_stage": "与您喜好相近的人也选了它",
        "collaborative": "与您喜好相近的人也选了它",
        "sequence": "大家接下来常选它",
        "popularity": "很多人选它",
        "recency": "最近很多人选它",
        "disliked": "与您不喜欢的不同",
        "category": "与您常选的类别相同",
        "text": "与您选过的内容相近",
        "vectors": "与您选过的内容相近",
        "own": "为您推荐",
        "other": "为您推荐",
        "": "同样为您推荐",
    },
}
_PERSONAL = ("collaborative", "sequence", "category", "text", "vectors")
"""Groups that speak of the history: without one to name, they are no reason that a person could check."""


def sentence(
    contributions: Mapping[str, float],
    history: Sequence[tuple[str, float]],
    language: Language = "en",
    domain: str = "",
    itself: float | None = None,
) -> str:
    """One sentence, of the strongest reason that moved the candidate up.

    Args:
        contributions: group -> log-odds against the list's mean.
        history: (title, leave-one-out effect) of the user's other items.
        language: "en" or "zh".
        domain: picks the verb: movies are watched, books read.
        itself: effect of the candidate's own place in the history; None where the user did not choose it before.
    """
    best = sorted((one for one in history if one[1] > 0), key=lambda one: -one[1])
    named = [one for one in best[:NAMED] if one[1] >= WORTH_NAMING * best[0][1]]
    unknown = not history and itself is None
    impersonal = {name: value for name, value in contributions.items() if unknown or name not in _PERSONAL}
    strongest = max(impersonal, key=lambda name: impersonal[name], default="")
    if strongest and impersonal[strongest] <= 0:
        strongest = ""
    if itself and itself >= max([effect for _, effect in named] + [impersonal.get(strongest, 0.0)]):
        return _AGAIN[language].format(verb=_verb(language, domain))
    if named and sum(effect for _, effect in named) >= (impersonal[strongest] if strongest else 0.0):
        return _because([title for title, _ in named], language, domain)
    return _REASONS[language][strongest]


def _because(titles: Sequence[str], language: Language, domain: str) -> str:
    shown = [_quoted(title, language) for title in dict.fromkeys(titles)]
    items = (" and " if language == "en" else "和").join(shown)
    return _BECAUSE[language].format(verb=_verb(language, domain), items=items)


def _verb(language: Language, domain: str) -> str:
    english, chinese = _VERBS.get(domain, _VERB)
    return english if language == "en" else chinese


def _quoted(title: str, language: Language) -> str:
    """One line of text in quotes, which its own cannot end early."""
    text = clean_text(title).translate({ord(mark): "'" for mark in '“”《》"'})
    if len(text) > LONGEST_TITLE:
        text = text[: LONGEST_TITLE - 1].rstrip() + "…"
    return f"“{text}”" if language == "en" else f"《{text}》"
