from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.data.dataset import Dataset
from reranker.data.signals import Signals
from reranker.data.splits import (
    SPLITS,
    UNDRAWN,
    cold_items,
    cold_users,
    global_temporal,
    leave_last_k,
    leave_random_k,
    new_items,
    pairs_in,
    unseen_domain,
)
from reranker.errors import DataError
from tests.evaluation.toys import dataset


def chosen(frame):
    return {user: list(part.item_id) for user, part in frame.groupby("user_id", sort=False)}


def test_leave_last_one_holds_out_the_newest_and_keeps_single_interaction_users_in_training():
    fold = leave_last_k(dataset(["a: x y z", "b: x", "c: y x"]))
    assert chosen(fold.held_out) == {"c": ["x"], "a": ["z"]}
    assert chosen(fold.train) == {"a": ["x", "y"], "b": ["x"], "c": ["y"]}
    assert chosen(fold.history) == {"a": ["x", "y"], "c": ["y"]}
    assert fold.counts["users_not_tested"] == 1
    assert fold.ordered


def test_leave_last_two():
    fold = leave_last_k(dataset(["a: x y z", "b: x y"]), k=2)
    assert chosen(fold.held_out) == {"a": ["y", "z"]}
    assert chosen(fold.train) == {"a": ["x"], "b": ["x", "y"]}


def test_of_equal_times_any_is_the_last_however_rows_are_sorted():
    """Baskets of three at one time: a table sorted by item must not make the largest id the target."""
    frame = pd.DataFrame({"user_id": np.repeat(np.arange(300), 4), "item_id": list("pqrs") * 300})
    frame["timestamp"] = [1, 2, 2, 2] * 300
    items = pd.DataFrame({"item_id": list("pqrs"), "title": list("PQRS")})
    held = leave_last_k(Dataset(interactions=frame, items=items)).held_out
    shares = held["item_id"].value_counts(normalize=True)
    assert sorted(shares.index) == ["q", "r", "s"] and shares.between(0.25, 0.42).all()
    mixed = leave_last_k(Dataset(interactions=frame.sample(frac=1, random_state=3), items=items)).held_out
    assert mixed.set_index("user_id")["item_id"].to_dict() == held.set_index("user_id")["item_id"].to_dict()


def test_a_repeated_choice_is_no_target():
    fold = leave_last_k(dataset(["a: x y x", "b: x y"]))
    assert chosen(fold.held_out) == {"b": ["y"]}
    assert fold.counts["repeats_dropped"] == 1


def test_validation_splits_the_training_part_again():
    validation = leave_last_k(dataset(["a: x y z", "b: x y"])).validation()
    assert chosen(validation.held_out) == {"a": ["y"]}
    assert chosen(validation.train) == {"a": ["x"], "b": ["x"]}


@pytest.mark.parametrize("split", [leave_last_k, global_temporal])
def test_time_splits_refuse_tables_without_time(split):
    with pytest.raises(DataError, match=r"no timestamp column.*leave_random_k"):
        split(dataset(["a: x y z"], ordered=False))


def test_time_splits_refuse_one_time_for_all():
    frame = pd.DataFrame({"user_id": ["a"] * 3, "item_id": list("xyz"), "timestamp": 7})
    items = pd.DataFrame({"item_id": list("xyz"), "title": list("XYZ")})
    with pytest.raises(DataError, match="timestamps are equal"):
        leave_last_k(Dataset(interactions=frame, items=items))


def test_random_split_is_seeded_unordered_and_drops_time():
    data = dataset([f"u{n}: a b c d e" for n in range(20)])
    fold = leave_random_k(data, seed=3)
    assert fold.split == "leave_random_1"
    assert not fold.ordered
    assert "timestamp" not in fold.train
    assert fold.held_out.equals(leave_random_k(data, seed=3).held_out)
    assert not fold.held_out.equals(leave_random_k(data, seed=4).held_out)
    assert len(fold.held_out) == 20


def test_empty_test_fold_says_what_was_left_out():
    with pytest.raises(DataError, match=r"test fold is empty.*'users_not_tested': 2"):
        leave_last_k(dataset(["a: x", "b: y"]))


def test_global_temporal_cuts_everyone_at_one_moment():
    frame = pd.DataFrame(
        {"user_id": list("aabbc"), "item_id": list("xyxzx"), "timestamp": [1, 9, 2, 10, 11]},
    )
    items = pd.DataFrame({"item_id": list("xyz"), "title": list("XYZ")})
    fold = global_temporal(Dataset(interactions=frame, items=items), test_share=0.6)
    assert chosen(fold.held_out) == {"a": ["y"], "b": ["z"]}
    assert fold.train.timestamp.max() == 2
    assert fold.counts["users_without_history"] == 1


def test_cold_users_keep_k_and_lose_the_rest_of_their_history(chain):
    fold = cold_users(chain, k=2, share=0.25, seed=1)
    assert len(fold.users) == 10
    per_user = fold.train.groupby("user_id").size()
    assert set(per_user[fold.users]) == {2}
    others = per_user.drop(fold.users).value_counts().to_dict()
    assert others == {3: 8, 6: 22}  # a quarter of the others is as new, and what they chose next is known
    assert fold.counts["interactions_removed"] == 10 * 3 + 8 * 3
    everything = chosen(chain.interactions)
    for user, target in chosen(fold.held_out).items():
        assert everything[user][-3:] == chosen(fold.history)[user] + target


def test_what_is_learned_for_cold_users_is_learned_from_all_last_choices(chain):
    fold = cold_users(chain, k=1, share=0.25)
    validation = fold.validation()
    assert validation.split == "leave_last_1"
    assert not set(fold.users) & set(validation.users)  # their only interaction is their support
    known = validation.history.groupby("user_id").size().value_counts().to_dict()
    assert known == {1: 8, 5: 22}
    longer = cold_users(chain, k=2, share=0.25)
    assert set(longer.users) <= set(longer.validation().users)
    targets, support = chosen(longer.validation().held_out), chosen(longer.history)
    assert {user: targets[user] for user in longer.users} == {user: support[user][-1:] for user in longer.users}


def test_cold_items_are_absent_from_training_and_history_is_the_past(chain):
    fold = cold_items(chain, share=0.25, seed=2)
    assert len(fold.cold_items) == 3
    assert not set(fold.cold_items) & set(fold.train.item_id)
    assert set(fold.held_out.item_id) <= set(fold.cold_items)
    order = chosen(chain.interactions)
    for user, (target,) in chosen(fold.held_out).items():
        before = order[user][: order[user].index(target)]
        assert chosen(fold.history)[user] == [item for item in before if item not in fold.cold_items]


def test_new_items_hide_what_cold_items_hide_and_teach_as_fit_does(chain):
    fold, cold = new_items(chain, share=0.25, seed=2), cold_items(chain, share=0.25, seed=2)
    assert fold.only_new and not cold.only_new
    assert fold.split == "new_items_0.25"
    assert fold.cold_items == cold.cold_items
    pd.testing.assert_frame_equal(fold.train, cold.train)
    pd.testing.assert_frame_equal(fold.held_out, cold.held_out)
    validation = fold.validation()
    assert validation.split == "leave_last_1" and not validation.cold_items
    assert not set(fold.cold_items) & set(validation.held_out.item_id)


@pytest.mark.parametrize("name", SPLITS)
def test_another_seed_draws_another_fold_unless_time_alone_decides(chain, name):
    first, again, other = (SPLITS[name](chain, 1, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.held_out, again.held_out)
    assert first.held_out.equals(other.held_out) == (name in UNDRAWN)


def test_unseen_domain_learns_elsewhere(chain):
    folds = {"here": leave_last_k(chain), "there": leave_last_k(dataset(["a: x y z", "b: z y x"]))}
    fold = unseen_domain(folds, "here")
    assert fold.split == "unseen_domain_leave_last_1"
    assert [set(part.users) for part in fold.sources] == [{"a", "b"}]
    with pytest.raises(DataError, match="elsewhere"):
        unseen_domain(folds, "elsewhere")


def test_sampling_users_leaves_training_alone(chain):
    fold = leave_last_k(chain)
    sample = fold.sample_users(7, seed=5)
    assert len(sample.users) == 7
    assert sample.train is fold.train
    assert set(sample.history.user_id) == set(sample.users)
    assert fold.sample_users(1000) is fold


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=2, max_size=60)


@settings(deadline=None)
@given(rows, st.integers(1, 3), st.sampled_from(["last", "random", "users", "items"]))
def test_no_split_shares_a_pair_between_training_and_targets(pairs, k, kind):
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(timestamp=range(len(pairs)))
    items = pd.DataFrame({"item_id": range(7), "title": list("ABCDEFG")})
    data = Dataset(interactions=frame, items=items)
    make = {
        "last": lambda: leave_last_k(data, k),
        "random": lambda: leave_random_k(data, k),
        "users": lambda: cold_users(data, k, share=0.5),
        "items": lambda: cold_items(data, share=0.3),
    }[kind]
    try:
        fold = make()
    except DataError as error:
        assert "test fold is empty" in str(error)
        return
    assert not pairs_in(fold.held_out, fold.train).any()
    assert set(fold.users) <= set(fold.history.user_id)
    assert not fold.held_out.duplicated().any()


EVENTS = pd.DataFrame(
    [
        ("u", "a", "view", 1),
        ("u", "b", "purchase", 2),
        ("u", "c", "view", 3),
        ("v", "a", "view", 4),
        ("v", "c", "purchase", 5),
        ("v", "b", "dislike", 6),
        ("w", "a", "purchase", 7),
        ("w", "b", "view", 8),
    ],
    columns=["user_id", "item_id", "event", "timestamp"],
)


def events(**signals):
    items = pd.DataFrame({"item_id": list("abc"), "title": list("ABC")})
    return Dataset(interactions=EVENTS, items=items, signals=Signals(**signals))


def test_the_last_choice_of_the_kind_asked_for_is_held_out_and_nothing_later_is_known():
    plain = leave_last_k(events())
    assert chosen(plain.held_out) == {"u": ["c"], "v": ["c"], "w": ["b"]}  # v's dislike is no target
    assert chosen(plain.train) == {"u": ["a", "b"], "v": ["a"], "w": ["a"]}
    assert plain.counts["interactions_removed"] == 1
    fold = leave_last_k(events(target_events=("purchase",)))
    assert chosen(fold.held_out) == {"u": ["b"], "v": ["c"]}  # before w's, nothing is known of w
    assert chosen(fold.train) == {"u": ["a"], "v": ["a"], "w": ["a", "b"]}
    assert fold.counts["interactions_removed"] == 2
    assert fold.signals.target_events == fold.data.signals.target_events == ("purchase",)


def test_other_splits_hold_out_targets_alone():
    asked = events(target_events=("purchase",))
    temporal = global_temporal(asked, test_share=0.5)  # cut at 5: v's purchase and dislike, w's rows
    assert chosen(temporal.held_out) == {"v": ["c"]}
    assert len(temporal.train) == 4 and temporal.counts["interactions_removed"] == 2
    assert set(leave_random_k(asked).held_out["user_id"]) == {"u", "v", "w"}
    assert chosen(leave_random_k(asked).held_out) == {"u": ["b"], "v": ["c"], "w": ["a"]}
    cold = cold_users(asked, 1, share=1.0)
    assert chosen(cold.held_out) == {"u": ["b"], "v": ["c"]} and chosen(cold.history) == {"u": ["a"], "v": ["a"]}
    new = cold_items(asked, share=2 / 3, seed=3)
    assert set(new.cold_items) == {"b", "c"}
    assert chosen(new.held_out) == {"u": ["b"], "v": ["c"]} and chosen(new.train) == {
        "u": ["a"],
        "v": ["a"],
        "w": ["a"],
    }


def test_repeats_are_targets_where_they_are_allowed():
    lines = ["a: x y x", "b: x y"]
    once = dataset(lines)
    again = replace(once, signals=Signals(repeats="allowed"))
    assert chosen(leave_last_k(once).held_out) == {"b": ["y"]}
    fold = leave_last_k(again)
    assert chosen(fold.held_out) == {"a": ["x"], "b": ["y"]} and fold.counts["repeats_dropped"] == 0
