"""What commands make of tables: ids of digits in a CSV, folders of CSV, and files that are not asked for."""

import shutil

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from reranker import ConfigError, Reranker
from reranker.batch import Engines
from reranker.cli.app import app
from reranker.cli.serve import _domains
from tests.cli.command import refused
from tests.cli.test_commands import CONFIG
from tests.pipeline import toys
from tests.pipeline.signed import write_signed


def run(*arguments):
    """Runs `reranker ...` here; returns what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle and its tables, whose users and items have texts of digits for ids, as those of ml-100k."""
    folder = tmp_path_factory.mktemp("digits")
    data = toys.taste_dataset()
    numbers = {item: f"{number}" for number, item in enumerate(data.items["item_id"], start=1)}
    rows, items = data.interactions, data.items
    rows.assign(user_id=rows["user_id"].str[1:], item_id=rows["item_id"].map(numbers)).to_parquet(folder / "i.parquet")
    items.assign(item_id=items["item_id"].map(numbers)).to_parquet(folder / "t.parquet")
    for name in ("i", "t"):
        pd.read_parquet(folder / f"{name}.parquet").to_csv(folder / f"{name}.csv", index=False)
    (folder / "settings.yaml").write_text(CONFIG)
    run("fit", *tables(folder), *options(folder), "--out", folder / "bundle")
    run(
        "data",
        "candidates",
        "--interactions",
        folder / "i.parquet",
        "--method",
        "popularity",
        "--n",
        6,
        "--out",
        folder / "c.csv",
    )
    return folder


def tables(folder):
    return "--interactions", folder / "i.parquet", "--items", folder / "t.parquet"


def options(folder):
    return "--config", folder / "settings.yaml", "--scorer", "likelihood", "--n", 12


@pytest.mark.parametrize("interactions", [(), ("i.csv",), ("i.parquet",)])
def test_rerank_finds_ids_of_a_csv(folder, tmp_path, interactions):
    newer = [flag for name in interactions for flag in ("--interactions", folder / name)]
    flags = ("--bundle", folder / "bundle", "--candidates", folder / "c.csv", "--order", "baseline", *newer)
    for out in ("ranked.parquet", "run"):
        assert "0 users without history, 0 candidates not in" in run("rerank", *flags, "--out", tmp_path / out)
    ranked, in_parts = (pd.read_parquet(tmp_path / name) for name in ("ranked.parquet", "run/ranking"))
    assert set(ranked["user_id"]) == set(in_parts["user_id"]) == {str(user) for user in range(48)}
    assert ranked["item_id"].map(type).eq(str).all()


def test_users_are_of_the_kind_that_newer_histories_have(folder, tmp_path):
    newer = pd.read_parquet(folder / "i.parquet").astype({"user_id": int})
    newer.to_parquet(tmp_path / "newer.parquet")
    flags = ("--bundle", folder / "bundle", "--candidates", folder / "c.csv", "--order", "baseline")
    run("rerank", *flags, "--interactions", tmp_path / "newer.parquet", "--out", tmp_path / "ranked.parquet")
    assert set(pd.read_parquet(tmp_path / "ranked.parquet")["user_id"]) == set(range(48))


def test_inspect_and_add_items_find_ids_of_a_csv(folder, tmp_path):
    flags = ("--bundle", folder / "bundle", "--user", "1", "--candidates", folder / "c.csv", "--k", 3)
    assert "user 1: 5 of 5 history items were read" in run("inspect", *flags)
    (tmp_path / "new.csv").write_text("item_id,title\n1,zorblax 99\n100,mippel 100\n")
    said = run(
        "data",
        "add-items",
        "--bundle",
        folder / "bundle",
        "--items",
        tmp_path / "new.csv",
        "--out",
        tmp_path / "more",
    )
    assert said.startswith("1 items added, 1 given new texts")
    assert Reranker.load(tmp_path / "more").titles(["1", "100"]) == ["zorblax 99", "mippel 100"]


@pytest.mark.parametrize("held_out", ["csv", "parquet"])
def test_fit_finds_ids_of_lists_and_choices_in_a_csv(folder, tmp_path, held_out):
    rows = pd.read_parquet(folder / "i.parquet").sort_values("timestamp")
    chosen = rows.groupby("user_id").tail(1)
    rows.drop(index=chosen.index).to_parquet(tmp_path / "i.parquet")
    if held_out == "csv":
        chosen.to_csv(tmp_path / "chosen.csv", index=False)
    else:
        chosen.to_parquet(tmp_path / "chosen.parquet")
    lists = ("--interactions", tmp_path / "i.parquet", "--method", "popularity", "--n", 25, "--out", tmp_path / "c.csv")
    run("data", "candidates", *lists)
    logs = ("--candidates", tmp_path / "c.csv", "--held-out", tmp_path / f"chosen.{held_out}")
    flags = ("--interactions", tmp_path / "i.parquet", "--items", folder / "t.parquet", *options(folder), *logs)
    assert "saved" in run("fit", *flags, "--out", tmp_path / "bundle")


def test_first_stage_takes_users_from_a_csv(folder, tmp_path):
    (tmp_path / "users.csv").write_text("user_id\n1\n2\n")
    flags = ("--interactions", folder / "i.parquet", "--users", tmp_path / "users.csv", "--method", "popularity")
    assert "of 2 users" in run("data", "candidates", *flags, "--out", tmp_path / "c.parquet")


def test_items_without_a_share_for_new_ones_are_refused(folder, tmp_path):
    flags = ("--interactions", folder / "i.parquet", "--items", folder / "i.parquet", "--out", tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="give --new-share"):
        run("data", "candidates", *flags)


def test_zeros_of_newer_histories_under_canonical_names_are_kept(folder, tmp_path):
    (tmp_path / "c.csv").write_text("customer,sku,s\n007,1,0.5\n007,2,0.25\n008,1,0.5\n")
    (tmp_path / "newer.csv").write_text("user_id,item_id\n007,1\n008,2\n")
    names = ("--user-col", "customer", "--item-col", "sku", "--score-col", "s", "--order", "baseline")
    flags = ("--bundle", folder / "bundle", "--candidates", tmp_path / "c.csv", *names)
    for out in ("ranked.parquet", "run"):
        said = run("rerank", *flags, "--interactions", tmp_path / "newer.csv", "--out", tmp_path / out)
        assert "2 users" in said and "0 users without history" in said


@pytest.mark.parametrize("out", ["ranked.parquet", "ranked.csv", "run"])
def test_a_folder_of_csv_is_reranked(folder, tmp_path, out):
    lines = (folder / "c.csv").read_text().splitlines()
    for name, part in (("a.csv", lines[1:100]), ("deeper/b.csv", lines[100:])):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("\n".join([lines[0], *part]) + "\n")
    flags = ("--bundle", folder / "bundle", "--candidates", tmp_path / "in", "--order", "baseline")
    said = run("rerank", *flags, "--out", tmp_path / out)
    assert f"wrote {len(lines) - 1} rows of 48 users" in said and "0 users without history" in said


def test_an_engine_named_again_keeps_its_options(folder, tmp_path):
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    place = tmp_path / "bundle" / "bundle.yaml"
    manifest = yaml.safe_load(place.read_text())
    manifest["config"]["engine_options"] = {"slots": 1}
    write_signed(place, manifest)
    assert Reranker.load(tmp_path / "bundle", engine="scripted").config.engine_options == {"slots": 1}
    assert Reranker.load(tmp_path / "bundle", engine="torch").config.engine_options == {}
    with pytest.raises(ConfigError, match="'slots'"):  # the scripted engine has no such option
        Engines(name="scripted", options={"max_length": 4096}).reranker(tmp_path / "bundle")
    url = {"base_url": "http://elsewhere/v1"}
    for options, expected in (
        ({}, {"slots": 1, **url}),
        ({"engine": "scripted"}, {"slots": 1, **url}),
        ({"engine": "o"}, url),
    ):
        (domain,) = _domains([tmp_path / "bundle"], lambda: [None], options, url)
        assert domain.reranker.config.engine_options == expected


def test_data_ends_with_an_error_where_zeros_were_lost_on_one_side(tmp_path):
    """Texts in one table, numbers in the other, as a spreadsheet leaves them."""
    interactions = pd.DataFrame({"user_id": ["u1", "u1", "u2"], "item_id": [196, 197, 196], "timestamp": [1, 2, 3]})
    items = pd.DataFrame({"item_id": ["00196", "00197"], "title": ["a", "b"]})
    interactions.to_parquet(tmp_path / "interactions.parquet")
    items.to_parquet(tmp_path / "items.parquet")
    tables = ("--interactions", tmp_path / "interactions.parquet", "--items", tmp_path / "items.parquet")
    assert "leading zeros were lost" in refused("data", "show", *tables)
