"""How much of the items' texts is read: which fields are cut, and which items read like another one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reranker.data.schema import CATEGORY, DESCRIPTION, TITLE
from reranker.prompting.settings import PromptSettings
from reranker.prompting.text import clean_text, cut_to_tokens, field_text
from reranker.protocols import Tokenizer

LOOKED_AT = 20_000
"""Items that are looked at; of larger catalogues every n-th."""

_FIELDS = (TITLE, CATEGORY, DESCRIPTION)
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """What becomes of the texts of items.

    Attributes:
        items: that were looked at.
        cut: field -> items of which only the beginning is read.
        unread: field -> items that have it though it is not read at all.
        alike: items whose fields, as they are read, are those of an item before them.
        example: a title that several items have in common as it is read, or "".
    """

    items: int
    cut: Mapping[str, int]
    unread: Mapping[str, int]
    alike: int
    example: str = ""

    @classmethod
    def of(
        cls, items: Sequence[Mapping[str, object]], settings: PromptSettings, tokenizer: Tokenizer, *, alone: bool
    ) -> "TextReport":
        """Cuts the items' fields as a prompt does.

        Args:
            items: rows of the items table.
            settings: budgets of fields.
            tokenizer: of the model.
            alone: items are read by themselves, not in a prompt.
        """
        some = items[:: max(1, -(-len(items) // LOOKED_AT))]
        cut, unread, seen, alike, example = Counter[str](), Counter[str](), set[tuple[str, ...]](), 0, ""
        for item in some:
            read = []
            for name in _FIELDS:
                text, budget = clean_text(field_text(item.get(name))), settings.field_tokens(name, alone=alone)
                read.append(cut_to_tokens(text, budget, tokenizer) if text else "")
                if text and budget == 0:
                    unread[name] += 1
                elif read[-1] != text:
                    cut[name] += 1
            if (key := tuple(read)) in seen:
                alike, example = alike + 1, example or key[0]
            seen.add(key)
        return cls(items=len(some), cut=cut, unread=unread, alike=alike, example=example)

    def summary(self) -> str:
        """One line; "" where every text is read whole and no two are alike."""
        parts = [f"{count} {name} texts are cut" for name, count in self.cut.items()]
        parts += [f"{count} {name} texts are not read" for name, count in self.unread.items()]
        if self.alike:
            parts.append(f"{self.alike} items read like another one (such as {self.example[:_SHOWN_CHARACTERS]!r})")
        return f"texts of {self.items} items: {'; '.join(parts)}" if parts else ""
