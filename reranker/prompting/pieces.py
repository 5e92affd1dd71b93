"""Pieces of prompts: blocks of a template and items in them, as text and tokens."""

from collections.abc import Mapping
from functools import lru_cache

from reranker.data.schema import CATEGORY, DESCRIPTION, TITLE, UNTITLED
from reranker.errors import PromptError
from reranker.prompting.rendered import Part
from reranker.prompting.settings import PromptSettings
from reranker.prompting.templates import TEXT_PARTS, TemplateSet
from reranker.prompting.text import clean_text, cut_to_tokens, field_text
from reranker.protocols import Tokenizer
from reranker.types import TokenSequence
from reranker.utils.byte_cache import ByteCache

CACHED_BYTES = 128 << 20
"""Of what was made of items' texts, in each cache."""

Item = Mapping[str, object]
"""A row of the items table: `title` and any further field."""

Fields = tuple[tuple[str, str], ...]
"""Names and values that a block reads of an item."""

Piece = tuple[str, TokenSequence]
"""A text and its tokens."""


def piece_bytes(piece: Piece) -> int:
    """Bytes that a piece holds."""
    text, tokens = piece
    return 4 * len(text) + tokens.token_ids.nbytes


_ITEM_BLOCKS = (*TEXT_PARTS, "history_item", "candidate", "labels_candidate", "listwise_candidate")


class Pieces:
    """Renders and tokenises pieces, each by itself and once: what was made is kept.

    Args:
        templates: blocks to render.
        tokenizer: the engine's.
        settings: budgets of fields.

    Raises:
        PromptError: the tokenizer has no token for a newline.
    """

    def __init__(self, templates: TemplateSet, tokenizer: Tokenizer, settings: PromptSettings) -> None:
        self.templates = templates
        self.tokenizer = tokenizer
        self._settings = settings
        self._names = {block: templates.fields(block) for block in _ITEM_BLOCKS}
        self.text = lru_cache(maxsize=None)(self._text)
        self.item = ByteCache(self._item, piece_bytes, CACHED_BYTES)
        self.newline = self._one_newline()
        opening = tokenizer.opening_ids
        self.opening = Part(
            kind="opening", text=tokenizer.decode(opening), tokens=TokenSequence.from_tokens(list(opening))
        )

    def fields(self, item: Item, block: str) -> Fields:
        """What the block reads of the item, as text: the key under which its tokens are kept.

        Raises:
            PromptError: the block reads a field that the item does not have.
        """
        names = self._names[block]
        if names is None:
            names = tuple(sorted({*map(str, item), TITLE, CATEGORY, DESCRIPTION}))
        fields = []
        for name in names:
            if name not in item and name not in (TITLE, CATEGORY, DESCRIPTION):
                raise PromptError(
                    f"template {self.templates.name}, block {block!r} reads item.{name}, but the item "
                    f"{field_text(item.get(TITLE))!r} has only {', '.join(map(str, item))}"
                )
            fields.append((name, field_text(item.get(name))))
        return tuple(fields)

    def of_item(self, item: Item, block: str) -> Piece:
        """The block with this item in it.

        Raises:
            PromptError: as `fields` does.
        """
        return self.item(block, self.fields(item, block))

    def item_alone(self, block: str, fields: Fields) -> Piece:
        """An item that is read by itself, whose fields may be longer; not kept."""
        return self._item(block, fields, alone=True)

    def encoded(self, text: str) -> TokenSequence:
        """The tokens of a text."""
        return TokenSequence.from_tokens(self.tokenizer.encode(text) if text else [])

    def _text(self, block: str, label: str | None = None) -> Piece:
        text = self.templates.render(block, {} if label is None else {"label": label})
        return text, self.encoded(text)

    def _item(self, block: str, fields: Fields, *, alone: bool = False) -> Piece:
        values = {
            name: cut_to_tokens(clean_text(value), self._settings.field_tokens(name, alone=alone), self.tokenizer)
            for name, value in fields
        }
        values[TITLE] = values.get(TITLE) or UNTITLED
        text = self.templates.render(block, {"item": values})
        return text, self.encoded(text)

    def _one_newline(self) -> int:
        tokens = self.tokenizer.encode("\n")
        if not tokens:
            raise PromptError("the tokenizer encodes a newline to nothing, so lines cannot be told apart")
        return tokens[-1]
