"""What every candidate generator must do. A test class inherits `GeneratorContract` and gives it a `stage` fixture.

The checkerboard idea is from implicit's tests/recommender_base_test.py.
"""

from collections.abc import Hashable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from candidate_gen import load_generator
from reranker.data.schema import CANDIDATE_COLUMNS, validate_candidates
from reranker.errors import BundleError, ConfigError, DataError
from reranker.protocols import CandidateGenerator

SIZE = 20


def checkerboard() -> pd.DataFrame:
    """User u chose every item of u's own colour (u + i even), but for item u itself: that one is held out."""
    return pd.DataFrame(
        [
            {"user_id": user, "item_id": f"i{item}"}
            for user in range(SIZE)
            for item in range(SIZE)
            if (user + item) % 2 == 0 and user != item
        ]
    )


def random_interactions(seed: int = 0, users: int = 60, items: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"user_id": rng.integers(0, users, 900), "item_id": rng.integers(0, items, 900)})


class GeneratorContract:
    """Inherit it, and define the fixture `stage`: an unfitted stage."""

    personal = True  # False: the stage recommends the same to everyone, so it cannot recover held-out cells

    def test_follows_the_protocol(self, stage: CandidateGenerator) -> None:
        assert isinstance(stage, CandidateGenerator)
        assert stage.fit(checkerboard()) is stage

    def test_recovers_held_out_checkerboard_cells(self, stage: CandidateGenerator) -> None:
        if not self.personal:
            pytest.skip("the stage is not personal")
        first = stage.fit(checkerboard()).recommend(range(SIZE), n=1)
        assert first["user_id"].tolist() == list(range(SIZE))
        assert first["item_id"].tolist() == [f"i{user}" for user in range(SIZE)]

    def test_is_a_candidates_table_with_ranks_from_one(self, stage: CandidateGenerator) -> None:
        frame = stage.fit(random_interactions()).recommend([7, 3, 5], n=4)
        assert list(frame.columns)[:4] == CANDIDATE_COLUMNS  # a fusion says more of each candidate
        assert frame["user_id"].tolist() == [7] * 4 + [3] * 4 + [5] * 4
        assert frame["rank"].tolist() == [1, 2, 3, 4] * 3
        assert (frame.groupby("user_id")["score"].diff().dropna() <= 0).all()
        pd.testing.assert_frame_equal(validate_candidates(frame), frame[CANDIDATE_COLUMNS])

    def test_batch_equals_single(self, stage: CandidateGenerator) -> None:
        interactions = random_interactions()
        stage.fit(interactions)
        users = sorted(interactions["user_id"].unique().tolist())
        batch = stage.recommend(users, n=10)
        singles = pd.concat([stage.recommend([user], n=10) for user in users], ignore_index=True)
        pd.testing.assert_frame_equal(batch, singles, check_exact=True)

    def test_a_smaller_n_is_a_prefix(self, stage: CandidateGenerator) -> None:
        if stage.name == "reciprocal_rank_fusion":
            pytest.skip("a fusion asks its generators for n items each, so n changes what is fused")
        stage.fit(random_interactions())
        long, short = stage.recommend([1, 2], n=12), stage.recommend([1, 2], n=5)
        pd.testing.assert_frame_equal(long[long["rank"] <= 5].reset_index(drop=True), short)

    def test_seen_items_are_left_out_unless_asked_for(self, stage: CandidateGenerator) -> None:
        interactions = random_interactions()
        stage.fit(interactions)
        seen = set(interactions.itertuples(index=False, name=None))
        catalogue = interactions["item_id"].nunique()
        users = sorted(interactions["user_id"].unique().tolist())

        unseen_only = stage.recommend(users, n=1000)
        pairs = set(zip(unseen_only["user_id"], unseen_only["item_id"], strict=True))
        assert not pairs & seen
        assert len(pairs) == len(unseen_only) == len(users) * catalogue - len(seen)

        everything = stage.recommend(users, n=1000, exclude_seen=False)
        assert len(everything) == len(users) * catalogue

    def test_unknown_users_get_the_most_popular_items(self, stage: CandidateGenerator) -> None:
        chosen = {"a": 4, "b": 3, "c": 2, "d": 1}
        rows = [(user, item) for item, count in chosen.items() for user in range(count)]
        stage.fit(pd.DataFrame(rows, columns=["user_id", "item_id"]))
        frame = stage.recommend(["new_user", 3, "other"], n=3)
        assert frame[frame["user_id"] == "new_user"]["item_id"].tolist() == ["a", "b", "c"]
        assert frame[frame["user_id"] == "other"]["item_id"].tolist() == ["a", "b", "c"]
        assert frame["user_id"].unique().tolist() == ["new_user", 3, "other"]

    def test_a_user_who_has_seen_everything_gets_no_rows(self, stage: CandidateGenerator) -> None:
        stage.fit(pd.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"]}))
        frame = stage.recommend(["u", "v"], n=5)
        assert frame[["user_id", "item_id", "rank"]].values.tolist() == [["v", "b", 1]]

    def test_one_user_and_one_item(self, stage: CandidateGenerator) -> None:
        stage.fit(pd.DataFrame({"user_id": ["u"], "item_id": ["a"]}))
        assert stage.recommend(["u"], n=3).empty
        frame = stage.recommend(["u"], n=3, exclude_seen=False)
        assert frame["item_id"].tolist() == ["a"]
        assert np.isfinite(frame["score"]).all()

    def test_no_users_gives_an_empty_table(self, stage: CandidateGenerator) -> None:
        frame = stage.fit(checkerboard()).recommend([], n=3)
        assert list(frame.columns)[:4] == CANDIDATE_COLUMNS  # a fusion says more of each candidate
        assert len(frame) == 0

    def test_a_user_given_twice_is_answered_once(self, stage: CandidateGenerator) -> None:
        stage.fit(checkerboard())
        pd.testing.assert_frame_equal(stage.recommend([1, 0, 1], n=3), stage.recommend([1, 0], n=3))

    def test_repeated_rows_do_not_repeat_items(self, stage: CandidateGenerator) -> None:
        table = checkerboard()
        frame = stage.fit(pd.concat([table, table])).recommend(range(SIZE), n=SIZE, exclude_seen=False)
        assert not frame.duplicated(["user_id", "item_id"]).any()
        assert len(frame) == SIZE * SIZE

    def test_save_and_load_keep_every_row(self, stage: CandidateGenerator, tmp_path: Path) -> None:
        stage.fit(random_interactions())
        stage.save(tmp_path / "first_stage")
        users = [*range(60), "new_user"]
        expected = stage.recommend(users, n=15)
        for loaded in (type(stage).load(tmp_path / "first_stage"), load_generator(tmp_path / "first_stage")):
            assert type(loaded) is type(stage)
            pd.testing.assert_frame_equal(loaded.recommend(users, n=15), expected, check_exact=True)

    def test_ids_of_mixed_types_come_back_as_they_were(self, stage: CandidateGenerator, tmp_path: Path) -> None:
        users: list[Hashable] = ["1", 1, 2.5, ("shop", 7), "é🙂\u200f"]
        items: list[Hashable] = [10, "10", 0.5, ("a", (1, None)), "x"]
        rows = [(user, item) for place, user in enumerate(users) for item in items[: place + 1]]
        stage.fit(pd.DataFrame(rows, columns=["user_id", "item_id"]))
        stage.save(tmp_path)
        for fitted in (stage, load_generator(tmp_path)):
            frame = fitted.recommend(users, n=5, exclude_seen=False)
            assert _typed(frame["user_id"].unique()) == _typed(users)
            assert sorted(map(repr, frame["item_id"].unique())) == sorted(map(repr, items))

    def test_numpy_ids_find_their_users(self, stage: CandidateGenerator) -> None:
        stage.fit(random_interactions())
        frame = stage.recommend(np.arange(3), n=2)
        pd.testing.assert_frame_equal(frame, stage.recommend([0, 1, 2], n=2))
        assert frame["user_id"].tolist() == [0, 0, 1, 1, 2, 2]

    def test_fits_again_from_scratch(self, stage: CandidateGenerator) -> None:
        fresh = stage.clone().fit(checkerboard())
        again = stage.fit(random_interactions()).fit(checkerboard())
        pd.testing.assert_frame_equal(again.recommend([0, 1], n=5), fresh.recommend([0, 1], n=5))

    def test_clone_is_unfitted_and_alike(self, stage: CandidateGenerator) -> None:
        stage.fit(random_interactions())
        clone = stage.clone()
        with pytest.raises(ConfigError, match="not fitted"):
            clone.recommend([1], n=3)
        clone.fit(random_interactions())
        pd.testing.assert_frame_equal(clone.recommend([1], n=9), stage.recommend([1], n=9))

    def test_unfitted_use_says_so(self, stage: CandidateGenerator, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"not fitted: call fit\(interactions\)"):
            stage.recommend(["u"], n=3)
        with pytest.raises(ConfigError, match="not fitted"):
            stage.save(tmp_path)

    def test_misuse_is_refused(self, stage: CandidateGenerator) -> None:
        stage.fit(checkerboard())
        with pytest.raises(ConfigError, match=r"\['u12'\]"):
            stage.recommend("u12", n=3)
        with pytest.raises(ConfigError, match="n >= 1"):
            stage.recommend([1], n=0)
        with pytest.raises(DataError, match="'item_id'"):
            stage.fit(pd.DataFrame({"user_id": [1]}))
        with pytest.raises(DataError, match="empty"):
            stage.fit(pd.DataFrame({"user_id": [], "item_id": []}))

    def test_ids_that_cannot_be_stored_are_refused(self, stage: CandidateGenerator, tmp_path: Path) -> None:
        stage.fit(pd.DataFrame({"user_id": [frozenset([1]), frozenset([2])], "item_id": ["a", "b"]}))
        assert stage.recommend([frozenset([1])], n=1)["item_id"].tolist() == ["b"]
        with pytest.raises(DataError, match="frozenset"):
            stage.save(tmp_path)

    def test_damaged_files_are_refused(self, stage: CandidateGenerator, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no candidate generator"):
            type(stage).load(tmp_path)
        stage.fit(checkerboard()).save(tmp_path)
        content = (tmp_path / "generator.npz").read_bytes()
        (tmp_path / "generator.npz").write_bytes(content[:-1])
        with pytest.raises(BundleError, match=r"generator\.npz"):
            load_generator(tmp_path)
        (tmp_path / "generator.npz").unlink()
        with pytest.raises(BundleError, match=r"generator\.npz"):
            load_generator(tmp_path)
        (tmp_path / "generator.json").write_text('{"format": 1')
        with pytest.raises(BundleError, match=r"generator\.json"):
            load_generator(tmp_path)


def _typed(values: Iterable[object]) -> list[tuple[str, object]]:
    return [(type(value).__name__, value) for value in values]
