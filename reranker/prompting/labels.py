"""Labels that a model answers with, one token each: the words of a verbaliser and the letters of a listwise prompt."""

import string

from reranker.errors import PromptError
from reranker.prompting.pieces import Pieces
from reranker.prompting.templates import TemplateSet


def verbaliser_words(templates: TemplateSet) -> tuple[str, ...]:
    """The words of block `labels`, positive first."""
    return tuple(word for word in templates.render("labels").split("\n") if word)


def verbaliser_tokens(pieces: Pieces) -> tuple[int, ...]:
    """One token a word, positive first.

    Raises:
        PromptError: a word is not exactly one token for this tokenizer, or two words share one.
    """
    words = verbaliser_words(pieces.templates)
    where = f"template {pieces.templates.name}, block 'labels'"
    ids: list[int] = []
    for word in words:
        tokens = pieces.tokenizer.encode(word)
        if len(tokens) != 1:
            shown = [pieces.tokenizer.decode([token]) for token in tokens]
            raise PromptError(
                f"{where}: the label {word!r} is {len(tokens)} tokens for this model ({shown}), but must be one. "
                "Choose another word in a template of your own, or score by likelihood"
            )
        ids.append(tokens[0])
    if len(ids) < 2 or len(set(ids)) != len(ids):
        raise PromptError(f"{where}: needs two or more different labels, one a line, got {words}")
    return tuple(ids)


def one_token_labels(pieces: Pieces, n: int) -> list[tuple[str, int]]:
    """Labels of n candidates and their tokens: A-Z, a-z, then pairs of capitals, those that are one token each.

    Raises:
        PromptError: this tokenizer has too few such labels.
    """
    capitals = string.ascii_uppercase
    labels: list[tuple[str, int]] = []
    seen: set[int] = set()
    for name in [*capitals, *string.ascii_lowercase, *(a + b for a in capitals for b in capitals)]:
        if len(labels) == n:
            break
        tokens = pieces.text("listwise_label", name)[1].token_ids
        if len(tokens) == 1 and int(tokens[0]) not in seen:
            seen.add(int(tokens[0]))
            labels.append((name, int(tokens[0])))
    if len(labels) < n:
        raise PromptError(
            f"a listwise prompt of {n} candidates needs {n} one-token labels, this tokenizer has {len(labels)}. "
            "Rank fewer candidates at a time, or score by likelihood"
        )
    return labels
