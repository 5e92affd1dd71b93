"""Rules over ranked lists: what is excluded, pinned, pushed, capped, owed and told."""

import json
from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.errors import ConfigError
from reranker.rules import ItemColumns, Rules, RulesReport, apply_rules, read_rules

NOW = datetime(2026, 3, 31, tzinfo=UTC)
ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e", "f"],
        "title": ["red tape", "red tape", "red tape", "blue rope", "green cup", "old cup"],
        "category": ["tape", "tape", "tape, gift", "rope", "cup", "cup"],
        "brand": ["Acme", "Acme", "Acme", "Best", None, "Best"],
        "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "added": ["2026-01-01", "2026-01-01", "2025-01-01", "2026-03-20", "2026-03-25", None],
    }
)


def ranked(scores=(6.0, 5.0, 4.0, 3.0, 2.0, 1.0), user="u", items="abcdef"):
    n = len(scores)
    return pd.DataFrame({"user_id": [user] * n, "item_id": list(items), "score": scores, "rank": range(1, n + 1)})


def ruled(rules, lists=None, items=ITEMS):
    return apply_rules(ranked() if lists is None else lists, Rules.from_mapping(rules), ItemColumns(items), NOW)


def shown(rules, lists=None):
    return "".join(ruled(rules, lists).ranked["item_id"])


def test_no_rules_change_nothing():
    result = ruled({})
    pd.testing.assert_frame_equal(result.ranked, ranked())
    assert result.report.to_json() == {"lists": 1, "excluded": 0, "pinned": 0, "boosted": 0, "moved": 0}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"exclude": {"items": ["a", "d"]}}, "bcef"),
        ({"exclude": {"where": {"brand": "Best"}}}, "abce"),
        ({"exclude": {"where": {"category": "gift"}}}, "abdef"),
        ({"exclude": {"where": {"price": {"at_least": 2, "at_most": 4}}}}, "aef"),
        ({"exclude": {"where": {"price": 3}}}, "abdef"),
        ({"exclude": {"where": {"added": {"at_most": "2026-01-01"}}}}, "def"),
        ({"exclude": {"where": {"added": {"within_days": 10}}}}, "abcdf"),
        ({"exclude": [{"items": "a"}, {"where": {"brand": ["Best"], "category": "cup"}}]}, "bcde"),
        ({"pin": {"item": "f", "place": 1}}, "fabcde"),
        ({"pin": [{"item": "a", "place": 6}, {"item": "f", "place": 2}]}, "bfcdea"),
        ({"caps": {"column": "brand", "most": 1, "first": 3}}, "adebcf"),
        ({"caps": {"column": "category", "most": 2, "first": 6}}, "abdefc"),
        ({"quotas": {"where": {"category": "cup"}, "at_least": 1, "first": 3}}, "abecdf"),
        ({"quotas": {"where": {"added": {"within_days": 30}}, "at_least": 2, "first": 2}}, "deabcf"),
        ({"caps": {"column": "brand", "most": 1, "first": 2}, "pin": {"item": "b", "place": 2}}, "dbacef"),
    ],
)
def test_places_worked_out_by_hand(rules, expected):
    assert shown(rules) == expected


def test_scores_stay_with_the_places_and_ranks_count_anew():
    result = ruled({"exclude": {"items": ["b"]}, "pin": {"item": "f", "place": 1}}).ranked
    assert result["item_id"].tolist() == ["f", "a", "c", "d", "e"]
    assert result["score"].tolist() == [6.0, 4.0, 3.0, 2.0, 1.0]
    assert result["rank"].tolist() == [1, 2, 3, 4, 5]


def test_a_boost_is_counted_in_standard_deviations_of_the_list():
    # of the scores 6..1 one is sqrt(35 / 12) = 1.7078, so .6 of it lifts e from 2 to 3.02, above d
    assert shown({"boost": {"where": {"price": 5}, "by": 0.6}}) == "abcedf"
    assert shown({"boost": {"where": {"price": 5}, "by": 0.5}}) == "abcdef"
    assert shown({"boost": {"where": {"brand": "Acme"}, "by": -3}}) == "defabc"
    result = ruled({"boost": [{"where": {"price": 5}, "by": 0.6}]})
    assert result.ranked["score"].tolist() == pytest.approx([6, 5, 4, 2 + 0.6 * (35 / 12) ** 0.5, 3, 1])
    assert (result.report.boosted, result.report.moved) == (1, 2)


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_diversity_parts_items_of_the_same_words(method):
    found = shown({"diversity": {"method": method, "strength": 0.6, "first": 3, "among": 6}})
    assert found[0] == "a"
    assert not {"b", "c"} & set(found[:3])
    assert shown({"diversity": {"method": method, "strength": 0}}) == "abcdef"


def test_what_cannot_be_met_is_named_with_the_lists_it_is_about():
    lists = pd.concat([ranked(), ranked((2.0, 1.0), user="v", items="ab")], ignore_index=True)
    rules = {
        "pin": {"item": "f", "place": 3},
        "caps": {"column": "brand", "most": 1, "first": 2},
        "quotas": {"where": {"price": {"at_least": 5}}, "at_least": 2, "first": 4},
    }
    report = ruled(rules, lists).report
    assert report.unmet == {
        "pin f at 3": 1,
        "at most 1 by brand in the first 2": 1,
        "at least 2 of price at_least 5 in the first 4": 1,
    }
    assert (report.pinned, report.lists) == (1, 2)
    assert report.without_value == {"brand": 1}
    assert "could not be met in 1 lists: pin f at 3" in report.summary()


def test_a_list_may_be_left_without_an_item():
    lists = pd.concat([ranked((2.0, 1.0), user="v", items="ab"), ranked()], ignore_index=True)
    result = ruled({"exclude": {"where": {"brand": "Acme"}}}, lists)
    assert result.ranked["user_id"].unique().tolist() == ["u"]
    assert (result.report.emptied, result.report.excluded) == (1, 5)


def test_what_matches_no_candidate_is_named():
    report = ruled({"exclude": [{"items": ["zz"]}, {"where": {"brand": "Acmee"}}]}).report
    assert report.without_effect == ("item zz", "exclude brand Acmee")


def test_ids_are_found_as_numbers_and_as_texts():
    items = pd.DataFrame({"item_id": [7, 8], "title": ["seven", "eight"]})
    lists = pd.DataFrame({"user_id": 1, "item_id": [7, 8], "score": [2.0, 1.0], "rank": [1, 2]})
    result = apply_rules(lists, Rules.from_mapping({"exclude": {"items": ["7"]}}), ItemColumns(items))
    assert result.ranked["item_id"].tolist() == [8]


def test_an_item_that_the_table_lacks_meets_no_condition():
    assert shown({"exclude": {"where": {"price": {"at_most": 2}}}}, ranked(items="axbcde")) == "xcde"


def test_quotas_keep_to_the_caps():
    rules = {
        "caps": {"column": "brand", "most": 1, "first": 3},
        "quotas": {"where": {"price": {"at_least": 2, "at_most": 3}}, "at_least": 1, "first": 3},
    }
    assert shown(rules)[:3] == "bde"  # b takes the brand's only place, so a may not stand there


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"exclude": {"where": {"brnad": "Acme"}}}, "no column 'brnad'.*brand"),
        ({"exclude": {"where": {"price": {"at_least": "2026-01-01"}}}}, "'price' holds numbers"),
        ({"exclude": {"where": {"added": {"at_least": 3}}}}, "'added' holds no numbers"),
        ({"exclude": {}}, "give items, or where"),
        ({"pin": [{"item": "a", "place": 1}, {"item": "b", "place": 1}]}, "two pins name the place 1"),
        ({"pin": {"item": "a", "place": 0}}, "pin.0.place"),
        ({"quotas": {"where": {"price": 1}, "at_least": 3, "first": 2}}, "more than there are"),
        ({"diversity": {"first": 20, "among": 10}}, "among 10 is less"),
        ({"exclude": {"where": {"price": {}}}}, "give at_least, at_most or within_days"),
        ({"boosts": []}, "Known keys: exclude, pin, boost, caps, quotas, diversity"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        ruled(rules)


def test_files_of_both_kinds(tmp_path):
    rules = {"exclude": [{"where": {"added": {"at_most": "2026-01-01"}}}]}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    (tmp_path / "rules.yaml").write_text("exclude:\n  - where: {added: {at_most: 2026-01-01}}\n")
    for name in ("rules.json", "rules.yaml"):
        result = apply_rules(ranked(), read_rules(tmp_path / name), ItemColumns(ITEMS), NOW)
        assert "".join(result.ranked["item_id"]) == "def"
    for name, text in (("none.yaml", None), ("list.yaml", "- 1"), ("bad.json", "{")):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            read_rules(tmp_path / name)


def test_reports_of_parts_add_up():
    first = ruled({"exclude": [{"items": ["a", "zz"]}], "caps": {"column": "brand", "most": 1, "first": 4}}).report
    second = RulesReport.from_json(json.loads(json.dumps(first.to_json())))
    joined = RulesReport.joined([first, RulesReport(), second])
    assert (joined.lists, joined.excluded) == (2, 2)
    assert joined.without_effect == ("item zz",)
    assert joined.unmet == {words: 2 * count for words, count in first.unmet.items()}


WHERE = st.sampled_from(
    [{"brand": "Acme"}, {"category": "cup"}, {"price": {"at_least": 3}}, {"added": {"within_days": 90}}]
)
RULES = st.fixed_dictionaries(
    {
        "exclude": st.lists(
            st.fixed_dictionaries({"items": st.lists(st.sampled_from("abcdef"), min_size=1)}), max_size=1
        ),
        "pin": st.lists(
            st.fixed_dictionaries({"item": st.sampled_from("abcdef"), "place": st.integers(1, 7)}),
            max_size=2,
            unique_by=(lambda pin: pin["item"], lambda pin: pin["place"]),
        ),
        "boost": st.lists(st.fixed_dictionaries({"where": WHERE, "by": st.floats(-2, 2)}), max_size=2),
        "caps": st.lists(
            st.fixed_dictionaries(
                {
                    "column": st.sampled_from(["brand", "category"]),
                    "most": st.integers(1, 3),
                    "first": st.integers(1, 7),
                }
            ),
            max_size=2,
        ),
        "quotas": st.lists(
            st.fixed_dictionaries({"where": WHERE, "at_least": st.integers(1, 2), "first": st.integers(2, 7)}),
            max_size=2,
        ),
        "diversity": st.none()
        | st.fixed_dictionaries({"method": st.sampled_from(["mmr", "dpp"]), "first": st.integers(1, 7)}),
    }
)


@given(RULES, st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_what_is_shown_is_what_remains_in_some_order(rules, scores):
    lists = ranked(sorted(scores, reverse=True))
    result = ruled(rules, lists)
    excluded = {item for rule in rules["exclude"] for item in rule["items"]}
    assert sorted(result.ranked["item_id"]) == sorted(set("abcdef") - excluded)
    assert result.ranked["rank"].tolist() == list(range(1, len(result.ranked) + 1))
    assert result.ranked["score"].is_monotonic_decreasing
    items = result.ranked["item_id"].tolist()
    for pin in rules["pin"]:
        holds = pin["place"] <= len(items) and items[pin["place"] - 1] == pin["item"]
        assert holds == (pin["item"] in items and pin["place"] <= len(items))


@given(st.permutations("abcdef"), st.integers(1, 6), st.integers(2, 3))
def test_a_cap_that_can_be_kept_is_kept(order, first, most):
    # two of a category fill five places: tape, gift, rope, and two cups; with first <= 3 there is always a way
    result = ruled({"caps": {"column": "brand", "most": most, "first": min(first, 3)}}, ranked(items=order))
    assert not result.report.unmet


def calibrated(history, lists=None, **settings):
    """The order of a list whose user chose these items; all scores are equal by default."""
    lists = ranked((1.0,) * 6) if lists is None else lists
    rules = Rules.from_mapping({"calibration": {"first": 2, **settings}})
    return apply_rules(lists, rules, ItemColumns(ITEMS), NOW, history=lambda user: history)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ("ef", "efabcd"),  # cups alone: both cups
        ("ad", "adbcef"),  # half tape, half rope: one of each
        ("aad", "adbcef"),  # two thirds tape: the first is tape; then KL is 0.056 with the rope, 1.32 with another tape
        ("c", "cabdef"),  # half tape, half gift: c alone is both
    ],
)
def test_calibration_fills_places_in_the_mix_of_the_history(history, expected):
    assert "".join(calibrated(history).ranked["item_id"]) == expected


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.0, "abcdef"),
        (0.1, "abcdef"),  # a: 0.9 - 0.1 ln 100 = 0.44, e: 0.9 * 0.2 = 0.18
        (0.5, "eabcdf"),  # a: 0.5 - 2.3, e: 0.1; then a: 0.5 + 0.5 ln 0.505 = 0.16, f: 0
        (0.8, "efabcd"),  # then a: 0.2 + 0.8 ln 0.505 = -0.35, f: 0
    ],
)
def test_calibration_weighs_the_mix_against_the_scores(strength, expected):
    """Scores fall evenly from 1 to 0; e and f, at 0.2 and 0, are the cups of the history."""
    assert "".join(calibrated("ef", ranked(), strength=strength).ranked["item_id"]) == expected


def test_lists_without_a_history_stay_and_are_counted():
    result = calibrated("", ranked())
    assert "".join(result.ranked["item_id"]) == "abcdef" and result.report.uncalibrated == 1
    assert "1 lists are not calibrated" in result.report.summary()
    assert calibrated(["nobody knows it"], ranked()).report.uncalibrated == 1
    assert RulesReport.from_json(json.loads(json.dumps(result.report.to_json()))) == result.report
    assert RulesReport.joined([result.report, result.report]).uncalibrated == 2


def test_diversity_and_calibration_fill_the_same_places():
    with pytest.raises(ConfigError, match="give one of them"):
        Rules.from_mapping({"diversity": {}, "calibration": {}})
    with pytest.raises(ConfigError, match="less than the 10 places"):
        Rules.from_mapping({"calibration": {"among": 5}})
    with pytest.raises(ConfigError, match="no column 'maker'"):
        calibrated("a", by="maker")
