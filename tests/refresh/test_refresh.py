"""A refreshed bundle knows what a full fit on the same data knows; only the weights are updated instead of fitted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from candidate_gen import ALSGenerator, PopularityGenerator
from reranker import Dataset, Reranker
from reranker.errors import ConfigError, DataError
from reranker.refresh import forget_users, refresh
from reranker.utils.spaces import PopularityProjection
from tests.pipeline import toys

ARRAYS = ("popularity", "recent_popularity", "vectors")
MATRICES = ("co_visits", "transitions", "categories")


def days(ordered=True, numbers=False, per_group=16):
    """A data set of tastes, cut before each user's last two choices; ids are texts, or numbers."""
    rng = np.random.default_rng(3)
    items = toys.items(per_group)
    rows = [
        (f"u{user}", f"g{user % 4}i{number}", turn * 100 + int(rng.integers(50)) // 10 * 10)
        for user in range(80)
        for turn, number in enumerate(rng.choice(per_group, 8, replace=False))
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    turn = frame.groupby("user_id").cumcount()
    if numbers:
        codes = {item: number for number, item in enumerate(items["item_id"], 1000)}
        frame, items = frame.assign(item_id=frame["item_id"].map(codes)), items.assign(item_id=list(codes.values()))
        frame["user_id"] = frame["user_id"].str[1:].astype(int)
    if not ordered:
        frame = frame.drop(columns="timestamp")
    return Dataset(interactions=frame[turn < 6], items=items, domain="toy"), frame[turn >= 6], frame


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Fitted once; each test loads a copy of its own."""
    folder = tmp_path_factory.mktemp("refresh") / "bundle"
    fitted(days()[0], PopularityGenerator()).save(folder)
    return folder


def loaded(bundle, engine=None):
    return Reranker.load(bundle, engine=engine or toys.WatchedEngine())


def fitted(data, generator=None, engine=None):
    generator = (generator or ALSGenerator(factors=8)).fit(data.interactions)
    return Reranker(toys.config(scorer="embedding"), engine or toys.WatchedEngine()).fit(data, generator)


def assert_same_statistics(one, other):
    left, right = one.fitted()[0].statistics, other.fitted()[0].statistics
    order = [left.index[item] for item in right.item_ids]
    assert left.index.keys() == right.index.keys()
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(left, name)[order], getattr(right, name), atol=1e-5, err_msg=name)
    for name in MATRICES:
        mine = getattr(left, name).toarray()[order]
        mine = mine if name == "categories" else mine[:, order]
        np.testing.assert_allclose(mine, getattr(right, name).toarray(), atol=1e-9, err_msg=name)
    assert {user: one.history(user) for user in one.user_ids} == {user: other.history(user) for user in other.user_ids}


@pytest.mark.parametrize(("ordered", "numbers"), [(True, False), (True, True), (False, False)])
def test_statistics_and_histories_are_those_of_a_full_fit(tmp_path, ordered, numbers):
    data, new, every = days(ordered, numbers)
    fitted(data).save(tmp_path / "bundle")
    reranker = Reranker.load(tmp_path / "bundle", engine=toys.WatchedEngine())
    refresh(reranker, new)
    whole = fitted(Dataset(interactions=every, items=data.items, domain="toy"))
    if ordered:
        assert_same_statistics(reranker, whole)
    else:  # without times there is no order within a history
        mine, theirs = (one.fitted()[0].statistics for one in (reranker, whole))
        np.testing.assert_array_equal(mine.popularity, theirs.popularity)
        np.testing.assert_allclose(mine.co_visits.toarray(), theirs.co_visits.toarray())
    assert not reranker.fitted()[0].interactions.duplicated().any()


def test_weights_learn_from_the_new_choices_and_the_guard_goes_by_both(bundle):
    _, new, _ = days()
    reranker = loaded(bundle)
    before, judged = reranker.fusion_model, len(reranker.fusion_model.judged.users)
    report = refresh(reranker, new)
    after = reranker.fusion_model
    assert report.not_updated == "" and report.choices >= 15 and report.new_interactions == 160
    assert after.fused.past.n_choices > before.fused.past.n_choices
    assert len(after.judged.users) == judged + report.lists
    assert after.guard.fused_minus_baseline.n == 80  # a user counts once
    assert after.guard.serve == report.served != "first_stage"
    moved = np.abs(after.features.logit.weights - before.features.logit.weights)
    assert 0 < moved.max() < 1.5


def test_known_texts_are_not_read_again(bundle):
    _, new, _ = days()
    engine = toys.WatchedEngine()
    reranker = loaded(bundle, engine)
    read = engine.states_read
    refresh(reranker, new)
    assert engine.states_read == read
    fresh = pd.DataFrame({"item_id": ["n1", "n2"], "title": ["zorblax nine", "mipfen nine"]})
    later = pd.DataFrame({"user_id": ["u0", "u4"], "item_id": ["n1", "n1"], "timestamp": [5000, 5001]})
    report = refresh(reranker, later, fresh)
    assert engine.states_read == read + 2
    assert report.new_items == 2 and reranker.history("u0")[-1] == "n1"
    assert reranker.fitted()[0].statistics.popularity[reranker.fitted()[0].statistics.index["n1"]] == 2


def test_rows_already_seen_change_nothing(bundle):
    data, new, _ = days()
    reranker = loaded(bundle)
    refresh(reranker, new)
    weights = reranker.fusion_model.fused.logit.weights.copy()
    report = refresh(reranker, pd.concat([new, new, data.interactions]))
    assert report.new_interactions == 0 and report.repeated == 2 * len(new) + len(data.interactions)
    assert not report.changed and "no interaction came after" in report.not_updated
    np.testing.assert_array_equal(reranker.fusion_model.fused.logit.weights, weights)


def test_who_chooses_which_texts_is_learned_anew_under_the_penalties_of_the_fit(bundle):
    data, new, _ = days()
    reranker = loaded(bundle)
    before = reranker.llm_scorer.hidden_states
    refresh(reranker, new)
    after = reranker.llm_scorer.hidden_states
    assert after.penalties == before.penalties and min(after.penalties) > 0
    assert not np.array_equal(after.predicted_popularity.weights, before.predicted_popularity.weights)
    counts = pd.concat([data.interactions, new])["item_id"].value_counts().reindex(data.items["item_id"]).fillna(0)
    chosen = counts.to_numpy() > 0
    texts = reranker.llm_scorer.renderer.item_texts([*reranker.item_fields(data.items["item_id"][chosen].tolist())])
    placed = after.whole(reranker.llm_scorer.engine, texts)
    expected = PopularityProjection.fit(placed, counts.to_numpy(dtype=np.float64)[chosen], before.penalties[1])
    np.testing.assert_allclose(after.predicted_popularity.weights, expected.weights, atol=1e-6)


def test_late_rows_join_statistics_and_teach_nothing(bundle):
    data, _, _ = days()
    reranker = loaded(bundle)
    user = data.interactions["user_id"].iloc[0]
    late = pd.DataFrame({"user_id": [user], "item_id": ["g3i15"], "timestamp": [-5]})
    report = refresh(reranker, late)
    assert report.late == 1 and report.new_interactions == 1 and report.not_updated
    assert reranker.history(user)[0] == "g3i15"


def test_new_users_join_without_a_list(bundle):
    reranker = loaded(bundle)
    report = refresh(reranker, pd.DataFrame({"user_id": ["new"] * 2, "item_id": ["g0i1", "g0i2"], "timestamp": [1, 2]}))
    assert report.new_users == 1 and "fewer than" in report.not_updated
    assert reranker.history("new") == ["g0i1", "g0i2"]


def test_lists_that_were_served_teach_where_there_is_no_generator():
    data, lists, held_out = toys.cold_logs()
    reranker = Reranker(toys.config(scorer="embedding"), toys.WatchedEngine())
    reranker.fit(data, candidates=lists, held_out=held_out)
    new = held_out.assign(timestamp=20_000)
    assert "no candidate generator" in refresh(reranker, new.head(2)).not_updated
    report = refresh(reranker, new.tail(40).assign(timestamp=30_000), candidates=lists)
    assert report.choices == 40 and report.not_updated == ""


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        (lambda new: new.drop(columns="timestamp"), DataError, "the new table has none"),
        (lambda new: new.assign(timestamp=pd.Timestamp("2026-01-01")), DataError, "two kinds"),
        (lambda new: new.assign(user_id=range(len(new))), DataError, "user_id"),
        (lambda new: new.drop(columns="item_id"), DataError, "item_id"),
    ],
)
def test_tables_that_do_not_fit_are_refused(bundle, table, error, words):
    _, new, _ = days()
    with pytest.raises(error, match=words):
        refresh(loaded(bundle), table(new))


def test_memory_is_a_share(bundle):
    _, new, _ = days()
    reranker = loaded(bundle)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        refresh(reranker, new, memory=1.5)
    refresh(reranker, new, memory=0.0)
    assert reranker.fusion_model.features.past.n_choices == reranker.fusion_model.features.logit.n_choices


def test_a_bundle_without_times_says_what_to_do(bundle):
    _, new, _ = days()
    reranker = loaded(bundle)
    reranker._data = replace(reranker._data, details=None)
    with pytest.raises(DataError, match="fit it once more"):
        refresh(reranker, new)


def test_who_is_forgotten_was_never_there(bundle, tmp_path):
    data, new, _ = days()
    reranker = loaded(bundle)
    refresh(reranker, new)
    gone = ["u0", "u7"]
    report = forget_users(reranker, [*gone, "nobody"])
    assert report.users == 2 and report.unknown == 1 and report.interactions == 16 and report.lists >= 2
    others = pd.concat([data.interactions, new])
    others = others[~others["user_id"].isin(gone)]
    assert_same_statistics(
        reranker, fitted(Dataset(interactions=others, items=data.items, domain="toy"), PopularityGenerator())
    )
    assert not set(gone) & {*reranker.user_ids, *reranker.fusion_model.judged.users}
    reranker.save(tmp_path / "bundle")
    assert all(b'"u7"' not in path.read_bytes() for path in (tmp_path / "bundle").rglob("*.json"))
    with pytest.raises(DataError, match="delete the bundle"):
        forget_users(reranker, reranker.user_ids)
    with pytest.raises(DataError, match="list of user ids"):
        forget_users(reranker, "u1")
