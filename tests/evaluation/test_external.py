from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from candidate_gen import ItemKNNGenerator, PopularityGenerator
from reranker.errors import ConfigError, DataError
from reranker.evaluation import Settings, evaluate, leave_last_k, propose
from reranker.evaluation.baselines import FirstStageOrder
from reranker.evaluation.external import (
    ExternalDomains,
    ExternalScores,
    export_lists,
    external_factories,
    read_external,
)
from tests.contracts.systems import SystemContract
from tests.evaluation.toys import lists_of


def table(rows):
    return pd.DataFrame(rows, columns=["user_id", "item_id", "score"])


class TestExternalScores(SystemContract):
    @pytest.fixture
    def system(self):
        pairs = [(f"u{user}", f"i{item}", float(item)) for user in range(40) for item in range(12)]
        return ExternalScores("mine", table(pairs))


def test_scores_follow_the_candidates_not_the_file():
    lists = lists_of({"u": "a b", "v": "b a"}, {"u": "b", "v": "b"})
    rows = [("v", "a", 1.0), ("u", "b", 2.0), ("v", "b", 3.0), ("u", "a", 4.0), ("w", "z", 9.0)]
    assert ExternalScores("mine", table(rows)).score(lists).tolist() == [4, 2, 3, 1]


def test_a_csv_is_of_the_kind_that_the_lists_ids_are(tmp_path):
    lists = lists_of({"1": "7 8", "2": "8 7"}, {"1": "8", "2": "8"})  # ids are texts of digits
    table([(1, 7, 4.0), (1, 8, 2.0), (2, 8, 3.0), (2, 7, 1.0)]).to_csv(tmp_path / "s.csv", index=False)
    assert read_external(f"mine={tmp_path / 's.csv'}").score(lists).tolist() == [4, 2, 3, 1]


def test_missing_scores_are_counted_and_named():
    lists = lists_of({"u": "a b"}, {"u": "b"})
    with pytest.raises(DataError, match=r"'mine': 1 of 2 candidates have no score, first user 'u', item 'b'"):
        ExternalScores("mine", table([("u", "a", 1.0)])).score(lists)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table([("u", "a", np.nan)]), "score"),
        (table([("u", "a", 1.0), ("u", "a", 2.0)]), "twice"),
        (pd.DataFrame({"user_id": ["u"], "item_id": ["a"]}), "'score' column"),
    ],
)
def test_bad_tables_are_refused(frame, message):
    with pytest.raises(DataError, match=message):
        ExternalScores("mine", frame)


def test_the_argument(tmp_path):
    table([("u", "a", 1.0)]).to_parquet(tmp_path / "s.parquet")
    assert read_external(f"sasrec={tmp_path / 's.parquet'}").name == "sasrec"
    for bad in ("sasrec", "=x", "sasrec="):
        with pytest.raises(ConfigError, match="name=scores"):
            read_external(bad)


class TestExternalDomains(SystemContract):
    @pytest.fixture
    def system(self):
        pairs = [(f"u{user}", f"i{item}", float(item)) for user in range(40) for item in range(12)]
        return ExternalDomains({"toy": ExternalScores("mine", table(pairs))})


def test_a_folder_holds_a_table_a_domain(tmp_path):
    table([("u", "a", 1.0), ("u", "b", 2.0)]).to_parquet(tmp_path / "toy.parquet")
    found = read_external(f"mine={tmp_path}", ["toy", "books"])
    assert found.domains == {"toy"}
    lists = lists_of({"u": "a b"}, {"u": "b"})
    assert found.score(lists).tolist() == [1, 2]
    elsewhere = replace(lists, fold=replace(lists.fold, domain="books"))
    with pytest.raises(DataError, match="no scores in domain 'books'"):
        found.score(elsewhere)
    with pytest.raises(DataError, match="no table for any of shop"):
        read_external(f"mine={tmp_path}", ["shop"])


def test_names_must_be_free(tmp_path):
    table([("u", "a", 1.0)]).to_parquet(tmp_path / "s.parquet")
    argument = f"mine={tmp_path / 's.parquet'}"
    assert external_factories([argument], ("first_stage",))["mine"](0).name == "mine"
    for arguments, taken in (([argument], ("mine",)), ([argument, argument], ())):
        with pytest.raises(ConfigError, match="'mine': the name is taken"):
            external_factories(arguments, taken)


def test_changed_scores_are_not_taken_from_the_last_run(chain, tmp_path):
    fold = leave_last_k(chain)
    lists = propose(fold, PopularityGenerator(), 5)

    def judged(sign):
        scores = lists.candidates[["user_id", "item_id"]].assign(score=sign * lists.candidates["rank"].astype(float))
        mine = ExternalScores("mine", scores)
        systems = {"first_stage": lambda _: FirstStageOrder(), "mine": lambda _: mine}
        return evaluate([fold], PopularityGenerator(), systems, Settings(candidates=(5,)), tmp_path).runs[1].scores

    assert np.array_equal(judged(1), -judged(-1))


def test_an_export_holds_no_answers(chain, tmp_path):
    fold = leave_last_k(chain)
    lists = propose(fold, ItemKNNGenerator(), 5)
    export_lists(lists, tmp_path)
    train = pd.read_parquet(tmp_path / "train.parquet")
    shown = set(zip(train.user_id, train.item_id, strict=True))
    assert not shown & set(zip(fold.held_out.user_id, fold.held_out.item_id, strict=True))
    candidates = pd.read_parquet(tmp_path / "candidates.parquet")
    assert candidates.columns.tolist() == ["user_id", "item_id", "score", "rank"]
    assert len(candidates) == len(lists.candidates)
