"""The demo on a small world: what it holds out, what it counts, what it says."""

import json

import pandas as pd
import pytest

from reranker import Reranker
from reranker.cli.demo_run import run_demo
from tests.pipeline import toys

pytest.importorskip("pytrec_eval")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    data = toys.taste_dataset(users=120, per_group=15)
    lines: list[str] = []
    result = run_demo(
        data, out, lines.append, users=80, progress=False, engine="scripted", prompt=toys.PROMPT, soft_tokens=0
    )
    return data, out, lines, result


def test_new_items_and_last_choices_are_hidden_from_the_fit(shown):
    data, out, _, result = shown
    new = set(result.new.lists["item_id"])
    assert len(new) == len(data.items) // 10
    assert not new & set(result.known.lists["item_id"])
    bundle = Reranker.load(out / "bundle")
    for user, target in result.known.targets.items():
        assert target not in bundle.history(user)
    assert not new & {item for user in bundle.user_ids for item in bundle.history(user)}
    assert new <= set(bundle.item_ids)  # added by their texts


def test_every_new_item_list_holds_the_chosen_item_once(shown):
    _, _, _, result = shown
    lists = result.new.lists
    hits = lists[lists["item_id"] == lists["user_id"].map(result.new.targets)]
    assert hits["user_id"].is_unique and set(hits["user_id"]) == set(lists["user_id"])
    assert not lists.duplicated(["user_id", "item_id"]).any()


def test_words_find_the_taste_of_new_items(shown):
    _, _, _, result = shown
    assert result.new.gain("words", "first stage").low > 0


def test_the_summary_is_what_was_measured(shown):
    _, out, lines, result = shown
    summary = json.loads((out / "summary.json").read_text())
    for part, name in ((result.known, "known_users"), (result.new, "new_items")):
        assert summary[name]["systems"]["words"]["ndcg@10"] == part.per_user["words"]["ndcg@10"].mean()
        gain = summary[name]["gains"]["words over baseline"]
        assert gain["low"] <= gain["mean"] <= gain["high"]
    assert len(summary["new_user"]["likes"]) == 3
    assert {len(titles) for titles in summary["new_user"]["lists"].values()} == {5}
    ranked = pd.read_parquet(out / "ranked.parquet")
    candidates = pd.read_parquet(out / "candidates.parquet")
    assert sorted(zip(ranked["user_id"], ranked["item_id"], strict=True)) == sorted(
        zip(candidates["user_id"], candidates["item_id"], strict=True)
    )
    text = "\n".join(lines)
    for said in ("KNOWN USERS", "NEW ITEMS", "A NEW USER", "from words of the titles", "from the LLM", "guard:"):
        assert said in text
    assert max(map(len, text.splitlines()[:-20])) <= 200
