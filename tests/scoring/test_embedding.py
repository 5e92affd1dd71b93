"""The embedding scorer: against the contract, by hand, and with the real model."""

from dataclasses import replace

import numpy as np
import pytest

from reranker.engines.scripted import ScriptedEngine
from reranker.errors import BundleError, ConfigError, ModelError
from reranker.scoring import (
    CombinedScorer,
    EmbeddingScorer,
    LikelihoodScorer,
    Scorer,
    ScoringList,
    StateStore,
    span_cache,
)
from reranker.scoring.text_spaces import ItemSpaces
from reranker.types import CandidateSpan, ScoringRequest
from reranker.utils import spaces
from reranker.utils.spaces import NEWEST, CFProjection, EmbeddingSpace, PopularityProjection, best_ridge, nearness, unit
from tests.contracts.scoring import ScoringContract, one_list, titled
from tests.pipeline.toys import WatchedEngine
from tests.scoring.readers import renderer


class TestContract(ScoringContract):
    @pytest.fixture
    def scorer(self) -> Scorer:
        return EmbeddingScorer(ScriptedEngine(dim=64), renderer())


class TestCombinedContract(ScoringContract):
    @pytest.fixture
    def scorer(self) -> Scorer:
        engine = ScriptedEngine(dim=64)
        return CombinedScorer([LikelihoodScorer(engine, renderer()), EmbeddingScorer(engine, renderer())])


def test_nearness_by_hand() -> None:
    """Two orthogonal directions; the history is east, north, north (newest)."""
    east, north = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    columns = nearness(np.stack([east, north]), np.stack([east, north, north]))
    weights = np.array([0.88**2, 0.88, 1.0])
    soft = [np.log((np.exp(8.0) + 2) / 3) / 8, np.log((1 + 2 * np.exp(8.0)) / 3) / 8]
    np.testing.assert_allclose(columns[:, 0], [0, 1])
    np.testing.assert_allclose(columns[:, 1], [1, 1])
    np.testing.assert_allclose(columns[:, 2], [1 / 3, 2 / 3])
    np.testing.assert_allclose(columns[:, 3], [weights[0] / weights.sum(), weights[1:].sum() / weights.sum()])
    np.testing.assert_allclose(columns[:, 4], soft)


def test_a_stranger_has_no_nearness() -> None:
    engine = ScriptedEngine()
    assert not EmbeddingScorer(engine, renderer()).score_components([one_list(1, history=0)])[0].any()


def test_only_the_newest_items_count() -> None:
    scoring = EmbeddingScorer(ScriptedEngine(), renderer())
    newest = titled(*(f"item {number}" for number in range(NEWEST)))
    candidates = titled("mipfen", "zorblax")
    lists = [ScoringList(history=[*titled("zorblax"), *newest], candidates=candidates)]
    lists.append(ScoringList(history=newest, candidates=candidates))
    first, second = scoring.score_components(lists)
    np.testing.assert_array_equal(first, second)


def test_items_without_a_text_are_like_nothing() -> None:
    """Two items that are missing from the catalogue are not the same item."""
    scoring = EmbeddingScorer(ScriptedEngine(dim=64), renderer())
    missing = {"title": "(untitled)", "category": "", "description": ""}
    told = titled("zorblax", "mipfen")
    candidates = [missing, *titled("quxard"), {**missing, "description": "zorblax"}]
    with_it, without = scoring.score_components(
        [ScoringList(history=history, candidates=candidates) for history in ([*told, missing], told)]
    )
    assert not with_it[0].any() and with_it[2].any()
    np.testing.assert_array_equal(with_it, without)


def test_each_text_is_read_once() -> None:
    engine = WatchedEngine()
    scoring = EmbeddingScorer(engine, renderer())
    lists = [one_list(3), one_list(3), one_list(4)]
    scoring.score_components(lists)
    texts = {item["title"] for one in lists for item in [*one.history, *one.candidates]}
    assert engine.states_read == len(texts)
    scoring.score_components(lists)
    assert engine.states_read == len(texts)


def test_a_category_belongs_to_the_text() -> None:
    scoring = EmbeddingScorer(ScriptedEngine(dim=64), renderer())
    history = [{"title": "mipfen", "category": "zorblax quxard"}]
    candidates = [{"title": "vantow", "category": category} for category in ("zorblax quxard", "")]
    near = scoring.score_components([ScoringList(history=history, candidates=candidates)])[0]
    assert (near[0] > near[1])[:5].all()


def test_the_space_takes_the_common_part_out() -> None:
    """States that differ in three directions of very different loudness, far from zero."""
    rng = np.random.default_rng(0)
    loudness = np.array([30.0, 3.0, 0.3])
    states = (100 + rng.standard_normal((4000, 3)) * loudness).astype(np.float32)
    space = EmbeddingSpace.fit(states)
    placed = (states - space.centre) @ space.basis[:, :2]
    np.testing.assert_allclose(placed.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(placed.std(axis=0), np.sqrt(loudness[:2]), rtol=0.03)  # variance to the power 1/2 - 1/4
    np.testing.assert_allclose(
        space.place(states, 2), placed / np.linalg.norm(placed, axis=1, keepdims=True), atol=1e-5
    )


def test_a_space_of_fewer_texts_than_directions() -> None:
    states = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    placed = EmbeddingSpace.fit(states).place(states)
    assert np.isfinite(placed).all()
    same = EmbeddingSpace.fit(np.repeat(states[:1], 4, axis=0))
    assert not same.place(states[:1]).any()


def test_tastes_by_hand() -> None:
    """One text direction, four items: the weights are those of ridge regression, written out."""
    east, north = [1.0, 0.0], [0.0, 1.0]
    placed = np.array([east, east, north, north], dtype=np.float32)
    vectors = np.array([[5.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]], dtype=np.float32)  # only directions count
    cf_projection = CFProjection.fit(placed, vectors, np.array([4.0, 4.0, 1.0, 0.25]))
    # Roots of the counts weigh east 4 and north 1.5; their mean vector is (4, 1.5) / 5.5. What is told of the others is
    # right, so the weakest of the ridges is best: a hundredth of the mean weighted square, 5.5 / 4.
    centred = np.array([[1.5, -1.5], [-4.0, 4.0]]) / 5.5
    expected = np.array([4.0 / 4.01375, 1.5 / 1.51375])[:, None] * centred
    np.testing.assert_allclose(cf_projection.weights, expected, atol=1e-6)
    np.testing.assert_allclose(
        cf_projection.place(placed[[0, 2]]), [[0.5**0.5, -(0.5**0.5)], [-(0.5**0.5), 0.5**0.5]], atol=1e-6
    )


def test_tastes_reach_items_that_nobody_chose() -> None:
    """Two words tell two groups of users apart; the newcomer shares a word with one of them."""
    scoring = EmbeddingScorer(ScriptedEngine(dim=64), renderer())
    words = ("zorblax", "mipfen")
    items = titled(*(f"{word} {number}" for word in words for number in range(8)))
    vectors = np.repeat(np.eye(2, dtype=np.float32), 8, axis=0)
    scoring = scoring.for_catalog(items)
    one = ScoringList(history=items[:3], candidates=titled("zorblax new", "mipfen new"))
    assert not scoring.score_components([one])[0][:, 5:].any()
    scoring = scoring.for_window(items, vectors, np.ones(16))
    cf_projection = scoring.score_components([one])[0][:, 5:10]
    assert (cf_projection[0] > 0).all() and (cf_projection[0] > cf_projection[1] + 0.5).all()


def test_only_chosen_items_teach_tastes() -> None:
    scoring = EmbeddingScorer(ScriptedEngine(dim=64), renderer())
    items = titled("zorblax", "mipfen", "quxard", "vantow")
    vectors = np.eye(4, dtype=np.float32)
    vectors[2] = 0
    scoring = scoring.for_catalog(items)
    scoring = scoring.for_window(items, vectors, np.array([3.0, 2.0, 9.0, 0.0]))
    states = scoring.states.states(scoring._engine, renderer().item_texts(items[:2]))
    expected = CFProjection.fit(scoring.states.spaces.whole(states), vectors[:2], np.array([3.0, 2.0]))
    np.testing.assert_allclose(scoring.states.cf_projection.weights, expected.weights, atol=1e-6)
    one = ScoringList(history=items[:1], candidates=items[1:2])
    assert scoring.score_components([one])[0][:, 5:10].any()
    scoring = scoring.for_window(items, np.zeros((4, 0), dtype=np.float32), np.ones(4))
    assert scoring.states.cf_projection is None
    later = ScoringList(history=items[:1], candidates=items[1:])
    assert not scoring.score_components([later])[0][:, 5:].any()
    scoring = scoring.for_window(items, vectors, np.zeros(4))
    assert scoring.states.cf_projection is None and scoring.states.predicted_popularity is None


def test_appeal_is_a_ridge_regression_of_the_logarithm_of_counts() -> None:
    placed = np.repeat(np.eye(2, dtype=np.float32), 2, axis=0)
    counts = np.array([np.e**3, np.e**3, np.e, np.e]) - 1  # logarithms 3, 3, 1, 1; their mean 2
    # Of two alike, one tells the other: the weakest ridge, .01 of the mean square 1, beside 2 a direction.
    expected = [2 / 2.01, -2 / 2.01]
    fitted = PopularityProjection.fit(placed, counts)
    np.testing.assert_allclose(fitted.weights, expected, atol=1e-6)
    np.testing.assert_allclose(fitted.of(placed), np.repeat(expected, 2), atol=1e-6)
    assert fitted.penalty == pytest.approx(0.01)
    given = PopularityProjection.fit(placed, counts, penalty=2.0)  # 2 beside 2 a direction
    np.testing.assert_allclose(given.weights, [2 / 4, -2 / 4], atol=1e-6)


@pytest.mark.parametrize(("n", "dim", "noise"), [(12, 3, 1.0), (12, 3, 3.0), (8, 20, 1.0), (30, 5, 1.0)])
def test_the_ridge_is_the_one_that_tells_left_out_items_best(n: int, dim: int, noise: float) -> None:
    """As refitting without each item finds it."""
    rng = np.random.default_rng(n)
    inputs = rng.standard_normal((n, dim))
    targets = inputs @ rng.standard_normal((dim, 2)) + noise * rng.standard_normal((n, 2))

    def error(ridge: float) -> float:
        total = 0.0
        for left in range(n):
            rest = np.arange(n) != left
            gram = inputs[rest].T @ inputs[rest] + ridge * np.eye(dim)
            told = inputs[left] @ np.linalg.solve(gram, inputs[rest].T @ targets[rest])
            total += float(((targets[left] - told) ** 2).sum())
        return total

    tried = (inputs**2).sum(axis=1).mean() * np.geomspace(0.01, 1000, 16)
    assert best_ridge(inputs, targets) == pytest.approx(min(tried, key=error))


def test_fewer_items_than_directions_give_the_weights_of_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    placed, counts = rng.standard_normal((6, 9)).astype(np.float32), rng.integers(1, 50, 6).astype(np.float64)
    targets = np.log1p(counts) - np.log1p(counts).mean()
    ridge = best_ridge(placed.astype(np.float64), targets[:, None])
    expected = np.linalg.solve(placed.T @ placed + ridge * np.eye(9), placed.T @ targets)
    np.testing.assert_allclose(PopularityProjection.fit(placed, counts).weights, expected, atol=1e-5)


def test_where_inputs_tell_nothing_the_ridge_is_strong() -> None:
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((200, 50)), rng.standard_normal((200, 4))
    assert best_ridge(inputs, targets) >= 50 * 100  # the mean squared length is about 50
    assert best_ridge(inputs, np.zeros((200, 4))) == pytest.approx((inputs**2).sum(axis=1).mean() * 1000)
    assert best_ridge(np.zeros((3, 2)), np.zeros((3, 1))) > 0


def test_the_ridge_of_many_items_is_chosen_on_a_sample() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((500, 20))
    targets = inputs[:, :2] + rng.standard_normal((500, 2))
    whole, part = best_ridge(inputs, targets), best_ridge(inputs, targets, most=250)
    assert 1 / 4.2 < part / whole < 4.2
    assert part == best_ridge(inputs, targets, most=250)


def test_appeal_reaches_items_that_nobody_chose() -> None:
    scoring = EmbeddingScorer(ScriptedEngine(dim=64), renderer())
    items = titled(*(f"{word} {number}" for word in ("zorblax", "mipfen") for number in range(8)), "quxard")
    scoring = scoring.for_catalog(items)
    counts = np.array([100.0] * 8 + [2.0] * 8 + [0.0])
    scoring = scoring.for_window(items, np.zeros((17, 0), dtype=np.float32), counts)
    new_user = ScoringList(history=[], candidates=titled("zorblax new", "mipfen new", ""))
    often, seldom, silent = scoring.score_components([new_user])[0][:, 10]
    assert often > 0.1 and seldom < -0.1
    assert silent == 0
    states = scoring.states.states(scoring._engine, renderer().item_texts(items[:16]))
    expected = PopularityProjection.fit(
        scoring.states.spaces.whole(states), counts[:16]
    )  # what nobody chose teaches nothing
    np.testing.assert_allclose(scoring.states.predicted_popularity.weights, expected.weights, atol=1e-6)


def test_of_a_large_catalogue_a_sample_teaches_appeal(monkeypatch) -> None:
    monkeypatch.setattr(spaces, "MOST_LEARNED_FROM", 6)
    engine = WatchedEngine(dim=64)
    scoring = EmbeddingScorer(engine, renderer())
    items = titled(*(f"zorblax {number}" for number in range(40)))
    scoring = scoring.for_catalog(items, seed=3)
    assert engine.states_read == 6
    scoring = scoring.for_window(items, np.zeros((40, 0), dtype=np.float32), np.arange(40.0), seed=3)
    assert engine.states_read == 6  # the same that the spaces were learned from
    assert scoring.states.predicted_popularity is not None


def test_descriptions_tell_tastes_and_not_nearness() -> None:
    """Titles say nothing here, the words of the descriptions tell two groups of users apart."""
    scoring = EmbeddingScorer(ScriptedEngine(dim=64), renderer())
    words = ("zorblax", "mipfen")
    items = [{"title": f"item {number}", "description": words[number % 2]} for number in range(16)]
    scoring = scoring.for_catalog(items)
    scoring = scoring.for_window(items, np.tile(np.eye(2, dtype=np.float32), (8, 1)), np.ones(16))
    new = [{"title": "something new", "description": word} for word in (*words, "")]
    components = scoring.score_components([ScoringList(history=items[::2][:3], candidates=new)])[0]
    assert (components[0, 5:10] > components[1, 5:10] + 0.5).all()
    np.testing.assert_array_equal(components[:, :5], components[[0, 0, 0], :5])


def test_items_whose_titles_are_alike_keep_their_own_descriptions() -> None:
    engine = WatchedEngine(dim=64)
    scoring = EmbeddingScorer(engine, renderer())
    items = [{"title": "same", "description": word} for word in ("zorblax", "mipfen", "", "zorblax")]
    states = scoring.states.states(engine, renderer().item_texts(items))
    assert engine.states_read == 3  # the title and two descriptions
    np.testing.assert_array_equal(states[1:, :2], states[:-1, :2])
    np.testing.assert_array_equal(states[0], states[3])
    assert (states[0, 3] != states[1, 3]).any() and not states[2, 3].any()
    assert not states[:, 2].any()  # no category


def test_parts_are_read_one_behind_the_other() -> None:
    made = renderer()
    texts = made.item_texts([{"title": "abc", "category": "d", "description": "efgh"}, {"title": "abc"}])
    full, bare = texts.parts
    decoded = [made.tokenizer.decode(span.sequence.token_ids.tolist()) for span in full]
    assert decoded == [" abc\n", " abc (d)\n", " abc (d): efgh\n"]
    scored = [len(span.sequence) - span.scored_from for span in full]
    assert scored == [len(" abc"), len(" (d)"), len(": efgh")]  # each follows a token of the part
    assert bare[1:] == (None, None)
    assert [len(span.sequence) for span in texts.longest] == [len(" abc (d): efgh") + 1, len(" abc") + 1]


def test_a_name_is_the_mean_over_title_and_category() -> None:
    """What it would be if both were read as one span."""
    engine, made = ScriptedEngine(dim=64), renderer()
    texts = made.item_texts([{"title": "zorblax", "category": "mipfen", "description": "quxard"}])
    span = texts.parts[0][1]
    whole = CandidateSpan(sequence=span.sequence)
    expected = engine.span_states([ScoringRequest(prefix=texts.prefix, candidates=(whole,))])[0][0]
    name = EmbeddingScorer(engine, made).states.states(engine, texts)[0, 0]
    np.testing.assert_allclose(name, expected, atol=2e-3)  # states are kept in half precision


def test_tastes_need_the_catalogue() -> None:
    scoring = EmbeddingScorer(ScriptedEngine(), renderer())
    with pytest.raises(ConfigError, match="call for_catalog first"):
        scoring = scoring.for_window(titled("mipfen"), np.ones((1, 2), dtype=np.float32), np.ones(1))


def test_unit_leaves_zeros() -> None:
    scaled = unit(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0, 0]], atol=1e-7)


@pytest.mark.parametrize("described", [False, True])
def test_round_trip(tmp_path, described: bool) -> None:
    engine = WatchedEngine()
    before = EmbeddingScorer(engine, renderer())
    one = one_list(5, candidates=20)
    if described:
        one = replace(one, candidates=[{**item, "description": f"of {item['title']}"} for item in one.candidates])
    items = [*one.history, *one.candidates]
    before = before.for_catalog(items)
    before = before.for_window(items, np.eye(len(items), 3, dtype=np.float32), 1.0 + np.arange(len(items)))
    expected = before.score_components([one])[0]
    assert expected.any(axis=0).all()
    before.states.save(tmp_path / "states.npz")
    silent = WatchedEngine()
    after = EmbeddingScorer(silent, renderer(), StateStore.load(tmp_path / "states.npz"))
    np.testing.assert_array_equal(after.score_components([one])[0], expected)
    assert after.states.penalties == before.states.penalties and min(after.states.penalties) > 0
    assert silent.states_read == 0


def test_a_penalty_below_0_is_damage(tmp_path) -> None:
    items = titled("mipfen", "zorblax")
    scoring = EmbeddingScorer(WatchedEngine(), renderer()).for_catalog(items)
    learned = scoring.for_window(items, np.zeros((2, 0), dtype=np.float32), np.array([1.0, 2.0])).states
    wrong = replace(learned.predicted_popularity, penalty=-1.0)
    learned.for_choices(None, wrong).save(tmp_path / "states.npz")
    with pytest.raises(BundleError, match="penalty"):
        StateStore.load(tmp_path / "states.npz")


def test_an_empty_store_round_trips(tmp_path) -> None:
    StateStore().save(tmp_path / "states.npz")
    loaded = StateStore.load(tmp_path / "states.npz")
    assert (
        len(loaded) == 0
        and loaded.spaces is None
        and loaded.cf_projection is None
        and loaded.predicted_popularity is None
    )


def test_an_engine_without_states_is_named() -> None:
    class Remote:
        name = "openai"
        model = ScriptedEngine().model
        tokenizer = ScriptedEngine().tokenizer

    with pytest.raises(ConfigError, match="'openai' gives no hidden states"):
        EmbeddingScorer(Remote(), renderer()).score_components([one_list(1)])


@pytest.mark.model
def test_the_real_model_knows_what_belongs_together() -> None:
    from reranker.engines.torch.engine import TorchEngine
    from reranker.prompting import PromptRenderer, PromptSettings

    engine = TorchEngine("smollm2-135m", dtype="float32")
    real = PromptRenderer.from_settings(PromptSettings(), engine.tokenizer)
    scoring = EmbeddingScorer(engine, real)
    stationery = titled("Gel pens, black", "A4 copy paper", "Desk stapler", "Sticky notes", "Fountain pen ink")
    films = titled("Alien", "Aliens", "The Terminator", "Blade Runner", "The Matrix")
    scoring = scoring.for_catalog([*stationery, *films])
    lists = [ScoringList(history=group[:3], candidates=[stationery[4], films[4]]) for group in (stationery, films)]
    first, second = (values @ scoring.default_coefficients for values in scoring.score_components(lists))
    assert first[0] > first[1] and second[1] > second[0]


def test_texts_that_are_all_the_same_tell_no_tastes() -> None:
    states = np.ones((5, 4), dtype=np.float32)
    vectors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    placed = EmbeddingSpace.fit(states).place(states, None)
    assert not CFProjection.fit(placed, vectors, np.arange(1.0, 6.0)).place(placed).any()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_model_that_was_not_loaded_is_named(value: float) -> None:
    with pytest.raises(ModelError, match="weights are damaged"):
        ItemSpaces.fit(np.full((3, 4, 8), value, dtype=np.float32))


def test_states_that_are_dropped_are_placed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_cache, "MOST", 2)
    engine = WatchedEngine(dim=64)
    scoring = EmbeddingScorer(engine, renderer())
    for title in ("one", "two", "three", "four"):
        scoring.keep(titled(title))
    assert len(scoring.states) == 3 and len(scoring.states._placed) == 2
