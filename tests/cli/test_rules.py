"""What rules cost, told by `fit` and `inspect`."""

import json

from tests.cli.command import refused, run
from tests.pipeline import toys


def test_fit_tells_what_rules_cost_and_inspect_repeats_it(tmp_path):
    data = toys.taste_dataset()
    data.interactions.to_parquet(tmp_path / "interactions.parquet")
    data.items.assign(brand=[f"b{n % 3}" for n in range(len(data.items))]).to_parquet(tmp_path / "items.parquet")
    rules = {"caps": {"column": "brand", "most": 1, "first": 3}, "exclude": {"items": ["g0i0"]}}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    (tmp_path / "settings.yaml").write_text("prompt: {title_tokens: 64, history_tokens: 2048}")
    tables = ("--interactions", tmp_path / "interactions.parquet", "--items", tmp_path / "items.parquet")
    fit = ("fit", *tables, "--engine", "scripted", "--config", tmp_path / "settings.yaml", "--n", 12)
    said, _ = run(*fit, "--rules", tmp_path / "rules.json", "--out", tmp_path / "bundle")
    (line,) = (line for line in said.splitlines() if "after scoring" in line)
    assert line.startswith("exclude, caps after scoring: ")
    assert "NDCG@10 of the" in line and "candidates excluded" in line
    shown, _ = run("inspect", "--bundle", tmp_path / "bundle", "--user", "u1", "--n", 5)
    assert line in shown.splitlines()
    (tmp_path / "rules.json").write_text(json.dumps({"caps": {"column": "maker", "most": 1}}))
    assert "maker" in refused(*fit, "--rules", tmp_path / "rules.json", "--out", tmp_path / "other")
