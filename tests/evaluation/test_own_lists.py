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
from reranker.pipeline.pricing import price_lists
from reranker.rules import ItemColumns, Rules
from tests.pipeline import toys
from tests.pipeline.test_own_features import served_lists
from tests.pipeline.test_own_vectors import silent, tasteful


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
    assert report.ladder.left_out == {"encoder": "nobody asked for it", "llm": "nobody asked for it"}
    assert "recall@8 1.0000" in report.summary()


def test_the_price_of_rules_is_told_of_lists_that_were_served():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    rules = Rules.from_mapping({"exclude": {"items": [chosen["item_id"].iloc[0]]}})
    report = judge_lists(words(), data, OwnLists.of(data, [(lists, chosen)]), ("first_stage", "lexical"), rules=rules)
    assert list(report.rules) == ["first_stage", "lexical"]
    as_they_came, by_words = report.rules.values()
    assert as_they_came.order == "first_stage" and by_words.order == "baseline"
    assert as_they_came.without == pytest.approx(np.mean(1 / np.log2(np.arange(2, 10))))
    assert as_they_came.gain.mean == pytest.approx(as_they_came.under - as_they_came.without) and by_words.gain.mean < 0
    assert f"first_stage: {as_they_came.summary()}" in report.summary().splitlines()
    assert report.to_json()["rules"]["lexical"]["under"] == by_words.under


def test_the_price_on_lists_by_hand():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    windows = OwnLists.of(data, [(lists, chosen)]).windows
    every = Rules.from_mapping({"exclude": {"items": sorted(set(chosen["item_id"]))}})
    price = price_lists(windows, every, ItemColumns(data.items))
    assert price.under == 0 and price.gain.mean == pytest.approx(-np.mean(1 / np.log2(np.arange(2, 10))))
    nothing = price_lists(windows, Rules.from_mapping({}), ItemColumns(data.items))
    assert nothing.gain.mean == 0 and nothing.under == nothing.without


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


CHEAP = ("first_stage", "baseline", "lexical")


def test_columns_of_the_lists_that_are_asked_for_count_and_others_are_named():
    data, lists, chosen = served_lists()
    lists = lists.assign(
        shelf=np.where(np.arange(len(lists)) % 3, "top", "low"), link=[f"l{n}" for n in range(len(lists))]
    )
    reports = {
        features: judge_lists(words(), data, OwnLists.of(data, [(lists, chosen)], features), CHEAP)
        for features in ((), ("ctr",), ("ctr", "candidates.shelf"))
    }
    ndcg = {asked: {rung.name: rung.ndcg for rung in one.ladder.rungs}["baseline"] for asked, one in reports.items()}
    assert ndcg[("ctr",)] > ndcg[()] + 0.05
    assert reports[()].own is None
    assert reports[("ctr",)].own.features == ("candidates.ctr",)
    assert reports[("ctr",)].own.gain.low > 0
    assert "candidates.shelf=top" in reports[("ctr", "candidates.shelf")].own.features
    assert [list(one.unused) for one in reports.values()] == [
        ["candidates.ctr", "candidates.shelf"],
        ["candidates.shelf"],
        [],
    ]
    assert "columns that could be features (--features): candidates.shelf" in reports[("ctr",)].summary()
    assert "own features are used: +" in reports[("ctr",)].summary()
    assert reports[("ctr",)].to_json()["own"]["features"] == ["candidates.ctr"]


def test_a_column_of_the_lists_is_asked_of_every_window_and_no_outcome():
    data, lists, chosen = served_lists()
    bare = lists.drop(columns="ctr")
    with pytest.raises(DataError, match="table 'candidates' number 2 of 2 lacks the column 'ctr'"):
        OwnLists.of(data, [(lists, chosen), (bare, chosen)], ["ctr"])
    with pytest.raises(ConfigError, match="no table has a column 'ctr'"):
        OwnLists.of(data, [(bare, chosen)], ["ctr"])
    data, leaking, chosen = served_lists(leak=True)
    with pytest.raises(DataError, match=r"candidates.ctr \(AUC 1.000\) tells almost without fail"):
        judge_lists(words(), data, OwnLists.of(data, [(leaking, chosen)], ["ctr"]), CHEAP)


def test_own_columns_count_in_each_of_several_windows():
    """Choices are random but for the columns: the first says those of the older window, the second the newer ones."""
    data = toys.random_dataset(users=120)
    items, rng = data.items["item_id"].to_numpy(), np.random.default_rng(3)
    pairs = []
    for window in (0, 1):
        lists, chosen = [], []
        for user in data.interactions["user_id"].unique():
            seen = data.interactions.loc[data.interactions["user_id"] == user, "item_id"]
            listed = rng.permutation(np.setdiff1d(items, seen))[:8].tolist()
            said = rng.standard_normal((2, 8))
            target = int(np.argmax(said[window] + 0.5 * rng.standard_normal(8)))
            lists += [
                {"user_id": user, "item_id": item, "rank": place + 1, "older": said[0, place], "newer": said[1, place]}
                for place, item in enumerate(listed)
            ]
            chosen.append({"user_id": user, "item_id": listed[target], "timestamp": 10_000 * (window + 1)})
        pairs.append((pd.DataFrame(lists), pd.DataFrame(chosen)))
    interactions = pd.concat([data.interactions, *(chosen for _, chosen in pairs)], ignore_index=True)
    grown = Dataset(interactions=interactions, items=data.items, domain=data.domain)

    def baseline(few, columns):
        report = judge_lists(words(), grown, OwnLists.of(grown, few, columns), CHEAP)
        assert report.own is not None and report.own.gain.n == 120  # a user counts once
        return report.windows, report.own.gain.low > 0, report.ladder.rungs[1].ndcg

    windows, gains, both = baseline(pairs, ["older", "newer"])
    assert (windows, gains) == (2, True)
    newest, newest_gains, one = baseline(pairs[1:], ["older", "newer"])
    assert (newest, newest_gains) == (1, True)
    assert one > both + 0.05  # over both windows, each column is right half of the time
    assert baseline(pairs, ["older"])[2] < both  # it says nothing of the newer window


def test_item_vectors_are_judged_on_the_lists():
    def blurred(items):
        vectors, rng = tasteful(items), np.random.default_rng(1)
        return vectors.assign(vector=[(np.array(one) + 0.5 * rng.normal(size=8)).tolist() for one in vectors["vector"]])

    data = silent(blurred)
    report = judge_lists(words(), data, OwnLists.of(data, [served(data)]), ("first_stage", "baseline", "lexical"))
    # The interactions know the taste that the vectors carry, so nothing is left to add.
    assert report.own is None and report.own_vectors.gain.mean == 0
    assert "item vectors are not used: +0.0000" in report.summary()
    assert report.to_json()["own_vectors"] == report.own_vectors.to_json()


def test_trees_are_judged_on_the_lists():
    pytest.importorskip("lightgbm")
    data, lists, chosen = served_lists()
    own = OwnLists.of(data, [(lists, chosen)], ["ctr"])
    report = judge_lists(words(ranker="gradient_boosted"), data, own, CHEAP)
    assert list(report.trees) == ["baseline", "lexical"]
    assert all(verdict.used for verdict in report.trees.values())
    assert list(report.to_json()["trees"]) == ["baseline", "lexical"]
    assert report.summary().count("gradient-boosted trees") == 2
    assert not judge_lists(words(), data, own, CHEAP).trees


def test_lists_of_nobody_who_chose_are_refused():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    with pytest.raises(DataError, match=r"1 of 1 users have no list .*'nobody', so .*There are lists of 'u\d+'"):
        OwnLists.of(data, [(lists, chosen.assign(user_id="nobody"))])
    upper = chosen.assign(user_id=chosen["user_id"].str.upper())
    with pytest.raises(DataError, match=r"Written otherwise they are known: 'U\d+' here is 'u\d+' there"):
        OwnLists.of(data, [(lists, upper)])
    with pytest.raises(DataError, match="no lists to judge"):
        OwnLists.of(data, [])


def test_users_who_chose_and_had_no_list_are_named():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    item = chosen["item_id"].iloc[0]
    more = pd.DataFrame({"user_id": ["zz1", "zz1", "zz2"], "item_id": item, "timestamp": chosen["timestamp"].max()})
    found = OwnLists.of(data, [(lists, pd.concat([chosen, more], ignore_index=True))])
    assert (found.without_list, found.examples) == (2, ("zz1", "zz2"))
    llm = words()
    said = judge_lists(llm, data, found, rungs=("first_stage",)).summary()
    assert "2 users who chose something and had no list, for instance 'zz1', 'zz2'" in said


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
    own = ("--candidates", tmp_path / "lists.parquet", "--held-out", tmp_path / "chosen.parquet")
    (tmp_path / "rules.yaml").write_text(f"exclude: [{{items: [{chosen['item_id'].iloc[0]}]}}]\n")
    flags = ("--systems", "first_stage,baseline,lexical", "--out", tmp_path / "judged")
    flags = (*flags, "--rules", tmp_path / "rules.yaml")
    done = invoke("evaluate", *tables, *own, *flags)
    assert done.exit_code == 0, done.output
    assert "32 texts as words" in done.output
    assert "your first stage: recall@8 1.0000" in done.output
    assert "first_stage: exclude after scoring: -" in done.output and "lexical: exclude after" in done.output
    assert json.loads((tmp_path / "judged" / "lists.json").read_text())["users"] == 48
    with pytest.raises(ConfigError, match="--candidates was given 1 times and --held-out 0 times"):
        invoke("evaluate", *tables, *own[:2])
    with pytest.raises(ConfigError, match="--candidates does not read --generator"):
        invoke("evaluate", *tables, *own, "--generator", "als")


def test_the_command_takes_columns_of_lists_and_users(tmp_path):
    data, lists, chosen = served_lists()
    users = pd.DataFrame({"user_id": data.interactions["user_id"].unique()})
    users = users.assign(segment=[f"s{number % 4}" for number in range(len(users))])
    tables = []
    for name, table in (
        ("interactions", data.interactions),
        ("items", data.items),
        ("users", users),
        ("candidates", lists.assign(other=np.arange(len(lists)) % 5)),
        ("held-out", chosen),
    ):
        table.to_parquet(tmp_path / f"{name}.parquet")
        tables += [f"--{name}", tmp_path / f"{name}.parquet"]
    done = invoke("evaluate", *tables, "--systems", "baseline,lexical", "--features", "ctr, users.segment")
    assert done.exit_code == 0, done.output
    assert "own features are used: +" in done.output
    assert "columns that could be features (--features): candidates.other" in done.output
    with pytest.raises(ConfigError, match="--features and the table of --users go with --candidates"):
        invoke("evaluate", *tables[:4], "--features", "ctr", "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match="ranker"):
        invoke("evaluate", *tables, "--ranker", "forest")
