"""The `reranker` command: files, output, exit codes."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from reranker import Reranker
from reranker.soft_tokens.peft_format import save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from tests.cli.command import refused, run
from tests.pipeline import toys

CONFIG = "engine: scripted\nfit_users: 30\nprompt: {title_tokens: 64, history_tokens: 2048}\n"


def shell(*arguments):
    """Runs `reranker ...` in a process of its own."""
    command = [sys.executable, "-c", "from reranker.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables, a bundle fitted by the command, and candidates proposed by the command."""
    folder = tmp_path_factory.mktemp("cli")
    data = toys.taste_dataset()
    data.interactions.to_csv(folder / "interactions.csv", index=False)
    data.items.to_parquet(folder / "items.parquet")
    (folder / "settings.yaml").write_text(CONFIG)
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    options = ("--config", folder / "settings.yaml", "--scorer", "likelihood", "--n", 12)
    fitted, _ = run("fit", *tables, *options, "--out", folder / "bundle")
    assert "serving" in fitted
    served = [line for line in fitted.splitlines() if line.startswith("served: ")]
    assert served in (["served: first_stage"], ["served: baseline"], ["served: fused"])  # for programs
    assert yaml.safe_load((folder / "bundle" / "bundle.yaml").read_text())["serves"] == served[0].split()[1]
    assert f"saved {folder / 'bundle'}" in fitted
    proposed, _ = run(
        "data",
        "candidates",
        "--interactions",
        tables[1],
        "--method",
        "popularity",
        "--n",
        6,
        "--out",
        folder / "candidates.parquet",
    )
    assert "wrote 288 candidates of 48 users" in proposed
    return folder


@pytest.mark.parametrize(("chosen_at", "exit_code"), [(1, 3), (12, 0)])
def test_require_gain_exits_3_where_the_first_stage_is_served(tmp_path, chosen_at, exit_code):
    """What was chosen stands first in every list, so that nothing can be gained, or last in every list."""
    random = np.random.default_rng(0)
    users, items = [f"u{one}" for one in range(60)], [f"i{one}" for one in range(40)]
    seen = pd.DataFrame({"user_id": np.repeat(users, 8), "item_id": random.choice(items, 480)})
    served, chosen = [], []
    for user in users:
        own = set(seen.item_id[seen.user_id == user])
        some = [item for item in random.permutation(items) if item not in own][:12]
        chosen.append((user, some[chosen_at - 1]))
        served += [(user, item, float(-rank)) for rank, item in enumerate(some, 1)]
    seen.to_csv(tmp_path / "seen.csv", index=False)
    pd.DataFrame({"item_id": items, "title": items}).to_csv(tmp_path / "items.csv", index=False)
    pd.DataFrame(served, columns=["user_id", "item_id", "score"]).to_csv(tmp_path / "served.csv", index=False)
    pd.DataFrame(chosen, columns=["user_id", "item_id"]).to_csv(tmp_path / "chosen.csv", index=False)
    tables = [part for name in ("items", "candidates", "held-out") for part in (f"--{name}", "")]
    tables[1::2] = (tmp_path / "items.csv", tmp_path / "served.csv", tmp_path / "chosen.csv")
    arguments = ("fit", "--interactions", tmp_path / "seen.csv", *tables, "--scorer", "baseline", "--require-gain")
    said, _ = run(*arguments, "--out", tmp_path / "bundle", code=exit_code)
    assert ("served: first_stage" in said) == (exit_code == 3)
    assert (tmp_path / "bundle" / "bundle.yaml").exists()


def test_rerank_writes_what_python_returns(folder):
    candidates = folder / "candidates.parquet"
    arguments = ("rerank", "--bundle", folder / "bundle", "--candidates", candidates, "--order", "fused", "--k", 4)
    said, _ = run(*arguments, "--out", folder / "ranked.parquet")
    assert "wrote 192 rows of 48 users" in said
    assert "fused order; 0 users without history, 0 candidates not in the item table" in said
    expected = Reranker.load(folder / "bundle").rerank(pd.read_parquet(candidates), 4, order="fused").to_frame()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "ranked.parquet"), expected, check_exact=True)


def test_inspect_shows_spans_and_scores(folder):
    said, _ = run("inspect", "--bundle", folder / "bundle", "--user", "u1", "--n", 5, "--k", 3)
    assert "user u1: 5 of 5 history items were read" in said
    for part in (
        "domain_tokens",
        "instruction",
        "history",
        "llm_sum",
        "llm_mean",
        "llm_gain",
        "served to this user: ",
        "serving",
    ):
        assert part in said
    assert said.count("'\\n- ") == 3  # the text of each candidate shown
    assert "'nobody'" in refused(
        "inspect", "--bundle", folder / "bundle", "--user", "nobody", "--candidates", folder / "candidates.parquet"
    )


def test_inspect_explains(folder):
    said, _ = run("inspect", "--bundle", folder / "bundle", "--user", "u1", "--n", 5, "--k", 3, "--explain", "zh")
    assert "served:" in said and "first_stage" in said
    assert sum(mark in said for mark in ("因为您", "选", "推荐")) >= 1


def test_inspect_shows_texts_where_states_are_compared(folder):
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    run("fit", *tables, "--config", folder / "settings.yaml", "--n", 12, "--out", folder / "by-states")
    said, _ = run("inspect", "--bundle", folder / "by-states", "--user", "u1", "--n", 5, "--k", 3)
    assert "user u1: 5 of 5 history items were read" in said
    assert "llm_near_last" in said and "llm_sum" not in said


def test_items_are_added_to_a_bundle(folder):
    table = pd.DataFrame({"item_id": ["new", "g0i1"], "title": ["zorblax 9", "zomzik 9"]})
    table.to_csv(folder / "new.csv", index=False)
    bundles = ("--bundle", folder / "bundle", "--items", folder / "new.csv", "--out", folder / "larger")
    said, _ = run("data", "add-items", *bundles)
    assert f"1 items added, 1 given new texts: saved {folder / 'larger'}" in said
    assert Reranker.load(folder / "larger").titles(["new", "g0i1", "g0i2"])[:2] == ["zorblax 9", "zomzik 9"]
    assert Reranker.load(folder / "bundle").titles(["new"]) == ["(untitled)"]
    assert "give --overwrite" in refused("data", "add-items", *bundles)
    in_place = ("--bundle", folder / "larger", "--items", folder / "new.csv")
    assert "give --overwrite" in refused("data", "add-items", *in_place)
    run("data", "add-items", *in_place, "--overwrite")
    assert len(Reranker.load(folder / "larger").item_ids) == 33


def test_adding_says_which_new_texts_are_cut_by_a_scorer_that_reads_prompts(folder):
    assert not Reranker.load(folder / "bundle").llm_scorer.config.compares_states
    table = pd.DataFrame({"item_id": ["long", "short"], "title": ["word " * 400, "zomzik 9"]})
    table.to_csv(folder / "long.csv", index=False)
    bundles = ("--bundle", folder / "bundle", "--items", folder / "long.csv", "--out", folder / "longer")
    said, _ = run("data", "add-items", *bundles)
    assert "texts of 2 items: 1 title texts are cut" in said


def test_fit_takes_a_trained_prompt(folder):
    learned = SoftPrompt(vectors=np.ones((2, 16), dtype=np.float32))
    save_peft(learned, folder / "prompt")
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    options = ("--config", folder / "settings.yaml", "--n", 12, "--prompt", folder / "prompt")
    run("fit", *tables, *options, "--out", folder / "prompted")
    kept = Reranker.load(folder / "prompted").llm_scorer.soft_prompt()
    assert np.array_equal(kept.vectors, learned.vectors)
    (folder / "prompt" / "item_tokens").mkdir()
    assert "item tokens have left the product" in refused("fit", *tables, *options, "--out", folder / "never")


def test_data_and_models_describe(folder):
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    said, _ = run("data", "show", *tables, "--out", folder / "checked")
    assert "interactions  240, with timestamps" in said
    assert "items         32, 0 without a title, 0 interactions" in said
    assert len(pd.read_parquet(folder / "checked" / "interactions.parquet")) == 240
    assert "ml-100k" in run("data", "show")[0].split()
    assert "smollm2-135m" in run("models", "show")[0].split()


def test_a_shell_sees_output_errors_and_exit_codes(folder):
    shown = shell("data", "show")
    assert shown.returncode == 0 and "ml-100k" in shown.stdout.split() and shown.stderr == ""
    failed = shell("rerank", "--bundle", folder, "--candidates", folder / "candidates.parquet", "--out", folder / "no")
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1 and "no bundle" in failed.stderr


def test_our_errors_are_one_line_and_code_1(folder):
    bundle, candidates = folder / "bundle", folder / "candidates.parquet"
    out = folder / "never.parquet"
    assert "does not exist" in refused("rerank", "--bundle", bundle, "--candidates", folder / "no.csv", "--out", out)
    assert "no bundle" in refused("rerank", "--bundle", folder, "--candidates", candidates, "--out", out)
    assert "unknown order 'best'" in refused(
        "rerank", "--bundle", bundle, "--candidates", candidates, "--out", out, "--order", "best"
    )
    assert "--interactions and --items" in refused("fit", "--out", folder / "other")
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    manifest = (bundle / "bundle.yaml").read_bytes()
    assert "holds a bundle already" in refused("fit", *tables, "--engine", "scripted", "--out", bundle)
    assert (bundle / "bundle.yaml").read_bytes() == manifest
    assert not out.exists()


def test_a_damaged_settings_file_is_one_line(folder):
    (folder / "damaged.yaml").write_text("a: [1\nb: }\n")
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    message = refused("fit", *tables, "--config", folder / "damaged.yaml", "--out", folder / "other")
    assert "cannot read the settings" in message


def test_a_result_that_cannot_be_written_is_one_line(folder):
    (folder / "file").write_text("in the way")
    bundle, candidates = folder / "bundle", folder / "candidates.parquet"
    message = refused(
        "rerank",
        "--bundle",
        bundle,
        "--candidates",
        candidates,
        "--order",
        "first_stage",
        "--out",
        folder / "file/r.parquet",
    )
    assert "file" in message


@pytest.mark.parametrize(
    "arguments", [["fly"], ["rerank"], ["rerank", "--k", "many"], ["data", "candidates", "--method", "x"]]
)
def test_wrong_usage_is_code_2(arguments):
    _, stderr = run(*arguments, code=2)
    assert "Usage" in stderr


def test_ids_of_csv_files_stay_as_written_whatever_their_columns_are_called(tmp_path):
    data = toys.taste_dataset(users=12)
    renamed = {old: f"{number:05d}" for number, old in enumerate(data.interactions["user_id"].unique())}
    data.interactions["user_id"] = data.interactions["user_id"].map(renamed)
    data.interactions.to_parquet(tmp_path / "i.parquet")
    data.items.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "settings.yaml").write_text(CONFIG)
    tables = ("--interactions", tmp_path / "i.parquet", "--items", tmp_path / "t.parquet")
    run("fit", *tables, "--config", tmp_path / "settings.yaml", "--n", 12, "--out", tmp_path / "bundle")
    (tmp_path / "own.csv").write_text("customer,sku,s\n00001,g0i1,3\n00001,g1i1,2\n00002,g0i1,1\n")
    columns = ("--user-col", "customer", "--item-col", "sku", "--score-col", "s")
    arguments = ("rerank", "--bundle", tmp_path / "bundle", "--candidates", tmp_path / "own.csv", *columns)
    said, _ = run(*arguments, "--out", tmp_path / "out.csv")
    assert "0 users without history, 0 candidates not in the item table" in said
    assert pd.read_csv(tmp_path / "out.csv", dtype=str)["user_id"].tolist() == ["00001", "00001", "00002"]


def test_fit_says_before_its_work_that_it_cannot_save(folder, tmp_path):
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    options = ("--config", folder / "settings.yaml", "--n", 12)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    _, said = run("fit", *tables, *options, "--out", tmp_path / "mine", code=1)
    assert "exists and is not a bundle" in said.splitlines()[-1] and "user/s" not in said
    table = pd.read_csv(folder / "interactions.csv")
    table["user_id"] = pd.to_datetime(pd.factorize(table["user_id"])[0], unit="D")
    table.to_parquet(tmp_path / "days.parquet")
    days = ("--interactions", tmp_path / "days.parquet", "--items", folder / "items.parquet")
    _, said = run("fit", *days, *options, "--out", tmp_path / "bundle", code=1)
    assert "Timestamp" in said.splitlines()[-1] and "user/s" not in said


@pytest.mark.parametrize("command", ["inspect", "users adapt", "data candidates"])
def test_a_table_without_users_is_one_line(folder, tmp_path, command):
    (tmp_path / "t.csv").write_text("x\n1\n")
    flags = {
        "inspect": ("--bundle", folder / "bundle", "--user", "u1", "--candidates", tmp_path / "t.csv"),
        "users adapt": ("--bundle", folder / "bundle", "--users-db", tmp_path / "u.db", "--users", tmp_path / "t.csv"),
        "data candidates": (
            "--interactions",
            folder / "interactions.csv",
            "--users",
            tmp_path / "t.csv",
            "--out",
            "o.csv",
        ),
    }
    assert "lacks the column 'user_id'; it has ['x']" in refused(*command.split(), *flags[command])
