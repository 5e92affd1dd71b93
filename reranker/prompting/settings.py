"""How prompts are cut and laid out."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from reranker.utils.settings import SettingsModel


class PromptSettings(SettingsModel):
    """Settings of a `PromptRenderer`. They change scores, so a bundle keeps them. Unknown keys are refused.

    Attributes:
        family: template family, for instance "movies".
        language: language of the templates.
        directory: folder with the user's own templates, looked at first.
        instruction: whether the written instruction stands in the prompt.
        history_items: newest items of the history that are shown, at most.
        history_tokens: token budget of these items together; the oldest are left out first.
        title_tokens: tokens kept of a title.
        category_tokens: tokens kept of a category; 0 leaves categories out.
        description_tokens: tokens kept of a description and of any further field a template reads.
        query_tokens: tokens kept of a free text request.
        text_tokens: tokens kept of each field where an item is read alone, once (`scorer: embedding`).
        block_size: the shared prefix is padded to a multiple of this many tokens (vLLM shares its cache by whole
            blocks); None leaves it as it is.
    """

    REFUSAL: ClassVar[str] = "prompt settings: {problems}. Known keys: {keys}"

    family: str = "generic"
    language: str = "en"
    directory: Path | None = None
    instruction: bool = True
    history_items: int = Field(default=8, ge=0)
    history_tokens: int = Field(default=192, ge=0)
    title_tokens: int = Field(default=16, ge=1)
    category_tokens: int = Field(default=6, ge=0)
    description_tokens: int = Field(default=32, ge=0)
    query_tokens: int = Field(default=64, ge=1)
    text_tokens: int = Field(default=48, ge=1)
    block_size: int | None = Field(default=None, ge=1)

    def field_tokens(self, field: str, *, alone: bool = False) -> int:
        """Token budget of one field of an item, in a prompt or read alone."""
        own = {"title": self.title_tokens, "category": self.category_tokens}.get(field, self.description_tokens)
        return self.text_tokens if alone and own else own
