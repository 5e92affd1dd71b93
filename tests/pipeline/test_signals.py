"""From events to a served order and back: targets, repeats, dislikes as features, bundles, refreshes, exports."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.data.signals import Signals
from reranker.errors import BundleError, DataError
from reranker.fusion import FEATURES
from reranker.fusion.columns import DISLIKE_FEATURES
from reranker.pipeline.statistics_file import read_statistics, write_statistics
from reranker.pipeline.windows import window_from_generator, window_from_logs
from reranker.refresh import exported_user, refresh
from tests.pipeline import toys


def with_events(signals=None, seed=5):
    """Tastes as `toys.taste_dataset`; each user also dislikes three items of another taste, and views one again."""
    plain, rng = toys.taste_dataset(), np.random.default_rng(seed)
    chosen = plain.interactions.assign(event="purchase")
    extra = []
    for number in range(48):
        for item in rng.choice(8, 3, replace=False):
            time = int(rng.integers(0, 400))
            extra.append((f"u{number}", f"g{(number + 1) % 4}i{item}", time, "dislike"))
    table = pd.DataFrame(extra, columns=["user_id", "item_id", "timestamp", "event"])
    rows = pd.concat([chosen, table], ignore_index=True)
    return Dataset(interactions=rows, items=plain.items, domain="toy", signals=signals or Signals())


@pytest.fixture(scope="module")
def fitted():
    data = with_events()
    generator = PopularityGenerator().fit(data.interactions)
    return Reranker(toys.config(scorer="baseline"), toys.WatchedEngine()).fit(data, generator)


def test_dislikes_are_columns_of_the_head_and_it_uses_them(fitted):
    weights = dict(zip(fitted.fusion_model.features.columns, fitted.fusion_model.features.logit.weights, strict=True))
    assert list(weights) == [*FEATURES, *DISLIKE_FEATURES]
    assert weights["disliked_covisit"] < 0  # what goes with a disliked item is chosen less


def test_dislikes_given_with_a_list_move_it(fitted):
    lists = toys.table([("new", item, 1.0 / rank) for rank, item in enumerate(["g1i0", "g2i0", "g3i0"], start=1)])
    order = "baseline"

    def score(item, **given):
        frame = fitted.rerank(lists, order=order, **given).to_frame().set_index("item_id")["score"]
        return frame[item] - frame.drop(item).mean()

    neutral = score("g1i0", interactions={"new": ["g0i0"]})
    disliked = score("g1i0", interactions={"new": ["g0i0"]}, disliked={"new": ["g1i1", "g1i2", "g1i3"]})
    assert disliked < neutral
    rows = [("new", "g0i0", "purchase"), *(("new", f"g1i{number}", "dislike") for number in (1, 2, 3))]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "event"])
    assert score("g1i0", interactions=table) == pytest.approx(disliked)


def test_a_bundle_keeps_signals_dislikes_and_every_row(fitted, tmp_path):
    fitted.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle", engine=toys.WatchedEngine())
    lists = toys.table([("u0", f"g{taste}i0", 1.0 / (taste + 1)) for taste in range(4)])
    pd.testing.assert_frame_equal(loaded.rerank(lists).to_frame(), fitted.rerank(lists).to_frame())
    before, after = fitted.fitted()[0], loaded.fitted()[0]
    assert after.signals == before.signals
    pd.testing.assert_frame_equal(after.interactions, before.interactions)
    assert (after.interactions["event"] == "dislike").sum() == 48 * 3
    exported = exported_user(loaded, "u0")["interactions"]
    assert sorted(row["event"] for row in exported) == ["dislike"] * 3 + ["purchase"] * 5
    assert {row["strength"] for row in exported if row["event"] == "dislike"} == {-5.0}


@pytest.mark.parametrize(
    "change",
    [
        {"disliked_share": lambda array: array - 1},
        {"disliked_users": lambda array: array + 1000},
        {"disliked_lengths": lambda array: array + 1},
        {"disliked_rows": lambda array: array + 1000},
    ],
)
def test_damaged_dislikes_are_refused(fitted, tmp_path, change):
    statistics = fitted.fitted()[0].statistics
    write_statistics(tmp_path / "sound.npz", statistics)
    ids = list(statistics.index), list(statistics.histories)
    assert read_statistics(tmp_path / "sound.npz", *ids).dislikes.of_users.keys() == statistics.dislikes.of_users.keys()
    with np.load(tmp_path / "sound.npz") as file:
        arrays = {name: change.get(name, lambda array: array)(file[name]) for name in file}
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(BundleError, match=next(iter(change))):
        read_statistics(tmp_path / "other.npz", *ids)


def test_a_refresh_reads_events_as_the_fit_did(fitted, tmp_path):
    fitted.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle", engine=toys.WatchedEngine())
    today = pd.DataFrame(
        {"user_id": ["u0", "u0"], "item_id": ["g3i0", "g3i1"], "event": ["dislike", "view"], "timestamp": 9_000}
    )
    report = refresh(loaded, today)
    assert report.new_interactions == 2
    statistics = loaded.fitted()[0].statistics
    assert statistics.history("u0")[-1] == "g3i1" and "g3i0" not in statistics.history("u0")
    assert statistics.item_ids[statistics.dislikes.of_users["u0"][-1]] == "g3i0"
    with pytest.raises(DataError, match="nothing is known of 'hover'"):
        refresh(loaded, today.assign(event="hover", timestamp=9_001))


def test_events_after_a_fit_without_them_are_refused_by_a_refresh():
    plain = toys.fitted()
    table = pd.DataFrame({"user_id": ["u0"], "item_id": ["g3i0"], "event": ["dislike"], "timestamp": 9_000})
    for columns in ({}, {"event": "view"}, {"event": None, "weight": 2.0}):  # the bundle's own rows weigh 1
        given = table.assign(**columns)
        with pytest.raises(DataError, match="the bundle was fitted without such"):
            refresh(plain, given.dropna(axis="columns"))


def test_windows_hold_out_the_last_target_and_know_nothing_later():
    rows = pd.DataFrame(
        [
            ("u", "a", "view", 1),
            ("u", "b", "purchase", 2),
            ("u", "c", "view", 3),
            ("v", "b", "view", 4),
            ("v", "a", "purchase", 5),
        ],
        columns=["user_id", "item_id", "event", "timestamp"],
    )
    items = pd.DataFrame({"item_id": list("abc"), "title": list("ABC")})
    data = Dataset(interactions=rows, items=items, signals=Signals(target_events=("purchase",)))
    window = window_from_generator(data, toys.SpyGenerator(["a", "b", "c"]), 3, 1)
    assert window.held_out.to_numpy().tolist() == [["u", "b"], ["v", "a"]]
    assert window.known[["user_id", "item_id"]].to_numpy().tolist() == [["u", "a"], ["v", "b"]]
    lists = toys.table([("u", "b", 2.0), ("u", "c", 1.0)])
    later = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["b", "c"], "event": ["purchase", "view"]})
    assert window_from_logs(data, lists, later).held_out.to_numpy().tolist() == [["u", "b"]]


def test_repeats_are_proposed_where_they_are_allowed():
    rows = pd.DataFrame({"user_id": list("uuvv"), "item_id": list("abab"), "timestamp": range(4)})
    rows = pd.concat([rows, pd.DataFrame({"user_id": list("uv"), "item_id": list("aa"), "timestamp": [5, 6]})])
    items = pd.DataFrame({"item_id": list("abc"), "title": list("ABC")})
    data = Dataset(interactions=rows, items=items)
    with pytest.raises(DataError, match=r"none of the 2 held-out items is in the lists|holds no|empty"):
        window_from_generator(data, PopularityGenerator(), 3, 1)
    window = window_from_generator(replace(data, signals=Signals(repeats="allowed")), PopularityGenerator(), 3, 1)
    assert window.covered.all() and window.held_out["item_id"].tolist() == ["a", "a"]
