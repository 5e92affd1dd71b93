"""How many texts were cut and how many read alike is counted as the prompts cut them."""

from reranker.engines.scripted import ScriptedEngine
from reranker.prompting.settings import PromptSettings
from reranker.prompting.text_report import TextReport

SETTINGS = PromptSettings(title_tokens=12, category_tokens=12, description_tokens=0, text_tokens=24)


def report(*items, alone=False):
    return TextReport.of(items, SETTINGS, ScriptedEngine().tokenizer, alone=alone)


def test_cut_and_alike_texts_are_counted():
    common = "one common beginning of "
    found = report(
        {"title": f"{common} pencils", "description": "unread"},
        {"title": f"{common} pens", "category": None},
        {"title": "short"},
        {"title": "short", "category": "other"},
    )
    assert (found.items, dict(found.cut), dict(found.unread), found.alike) == (4, {"title": 2}, {"description": 1}, 1)
    assert found.example and common.startswith(found.example)
    assert found.summary() == (
        f"texts of 4 items: 2 title texts are cut; 1 description texts are not read; 1 items read like another one "
        f"(such as {found.example!r})"
    )


def test_an_item_read_alone_has_its_own_budget_and_nothing_is_said_of_whole_texts():
    items = [{"title": "a title of 20 bytes."}, {"title": "other"}]
    assert report(*items).cut == {"title": 1}
    assert report(*items, alone=True).summary() == ""
