from concurrent.futures import ThreadPoolExecutor

import numpy as np

from reranker.scoring import PriorStore, calibration_histories
from reranker.scoring import span_cache as store_module
from reranker.scoring.span_cache import SPANS_PER_REQUEST
from reranker.types import CandidateSpan, TokenSequence
from tests.pipeline.toys import WatchedEngine

PREFIX = TokenSequence.from_tokens([1, 2, 3])


def span(*token_ids, scored_from=1):
    return CandidateSpan(sequence=TokenSequence.from_tokens(token_ids), scored_from=scored_from)


def test_values_are_what_the_engine_says_in_the_order_asked():
    engine = WatchedEngine(lambda prefix, ids: -ids / 10.0)
    spans = [span(9, 30), span(9, 10, 20), span(9, 30)]
    looked_up = PriorStore().look_up(engine, [(PREFIX, spans), (PREFIX, spans[:1])])
    assert [values.tolist() for values in looked_up] == [[-3.0, -3.0, -3.0], [-3.0]]
    assert sum(len(request.candidates) for request in engine.calls[0]) == 2  # the repeated span is sent once


def test_what_is_scored_of_a_span_belongs_to_the_key():
    engine = WatchedEngine(lambda prefix, ids: -ids / 10.0)
    values = PriorStore().look_up(engine, [(PREFIX, [span(9, 10, 20), span(9, 10, 20, scored_from=2)])])[0]
    assert values.tolist() == [-3.0, -2.0]


def test_vectors_belong_to_the_key():
    engine = WatchedEngine()
    store = PriorStore()
    prompts = [TokenSequence.from_vectors(engine.embed_tokens([token])) for token in (65, 66)]
    store.look_up(engine, [(prompt, [span(65, 66, 65)]) for prompt in prompts])
    assert len(store) == 2


def test_many_spans_are_split_into_requests():
    engine = WatchedEngine(lambda prefix, ids: -ids / 10.0)
    spans = [span(9, first, second) for first in range(3) for second in range(SPANS_PER_REQUEST // 2)]
    values = PriorStore().look_up(engine, [(PREFIX, spans)])[0]
    assert [len(request.candidates) for request in engine.calls[0]] == [SPANS_PER_REQUEST, SPANS_PER_REQUEST // 2]
    assert values.tolist() == [
        -(first / 10.0 + second / 10.0) for _, first, second in (s.sequence.token_ids for s in spans)
    ]


def test_round_trip(tmp_path):
    engine = WatchedEngine()
    store = PriorStore()
    spans = [span(9, token, token + 1) for token in range(20)]
    before = store.look_up(engine, [(PREFIX, spans)])[0]
    store.save(tmp_path / "priors.parquet")
    loaded = PriorStore.load(tmp_path / "priors.parquet")
    assert len(loaded) == 20
    silent = WatchedEngine(lambda prefix, ids: np.full(len(ids), -99.0))
    np.testing.assert_array_equal(loaded.look_up(silent, [(PREFIX, spans)])[0], before)
    assert silent.calls == []


def test_an_empty_store_round_trips(tmp_path):
    PriorStore().save(tmp_path / "priors.parquet")
    assert len(PriorStore.load(tmp_path / "priors.parquet")) == 0


def test_models_without_a_hash_are_told_apart_by_name():
    store = PriorStore()
    first = WatchedEngine(lambda prefix, ids: np.full(len(ids), -1.0), model_id="one")
    second = WatchedEngine(lambda prefix, ids: np.full(len(ids), -2.0), model_id="other")
    prompts = [(PREFIX, [span(9, 10)])]
    assert [store.look_up(engine, prompts)[0].tolist() for engine in (first, second, first)] == [[-1.0], [-2.0], [-1.0]]


def test_the_oldest_values_go_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(store_module, "MOST", 3)
    engine = WatchedEngine(lambda prefix, ids: -ids / 10.0)
    store = PriorStore()
    store.look_up(engine, [(PREFIX, [span(9, token) for token in range(5)])])
    values = store.look_up(engine, [(PREFIX, [span(9, 4), span(9, 0)])])[0]
    assert values.tolist() == [-0.4, 0.0]
    assert [len(call[0].candidates) for call in engine.calls] == [5, 1] and len(store) == 4


def test_threads_do_not_drop_what_another_one_needs(monkeypatch):
    monkeypatch.setattr(store_module, "MOST", 10)
    store = PriorStore()
    engine = WatchedEngine(lambda prefix, ids: -ids / 10.0)

    def look_up(start):
        tokens = [(start + step) % 97 for step in range(40)]
        values = store.look_up(engine, [(PREFIX, [span(9, token) for token in tokens])])[0]
        np.testing.assert_array_equal(values, [-token / 10.0 for token in tokens])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(look_up, range(400)))


def test_reference_histories_are_random_items_and_the_same_for_a_seed():
    items = [f"item {number}" for number in range(60)]
    drawn = calibration_histories(items, 8, seed=3)
    assert [len(history) for history in drawn] == [12] * 8
    assert all(len(set(history)) == 12 and set(history) <= set(items) for history in drawn)
    assert len({tuple(history) for history in drawn}) == 8
    assert len({item for history in drawn for item in history}) > 40  # from the whole catalogue
    assert drawn == calibration_histories(items, 8, seed=3)
    assert drawn != calibration_histories(items, 8, seed=4)


def test_a_small_catalogue_has_no_reference_histories():
    assert calibration_histories(list(range(47)), 8) == []
    assert len(calibration_histories(list(range(48)), 8)) == 8
    assert calibration_histories(list(range(48)), 0) == []
