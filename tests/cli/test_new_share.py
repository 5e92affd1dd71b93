"""`fit --new-share`: places for items that nobody chose, in the lists that are learned from and in the bundle."""

import httpx
import pandas as pd
import pytest

from candidate_gen import make_generator
from reranker import Reranker
from reranker.errors import ConfigError
from reranker.pipeline.windows import windows_of
from reranker.serve.app import create_app
from tests.candidate_gen.test_text import tastes, world
from tests.cli.command import refused, run
from tests.pipeline import toys
from tests.serve.live import serving

QUICK = ("--scorer", "baseline", "--n", 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    data, items = world()
    data.interactions.to_parquet(folder / "i.parquet")
    items.to_parquet(folder / "t.parquet")
    data.items.to_parquet(folder / "known.parquet")
    return folder


def fit(folder, out, *more, items="t"):
    tables = ("--interactions", folder / "i.parquet", "--items", folder / f"{items}.parquet")
    return run("fit", *tables, *QUICK, *more, "--out", out)[0]


def is_new(frame):
    return frame["item_id"].str.startswith("new-")


def test_the_bundles_generator_keeps_places_for_new_items(folder, tmp_path):
    said = fit(folder, tmp_path / "b", "--new-share", 0.25)
    assert "25% of the places of a list are for new items, of which there are 12" in said
    loaded = Reranker.load(tmp_path / "b")
    frame = loaded.generator.recommend([f"u{user}" for user in range(8)], n=8)
    new = frame[is_new(frame)]
    assert (new.groupby("user_id").size() == 2).all()  # a quarter of eight
    assert (tastes(new) == new["user_id"].str[1:].astype(int) % 4).all()
    assert is_new(loaded.rerank(frame).to_frame()).sum() == 16
    again = loaded.generator.clone().fit(loaded.fitted()[0].interactions).recommend(["u0"], n=8)
    assert is_new(again).sum() == 2  # as a refresh fits it


def test_by_default_none_is_proposed(folder, tmp_path):
    said = fit(folder, tmp_path / "b")
    assert "places" not in said
    assert not is_new(Reranker.load(tmp_path / "b").generator.recommend(["u0", "u1"], n=1000)).any()


def test_items_that_are_added_are_proposed(folder, tmp_path):
    said = fit(folder, tmp_path / "b", "--new-share", 0.25, items="known")
    assert "there are none yet" in said
    run("data", "add-items", "--bundle", tmp_path / "b", "--items", folder / "t.parquet", "--overwrite")
    frame = Reranker.load(tmp_path / "b").generator.recommend(["u2"], n=8)
    assert tastes(frame[is_new(frame)]).tolist() == [2, 2]


def test_a_served_bundle_shows_them_in_its_own_lists(folder, tmp_path):
    fit(folder, tmp_path / "b", "--new-share", 0.25)
    with serving(create_app(Reranker.load(tmp_path / "b"))) as url:
        shown = httpx.get(f"{url}/playground/list", params={"user": "u3", "n": 8}).json()["candidates"]
    assert sorted(item["id"][:6] for item in shown if item["id"].startswith("new-"))[:2] == ["new-g3"] * 2


def test_the_share_may_stand_in_the_settings_and_the_flag_wins(folder, tmp_path):
    (tmp_path / "s.yaml").write_text("new_share: 0.5\n")
    fit(folder, tmp_path / "a", "--config", tmp_path / "s.yaml")
    fit(folder, tmp_path / "b", "--config", tmp_path / "s.yaml", "--new-share", 0.25)
    for name, expected in {"a": 4, "b": 2}.items():
        assert is_new(Reranker.load(tmp_path / name).generator.recommend(["u0"], n=8)).sum() == expected
    (tmp_path / "s.yaml").write_text("new_share: lots\n")
    tables = ("--interactions", folder / "i.parquet", "--items", folder / "t.parquet")
    message = refused("fit", *tables, "--config", tmp_path / "s.yaml", "--out", tmp_path / "c")
    assert "new_share must be a number from 0 to 0.9, got 'lots'" in message


def test_lists_of_ones_own_have_no_such_places(folder, tmp_path):
    tables = ("--interactions", folder / "i.parquet", "--items", folder / "t.parquet")
    own = ("--candidates", folder / "i.parquet", "--held-out", folder / "i.parquet")
    message = refused("fit", *tables, *own, "--new-share", 0.1, "--out", tmp_path / "b")
    assert "places for new items (--new-share 0.1) cannot be made" in message


def test_windows_hold_items_that_nobody_chose_before_and_some_are_chosen():
    data, items = world()
    data = type(data)(interactions=data.interactions, items=items, domain="toy")
    generator = make_generator(items=items, new_share=0.25).fit(data.interactions)
    window = windows_of(data, generator, None, None, toys.config())[0]
    new = window.is_new
    assert (window.candidates[new].groupby("user_id").size() >= 3).all()  # a quarter of twelve
    assert not set(window.candidates["item_id"][new]) & set(window.known["item_id"])


def test_a_fusion_without_a_stage_for_new_items_says_so():
    data, items = world()
    generator = make_generator().fit(data.interactions)
    assert not generator.takes_new_items and generator.new_item_ids == []
    with pytest.raises(ConfigError, match="no stage of this ReciprocalRankFusion"):
        generator.add_items(items)
    with_places = make_generator(items=data.items, new_share=0.25).fit(data.interactions)
    assert with_places.takes_new_items and with_places.add_items(items) == 12
    assert sorted(with_places.new_item_ids) == sorted(set(items["item_id"]) - set(data.items["item_id"]))
    pd.testing.assert_series_equal(
        is_new(with_places.recommend(["u0"], n=8)), pd.Series([False] * 6 + [True] * 2, name="item_id")
    )
