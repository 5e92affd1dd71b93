from dataclasses import replace

import numpy as np
import pytest

from reranker.fusion import FEATURES, Choices, FusionHead, FusionModel

SIZE = 10
WORDS = {"llm": "what the model says"}


def fold(users: int, strength: float, seed: int = 0) -> Choices:
    """Lists of 10, one a user; the first feature tells the chosen item with the given strength."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((users, SIZE, len(FEATURES)))
    utility = strength * features[:, :, 0] + random.gumbel(size=(users, SIZE))
    chosen = np.zeros((users, SIZE), dtype=bool)
    chosen[np.arange(users), utility.argmax(axis=1)] = True
    return Choices(
        features=features.reshape(-1, len(FEATURES)),
        list_index=np.repeat(np.arange(users), SIZE),
        chosen=chosen.ravel(),
        first_stage_rank=np.tile(np.arange(1, SIZE + 1), users),
        n_relevant=np.ones(users, dtype=np.int64),
        n_known=np.full(users, 30),
        users=range(users),
    )


def readings(fold: Choices, lists: range, strength: float, seed: int = 1) -> dict[int, np.ndarray]:
    """One LLM column: noise, and `strength` more for the chosen item."""
    random = np.random.default_rng(seed)
    return {
        number: strength * fold.chosen[fold.list_index == number][:, None] + random.standard_normal((SIZE, 1))
        for number in lists
    }


def test_features_are_judged_on_all_lists_not_only_on_those_the_llm_read() -> None:
    choices = fold(users=600, strength=1.0)
    guard = FusionModel.fit(choices, readings(choices, range(10), strength=0.0), WORDS).guard
    assert guard.baseline_minus_first_stage.n == 600 and guard.baseline_minus_first_stage.low > 0
    assert guard.serve in ("baseline", "fused")  # ten lists could not have shown it


def test_an_llm_of_noise_read_on_few_lists_leaves_the_order_of_the_baseline() -> None:
    choices = fold(users=600, strength=1.0)
    fusion_model = FusionModel.fit(choices, readings(choices, range(20), strength=0.0), WORDS)
    baseline, llm = np.split(fusion_model.fused.logit.weights, [len(FEATURES)])
    assert list(fusion_model.fused.columns) == [*FEATURES, "llm", "llm_x_popularity"]
    assert np.abs(llm).max() < 0.1
    assert np.abs(baseline - fusion_model.features.logit.weights).max() < 0.1


def test_an_llm_that_knows_more_is_served() -> None:
    choices = fold(users=300, strength=0.5)
    fusion_model = FusionModel.fit(choices, readings(choices, range(150), strength=2.0), WORDS)
    assert fusion_model.guard.serve == "fused"
    assert fusion_model.guard.fused_minus_baseline.low > 0
    assert dict(zip(fusion_model.fused.columns, fusion_model.fused.logit.weights, strict=True))["llm"] > 1.0


def test_what_the_llm_adds_is_extrapolated_from_the_lists_it_read() -> None:
    choices = fold(users=400, strength=0.5)
    known = readings(choices, range(400), strength=2.0)
    everything = FusionModel.fit(choices, known, WORDS).guard.fused_minus_baseline
    half = FusionModel.fit(
        choices, {number: known[number] for number in range(0, 400, 2)}, WORDS
    ).guard.fused_minus_baseline
    assert half.n == everything.n == 400
    assert abs(half.mean - everything.mean) < 0.05
    assert half.high - half.low > everything.high - everything.low


def test_users_whose_item_first_stage_missed_count_as_zero() -> None:
    choices = fold(users=200, strength=1.0)
    missed = np.isin(choices.list_index, np.arange(100))
    chosen = choices.chosen & ~missed
    halved = Choices(
        features=choices.features,
        list_index=choices.list_index,
        chosen=chosen,
        first_stage_rank=choices.first_stage_rank,
        n_relevant=choices.n_relevant,
        n_known=choices.n_known,
        users=choices.users,
    )
    guard = FusionModel.fit(halved, readings(halved, range(100, 200), strength=3.0), WORDS).guard
    assert guard.fused_minus_first_stage.n == 200
    assert guard.fused_minus_first_stage.mean < 0.5  # at most 1 - the first stage on half of the users


def test_windows_are_numbered_on_and_users_stay_who_they_are() -> None:
    newer, older = fold(users=3, strength=1.0), fold(users=2, strength=1.0, seed=1)
    both = Choices.joined([replace(newer, users=["a", 7, "7"]), replace(older, users=["7", "a"])])
    assert both.list_index.tolist() == np.repeat(np.arange(5), SIZE).tolist()
    assert both.user_numbers.tolist() == [0, 1, 2, 2, 0]
    assert np.array_equal(both.features, np.concatenate([newer.features, older.features]))
    assert np.array_equal(both.chosen, np.concatenate([newer.chosen, older.chosen]))
    assert len(both.first_stage_rank) == 5 * SIZE and len(both.n_known) == len(both.n_relevant) == 5


def test_only_lists_with_a_chosen_item_teach() -> None:
    choices = fold(users=6, strength=1.0)
    choices = replace(choices, chosen=choices.chosen & ~np.isin(choices.list_index, [1, 4]))
    assert choices.covered_lists().tolist() == [0, 2, 3, 5]
    few = choices.covered_lists(2, seed=3)
    assert len(few) == 2 and set(few.tolist()) < {0, 2, 3, 5}
    assert few.tolist() == choices.covered_lists(2, seed=3).tolist()
    assert choices.covered_lists(0).tolist() == []


def test_lists_that_repeat_a_user_do_not_make_the_guard_surer() -> None:
    choices = fold(users=60, strength=0.5)
    known = readings(choices, range(60), strength=0.3)
    once = FusionModel.fit(choices, known, WORDS).guard.baseline_minus_first_stage
    twice = Choices.joined([choices, choices])
    again = known | {60 + number: read for number, read in known.items()}
    same = FusionModel.fit(twice, again, WORDS).guard.baseline_minus_first_stage
    assert same.n == once.n == 60
    assert same.high - same.low > 0.9 * (once.high - once.low)


def test_noise_that_a_user_has_in_all_his_lists_is_not_taken_for_knowledge() -> None:
    choices = fold(users=40, strength=0.5)
    noise = np.random.default_rng(1).standard_normal((40, SIZE, 25))
    four = Choices.joined([choices] * 4)
    known = {number: noise[number % 40] for number in range(160)}
    words = {f"llm{number}": "noise" for number in range(25)}
    careful = FusionModel.fit(four, known, words)
    fooled = FusionModel.fit(replace(four, users=range(160)), known, words)
    n = len(FEATURES)
    assert fooled.guard.fused_minus_baseline.low > 0.1
    assert careful.guard.fused_minus_baseline.mean < 0.05
    largest = [np.abs(one.fused.logit.weights[n:]).max() for one in (careful, fooled)]
    assert largest[0] < 0.2 * largest[1]


def test_lists_of_users_with_many_windows_are_extrapolated_like_others() -> None:
    """Reading a random part says on average what reading all does, also where the LLM helps some users only."""
    single, several = fold(users=240, strength=0.5), fold(users=80, strength=0.5, seed=1)
    several = replace(several, users=range(400, 480))
    choices = Choices.joined([single, several, several, several])
    random = np.random.default_rng(2)
    help_of = np.where(np.arange(480) < 240, 2.0, 0.0)  # it knows the answers of those with one list
    known = {
        number: help_of[number] * choices.chosen[choices.list_index == number][:, None]
        + random.standard_normal((SIZE, 1))
        for number in range(480)
    }
    everything = FusionModel.fit(choices, known, WORDS).guard.fused_minus_baseline.mean
    parts = [choices.covered_lists(240, seed) for seed in range(12)]
    estimates = [
        FusionModel.fit(choices, {n: known[n] for n in part.tolist()}, WORDS).guard.fused_minus_baseline.mean
        for part in parts
    ]
    assert np.mean(estimates) == pytest.approx(everything, abs=0.03)


def test_what_the_llm_says_of_items_that_few_chose_can_count_more() -> None:
    choices = fold(users=800, strength=0.0)
    random = np.random.default_rng(2)
    popularity = choices.features[:, list(FEATURES).index("popularity")]
    said = random.standard_normal(len(popularity))
    utility = np.where(popularity < 0, 2.0 * said, 0.0) + random.gumbel(size=len(said))
    best = utility.reshape(-1, SIZE).argmax(axis=1)
    choices = replace(choices, chosen=(best[:, None] == np.arange(SIZE)).ravel())
    known = dict(enumerate(said.reshape(-1, SIZE, 1)))
    weights = dict(zip(*_columns(FusionModel.fit(choices, known, WORDS).fused), strict=True))
    assert weights["llm"] > 0.3
    assert weights["llm_x_popularity"] < -0.3


def test_new_items_keep_their_place_among_others_and_are_ordered_by_what_is_read() -> None:
    choices = fold(users=400, strength=1.5)
    fusion_model = FusionModel.fit(choices, readings(choices, range(400), strength=1.0), WORDS)
    assert fusion_model.new_items is not None and list(fusion_model.new_items.columns) == ["llm"]
    random = np.random.default_rng(3)
    features, raw = random.standard_normal((12, len(FEATURES))), random.standard_normal((12, 1))
    lists = np.repeat([0, 1], 6)
    none, new = np.zeros(12, dtype=bool), np.array([False, True, True, True, False, False] + [True] * 6)
    plain = fusion_model.orders(features, raw, lists, none)["fused"]
    scores = fusion_model.orders(features, raw, lists, new)["fused"]
    assert scores[~new] == pytest.approx(plain[~new])
    for mine in (new & (lists == 0), new & (lists == 1)):
        assert scores[mine].mean() == pytest.approx(plain[mine].mean())
        assert scores[mine] - scores[mine].mean() == pytest.approx(
            (raw[mine, 0] - raw[mine, 0].mean()) * fusion_model.coefficients[0]
        )
    shuffled = features.copy()  # what interactions say of new items is noise
    shuffled[6:] = random.standard_normal((6, len(FEATURES)))
    again = fusion_model.orders(shuffled, raw, lists, new)["fused"]
    assert np.array_equal(np.argsort(again[6:]), np.argsort(scores[6:]))
    head, values = fusion_model.fused_columns(features, raw, lists, new)
    assert list(head.columns) == [*FEATURES, "llm", "llm_x_popularity", "llm_of_new"]
    assert head.contributions(values).sum(axis=1) == pytest.approx(scores)


def test_own_columns_rank_new_items_too_and_the_head_of_new_items_is_kept_in_files() -> None:
    choices = fold(users=500, strength=0.0)
    random = np.random.default_rng(4)
    price = random.standard_normal(len(choices.list_index))
    utility = -1.5 * price + random.gumbel(size=len(price))
    best = utility.reshape(-1, SIZE).argmax(axis=1)
    choices = replace(
        choices,
        features=np.hstack([choices.features, price[:, None]]),
        chosen=(best[:, None] == np.arange(SIZE)).ravel(),
        columns={**FEATURES, "price": "its price"},
    )
    fusion_model = FusionModel.fit(choices, readings(choices, range(300), strength=0.0), WORDS)
    new_items = fusion_model.new_items
    assert new_items is not None and list(new_items.columns) == ["price", "llm"]
    assert dict(zip(*_columns(new_items), strict=True))["price"] == pytest.approx(-1.5, abs=0.3)
    loaded = FusionModel.from_json(fusion_model.to_json())
    assert loaded.new_items is not None and _columns(loaded.new_items) == _columns(new_items)
    updated = FusionModel.fit(choices, readings(choices, range(100), strength=3.0), WORDS, past=fusion_model)
    assert updated.new_items is new_items


def _columns(head: FusionHead) -> tuple[list[str], list[float]]:
    return list(head.columns), head.logit.weights.tolist()
