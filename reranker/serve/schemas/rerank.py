"""Requests and answers: the union of what Cohere (v2), Jina and vLLM call rerank, and our own fields."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
)

from reranker.explain import Language
from reranker.fusion import Order
from reranker.rules import Rules

LONGEST_ID = 500
"""Characters of an id as text."""

_NUMBERS = range(1 - 10 ** (LONGEST_ID - 1), 10**LONGEST_ID)  # as long as text may be, with the sign


def readable(text: str) -> str:
    """The text, if tokenizers, databases and UTF-8 can take it.

    Raises:
        ValueError: it holds a null byte or a lone surrogate.
    """
    if "\0" in text:
        raise ValueError("holds a null byte")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"holds a lone surrogate (character {error.start + 1}), half of an emoji, say: cut between characters"
        ) from None
    return text


def _of_bounded_length(number: int) -> int:
    if number not in _NUMBERS:
        raise ValueError(f"has more than {LONGEST_ID} digits")
    return number


Text = Annotated[StrictStr, AfterValidator(readable)]
# The lengths stand before the function and text before numbers: a list of ids is checked in a seventh of the time.
_TextId = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_ID), AfterValidator(readable)]
_Number = Annotated[StrictInt, AfterValidator(_of_bounded_length)]
Id = Annotated[_TextId | _Number, Field(union_mode="left_to_right")]
_SomeText = Annotated[StrictStr, Field(min_length=1), AfterValidator(readable)]
_IdOrText = Annotated[_SomeText | _Number, Field(union_mode="left_to_right")]


class TextPart(BaseModel):
    """A part of a document, as vLLM's requests have it; only texts are read."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Text


class Document(BaseModel):
    """A document as an object: its `text`, `title` or vLLM's `content`, and whatever else templates may read."""

    model_config = ConfigDict(extra="allow")

    text: Text | None = None
    title: Text | None = None
    content: Text | list[TextPart] | None = None

    def item(self) -> dict[str, object]:
        """Title, text and the further fields, those that are there."""
        fields = {"title": self.title, "text": self.text or self.content_text, **(self.model_extra or {})}
        return {str(name): value for name, value in fields.items() if value is not None}

    @property
    def content_text(self) -> str | None:
        """`content` as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content

    @property
    def words(self) -> str:
        texts = (self.title, self.text or self.content_text)
        return ": ".join(one for one in dict.fromkeys(texts) if one and one.strip())

    @property
    def further(self) -> frozenset[str]:
        """Names of fields that are read where a template names them, and else not."""
        return frozenset(self.model_extra or ())


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


class UnreadFields(BaseModel):
    """Fields of other servers' requests that change nothing here."""

    # Cohere's
    max_chunks_per_doc: int | None = None
    # Jina's
    truncation: bool | None = None
    return_embeddings: bool | None = None
    # vLLM's
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    max_tokens_per_query: int | None = None
    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    padding: bool | str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None


class RerankRequest(UnreadFields):
    """What to rank, for whom.

    Texts: `documents` with `query` and `history` in words. Items of the bundle's catalogue: `item_ids` with `user`
    (whose history is known here) or `history` (item ids); the guard decides then, as in offline runs.

    Attributes:
        model: a name of GET /v1/models, or left out.
        query: what is asked for. Beside `item_ids` the relevance of the items' texts is added to the order that the
            guard decided on without it, by the weight that `fit` learned on lists with queries; by 1 where it had none
            (`meta.query_judged` is false then).
        documents: texts, or objects with `text`, `title`, both, or vLLM's `content`; one alone stands for a list of it.
        top_n: results wanted; all by default, and by 0.
        return_documents: put each document into its result; beside `item_ids` without documents, the item's title.
        user: whom it is for.
        item_ids: items of the catalogue, in the order of the candidate generator.
        first_stage_scores: the candidate generator's score of each item.
        history: what was chosen before, oldest first: item ids with `item_ids`, else texts or objects. Goes before what
            is stored for `user`, whose id and context are not used then.
        order: serve this order of `item_ids`, whatever the guard decided: "fused", "baseline" or "first_stage".
        domain: whose bundle ranks; needed where there are several and `model` names none of them.
        instruction: put before the query.
        max_tokens_per_doc: tokens read of a document for the query; of a longer one the best window is read, and
            `meta.cut_documents` says of which. 512 by default, and by 0.
        max_doc_length: Jina's name for it.
        rank_fields: of documents that are objects, in place of title, category, description and text;
            `meta.not_used` names what was left out.
        raw_scores: log-odds instead of scores between 0 and 1.
        explain: why each result stands where it does; true, or "en" or "zh" for the language of the sentences. Needs
            `item_ids`.
        features: column -> its value for each of `item_ids`: the columns of candidates that the ranker was fitted with.
        context: column -> its value for the whole list, in place of `features` that are the same for each item: the
            moment of the request, as hours since the last visit.
        rules: what is excluded, pinned, pushed, capped, owed or diversified after scoring, as `reranker.rules.Rules`
            has it. Needs `item_ids`; `meta.rules` counts what was done and names what could not be met. Scores stay
            with the places.
        use_activation: vLLM's; false asks for raw scores, too.

    `meta.not_used` names those of `UnreadFields` that were given.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    query: Annotated[Text, Field(max_length=20_000)] | None = None
    documents: Annotated[list[Text | Document], BeforeValidator(_several)] | None = None
    top_n: int | None = Field(default=None, ge=0)
    return_documents: bool | None = None
    user: Id | None = None
    item_ids: list[Id] | None = None
    first_stage_scores: list[FiniteFloat] | None = None
    history: list[_IdOrText | Document] | None = None
    order: Order | None = None
    domain: str | None = None
    instruction: Text | None = Field(default=None, max_length=5_000)
    max_tokens_per_doc: int | None = Field(default=None, ge=0)
    max_doc_length: int | None = Field(default=None, ge=0)
    rank_fields: list[Text] | None = Field(default=None, min_length=1, max_length=100)
    raw_scores: bool | None = None
    explain: bool | Language | None = None
    features: dict[str, list[StrictBool | FiniteFloat | Text | None]] | None = Field(default=None, max_length=100)
    context: dict[str, StrictBool | FiniteFloat | Text | None] | None = Field(default=None, max_length=100)
    rules: Rules | None = None
    use_activation: bool | None = None

    @property
    def wants_raw_scores(self) -> bool:
        return bool(self.raw_scores) or self.use_activation is False

    @property
    def not_used(self) -> list[str]:
        """Names of the fields that were given and not read."""
        given = {name for name in self.model_fields_set if getattr(self, name) not in (None, "")}
        unread = given & UnreadFields.model_fields.keys()
        if self.item_ids:
            if (self.query or "").strip():
                unread |= given & {"instruction"}
            unread |= given & _OF_TEXTS
            if not self.return_documents:
                unread |= given & {"documents"}
        elif not (self.query or self.instruction):
            unread |= given & _OF_TEXTS
        if self.history is not None:
            unread |= given & {"user"}
        return [name for name in type(self).model_fields if name in unread] if unread else []


_OF_TEXTS = {"max_tokens_per_doc", "max_doc_length", "rank_fields"}
"""Fields that say how a query's documents are read."""


class Result(BaseModel):
    """One place of the answer; `document`, `item_id` and `explanation` only where they were asked for or given.

    `explanation` is of the score before `rules`. It holds `contributions` (group of columns -> log-odds; they sum to
    `above_mean`, the raw score minus the list's mean), `history` (`item_id, title, effect` of the user's items, left
    out one by one) and a `sentence`.
    """

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None
    item_id: Id | None = None
    explanation: dict[str, Any] | None = None


class RerankAnswer(BaseModel):
    """Best first.

    `meta.served` says which order this is: fused, baseline, first_stage, or interleaved in an experiment; of texts,
    which have no guard, what read them: lexical, encoder or llm. `meta.guard` is the one that the guard would serve
    (where `order` was given), `meta.unknown_items` how many are not in the catalogue, `meta.rules` what `rules` did,
    `meta.state` is "store_failed" where the ranking had to do without the store, `meta.known_user` whether anything is
    known here of the `user` whom it went by, and `meta.not_used` which fields of the request were not read, if any.
    """

    id: str
    model: str
    results: list[Result]
    usage: dict[str, int]
    meta: dict[str, Any]


class Interaction(BaseModel):
    """Something a user did: a choice, or what `event`, `rating` and `weight` say, as in the interactions of `fit`."""

    model_config = ConfigDict(extra="forbid")

    item_id: Id
    timestamp: FiniteFloat | None = None
    event: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    rating: FiniteFloat | None = None
    weight: FiniteFloat | None = None


class Interactions(BaseModel):
    """What a user did, oldest first; `domain` is needed where there are several."""

    model_config = ConfigDict(extra="forbid")

    interactions: list[Interaction] = Field(min_length=1)
    domain: str | None = None
