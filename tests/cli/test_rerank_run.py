"""`reranker rerank` with a folder as --out, with column names of one's own, and with flags that do not go together."""

import json
import os

import pandas as pd
import pytest

from tests.cli import command
from tests.pipeline import toys


def run(*arguments, code=0):
    """Runs `reranker rerank ...`; returns (stdout, stderr)."""
    return command.run("rerank", *arguments, code=code)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli-run") / "bundle"
    toys.fitted().save(folder)
    return folder


@pytest.fixture
def own(tmp_path):
    """Candidates with a shop's own names of columns, two of them bad."""
    frame = toys.lists_for([f"u{user}" for user in range(20)], ["g0i0", "g1i1", "g2i2"])
    frame = frame.rename(columns={"user_id": "customer", "item_id": "sku", "score": "s"})
    frame.loc[[4, 17], "s"] = float("nan")
    frame.to_parquet(tmp_path / "own.parquet", index=False)
    return tmp_path


NAMES = ("--user-col", "customer", "--item-col", "sku", "--score-col", "s")


def test_a_folder_is_an_offline_run(bundle, own):
    flags = ("--bundle", bundle, "--candidates", own / "own.parquet", "--out", own / "run", *NAMES, "--part-users", 6)
    said, shown = run(*flags)
    assert f"wrote 58 rows of 20 users to {own / 'run'}/ranking, 4 parts (0 from before)" in said
    assert "rejected 2 of 60 rows" in said
    assert "2 because score is missing" in said
    assert "20/20" in shown  # the progress bar
    assert "user/s" in shown
    assert len(pd.read_parquet(own / "run" / "ranking")) == 58
    assert json.loads((own / "run" / "summary.json").read_text())["rows"] == 60
    assert "--resume" in run(*flags, code=1)[1]
    again, _ = run(*flags, "--resume")
    assert "4 parts (0 from before)" in again  # what the finished run said
    os.utime(own / "own.parquet", ns=(1, 1))
    assert "changed: the candidates (own.parquet)" in run(*flags, "--resume", code=1)[1]
    assert "4 parts (4 from before)" in run(*flags, "--resume", "--force")[0]


def test_own_names_work_for_a_single_table_too(bundle, own):
    frame = pd.read_parquet(own / "own.parquet").dropna().assign(rank="not a rank", user_id="not a user")
    frame.to_csv(own / "own.csv", index=False)
    history = pd.DataFrame({"customer": ["u1"], "sku": ["g0i3"], "datetime": [5]})
    history.to_parquet(own / "newer.parquet")
    flags = ("--bundle", bundle, "--candidates", own / "own.csv", "--interactions", own / "newer.parquet", *NAMES)
    run(*flags, "--out", own / "ranked.parquet")
    run(*flags, "--out", own / "folder")
    ranked = pd.read_parquet(own / "ranked.parquet")
    assert ranked["user_id"].nunique() == 20
    in_parts = pd.read_parquet(own / "folder" / "ranking")
    keys = ["user_id", "rank"]
    pd.testing.assert_frame_equal(
        ranked.sort_values(keys, ignore_index=True), in_parts.sort_values(keys, ignore_index=True), rtol=1e-9
    )


@pytest.mark.parametrize("out", ["ranked.parquet", "folder"])
def test_histories_of_another_catalogue_are_refused_and_those_of_other_users_told(bundle, own, out):
    flags = ("--bundle", bundle, "--candidates", own / "own.parquet", "--interactions", own / "newer.csv", *NAMES)
    (own / "newer.csv").write_text("customer,sku\nu1,zzz\nu2,zzy\n")
    assert "2 of 2 rows hold an id that is not in" in run(*flags, "--out", own / out, code=1)[1]
    if out == "ranked.parquet":
        pd.read_parquet(own / "own.parquet").dropna().to_parquet(own / "own.parquet")
        (own / "newer.csv").write_text("customer,sku\nsomebody,g0i3\n")
        assert "no user of the candidates is in" in run(*flags, "--out", own / out)[0]


@pytest.mark.parametrize("flag", [["--resume"], ["--force"], ["--cluster", "ray"], ["--part-users", 5]])
def test_flags_of_offline_runs_are_refused_for_a_table(bundle, own, flag):
    _, said = run(
        "--bundle", bundle, "--candidates", own / "own.parquet", *NAMES, *flag, "--out", own / "t.parquet", code=1
    )
    assert "give a folder as --out" in said


@pytest.mark.parametrize(("option", "words"), [("no_equals", "takes key=value"), ("no_such=1", "no_such")])
def test_engine_options_are_checked(bundle, own, option, words):
    _, said = run(
        *("--bundle", bundle, "--candidates", own / "own.parquet", *NAMES, "--out", own / "run"),
        *("--engine-option", option),
        code=1,
    )
    assert words in said.splitlines()[-1]
