from dataclasses import replace

import numpy as np
import pytest

from candidate_gen import PopularityGenerator
from reranker.config import RerankerConfig
from reranker.engines.scripted import ScriptedEngine
from reranker.evaluation import Settings, evaluate, leave_last_k, write_report
from reranker.evaluation.baselines import FirstStageOrder
from reranker.evaluation.diagnose import diagnose, diagnosis_table
from reranker.evaluation.faithfulness import deletion_of
from reranker.evaluation.registry import Suite
from tests.evaluation.test_diagnostics import ByPlace
from tests.evaluation.toys import lists_of
from tests.pipeline import toys


class Named(FirstStageOrder):
    """Prefers what shares its title's first word with the history: personal, and by words only."""

    name = "llm"
    fitted = 0

    def fit(self, lists):
        type(self).fitted += 1
        return self

    def score(self, lists):
        fold = lists.fold
        first = fold.items.set_index("item_id").title.str.split().str[0]
        liked = {user: set(part.map(first)) for user, part in fold.history.groupby("user_id").item_id}
        rows = zip(lists.candidates.user_id, lists.candidates.item_id.map(first), strict=True)
        return np.array([float(word in liked[user]) for user, word in rows])


def run(systems):
    fold = leave_last_k(toys.taste_dataset())
    return evaluate([fold], PopularityGenerator(), systems, Settings(candidates=(12,), covered_only=True))


def test_a_personal_system_that_goes_by_words_loses_both():
    systems = {"first_stage": lambda _: FirstStageOrder(), "llm": lambda _: Named()}
    (found,) = diagnose(run(systems).runs, systems, users=8)
    assert found.system == "llm"
    assert found.n_users == 8
    assert found.shuffled_users.n == 8
    assert found.shuffled_users.low > 0
    assert found.obfuscated_titles.low >= 0
    assert found.order.max_score_change == 0
    assert found.order.kendall_tau == 1


def test_position_bias_is_reported():
    class Biased(ByPlace):
        name = "served"

    systems = {"first_stage": lambda _: FirstStageOrder(), "served": lambda _: Biased()}
    (found,) = diagnose(run(systems).runs, systems, users=1000)
    assert found.order.position_preference == pytest.approx(1)
    assert found.order.kendall_tau < 0.5
    assert found.shuffled_users.mean == found.obfuscated_titles.mean == 0
    assert found.record()["position_preference"] == pytest.approx(1)
    assert found.record()["shuffled_users_mean"] == 0


def test_systems_are_fitted_on_the_lists_of_the_run_and_others_are_left_alone():
    systems = {"first_stage": lambda _: FirstStageOrder(), "llm": lambda _: Named()}
    results = run(systems)
    assert results.runs[0].fitting[0].fold.held_out.item_id.tolist()
    before = Named.fitted
    assert diagnose(results.runs, systems, users=5, systems=("fused",)) == []
    assert Named.fitted == before
    diagnose(results.runs, systems, users=5)
    assert Named.fitted == before + 1


def test_the_scripted_llm_reads_each_changed_list_once_for_all_its_systems(tmp_path):
    suite = Suite(RerankerConfig(engine="scripted", prompt=toys.PROMPT), ScriptedEngine, fit_users=8)
    systems = suite.factories(("first_stage", "baseline", "llm", "fused", "served"))
    results = run(systems)
    read = suite.readings("likelihood")
    before = read.count
    found = diagnose(results.runs, systems, users=10)
    # The sample, shuffled rows, shuffled users, obfuscated titles, and five attacks.
    assert read.count == before + 9
    assert [one.system for one in found] == ["llm", "fused", "served", "baseline"]
    assert all(one.order.max_score_change < 1e-9 for one in found)
    by_name = {one.system: one for one in found}
    assert by_name["llm"].shuffled_users.low > 0
    assert by_name["llm"].obfuscated_titles.mean > 0
    assert by_name["baseline"].obfuscated_titles.mean == 0
    assert by_name["baseline"].shuffled_users.low > 0  # its features are those of the other user's history
    write_report(results, tmp_path / "report.html", diagnoses=found)
    text = (tmp_path / "report.html").read_text()
    assert "Where the gain comes from" in text
    assert str(by_name["llm"].shuffled_users).replace(" [", " <span>[") in text  # the interval stays in one piece
    assert str(diagnosis_table(found)).count("\n") == 5


def test_a_fold_where_first_stage_found_nothing_gives_nothing():
    lists = lists_of({"u": "a b"}, {"u": "c"})
    (some,) = run({"first_stage": lambda _: FirstStageOrder()}).runs
    assert diagnose([replace(some, system="baseline", lists=lists)], {}, users=5) == []


def test_the_deletion_test_finds_what_a_personal_system_goes_by():
    class Last(FirstStageOrder):
        """Scores a candidate by how often its taste is in the history."""

        name = "llm"

        def score(self, lists):
            first = lists.fold.items.set_index("item_id").title.str.split().str[0]
            liked = {user: part.map(first).tolist() for user, part in lists.fold.history.groupby("user_id").item_id}
            rows = zip(lists.candidates.user_id, lists.candidates.item_id.map(first), strict=True)
            return np.array([float(liked.get(user, []).count(word)) for user, word in rows])

    # Six items of the past: three of the taste that stands first, three of the other.
    users = [f"u{user}" for user in range(20)]
    past = dict.fromkeys(users, "a0 b0 a1 b1 a2 b2")
    lists = lists_of(dict.fromkeys(users, "a3 b3 b4 a4"), dict.fromkeys(users, "a3"), past)
    items = lists.fold.items
    titled = items.assign(title=[f"{item[0]} {item}" for item in items["item_id"]])
    lists = replace(lists, fold=replace(lists.fold, items=titled))
    found = deletion_of(Last(), lists, seed=1)
    assert found is not None and found.auc.mean == 1 and found.auc.n == 20
    assert found.named.mean == pytest.approx(1.5) and found.others.mean == pytest.approx(-1.5)
    assert deletion_of(Last(), lists, deleted=4) is None
