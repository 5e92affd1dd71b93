import numpy as np
import pytest

from candidate_gen import PopularityGenerator
from reranker.config import RerankerConfig
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError
from reranker.evaluation import Settings, evaluate, leave_last_k
from reranker.evaluation.registry import SYSTEMS, Suite, default_systems
from reranker.evaluation.reporting.text import comparison_table, length_table
from tests.pipeline import toys


def suite(loaded=None):
    def load():
        if loaded is not None:
            loaded.append(1)
        return ScriptedEngine()

    return Suite(RerankerConfig(engine="scripted", prompt=toys.PROMPT), load, fit_users=20)


def judged(names, **settings):
    factories = suite().factories(names)
    fold = leave_last_k(toys.taste_dataset())
    return evaluate([fold], PopularityGenerator(), factories, Settings(candidates=(12,), **settings))


def test_every_system_is_built_under_its_name():
    assert set(default_systems()) <= set(SYSTEMS)
    names = [name for name in SYSTEMS if name not in ("text_similarity", "text_alone", "gradient_boosted")]
    for name, build in suite().factories(names).items():
        assert build(0).name == name


def test_the_model_is_loaded_once_and_only_when_needed():
    loaded = []
    built = suite(loaded)
    built.factories(("first_stage", "baseline"))["baseline"](0)
    assert loaded == []
    for build in built.factories(("llm", "zero_shot_labels", "fused")).values():
        build(0)
    assert loaded == [1]


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="unknown systems oracle; there are first_stage"):
        suite().factories(("first_stage", "oracle"))


def test_leaving_out_lists_without_a_target_changes_no_users_metric():
    names = ("first_stage", "popularity", "baseline")
    whole, covered = (judged(names, covered_only=only).rows for only in (False, True))
    for rows in (whole, covered):
        assert set(rows.system) == set(names)
    keys = ["system", "protocol", "metric", "k"]
    per_user = ["ndcg", "hr", "mrr", "first_stage", "map"]
    left, right = (rows[rows.metric.isin(per_user)].sort_values(keys) for rows in (whole, covered))
    assert left[keys].astype(str).to_numpy().tolist() == right[keys].astype(str).to_numpy().tolist()
    assert len(left)
    assert np.allclose(left["value"], right["value"])
    assert left.n_users.tolist() == right.n_users.tolist()


def test_rivals_are_compared_and_tabled():
    results = judged(("first_stage", "baseline", "fused", "served"), covered_only=True)
    pairs = {(one.system, one.versus) for one in results.comparisons}
    assert {("fused", "baseline"), ("served", "baseline"), ("fused", "first_stage")} <= pairs
    lines = comparison_table(results).splitlines()
    assert lines[0].startswith("| domain | split | users | system | ndcg@10 |")
    assert sum("| fused |" in line and "| baseline |" in line for line in lines) == 1
    assert sum("| first_stage | 0." in line for line in lines) == 1
    assert len({line.count("|") for line in lines}) == 1


def test_list_lengths_are_tabled_side_by_side():
    factories = suite().factories(("first_stage", "popularity"))
    fold = leave_last_k(toys.taste_dataset())
    results = evaluate([fold], PopularityGenerator(), factories, Settings(candidates=(12, 6)))
    header, _, *lines = length_table(results).splitlines()
    assert header == "| ndcg@10 | split | system | 6 candidates | 12 candidates |"
    assert [line.split(" | ")[2] for line in lines] == ["first_stage", "popularity"]
    values = [float(cell) for cell in lines[0].strip("| ").split(" | ")[3:]]
    rows = results.rows
    at = (rows.system == "first_stage") & (rows.metric == "ndcg") & (rows.k == 10) & (rows.protocol == "end_to_end")
    wanted = rows[at].set_index("candidates")["value"]
    assert values == pytest.approx([wanted[6], wanted[12]], abs=1e-4)
