"""Templates, items and soft prompts -> token sequences that an engine can score."""

import hashlib
from collections.abc import Sequence
from typing import Literal

from reranker.errors import PromptError
from reranker.prompting.labels import one_token_labels, verbaliser_tokens, verbaliser_words
from reranker.prompting.pieces import CACHED_BYTES, Fields, Item, Pieces
from reranker.prompting.rendered import ItemTexts, Part, RenderedPrompt, lay_out
from reranker.prompting.settings import PromptSettings
from reranker.prompting.templates import TEXT_PARTS, TemplateSet
from reranker.prompting.text import clean_text, cut_to_tokens
from reranker.protocols import Tokenizer
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence
from reranker.utils.byte_cache import ByteCache


class PromptRenderer:
    """Renders prompts for one tokenizer and one set of templates.

    The shared prefix is
    `[opening][domain soft tokens][instruction][padding][user soft tokens][history, newest last][query]`, where the
    opening is what the model expects before any text (`<bos>`), nothing for many models. Every piece is tokenised
    apart and titles are cleaned first, so nothing inside a title can move a boundary. Texts of items are rendered and
    tokenised once and kept.

    Padding exists with `block_size` only: newlines that fill the prefix up to whole blocks. They stand where lines
    part anyway, and leave history and soft prompts whole; the same inputs always get the same padding.

    Args:
        templates: blocks to render.
        tokenizer: the engine's.
        settings: budgets and layout.
        max_length: context window in tokens; longer prompts lose their oldest history first.
        calibration_histories: histories of nobody in particular, behind which a title is as likely as for anybody.
    """

    def __init__(
        self,
        templates: TemplateSet,
        tokenizer: Tokenizer,
        settings: PromptSettings | None = None,
        max_length: int | None = None,
        calibration_histories: Sequence[Sequence[Item]] = (),
    ) -> None:
        self.templates = templates
        self.tokenizer = tokenizer
        self.settings = settings or PromptSettings(
            family=templates.family, language=templates.language, directory=templates.directory
        )
        self.max_length = max_length
        self.calibration_histories = calibration_histories
        self._pieces = Pieces(templates, tokenizer, self.settings)
        self._likelihood_span = ByteCache(self._render_likelihood_span, _span_bytes, CACHED_BYTES)
        self._labels_span = ByteCache(self._render_labels_span, _span_bytes, CACHED_BYTES)
        self._item_alone = ByteCache(self._render_item_alone, _item_bytes, CACHED_BYTES)
        if not len(self._pieces.text("separator")[1]):
            raise PromptError(
                f"template {templates.name}, block 'separator': it renders to no token, but the first scored token "
                "needs one before it"
            )

    @classmethod
    def from_settings(
        cls, settings: PromptSettings, tokenizer: Tokenizer, max_length: int | None = None
    ) -> "PromptRenderer":
        """Loads the templates that `settings` name. Raises PromptError when they do not exist."""
        templates = TemplateSet.load(settings.family, settings.language, settings.directory)
        return cls(templates, tokenizer, settings, max_length)

    def calibrated_by(self, histories: Sequence[Sequence[Item]]) -> "PromptRenderer":
        """The same with other calibration histories."""
        return PromptRenderer(self.templates, self.tokenizer, self.settings, self.max_length, histories)

    @property
    def fingerprint(self) -> str:
        """Hash of templates and settings: prompts of two renderers with the same tokenizer and hash are the same, but
        for those behind calibration histories."""
        settings = self.settings.model_dump_json(exclude={"directory"})
        return hashlib.sha256(f"{self.templates.sha256}\0{settings}\0{self.max_length}".encode()).hexdigest()

    def likelihood(
        self,
        history: Sequence[Item],
        candidates: Sequence[Item],
        soft_prompt: TokenSequence | None = None,
        user_tokens: TokenSequence | None = None,
        query: str | None = None,
    ) -> RenderedPrompt:
        """Each candidate continues the list: separator (not scored), title, terminator.

        Args:
            history: chosen items, newest last.
            candidates: items to score; each gets one span, in this order.
            soft_prompt: the domain's soft tokens.
            user_tokens: this user's own soft tokens.
            query: what the user asks for in words.

        Raises:
            PromptError: no candidates, a field is missing, widths of soft tokens differ, or the prompt does not fit.
        """
        spans = [self._likelihood_span(self._pieces.fields(one, "candidate")) for one in candidates]
        return self._prompt(spans, history, soft_prompt, user_tokens, query)

    def priors(self, candidates: Sequence[Item], soft_prompt: TokenSequence | None = None) -> list[RenderedPrompt]:
        """What `likelihood` renders behind each calibration history, or for a new user where there is none: how likely
        a title is whoever the user is, in the mean."""
        return [self.likelihood(history, candidates, soft_prompt) for history in self.calibration_histories or [()]]

    def item_texts(self, items: Sequence[Item]) -> ItemTexts:
        """Each item behind the separator alone: its title, its category, its description.

        Raises:
            PromptError: no items, a field is missing, or an item does not fit.
        """
        return self._items_alone(items)[0]

    def embedding(self, items: Sequence[Item]) -> RenderedPrompt:
        """All that is read of each item by itself.

        Raises:
            PromptError: as `item_texts` does.
        """
        read, shown = self._items_alone(items)
        text, tokens = self._pieces.text("separator")
        return RenderedPrompt(
            request=ScoringRequest(prefix=read.prefix, candidates=read.longest),
            spans=lay_out([self._pieces.opening, Part(kind="history", text=text, tokens=tokens)])[1],
            candidate_texts=shown,
            history_given=0,
            history_kept=0,
        )

    def continuation(
        self,
        history: Sequence[Item],
        soft_prompt: TokenSequence | None = None,
        user_tokens: TokenSequence | None = None,
        most: int | None = None,
    ) -> RenderedPrompt:
        """The history itself as one scored span behind its header: what a user's context is adapted on.

        Args:
            history: chosen items, newest last; at least one.
            soft_prompt: the domain's soft tokens.
            user_tokens: this user's own soft tokens.
            most: newest items that are kept, as far as the model's window lets them.

        Raises:
            PromptError: no item, a field is missing, or not even one item fits.
        """
        header, header_tokens = self._pieces.text("history_header")
        end, end_tokens = self._pieces.text("terminator")
        front = [*self._front(soft_prompt), _soft("user_tokens", user_tokens)]
        last = Part(kind="history", text=header, tokens=header_tokens)
        prefix, described = lay_out([*front, self._padding(_length([*front, last])), last])
        room = None if self.max_length is None else self.max_length - len(prefix) - len(end_tokens)
        separator, separator_tokens = self._pieces.text("separator")
        texts, pieces = [end], [end_tokens]
        shown = list(history)[-most:] if most else list(history)
        kept = 0
        for item in reversed(shown):
            text, tokens = self._pieces.of_item(item, "history_item")
            length = len(separator_tokens) + len(tokens)
            if room is not None and room < length:
                break
            room = None if room is None else room - length
            texts = [separator, text, *texts]
            pieces = [separator_tokens, tokens, *pieces]
            kept += 1
        if not kept:
            raise PromptError(
                f"no item of a history of {len(history)} can be read: {len(prefix)} tokens of prefix, the model takes "
                f"{self.max_length}. Give at least one item, and shorter soft prompts if it does not fit"
            )
        span = CandidateSpan(sequence=TokenSequence.concatenate(pieces), scored_from=len(separator_tokens))
        return RenderedPrompt(
            request=ScoringRequest(prefix=prefix, candidates=(span,)),
            spans=described,
            candidate_texts=("".join(texts),),
            history_given=len(history),
            history_kept=kept,
        )

    def labels(
        self,
        history: Sequence[Item],
        candidates: Sequence[Item],
        soft_prompt: TokenSequence | None = None,
        user_tokens: TokenSequence | None = None,
        query: str | None = None,
    ) -> RenderedPrompt:
        """Each candidate is asked about by itself; the answer is one of `label_token_ids`.

        Arguments and errors as in `likelihood`.
        """
        spans = [self._labels_span(self._pieces.fields(one, "labels_candidate")) for one in candidates]
        return self._prompt(spans, history, soft_prompt, user_tokens, query)

    def listwise(
        self,
        history: Sequence[Item],
        candidates: Sequence[Item],
        soft_prompt: TokenSequence | None = None,
        user_tokens: TokenSequence | None = None,
        query: str | None = None,
    ) -> RenderedPrompt:
        """All candidates in one span, labelled in this order; the answer is one of `listwise_label_ids`.

        Arguments and errors as in `likelihood`. Label positions bias the answer: average over
        permutations of the candidates.
        """
        opening = self._pieces.text("listwise_open")
        pieces = [self._pieces.text("listwise_header")]
        labels = self.listwise_labels(len(candidates))
        for label, candidate in zip(labels, candidates, strict=True):
            pieces += [opening, self._pieces.text("listwise_label", label)]
            pieces.append(self._pieces.of_item(candidate, "listwise_candidate"))
        pieces.append(self._pieces.text("listwise_cue"))
        sequence = TokenSequence.concatenate([tokens for _, tokens in pieces])
        span = CandidateSpan(sequence=sequence), "".join(text for text, _ in pieces)
        return self._prompt([span] if candidates else [], history, soft_prompt, user_tokens, query)

    def instruction_token_ids(self) -> list[int]:
        """Tokens of the written instruction: what a soft prompt is initialised from."""
        return [int(token) for token in self._pieces.text("instruction")[1].token_ids]

    def label_words(self) -> tuple[str, ...]:
        """The verbaliser words, positive first."""
        return verbaliser_words(self.templates)

    def label_token_ids(self) -> tuple[int, ...]:
        """One token per verbaliser word, positive first.

        Raises:
            PromptError: a word is not exactly one token for this tokenizer, or two words share one.
        """
        return verbaliser_tokens(self._pieces)

    def listwise_labels(self, n: int) -> tuple[str, ...]:
        """Labels of n candidates: A-Z, a-z, then pairs of capitals, those that are one token each.

        Raises:
            PromptError: this tokenizer has too few such labels.
        """
        return tuple(label for label, _ in one_token_labels(self._pieces, n))

    def listwise_label_ids(self, n: int) -> tuple[int, ...]:
        """The token of each of `listwise_labels(n)`."""
        return tuple(token for _, token in one_token_labels(self._pieces, n))

    def _prompt(
        self,
        spans: Sequence[tuple[CandidateSpan, str]],
        history: Sequence[Item],
        soft_prompt: TokenSequence | None,
        user_tokens: TokenSequence | None,
        query: str | None,
    ) -> RenderedPrompt:
        if not spans:
            raise PromptError("there are no candidates to render; pass at least one item")
        front = self._front(soft_prompt)
        user = [_soft("user_tokens", user_tokens)]
        asked = self._query(query)
        longest = max(len(span.sequence) for span, _ in spans)
        taken = _length([*front, *user, *asked]) + longest
        shown, kept = self._history(history, taken, bool(asked))
        if shown and asked:
            shown.append(self._line_break("history"))
        rest = [*user, *shown, *asked]
        padding = self._padding(_length([*front, *rest]))
        prefix, described = lay_out([*front, padding, *rest])
        total = len(prefix) + longest
        if self.max_length is not None and total > self.max_length:
            raise PromptError(
                f"the prompt does not fit: {len(prefix)} tokens of prefix, {kept} history items among them, and "
                f"{longest} of the longest candidate make {total}, the model takes {self.max_length}. Use shorter soft "
                "prompts or smaller budgets (title_tokens, query_tokens), or a model with a longer context"
            )
        return RenderedPrompt(
            request=ScoringRequest(prefix=prefix, candidates=tuple(span for span, _ in spans)),
            spans=described,
            candidate_texts=tuple(text for _, text in spans),
            history_given=len(history),
            history_kept=kept,
        )

    def _front(self, soft_prompt: TokenSequence | None) -> list[Part]:
        """What all users of a domain share."""
        front = [self._pieces.opening, _soft("domain_tokens", soft_prompt)]
        if self.settings.instruction:
            text, tokens = self._pieces.text("instruction")
            front += [Part(kind="instruction", text=text, tokens=tokens), self._line_break("instruction")]
        return front

    def _history(self, history: Sequence[Item], taken: int, has_query: bool) -> tuple[list[Part], int]:
        """Header and the newest items that fit, newest last, and how many. `taken`: tokens of the rest."""
        header, header_tokens = self._pieces.text("history_header")
        budget = self.settings.history_tokens
        if self.max_length is not None:
            # Padding and a line break before the query may still be added.
            reserved = (self.settings.block_size or 1) - 1 + has_query
            room = self.max_length - taken - len(header_tokens) - reserved
            budget = min(budget, room)
        separator, separator_tokens = self._pieces.text("separator")
        parts: list[Part] = []
        kept = 0
        for position in range(len(history) - 1, max(-1, len(history) - 1 - self.settings.history_items), -1):
            text, tokens = self._pieces.of_item(history[position], "history_item")
            pieces = [separator_tokens, tokens]
            budget -= sum(map(len, pieces))
            if budget < 0:
                break
            parts.append(Part(kind="history", text=separator + text, tokens=TokenSequence.concatenate(pieces)))
            kept += 1
        if kept:
            return [Part(kind="history", text=header, tokens=header_tokens), *reversed(parts)], kept
        if has_query:
            return [], 0
        text, tokens = self._pieces.text("history_empty")
        return [Part(kind="history", text=text, tokens=tokens)], 0

    def _query(self, query: str | None) -> list[Part]:
        text = cut_to_tokens(clean_text(query or ""), self.settings.query_tokens, self.tokenizer)
        if not text:
            return []
        rendered = self.templates.render("query", {"query": text})
        return [Part(kind="query", text=rendered, tokens=self._pieces.encoded(rendered))]

    def _padding(self, length: int) -> Part:
        missing = -length % (self.settings.block_size or 1)
        return Part(
            kind="padding", text="\n" * missing, tokens=TokenSequence.from_tokens([self._pieces.newline] * missing)
        )

    def _line_break(self, kind: str) -> Part:
        tokens = TokenSequence.from_tokens([self._pieces.newline])
        return Part(kind="instruction" if kind == "instruction" else "history", text="\n", tokens=tokens)

    def _render_likelihood_span(self, fields: Fields) -> tuple[CandidateSpan, str]:
        pieces = [
            self._pieces.text("separator"),
            self._pieces.item("candidate", fields),
            self._pieces.text("terminator"),
        ]
        sequence = TokenSequence.concatenate([tokens for _, tokens in pieces])
        return CandidateSpan(sequence=sequence, scored_from=len(pieces[0][1])), "".join(text for text, _ in pieces)

    def _items_alone(self, items: Sequence[Item]) -> tuple[ItemTexts, tuple[str, ...]]:
        if not items:
            raise PromptError("there are no items to render; pass at least one")
        fields = [tuple(self._pieces.fields(item, block) for block in TEXT_PARTS) for item in items]
        parts, shown = zip(*map(self._item_alone, fields), strict=True)
        prefix = TokenSequence.concatenate([self._pieces.opening.tokens, self._pieces.text("separator")[1]])
        read = ItemTexts(prefix=prefix, parts=parts)
        longest = len(read.prefix) + max(len(span.sequence) for span in read.longest)
        if self.max_length is not None and longest > self.max_length:
            raise PromptError(
                f"an item of {longest} tokens does not fit, the model takes {self.max_length}: use a smaller budget "
                "(text_tokens)"
            )
        return read, shown

    def _render_item_alone(self, fields: tuple[Fields, ...]) -> tuple[tuple[CandidateSpan | None, ...], str]:
        """The spans of `ItemTexts` for one item, and the text of the longest; fields are those of `TEXT_PARTS`."""
        end_text, end = self._pieces.text("terminator")
        shown, tokens, spans = "", TokenSequence.from_tokens([]), list[CandidateSpan | None]()
        for block, values in zip(TEXT_PARTS, fields, strict=True):
            text, more = self._pieces.item_alone(block, values)
            begin = len(tokens) + 1  # a state is that of the token before a scored one
            tokens, shown = TokenSequence.concatenate([tokens, more]), shown + text
            whole = TokenSequence.concatenate([tokens, end])
            spans.append(CandidateSpan(sequence=whole, scored_from=begin) if len(more) or not spans else None)
        return tuple(spans), shown + end_text

    def _render_labels_span(self, fields: Fields) -> tuple[CandidateSpan, str]:
        pieces = [self._pieces.item("labels_candidate", fields), self._pieces.text("labels_cue")]
        return CandidateSpan(sequence=TokenSequence.concatenate([tokens for _, tokens in pieces])), "".join(
            text for text, _ in pieces
        )


def _soft(kind: Literal["domain_tokens", "user_tokens"], tokens: TokenSequence | None) -> Part:
    tokens = TokenSequence.from_tokens([]) if tokens is None else tokens
    return Part(kind=kind, text=f"[{len(tokens)} soft tokens]", tokens=tokens)


def _span_bytes(made: tuple[CandidateSpan, str]) -> int:
    span, text = made
    return 4 * len(text) + span.sequence.token_ids.nbytes


def _item_bytes(made: tuple[tuple[CandidateSpan | None, ...], str]) -> int:
    spans, text = made
    return 4 * len(text) + sum(span.sequence.token_ids.nbytes for span in spans if span is not None)


def _length(parts: Sequence[Part]) -> int:
    return sum(len(part.tokens) for part in parts)
