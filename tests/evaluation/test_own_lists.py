"""Lists of the user's own, judged: recall, every rung, windows that see nothing later, and the plan before it."""

import json

import numpy as np
import pandas as pd
import pytest
import typer.testing

from reranker import Dataset, Reranker
from reranker.cli.app import app
from reranker.config import RerankerConfig
from reranker.errors import ConfigError, DataError
from reranker.evaluation import plan as plans
from reranker.evaluation.own_lists import OwnLists, judge_lists
from reranker.evaluation.plan import plan, plan_table, require_packages
from tests.pipeline import toys


def served(data, window=0, size=8):
    """Every user's next choice of the taste, and a list in which it stands at a place that turns with the user."""
    rng = np.random.default_rng(window)
    lists, chosen = [], []
    items = data.items["item_id"].tolist()
    for number, user in enumerate(data.interactions["user_id"].unique()):
        seen = set(data.interactions.loc[data.interactions["user_id"] == user, "item_id"])
        taste = next(iter(seen))[:2]
        own = [item for item in items if item.startswith(taste) and item not in seen]
        others = [item for item in items if not item.startswith(taste)]
        target = own[window]
        listed = rng.permutation(others)[: size - 1].tolist()
        listed.insert(number % size, target)
        lists += [{"user_id": user, "item_id": item, "rank": rank} for rank, item in enumerate(listed, start=1)]
        chosen.append({"user_id": user, "item_id": target, "timestamp": 10_000 * (window + 1)})
    return pd.DataFrame(lists), pd.DataFrame(chosen)


def words(**settings):
    return Reranker.from_pretrained("untrained", engine="lexical", scorer="embedding", **settings)


def test_recall_and_every_rung_are_told_of_lists_as_they_were_served():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    report = judge_lists(words(), data, OwnLists.of(data, [(lists, chosen)]), ("first_stage", "baseline", "lexical"))
    assert (report.users, report.windows) == (48, 1)
    assert report.recall == {"recall@8": 1.0}
    by_name = {rung.name: rung for rung in report.ladder.rungs}
    # Places 1 to 8 alike: the mean of 1 / log2(1 + place).
    assert by_name["first stage"].ndcg == pytest.approx(np.mean(1 / np.log2(np.arange(2, 10))))
    assert by_name["lexical"].ndcg > 0.9
    assert "llm" not in by_name
    assert "recall@8 1.0000" in report.summary()


def test_who_chose_nothing_or_had_no_list_is_left_out_and_counted():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    own = OwnLists.of(data, [(lists[lists["user_id"] != "u1"], chosen[~chosen["user_id"].isin(["u2", "u3"])])])
    assert (own.without_choice, own.without_list) == (2, 1)
    assert len(own.windows[0].users) == 45


def test_missed_choices_count_in_recall():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    missed = chosen["user_id"].isin([f"u{user}" for user in range(12)])
    lists = lists[~(lists["user_id"].isin(chosen.loc[missed, "user_id"]) & lists["item_id"].isin(chosen["item_id"]))]
    shares = OwnLists.of(data, [(lists, chosen)]).recall()
    assert shares["recall@8"] == pytest.approx(36 / 48)


def test_an_older_window_sees_nothing_of_a_newer_one():
    data = toys.taste_dataset(users=48)
    older, newer = served(data, 0), served(data, 1)
    interactions = pd.concat([data.interactions, older[1], newer[1]], ignore_index=True)
    grown = Dataset(interactions=interactions, items=data.items, domain=data.domain)
    windows = OwnLists.of(grown, [older, newer]).windows
    assert [len(window.known) for window in windows] == [len(interactions) - 48, len(interactions) - 96]


def test_lists_of_nobody_who_chose_are_refused():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    with pytest.raises(DataError, match="chose anything afterwards"):
        OwnLists.of(data, [(lists, chosen.assign(user_id="nobody"))])
    with pytest.raises(DataError, match="no lists to judge"):
        OwnLists.of(data, [])


def test_a_plan_names_what_is_read_and_what_is_missing(monkeypatch):
    monkeypatch.setattr(plans, "find_spec", lambda name: None if name in ("lightgbm", "torch") else object())
    config = RerankerConfig(scorer="embedding")
    planned = plan(("first_stage", "gradient_boosted", "lexical", "llm", "fused"), config, 4140, 100)
    by_name = {one.name: one for one in planned}
    assert by_name["first_stage"].reads == ""
    assert by_name["llm"].minutes == pytest.approx(4140 / 23 / 60)
    assert by_name["fused"].minutes == 0  # the same texts
    assert by_name["gradient_boosted"].missing == ("lightgbm",)
    assert "MISSING torch: pip install 'reranker[torch]'" in plan_table(planned)
    with pytest.raises(ConfigError, match=r"nothing was run: gradient_boosted needs lightgbm .*; llm needs torch"):
        require_packages(planned)
    require_packages(planned[:1])


def invoke(*arguments):
    return typer.testing.CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_the_command_prints_the_plan_and_the_report(tmp_path):
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    data.interactions.to_parquet(tmp_path / "i.parquet")
    data.items.to_parquet(tmp_path / "items.parquet")
    lists.to_parquet(tmp_path / "lists.parquet")
    chosen.to_parquet(tmp_path / "chosen.parquet")
    tables = ("--interactions", tmp_path / "i.parquet", "--items", tmp_path / "items.parquet")
    own = ("--lists", tmp_path / "lists.parquet", "--held-out", tmp_path / "chosen.parquet")
    flags = ("--systems", "first_stage,baseline,lexical", "--out", tmp_path / "judged")
    done = invoke("evaluate", *tables, *own, *flags)
    assert done.exit_code == 0, done.output
    assert "32 texts as words" in done.output
    assert "your first stage: recall@8 1.0000" in done.output
    assert json.loads((tmp_path / "judged" / "lists.json").read_text())["users"] == 48
    with pytest.raises(ConfigError, match="--lists was given 1 times and --held-out 0 times"):
        invoke("evaluate", *tables, *own[:2])
    with pytest.raises(ConfigError, match="leave --generator and --split out"):
        invoke("evaluate", *tables, *own, "--generator", "als")
