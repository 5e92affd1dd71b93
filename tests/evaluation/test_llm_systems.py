import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.config import RerankerConfig
from reranker.data.dataset import Dataset
from reranker.engines.scripted import ScriptedEngine
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import ConfigError, DataError
from reranker.evaluation import Settings, evaluate, leave_last_k, propose
from reranker.evaluation.baselines import FirstStageOrder
from reranker.evaluation.counting_engine import CountingEngine
from reranker.evaluation.diagnostics import obfuscated_titles
from reranker.evaluation.llm_systems import Fused, LLMAlone, Served, ZeroShot
from reranker.evaluation.score_cache import ScoreCache
from reranker.fusion import Choices, FusionModel
from reranker.soft_tokens import ContextMap
from reranker.soft_tokens.checkpoint import Trained
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence
from tests.contracts.systems import SystemContract
from tests.engines.models import save_tiny_model
from tests.pipeline import toys
from tests.scoring.readers import own_labels


def readings(scorer="likelihood", **settings):
    config = RerankerConfig(**{"engine": "scripted", "prompt": toys.PROMPT, "scorer": scorer, **settings})
    return ScoreCache(ScriptedEngine(), config)


@pytest.fixture(params=["likelihood", "embedding", "labels", "listwise"])
def scorer(request):
    return request.param


class TestZeroShot(SystemContract):
    @pytest.fixture
    def system(self, scorer, tmp_path):
        one_letter_labels = toys.PROMPT.model_copy(update={"directory": own_labels(tmp_path)})
        return ZeroShot(f"zero_shot_{scorer}", readings(scorer, prompt=one_letter_labels))


class TestLLMAlone(SystemContract):
    @pytest.fixture
    def system(self):
        return LLMAlone(readings())


class TestFused(SystemContract):
    @pytest.fixture(params=["likelihood", "embedding", "likelihood+embedding"])
    def system(self, request):
        return Fused(readings(request.param))


@pytest.fixture(scope="module")
def lists():
    """(validation, test) lists in a world where taste shows in the titles."""
    fold = leave_last_k(toys.taste_dataset())
    return propose(fold.validation(), PopularityGenerator(), 12), propose(fold, PopularityGenerator(), 12)


def test_gains_are_over_the_calibration_histories_that_fit_draws():
    data = toys.taste_dataset(per_group=16)
    fold = leave_last_k(data)
    read = readings(calibration_histories=3)
    seen = []
    for lists in (propose(fold.validation(), PopularityGenerator(), 12), propose(fold, PopularityGenerator(), 12)):
        read.of(lists)
        seen.append(read.reader("toy").renderer.calibration_histories)
    generator = PopularityGenerator().fit(data.interactions)
    fitted = Reranker(toys.config(calibration_histories=3), ScriptedEngine()).fit(data, generator)
    assert seen == [fitted.llm_scorer.renderer.calibration_histories] * 2
    assert len(seen[0]) == 3


def test_states_of_titles_are_read_once_for_all_splits_and_runs(lists, tmp_path):
    validation, test = lists
    config = RerankerConfig(engine="scripted", prompt=toys.PROMPT, scorer="embedding")
    engine = toys.WatchedEngine()
    first = ScoreCache(engine, config, directory=tmp_path).of(test)
    assert engine.states_read == len(test.fold.items)
    again = ScoreCache(engine, config, directory=tmp_path)
    again.of(validation)
    assert engine.states_read == len(test.fold.items)
    np.testing.assert_array_equal(again.of(test), first)


def test_readings_on_disk_are_used_again_unless_something_changed(lists, tmp_path):
    _, test = lists

    def kept(**settings):
        config = RerankerConfig(**{"engine": "scripted", "prompt": toys.PROMPT, **settings})
        return ScoreCache(ScriptedEngine(), config, directory=tmp_path)

    first, again, other = kept(), kept(), kept(soft_tokens=3)
    read = first.of(test)
    assert np.array_equal(again.of(test), read)
    assert again._engine.tokens == 0 and again.cost(test) == first.cost(test)  # the model was not asked
    other.of(test)
    assert other._engine.tokens > 0


def test_readings_of_a_domain_do_not_depend_on_the_domains_beside_it(lists, tmp_path):
    _, test = lists
    config = RerankerConfig(engine="scripted", prompt=toys.PROMPT)

    def kept(domain, family):
        return ScoreCache(ScriptedEngine(), config, {domain: family}, directory=tmp_path)

    first, beside, other = kept("elsewhere", "books"), kept("elsewhere", "games"), kept(test.fold.domain, "games")
    for one in (first, beside, other):
        one.of(test)
    assert beside._engine.tokens == 0 and beside.fingerprint != first.fingerprint
    assert other._engine.tokens > 0

    trained = {"elsewhere": Trained(contexts=ContextMap.initial(np.zeros(8, dtype=np.float32), 2, 4))}
    adapted = [
        ScoreCache(ScriptedEngine(), config, directory=tmp_path, trained=trained, adapt_steps=steps) for steps in (1, 2)
    ]
    for one in adapted:
        one.of(test)
    assert [one._engine.tokens for one in adapted] == [0, 0]


def test_components_stand_on_their_rows(lists):
    _, test = lists
    read = readings()
    order = np.random.default_rng(0).permutation(len(test.candidates))
    mixed = replace(test, candidates=test.candidates.iloc[order].reset_index(drop=True))
    assert read.of(mixed) == pytest.approx(read.of(test)[order])
    same_taste = test.candidates.user_id.str[1:].astype(int) % 4 == test.candidates.item_id.str[1].astype(int)
    gain = read.of(test)[:, 0] - read.of(test)[:, 2]
    assert gain[same_taste].mean() > gain[~same_taste].mean()


def test_only_covered_lists_teach_and_always_the_same(lists):
    validation, _ = lists
    read = readings()
    found = int(validation.covered.sum())
    assert 4 < found < len(validation.covered)
    (every,) = read.training_lists([validation], None)
    assert every.candidates.user_id.nunique() == found
    (few,) = read.training_lists([validation], 4)
    assert few.candidates.user_id.nunique() == 4
    assert few.covered.sum() == 4
    assert read.training_lists([validation], 4)[0] is few


@pytest.fixture
def windows(lists):
    return [lists[0], propose(lists[0].fold.validation(), PopularityGenerator(), 12)]


def test_windows_are_drawn_from_alike(lists, windows):
    read = readings()
    found = [int(one.covered.sum()) for one in windows]
    assert [one.n_found.sum() for one in read.training_lists(windows, None)] == found
    drawn = [[int(one.covered.sum()) for one in read.training_lists(windows, 6, seed)] for seed in range(40)]
    assert {sum(one) for one in drawn} == {6}
    assert np.mean(drawn, axis=0) == pytest.approx(6 * np.array(found) / sum(found), abs=0.6)
    elsewhere = replace(windows[1], fold=replace(windows[1].fold, domain="elsewhere"))
    assert [int(one.covered.sum()) for one in read.training_lists([windows[0], elsewhere], 6)] == [6, 6]  # a domain
    for system in (Fused(read, fit_users=4), Served(read, fit_users=4), LLMAlone(read, fit_users=4)):
        assert np.isfinite(system.fit(windows).score(lists[1])).all()


def test_served_and_fused_learn_from_windows_as_the_product_does(windows):
    read, users = readings(), [user for one in windows for user in one.fold.users]
    words = read.reader("toy").scorer.components
    choices = Choices(
        features=np.concatenate([one.features for one in windows]),
        list_index=np.concatenate([windows[0].list_index, windows[1].list_index + len(windows[0].fold.users)]),
        chosen=np.concatenate([one.relevant for one in windows]),
        first_stage_rank=np.concatenate([one.candidates["rank"].to_numpy() for one in windows]),
        n_relevant=np.concatenate([one.n_relevant for one in windows]),
        n_known=np.concatenate([one.n_known for one in windows]),
        users=users,
    )
    assert len(users) > 1.5 * len(set(users))
    raw = np.concatenate([read.of(one) for one in windows])
    components = {int(number): raw[choices.list_index == number] for number in choices.covered_lists()}
    assert len(components) < len(users)
    by_hand = FusionModel.fit(choices, components, words)
    assert Served(read, fit_users=None).fit(windows).fusion_model.to_json() == by_hand.to_json()
    assert Fused(read, fit_users=None).fit(windows).fusion_model.to_json() == by_hand.to_json()


def test_users_of_two_domains_are_never_the_same(windows):
    elsewhere = replace(windows[1], fold=replace(windows[1].fold, domain="elsewhere"))
    read = readings()
    numbers = []
    choices = Choices.joined([one.choices for one in windows])
    for pair in (windows, [windows[0], elsewhere]):
        numbers.append(Fused(read, fit_users=None).fit(pair).fusion_model.judged.users)
    assert numbers[0] == choices.users
    assert numbers[1] == [("toy", user) for user in windows[0].users] + [
        ("elsewhere", user) for user in elsewhere.users
    ]


def test_a_list_is_read_once_and_its_cost_is_kept(lists):
    read = readings()
    assert read.cost(lists[1]) is None
    first = read.of(lists[1])
    cost = read.cost(lists[1])
    assert cost.tokens > 0
    assert cost.seconds > 0
    assert read.of(lists[1]) is first
    assert read.cost(lists[1]) is cost
    assert read.count == 1


def test_a_shared_reading_costs_each_system_the_same():
    read = readings()
    systems = {
        "first_stage": lambda _: FirstStageOrder(),
        "zero_shot_likelihood": lambda _: ZeroShot("zero_shot_likelihood", read),
        "llm": lambda _: LLMAlone(read),
    }
    found = evaluate([leave_last_k(toys.taste_dataset())], PopularityGenerator(), systems, Settings(candidates=(12,)))
    generator, first, second = found.runs
    assert np.isnan(generator.tokens)
    assert first.tokens == second.tokens > 0
    assert second.score_seconds >= read.cost(second.lists).seconds


def test_states_of_another_arithmetic_are_read_anew(lists, tmp_path):
    """The same model in another dtype, or templates that were edited: what was kept under the others is not theirs."""
    config = RerankerConfig(engine="scripted", prompt=toys.PROMPT, scorer="embedding")
    for dtype in ("bfloat16", "float32"):
        engine = toys.WatchedEngine()
        ScoreCache(engine, config.model_copy(update={"dtype": dtype}), directory=tmp_path).of(lists[1])
        assert engine.states_read > 0


def test_edited_templates_are_another_reading(tmp_path):
    own = own_labels(tmp_path)
    kept = readings(prompt=toys.PROMPT.model_copy(update={"directory": own}))
    before = kept.fingerprint
    file = next(path for path in own.rglob("*") if path.is_file())
    file.write_text(file.read_text() + " ")
    assert kept.fingerprint != before


def test_an_order_without_the_model_costs_no_tokens():
    fold = leave_last_k(toys.random_dataset(seed=1))
    served = Served(readings()).fit([propose(fold.validation(), PopularityGenerator(), 12)])
    assert served.fusion_model.guard.serve == "first_stage"
    assert served.reading_cost(propose(fold, PopularityGenerator(), 12)).tokens == 0


def test_the_fingerprint_changes_with_what_changes_scores():
    base = Fused(readings(), fit_users=10).fingerprint
    assert base == Fused(readings(), fit_users=10).fingerprint
    others = (
        Fused(readings(), fit_users=11),
        Fused(readings(), fit_users=10, l2=2.0),
        Fused(readings("labels"), fit_users=10),
        Fused(readings(soft_tokens=0), fit_users=10),
    )
    assert base not in {other.fingerprint for other in others}


def test_the_counting_engine_counts_a_prefix_once_a_request():
    engine = CountingEngine(ScriptedEngine())
    spans = tuple(CandidateSpan(sequence=TokenSequence.from_tokens(ids)) for ids in ([1, 2, 3], [1, 2]))
    request = ScoringRequest(prefix=TokenSequence.from_tokens([7, 8, 9, 10]), candidates=spans)
    engine.span_log_likelihoods([request, request])
    assert engine.tokens == 2 * (4 + 3 + 2)
    engine.label_log_probs([request], [5])
    assert engine.tokens == 3 * (4 + 3 + 2)


def test_served_follows_the_guard(lists):
    validation, test = lists
    read = readings()
    served = Served(read).fit([validation])
    orders = served.fusion_model.orders(test.features, read.of(test), test.list_index, test.is_new)
    orders["first_stage"] = -test.first_stage_rank.astype(float)
    assert np.array_equal(served.score(test), orders[served.fusion_model.guard.serve])
    elsewhere = replace(validation, fold=replace(validation.fold, domain="elsewhere"))
    with pytest.raises(ConfigError, match=r"windows of one domain, got .*'elsewhere', 'toy'"):
        Served(read).fit([validation, elsewhere])


def test_served_keeps_the_first_stage_order_of_new_users_who_lost_by_the_other():
    rng = np.random.default_rng(0)
    table = toys.items(per_group=12)
    rows = [(f"u{user}", f"g{user % 4}i{item}") for user in range(120) for item in rng.permutation(12)[:10]]
    popular = pd.Series([item for _, item in rows]).value_counts().index
    for user in range(60):  # the new ones turn to what is popular among the others
        others = [item for item in popular if not item.startswith(f"g{user % 4}")][:3]
        chosen = [f"g{user % 4}i{item}" for item in rng.permutation(12)[:3]] + list(rng.permutation(others)[:2])
        rows += [(f"n{user}", item) for item in chosen]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id"]).assign(timestamp=range(len(rows)))
    fold = leave_last_k(Dataset(interactions=interactions, items=table, domain="toy"))
    validation, test = (propose(one, PopularityGenerator(), 28) for one in (fold.validation(), fold))
    read = readings()
    served = Served(read).fit([validation])
    assert served.fusion_model.guard.serve == "fused"
    new = np.array([user.startswith("n") for user in fold.users])
    assert np.array_equal(served.fusion_model.guard.holds_for(test.n_known), ~new)
    scores, rows_of_new = served.score(test), new[test.list_index]
    fused = served.fusion_model.orders(test.features, read.of(test), test.list_index, test.is_new)["fused"]
    assert np.array_equal(scores[rows_of_new], -test.first_stage_rank.astype(float)[rows_of_new])
    assert np.array_equal(scores[~rows_of_new], fused[~rows_of_new])
    assert served.reading_cost(test).tokens == round(read.cost(test).tokens * 2 / 3)  # 120 of 180 users


def test_served_keeps_the_first_stage_order_when_nothing_helps():
    fold = leave_last_k(toys.random_dataset(seed=1))
    served = Served(readings()).fit([propose(fold.validation(), PopularityGenerator(), 12)])
    assert served.fusion_model.guard.serve == "first_stage"
    test = propose(fold, PopularityGenerator(), 12)
    assert np.array_equal(served.score(test), -test.first_stage_rank.astype(float))


@pytest.mark.parametrize("system", [LLMAlone, Fused, Served])
def test_scoring_before_fitting_is_refused(system, lists):
    with pytest.raises(ConfigError, match="must be fitted"):
        system(readings()).score(lists[1])


def test_a_run_that_was_killed_learns_the_space_from_the_same_catalogue(lists, tmp_path):
    """Titles that say nothing, as the diagnosis reads them, are no catalogue to learn from."""
    _, test = lists
    nameless = obfuscated_titles(test)

    def read(folder, *asked):
        config = RerankerConfig(engine="scripted", prompt=toys.PROMPT, scorer="embedding")
        kept = ScoreCache(ScriptedEngine(), config, directory=folder)
        return [kept.of(one) for one in asked]

    whole = read(tmp_path / "whole", test, nameless)
    read(tmp_path / "cut", test)  # killed behind the true lists
    np.testing.assert_array_equal(read(tmp_path / "cut", test, nameless), whole)


def test_readings_of_a_model_with_other_settings_are_not_used_again(lists, tmp_path):
    _, test = lists
    model = save_tiny_model(tmp_path / "model")
    config = RerankerConfig(engine="torch", model=str(model), scorer="embedding", dtype="float32", soft_tokens=0)

    def read(folder):
        return ScoreCache(TorchEngine(model, dtype="float32"), config, directory=folder).of(test)

    first = read(tmp_path / "kept")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.5}))
    again = read(tmp_path / "kept")
    np.testing.assert_array_equal(again, read(None))
    assert np.abs(again - first).max() > 1e-3


def test_without_a_target_to_learn_from_served_says_so(lists):
    validation, _ = lists
    nothing = validation.of_users(~validation.covered)
    with pytest.raises(DataError, match="no list contains a chosen item"):
        Served(readings("embedding")).fit([nothing])
