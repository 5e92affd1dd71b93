"""Rules in `Reranker.rerank` and in offline runs."""

import json

import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.batch import OfflineRun
from reranker.errors import ConfigError
from reranker.rules import Rules
from tests.pipeline import toys

LISTS = toys.lists_for([f"u{user}" for user in range(6)], ["g0i0", "g0i1", "g1i0", "g2i0", "g3i0"])
RULES = Rules.from_mapping(
    {
        "exclude": {"items": ["g1i0"]},
        "pin": {"item": "g3i0", "place": 2},
        "quotas": {"where": {"title": "no such title"}, "at_least": 1, "first": 3},
    }
)


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(scorer="baseline")


def test_rules_come_after_the_scores(reranker):
    plain = toys.in_order(reranker.rerank(LISTS, order="baseline").to_frame())
    ranked = reranker.rerank(LISTS, order="baseline", rules=RULES)
    for user, items in toys.in_order(ranked.to_frame()).items():
        rest = [item for item in plain[user] if item not in ("g1i0", "g3i0")]
        assert items == [rest[0], "g3i0", *rest[1:]]
    assert (ranked.rules.excluded, ranked.rules.pinned) == (6, 6)
    assert ranked.rules.unmet == {"at least 1 of title no such title in the first 3": 6}
    assert ranked.report.candidates == 30
    assert reranker.rerank(LISTS).rules is None


def test_k_counts_what_is_left(reranker):
    ranked = reranker.rerank(LISTS, 2, order="first_stage", rules=RULES).to_frame()
    assert ranked.groupby("user_id").size().eq(2).all()
    assert ranked[ranked["rank"] == 2]["item_id"].eq("g3i0").all()
    assert (ranked["score"].diff()[ranked["rank"] > 1] <= 0).all()


def test_a_user_without_an_item_left_has_no_row(reranker):
    only = Rules.from_mapping({"exclude": {"items": LISTS["item_id"].unique().tolist()}})
    ranked = reranker.rerank(LISTS, rules=only)
    assert len(ranked) == 0
    assert ranked.rules.emptied == 6


def test_unknown_columns_are_refused_before_anything_is_read(reranker):
    with pytest.raises(ConfigError, match="no column 'brand'; it has title"):
        reranker.rerank(LISTS, rules=Rules.from_mapping({"caps": {"column": "brand", "most": 1}}))


def test_an_offline_run_keeps_the_rules_and_counts_over_its_parts(reranker, tmp_path):
    reranker.save(tmp_path / "bundle")
    LISTS.to_parquet(tmp_path / "lists.parquet")
    settings = {"bundle": tmp_path / "bundle", "candidates": tmp_path / "lists.parquet", "out": tmp_path / "out"}
    run = OfflineRun(**settings, order="baseline", rules=RULES, part_users=4)
    summary = run.run(reranker=reranker)
    whole = reranker.rerank(LISTS, order="baseline", rules=RULES)
    assert summary["rules"] == json.loads(json.dumps(whole.rules.to_json()))
    assert (summary["ranked"], summary["written"]) == (30, 24)
    parts = [pd.read_parquet(path) for path in sorted((tmp_path / "out" / "ranking").iterdir())]
    assert toys.in_order(pd.concat(parts)) == toys.in_order(whole.to_frame())
    with pytest.raises(Exception, match="rules"):
        OfflineRun(**settings, order="baseline", part_users=4).run(resume=True)


def test_calibration_goes_by_the_history_that_counts():
    data = toys.taste_dataset()
    items = data.items.assign(category=data.items["item_id"].str[:2])
    data = Dataset(interactions=data.interactions, items=items, domain="toy")
    generator = PopularityGenerator().fit(data.interactions)
    reranker = Reranker(toys.config(scorer="baseline")).fit(data, generator)
    rules = Rules.from_mapping({"calibration": {"strength": 1, "first": 1}})
    ranked = reranker.rerank(LISTS, rules=rules)
    first = {user: found[0] for user, found in toys.in_order(ranked.to_frame()).items()}
    assert {user: item[:2] for user, item in first.items()} == {f"u{user}": f"g{user % 4}" for user in range(6)}
    mine = LISTS[LISTS["user_id"] == "u0"]
    newer = reranker.rerank(mine, interactions={"u0": ["g3i1"]}, rules=rules)
    assert toys.in_order(newer.to_frame())["u0"][0] == "g3i0" and newer.rules.uncalibrated == 0
    assert reranker.rerank(mine, interactions={"u0": []}, rules=rules).rules.uncalibrated == 1


EVERYTHING = Rules.from_mapping({"exclude": {"where": {"item_kind": "any"}}})
NOTHING = Rules.from_mapping({"boost": {"where": {"item_kind": "none"}, "by": 2}})


def priced(rules, **settings):
    """Fitted on lists of one kind of items, with the price of rules."""
    data = toys.taste_dataset()
    data = Dataset(interactions=data.interactions, items=data.items.assign(item_kind="any"), domain="toy")
    config = toys.config(n_candidates=32, **{"scorer": "baseline", **settings})
    reranker = Reranker(config).fit(data, PopularityGenerator().fit(data.interactions), rules=rules)
    return reranker, reranker.fusion_model.rules


@pytest.mark.parametrize(
    "settings", [{}, {"scorer": "embedding", "engine": "lexical", "soft_tokens": 0, "fit_users": 20}]
)
def test_the_price_of_rules_is_told_of_the_order_that_is_served(settings):
    reranker, price = priced(EVERYTHING, **settings)
    model = reranker.fusion_model
    assert price.order == model.guard.serve != "first_stage"
    assert price.without > 0.2
    assert price.under == 0
    assert price.gain.mean == pytest.approx(-price.without) and price.gain.high < 0
    assert price.gain.n == len(model.validation["baseline"])
    assert not model.scores
    _, price = priced(NOTHING, **settings)
    assert price.gain.mean == 0 and price.under == price.without
    assert "matched no candidate: boost item_kind none" in price.summary()


def test_without_reading_a_sample_the_price_is_over_what_the_guard_measured():
    reranker, price = priced(NOTHING)
    model = reranker.fusion_model
    assert model.guard.holds_for(model.judged.n_known).all()
    assert price.without == pytest.approx(model.validation[price.order].mean())


def test_a_bundle_keeps_the_price(tmp_path):
    reranker, price = priced(EVERYTHING)
    reranker.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    assert loaded.fusion_model.rules == price
    assert priced(None)[1] is None
    with pytest.raises(ConfigError, match="brand"):
        priced(Rules.from_mapping({"caps": {"column": "brand", "most": 1}}))
