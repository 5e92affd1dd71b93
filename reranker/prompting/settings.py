"""How prompts are cut and laid out."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reranker.errors import ConfigError, field_problems


class PromptSettings(BaseModel):
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
        text_tokens: tokens kept of each field where an item is read alone, once (`scoring: embedding`).
        block_size: the shared prefix is padded to a multiple of this many tokens (vLLM shares its cache by whole
            blocks); None leaves it as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "PromptSettings":
        """Settings from YAML or JSON.

        Raises:
            ConfigError: an unknown key or an impossible value; the message names each.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = field_problems(error.errors())
            raise ConfigError(f"prompt settings: {problems}. Known keys: {', '.join(cls.model_fields)}") from error

    def field_tokens(self, field: str, *, alone: bool = False) -> int:
        """Token budget of one field of an item, in a prompt or read alone."""
        own = {"title": self.title_tokens, "category": self.category_tokens}.get(field, self.description_tokens)
        return self.text_tokens if alone and own else own
