"""Requests and answers: the union of what Cohere (v2), Jina and vLLM call rerank, and our own fields."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StrictStr

from reranker.fusion import Order


def _without_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a null byte")
    return text


Text = Annotated[StrictStr, AfterValidator(_without_null)]
# The lengths stand before the function and text before numbers: a list of ids is checked in a seventh of the time.
_TextId = Annotated[StrictStr, Field(min_length=1, max_length=500), AfterValidator(_without_null)]
Id = Annotated[_TextId | StrictInt, Field(union_mode="left_to_right")]


class Document(BaseModel):
    """A document as an object: its `text` or `title`, and whatever else templates may read."""

    model_config = ConfigDict(extra="allow")

    text: Text | None = None
    title: Text | None = None

    def item(self) -> dict[str, object]:
        extra = self.model_extra or {}
        return {**{str(name): value for name, value in extra.items()}, "title": self.title or self.text or ""}

    @property
    def words(self) -> str:
        return self.text or self.title or ""


class RerankRequest(BaseModel):
    """What to rank, for whom.

    Texts: `documents` with `query` and `history` in words. Items of the bundle's catalogue: `item_ids` with `user`
    (whose history is known here) or `history` (item ids); the guard decides then, as in offline runs.

    Attributes:
        model: a name of GET /v1/models, or left out.
        query: what is asked for; read with `documents` only, since the guard judged lists of items without one
            (`meta.not_used` says so).
        documents: texts or objects with `text` or `title`.
        top_n: results wanted; all by default.
        return_documents: put each document into its result.
        user: whom it is for.
        item_ids: items of the catalogue, in the order of the recall stage.
        recall_scores: the recall stage's score of each item.
        history: what was chosen before, oldest first: item ids with `item_ids`, else texts or objects. Goes before what
            is stored for `user`.
        order: serve this order of `item_ids`, whatever the guard decided: "fused", "features" or "recall".
        domain: whose bundle ranks; needed where there are several and `model` names none of them.
        instruction: put before the query.
        raw_scores: log-odds instead of shares of 1.
        max_tokens_per_doc: Cohere's; texts are cut to the bundle's own budget, so it is not used.
        truncate_prompt_tokens: vLLM's; not used, likewise.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    query: Text = Field(default="", max_length=20_000)
    documents: list[Text | Document] | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    user: Id | None = None
    item_ids: list[Id] | None = None
    recall_scores: list[FiniteFloat] | None = None
    history: list[Id | Document] | None = None
    order: Order | None = None
    domain: str | None = None
    instruction: Text | None = Field(default=None, max_length=5_000)
    raw_scores: bool = False
    max_tokens_per_doc: int | None = Field(default=None, ge=1)
    truncate_prompt_tokens: int | None = None
    priority: int | None = None


class Result(BaseModel):
    """One place of the answer; `document` and `item_id` only where they were asked for or given."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None
    item_id: Id | None = None


class RerankAnswer(BaseModel):
    """Best first.

    `meta.served` says which order this is: fused, features, recall or llm (texts have no guard), `meta.guard` which one
    the guard would serve (where `order` was given), `meta.unknown_items` how many are not in the catalogue, and
    `meta.not_used` which fields of the request were not read, if any.
    """

    id: str
    model: str
    results: list[Result]
    usage: dict[str, int]
    meta: dict[str, Any]


class Interaction(BaseModel):
    """Something a user chose."""

    model_config = ConfigDict(extra="forbid")

    item_id: Id
    timestamp: FiniteFloat | None = None


class Interactions(BaseModel):
    """What a user chose, oldest first; `domain` is needed where there are several."""

    model_config = ConfigDict(extra="forbid")

    interactions: list[Interaction] = Field(min_length=1)
    domain: str | None = None
