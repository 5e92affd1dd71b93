"""Templates -> token segments: what the model reads."""

from reranker.prompting.pieces import Item
from reranker.prompting.rendered import ItemTexts, PromptSpan, RenderedPrompt, SpanKind
from reranker.prompting.renderer import PromptRenderer
from reranker.prompting.settings import PromptSettings
from reranker.prompting.templates import BLOCKS, TEXT_PARTS, TemplateSet, families, family_for_domain
from reranker.prompting.text import clean_text

__all__ = [
    "BLOCKS",
    "TEXT_PARTS",
    "Item",
    "ItemTexts",
    "PromptRenderer",
    "PromptSettings",
    "PromptSpan",
    "RenderedPrompt",
    "SpanKind",
    "TemplateSet",
    "clean_text",
    "families",
    "family_for_domain",
]
