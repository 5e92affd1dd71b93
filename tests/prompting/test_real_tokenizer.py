"""The default model's own tokenizer: what a byte tokenizer cannot show."""

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.errors import PromptError
from reranker.prompting import PromptRenderer, PromptSettings, clean_text, families
from reranker.prompting.text import cut_to_tokens
from reranker.protocols import Tokenizer

pytestmark = pytest.mark.model

CHAT_TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@lru_cache
def tokenizer() -> Tokenizer:
    from reranker.engines.loading import HubTokenizer
    from reranker.hub import resolve_model

    return HubTokenizer(resolve_model("smollm2-135m").path)


@lru_cache
def renderer(family: str = "movies") -> PromptRenderer:
    return PromptRenderer.from_settings(PromptSettings(family=family, history_tokens=1000), tokenizer())


@lru_cache
def special_ids() -> frozenset[int]:
    from transformers import AutoTokenizer

    from reranker.hub import resolve_model

    ids = AutoTokenizer.from_pretrained(resolve_model("smollm2-135m").path).all_special_ids
    assert len(ids) >= len(CHAT_TOKENS)
    return frozenset(ids)


@settings(deadline=None)
@given(st.lists(st.sampled_from([*CHAT_TOKENS, "<|", "|>", "im_start", "system", "\n- fake", "{{ 7*7 }}"]) | st.text()))
def test_no_title_gives_a_special_token_or_moves_a_boundary(pieces: list[str]) -> None:
    title = "".join(pieces)
    items = [{"title": title, "category": title}]
    prompt = renderer().likelihood(items, items, query=title)
    (span,) = prompt.request.candidates
    ids = span.sequence.token_ids.tolist()
    newline, separator = tokenizer().encode("\n"), tokenizer().encode("\n-")
    assert not special_ids() & {*ids, *prompt.request.prefix.token_ids.tolist()}
    assert ids[: span.scored_from] == separator
    assert ids[-1:] == newline
    assert 1 <= len(ids) - len(separator) - 1 <= 16


@settings(deadline=None)
@given(
    st.lists(
        st.text(min_size=1) | st.sampled_from(["Dry", "Erase", "Markers,", "银河铁道之夜", "👨\u200d👩\u200d👧"]),
        min_size=1,
    ),
    st.text(),
    st.integers(1, 48),
)
def test_texts_that_are_equal_up_to_the_cut_are_cut_alike(pieces: list[str], other: str, limit: int) -> None:
    text = clean_text(" ".join(pieces))
    cut = cut_to_tokens(text, limit, tokenizer())
    assert text.startswith(cut)
    assert not cut or len(tokenizer().encode(f" {cut}")) <= limit
    assert cut_to_tokens(cut, limit, tokenizer()) == cut
    end = text.find(" ", len(cut) + 1)
    if len(cut) < len(text):
        changed = clean_text((text if end < 0 else text[:end]) + " " + other)
        assert cut_to_tokens(changed, limit, tokenizer()) == cut


def test_a_title_of_an_office_product_is_cut_between_words() -> None:
    title = "EXPO Low-Odor Dry Erase Markers, Chisel Tip, Assorted Colors, 8-Count, with Magnetic Eraser and Spray"
    cuts = [cut_to_tokens(title, limit, tokenizer()) for limit in range(1, 40)]
    assert cuts[-1] == title
    assert all(title.startswith(cut) and title[len(cut) :][:1] in ("", " ") for cut in cuts[2:])
    assert [len(cut) for cut in cuts] == sorted(len(cut) for cut in cuts)


def test_the_terminator_is_how_the_next_separator_begins() -> None:
    # So a title that ends is followed by the same token in the history and in the scored span.
    separator = tokenizer().encode("\n-")
    assert separator[: len(separator) - 1] == tokenizer().encode("\n")


@pytest.mark.parametrize("family", list(families()))
def test_labels_are_single_tokens_in_every_english_family(family: str) -> None:
    yes, no = renderer(family).label_token_ids()
    assert (tokenizer().decode([yes]), tokenizer().decode([no])) == (" yes", " no")


@pytest.mark.parametrize("family", list(families()))
def test_the_likelihood_text_tokenises_the_same_in_one_piece(family: str) -> None:
    # Pieces are tokenised apart for safety; for ordinary titles the model must not notice.
    history = [{"title": "Blade Runner (1982)", "category": "Sci-Fi"}, {"title": "Brazil"}]
    prompt = renderer(family).likelihood(history, [{"title": "The Fifth Element"}])
    ids = [*prompt.request.prefix.token_ids, *prompt.request.candidates[0].sequence.token_ids]
    text = "".join(span.text for span in prompt.spans) + prompt.candidate_texts[0]
    assert [int(token) for token in ids] == tokenizer().encode(text)


def test_chinese_labels_are_refused_for_a_model_that_splits_them() -> None:
    chinese = PromptRenderer.from_settings(PromptSettings(language="zh"), tokenizer())
    with pytest.raises(PromptError, match="label '否' is 2 tokens"):
        chinese.label_token_ids()


def test_a_hundred_listwise_labels() -> None:
    ids = renderer().listwise_label_ids(100)
    assert len(set(ids)) == 100
    assert tokenizer().decode([ids[0]]) == "A"
