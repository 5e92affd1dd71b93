"""`Reranker.fit`: what it may look at, and what the guard serves."""

import gc
import weakref

import numpy as np
import pandas as pd
import pytest

from candidate_gen import ItemKNNGenerator, PopularityGenerator
from reranker import ConfigError, DataError, Dataset, Reranker, RerankerConfig
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import GeneratorError
from reranker.pipeline.windows import window_from_logs
from tests.pipeline import toys


def hit_places(ranked, targets):
    """(users,) place of each user's target in a ranking."""
    hits = ranked[ranked["item_id"] == ranked["user_id"].map(targets)]
    return hits["rank"].to_numpy()


@pytest.mark.parametrize("seed", range(4))
def test_random_choices_are_served_in_the_first_stage_order(seed):
    data = toys.random_dataset(seed=seed)
    generator = PopularityGenerator().fit(data.interactions)
    reranker = Reranker(toys.config(n_candidates=32), ScriptedEngine()).fit(data, generator)
    assert reranker.fusion_model.guard.serve == "first_stage"
    assert "serving the first-stage order" in reranker.fusion_model.guard.summary()
    result = reranker.rerank(generator.recommend(reranker.user_ids, 10))
    served = result.to_frame()
    assert (served["rank"] == served["first_stage_rank"]).all()
    assert result.report.served == "first_stage"


def test_taste_is_served_and_brings_unseen_choices_up():
    data = toys.taste_dataset(users=60)
    last = ~data.interactions.duplicated("user_id", keep="last")
    past = Dataset(interactions=data.interactions[~last], items=data.items, domain="toy")
    generator = PopularityGenerator().fit(past.interactions)
    reranker = Reranker(toys.config(n_candidates=28, min_history=2), ScriptedEngine()).fit(past, generator)
    assert reranker.fusion_model.guard.serve != "first_stage"
    assert reranker.fusion_model.guard.fused_minus_first_stage.low > 0
    lists = generator.recommend(reranker.user_ids, 28)
    targets = dict(zip(data.interactions[last]["user_id"], data.interactions[last]["item_id"], strict=True))
    before, after = (
        hit_places(reranker.rerank(lists, order=order).to_frame(), targets) for order in ("first_stage", None)
    )
    assert len(before) == len(after) == 60  # 28 of 32 items are unseen: every target is proposed
    assert after.mean() < 0.6 * before.mean()


def test_titles_decide_among_items_that_nobody_chose_yet():
    data, candidates, held_out = toys.cold_logs()
    reranker = Reranker(toys.config(), ScriptedEngine()).fit(data, candidates=candidates, held_out=held_out)
    assert reranker.fusion_model.guard.serve == "fused"
    assert reranker.fusion_model.guard.fused_minus_baseline.low > 0  # features know nothing of new items
    weights = toys.weights_of(reranker.fusion_model.fused)
    assert weights["llm_sum"] + weights["llm_mean"] + weights["llm_gain"] > 0.5
    assert weights["covisit_mean"] == pytest.approx(0.0, abs=0.01)
    targets = dict(zip(held_out["user_id"], held_out["item_id"], strict=True))
    places = hit_places(reranker.rerank(candidates).to_frame(), targets)
    assert np.mean(places <= 2) > 0.8  # two of each list are of the user's taste


def test_an_llm_that_says_nothing_is_not_served_in_place_of_first_stage():
    data, candidates, held_out = toys.cold_logs()
    constant = ScriptedEngine(lambda prefix, span: np.full(len(span), -1.0))
    reranker = Reranker(toys.config(), constant).fit(data, candidates=candidates, held_out=held_out)
    assert reranker.fusion_model.guard.serve == "first_stage"


def test_first_stage_never_sees_what_is_held_out():
    data = toys.taste_dataset(users=40)
    spy = toys.SpyGenerator(toys.items()["item_id"])
    Reranker(toys.config(n_candidates=32, windows=3), ScriptedEngine()).fit(data, spy)
    assert [len(seen) for seen in spy.fits] == [4 * 40, 3 * 40, 2 * 40]
    for window, seen in enumerate(spy.fits, start=1):
        later = data.interactions.groupby("user_id").tail(window)
        pairs = set(zip(seen["user_id"], seen["item_id"], strict=True))
        assert not pairs & set(zip(later["user_id"], later["item_id"], strict=True))
        for user, part in seen.groupby("user_id"):
            assert part["timestamp"].max() <= later[later["user_id"] == user]["timestamp"].min()


def test_older_windows_are_made_until_there_are_enough_lists(monkeypatch):
    data = toys.taste_dataset(users=40)

    def fits(**settings):
        spy = toys.SpyGenerator(toys.items()["item_id"])
        Reranker(toys.config(n_candidates=32, **settings), ScriptedEngine()).fit(data, spy)
        return len(spy.fits)

    assert fits() == 4  # of 5 interactions one has to be known before the choice
    assert fits(windows=1) == 1
    assert fits(min_history=3) == 2
    monkeypatch.setattr("reranker.utils.rolling_origin.ENOUGH_LISTS", 41)
    assert fits() == 2
    monkeypatch.setattr("reranker.utils.rolling_origin.ENOUGH_LISTS", 40)
    assert fits() == 1


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, DataError])
def test_a_generator_that_fails_on_less_data_is_told_of_unless_it_says_that_the_data_are_too_few(kind, caplog):
    class NeedsMuch(toys.SpyGenerator):
        def fit(self, interactions):
            if len(interactions) < 3 * 40:
                raise kind("too little data")
            return super().fit(interactions)

    def fit(users=40, **settings):
        spy = NeedsMuch(toys.items()["item_id"])
        Reranker(toys.config(n_candidates=32, **settings), ScriptedEngine()).fit(toys.taste_dataset(users=users), spy)
        return len(spy.fits)

    if kind is DataError:
        with caplog.at_level("INFO", "reranker"):
            assert fit() == 2
        assert "there is no window before the newest 2" in caplog.text and "too little data" in caplog.text
        with pytest.raises(DataError, match="too little data"):  # of the newest window it is an error
            fit(users=20)
        return
    with pytest.raises(GeneratorError, match=r"NeedsMuch failed in 'fit', on 80 interactions.*too little.*windows"):
        fit()
    assert fit(windows=2) == 2


def test_what_is_no_candidate_generator_is_refused_by_name():
    class Model:
        def fit(self, interactions):
            return self

        def recommend(self, user_ids, n):
            raise NotImplementedError

    for given, message in (
        (Model(), r"Model, which is no candidate generator: it has no clone\."),
        (PopularityGenerator, r"the class PopularityGenerator: give an instance, PopularityGenerator\(\.\.\.\)"),
        (toys.taste_dataset().interactions, "DataFrame, which is no candidate generator: it has no clone, fit"),
    ):
        with pytest.raises(ConfigError, match=message):
            Reranker(toys.config(), ScriptedEngine()).fit(toys.taste_dataset(), given)


def test_a_trained_model_of_implicit_is_told_what_to_give_instead():
    implicit = pytest.importorskip("implicit.als")
    model = implicit.AlternatingLeastSquares(factors=8)
    with pytest.raises(ConfigError, match=r"implicit\.\S+, which is no .* has no clone.*ALSGenerator"):
        Reranker(toys.config(), ScriptedEngine()).fit(toys.taste_dataset(), model)


def test_older_windows_say_what_the_newest_says():
    """The newest choices are those of another user, so that only older ones say that tastes last."""
    data = toys.taste_dataset(users=40)
    frame = data.interactions.copy()
    newest = frame.groupby("user_id").tail(1).index
    frame.loc[newest, "item_id"] = np.random.default_rng(0).choice(data.items["item_id"], len(newest))
    mixed = Dataset(interactions=frame.drop_duplicates(["user_id", "item_id"]), items=data.items, domain="toy")
    generator = PopularityGenerator().fit(mixed.interactions)
    one, all_of_them = (
        Reranker(toys.config(n_candidates=28, windows=windows), ScriptedEngine()).fit(mixed, generator).fusion_model
        for windows in (1, 5)
    )
    assert one.features.logit.n_choices < 41 < 100 < all_of_them.features.logit.n_choices
    assert all_of_them.features.logit.log_likelihood > one.features.logit.log_likelihood
    assert all_of_them.guard.fused_minus_first_stage.n == 40  # users, not lists


def test_the_prompts_of_the_fold_do_not_show_what_is_held_out():
    engine = toys.WatchedEngine()
    data = toys.taste_dataset(users=40)
    spy = toys.SpyGenerator(toys.items()["item_id"])
    Reranker(toys.config(n_candidates=32, soft_tokens=0, windows=2), engine).fit(data, spy)
    titles = dict(zip(data.items["item_id"], data.items["title"], strict=True))
    expected = {
        "".join(f"\n- {titles[item]}" for item in part["item_id"][:-left_out])
        for _, part in data.interactions.groupby("user_id")
        for left_out in (1, 2)
    }
    shown = {prefix.split("Chosen before:")[1] for prefix in engine.prefixes()} - {""}
    assert shown == expected


def test_new_users_get_the_order_that_other_new_users_were_better_off_with():
    data = toys.taste_dataset(users=400)
    generator = PopularityGenerator().fit(data.interactions)
    new = data.interactions["user_id"].isin([f"u{user}" for user in range(100)])
    from_end = data.interactions.groupby("user_id").cumcount(ascending=False)
    shown = Dataset(interactions=data.interactions[~new | (from_end < 3)], items=data.items, domain="toy")
    guards = [
        Reranker(toys.config(n_candidates=28, windows=1), ScriptedEngine()).fit(one, generator).fusion_model.guard
        for one in (data, shown)
    ]
    assert all(guard.serve != "first_stage" for guard in guards)
    assert [group.at_least for group in guards[0].by_history] == [4]  # nobody has fewer than 4 known
    assert guards[0].holds_for(np.array([0, 2, 4])).tolist() == [False, False, True]
    assert [group.at_least for group in guards[1].by_history] == [2]
    assert guards[1].holds_for(np.array([0, 2, 4])).tolist() == [False, True, True]
    earlier = (
        Reranker(toys.config(n_candidates=28, windows=3), ScriptedEngine()).fit(data, generator).fusion_model.guard
    )
    assert earlier.by_history[0].at_least == 2  # all were as new once
    assert earlier.holds_for(np.array([0, 1, 2])).tolist() == [False, False, True]


def test_after_fit_histories_are_complete():
    data = toys.taste_dataset(users=40)
    engine = toys.WatchedEngine()
    reranker = Reranker(toys.config(soft_tokens=0), engine).fit(data, PopularityGenerator().fit(data.interactions))
    engine.calls.clear()
    reranker.rerank(toys.lists_for(["u3"], ["g0i0", "g1i1"]), order="fused")
    titles = dict(zip(data.items["item_id"], data.items["title"], strict=True))
    mine = data.interactions[data.interactions["user_id"] == "u3"]["item_id"]
    assert engine.prefixes()[-1].endswith("".join(f"\n- {titles[item]}" for item in mine))


def test_rows_held_out_are_left_out_of_the_statistics_of_logs():
    data, candidates, held_out = toys.cold_logs()
    both = Dataset(interactions=pd.concat([data.interactions, held_out]), items=data.items, domain="toy")
    models = [
        Reranker(toys.config(), ScriptedEngine()).fit(one, candidates=candidates, held_out=held_out).fusion_model
        for one in (data, both)
    ]
    assert models[0].to_json() == models[1].to_json()


@pytest.mark.parametrize("timed", [True, False])
def test_an_item_chosen_from_a_list_again_stays_in_the_history(timed):
    """u0 chose a twice before; of the two choices after the list only these are left out."""
    rows = zip("0001101", "abaacab", (1, 2, 3, 1, 2, 7, 8), strict=True)
    frame = pd.DataFrame([(f"u{user}", *rest) for user, *rest in rows], columns=["user_id", "item_id", "timestamp"])
    chosen = frame[frame["timestamp"] > 5]
    frame, chosen = (frame, chosen) if timed else (frame.drop(columns="timestamp"), chosen.drop(columns="timestamp"))
    items = pd.DataFrame({"item_id": list("abc"), "title": list("ABC")})
    lists = toys.table([("u0", "a", 2.0), ("u0", "c", 1.0), ("u1", "b", 2.0), ("u1", "a", 1.0)])
    fold = window_from_logs(Dataset(interactions=frame, items=items), lists, chosen)
    histories = {
        user: [fold.statistics.item_ids[row] for row in rows] for user, rows in fold.statistics.histories.items()
    }
    assert histories == {"u0": ["a", "b", "a"], "u1": ["a", "c"]}
    if timed:
        dates = chosen.assign(timestamp=pd.to_datetime(chosen["timestamp"], unit="D"))
        with pytest.raises(DataError, match="times cannot be compared"):
            window_from_logs(Dataset(interactions=frame, items=items), lists, dates)


def test_tables_whose_ids_have_nothing_in_common_are_refused():
    data = toys.taste_dataset()
    items = data.items.assign(item_id=range(len(data.items)))
    with pytest.raises(DataError, match="240 of 240 rows hold an id that is not in the item table"):
        Reranker(toys.config(), ScriptedEngine()).fit(
            Dataset(interactions=data.interactions, items=items), PopularityGenerator().fit(data.interactions)
        )


def test_fitting_twice_gives_the_same():
    first, second = toys.fitted(), toys.fitted()
    assert first.fusion_model.to_json() == second.fusion_model.to_json()


def test_fit_users_limits_what_the_llm_reads():
    engine = toys.WatchedEngine()
    toys.fitted(engine, fit_users=10, soft_tokens=0)
    known = [prefix.split("Chosen before:")[1].count("\n- ") for prefix in engine.prefixes()]
    read = [one for one in known if one]  # priors are read without a history
    assert len(read) == 10
    assert len(set(read)) > 2  # of all windows alike: the guard reckons with a random sample


def test_what_a_read_out_reads_by_default():
    assert RerankerConfig(scorer="embedding").lists_to_read == 10_000
    assert RerankerConfig(scorer="likelihood+embedding").lists_to_read == 1000
    assert RerankerConfig(scorer="embedding", fit_users=30).lists_to_read == 30


def test_a_table_without_timestamps_is_enough():
    data = toys.taste_dataset(ordered=False)
    generator = ItemKNNGenerator().fit(data.interactions)
    reranker = Reranker(toys.config(), ScriptedEngine()).fit(data, generator)
    assert reranker.fusion_model.guard.serve in ("fused", "baseline", "first_stage")
    assert len(reranker.rerank(generator.recommend(["u1"], 5), order="fused")) == 5


def test_a_second_domain_starts_afresh():
    engine = ScriptedEngine()
    reranker = toys.fitted(engine)
    data = toys.random_dataset(seed=9)
    other = Dataset(interactions=data.interactions, items=data.items, domain="movies")
    generator = PopularityGenerator().fit(other.interactions)
    reranker.fit(other, generator)
    fresh = Reranker(toys.config(), engine).fit(other, generator)
    assert reranker.fusion_model.to_json() == fresh.fusion_model.to_json()
    assert reranker.llm_scorer.templates.family == "movies"


class TestRefused:
    @pytest.fixture
    def data(self):
        return toys.taste_dataset(users=12)

    @pytest.fixture
    def reranker(self):
        return Reranker(toys.config(), ScriptedEngine())

    def test_neither_first_stage_nor_logs(self, reranker, data):
        with pytest.raises(ConfigError, match="generator=, or candidates= and held_out="):
            reranker.fit(data)

    def test_half_of_the_logs(self, reranker):
        data, candidates, held_out = toys.cold_logs()
        for half in ({"candidates": candidates}, {"held_out": held_out}):
            with pytest.raises(ConfigError, match="generator=, or candidates= and held_out="):
                reranker.fit(data, **half)

    def test_first_stage_and_logs(self, reranker):
        data, candidates, held_out = toys.cold_logs()
        with pytest.raises(ConfigError, match="generator=, or candidates= and held_out="):
            reranker.fit(data, PopularityGenerator(), candidates=candidates, held_out=held_out)

    def test_first_stage_and_half_of_the_logs(self, reranker):
        data, candidates, _ = toys.cold_logs()
        with pytest.raises(ConfigError, match="generator=, or candidates= and held_out="):
            reranker.fit(data, PopularityGenerator(), candidates=candidates)

    def test_histories_that_are_too_short(self, data):
        reranker = Reranker(toys.config(min_history=5), ScriptedEngine())
        with pytest.raises(DataError, match="no user has more than 5 interactions"):
            reranker.fit(data, PopularityGenerator().fit(data.interactions))

    @pytest.mark.parametrize("column", ["user_id", "item_id"])
    def test_logs_whose_ids_do_not_match(self, reranker, column):
        data, candidates, held_out = toys.cold_logs()
        others = held_out.assign(**{column: [f"other {number}" for number in range(len(held_out))]})
        with pytest.raises(DataError, match="check that the ids of both tables are the same"):
            reranker.fit(data, candidates=candidates, held_out=others)
        with pytest.raises(DataError, match=f"'held_out', column '{column}': the ids are of kind number"):
            reranker.fit(data, candidates=candidates, held_out=held_out.assign(**{column: range(len(held_out))}))

    def test_users_of_logs_that_are_written_otherwise_in_the_data(self, reranker):
        data, candidates, held_out = toys.cold_logs()
        renamed = [table.assign(user_id=table["user_id"].str.upper()) for table in (candidates, held_out)]
        said = "table 'candidates', column 'user_id'.* not in the interactions, .*'U0' here is 'u0' there"
        with pytest.raises(DataError, match=said):
            reranker.fit(data, candidates=renamed[0], held_out=renamed[1])
        renamed = [table.assign(item_id=table["item_id"].str.upper()) for table in (candidates, held_out)]
        with pytest.raises(DataError, match=r"table 'candidates', column 'item_id'.* not in the item table"):
            reranker.fit(data, candidates=renamed[0], held_out=renamed[1])

    def test_users_of_logs_without_list_or_history_are_named(self, reranker, caplog):
        data, candidates, held_out = toys.cold_logs()
        one = held_out["user_id"].iloc[0]
        more = held_out[held_out["user_id"] == one].assign(user_id="no list")
        lists = candidates[candidates["user_id"] == one].assign(user_id="no history")
        reranker.fit(data, candidates=pd.concat([candidates, lists]), held_out=pd.concat([held_out, more]))
        assert "users have no list in the candidates, for instance 'no list': their choices are left out" in caplog.text
        assert "users are not in the interactions, for instance 'no history': their lists count as" in caplog.text

    def test_first_stage_that_finds_nothing(self, reranker, data):
        with pytest.raises(DataError, match="nothing to learn from"):
            reranker.fit(data, toys.SpyGenerator(["never chosen", "nor this"]))

    def test_a_single_list_to_learn_from(self, reranker):
        data, candidates, held_out = toys.cold_logs()
        with pytest.raises(DataError, match="at least two users"):
            reranker.fit(data, candidates=candidates[candidates["user_id"] == "u1"], held_out=held_out)

    def test_a_failed_fit_leaves_the_reranker_unfitted(self, reranker, data):
        with pytest.raises(DataError):
            reranker.fit(data, toys.SpyGenerator(["never chosen"]))
        with pytest.raises(DataError, match="call fit"):
            reranker.rerank(toys.table([("u1", "g0i0", 1.0)]))

    def test_after_a_failed_second_fit_nothing_old_is_served(self):
        reranker = toys.fitted()
        data, candidates, held_out = toys.cold_logs()
        with pytest.raises(DataError, match="at least two users"):
            reranker.fit(data, candidates=candidates[candidates["user_id"] == "u1"], held_out=held_out)
        with pytest.raises(DataError, match="call fit"):
            reranker.rerank(candidates)


def test_after_many_fits_one_engine_and_one_reader_are_left(monkeypatch):
    """What a reader keeps of a catalogue goes with it, and the last one frees the engine that the first one loaded."""
    loads, closed = [], []

    class Engine(ScriptedEngine):
        def close(self):
            closed.append(self)

    monkeypatch.setattr(
        "reranker.pipeline.lazy_engine.engine_of", lambda config, needs: loads.append(config) or Engine()
    )
    data = toys.taste_dataset()
    generator = PopularityGenerator().fit(data.interactions)
    reranker, readers = Reranker(toys.config()), []
    for _ in range(3):
        reranker.fit(data, generator)
        readers.append(weakref.ref(reranker.llm_scorer))
    gc.collect()
    assert [one() is not None for one in readers] == [False, False, True]
    reranker.llm_scorer.close()
    assert (len(loads), len(closed)) == (1, 1)
