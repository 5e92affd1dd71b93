"""What a wrapped model of another package must do. A test class inherits `OwnGeneratorContract`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from candidate_gen.own import OwnGenerator
from reranker.data.schema import CANDIDATE_COLUMNS, validate_candidates
from reranker.errors import ConfigError
from reranker.protocols import CandidateGenerator

USERS, ITEMS = 12, 10


def interactions() -> pd.DataFrame:
    """User u chose the four items from u on, around the circle of ten."""
    rows = [(f"u{user}", f"i{(user + step) % ITEMS}", step) for user in range(USERS) for step in range(4)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


class OwnGeneratorContract:
    """Inherit it, and define the fixture `generator`: a wrapped model that was trained on `interactions()`."""

    refits = True
    knows_seen = True  # False: the model itself decides what it lists

    def test_follows_the_protocol(self, generator: OwnGenerator) -> None:
        assert isinstance(generator, CandidateGenerator)

    def test_proposes_candidates_of_the_users_asked_for(self, generator: OwnGenerator) -> None:
        frame = generator.recommend(["u3", "u1"], n=3)
        assert list(frame.columns) == CANDIDATE_COLUMNS
        assert frame["user_id"].tolist() == ["u3"] * 3 + ["u1"] * 3
        assert frame["rank"].tolist() == [1, 2, 3] * 2
        assert set(frame["item_id"]) <= {f"i{item}" for item in range(ITEMS)}
        pd.testing.assert_frame_equal(validate_candidates(frame), frame)

    def test_seen_items_are_left_out_unless_asked_for(self, generator: OwnGenerator) -> None:
        if not self.knows_seen:
            pytest.skip("the model itself decides what it lists")
        seen = set(interactions()[["user_id", "item_id"]].itertuples(index=False, name=None))
        frame = generator.recommend([f"u{user}" for user in range(USERS)], n=6)
        assert not seen & set(frame[["user_id", "item_id"]].itertuples(index=False, name=None))
        assert len(generator.recommend(["u0"], n=ITEMS, exclude_seen=False)) == ITEMS

    def test_unknown_users_get_nothing(self, generator: OwnGenerator) -> None:
        frame = generator.recommend(["nobody", "u1"], n=2)
        assert frame["user_id"].unique().tolist() == ["u1"]
        assert generator.recommend(["nobody"], n=2).empty

    def test_misuse_is_refused(self, generator: OwnGenerator) -> None:
        with pytest.raises(ConfigError, match=r"\['u1'\]"):
            generator.recommend("u1", n=2)
        with pytest.raises(ConfigError, match="n >= 1"):
            generator.recommend(["u1"], n=0)

    def test_it_is_not_saved(self, generator: OwnGenerator, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="its own means"):
            generator.save(tmp_path)
        with pytest.raises(ConfigError, match="as_generator"):
            type(generator).load(tmp_path)

    def test_a_copy_learns_from_other_interactions_alone_or_the_way_out_is_said(self, generator: OwnGenerator) -> None:
        if not self.refits:
            with pytest.raises(ConfigError, match="candidates=lists, held_out=chosen"):
                generator.clone()
            with pytest.raises(ConfigError, match="cannot be fitted again"):
                generator.fit(interactions())
            return
        before = generator.recommend(["u1"], n=3)
        copy = generator.clone()
        with pytest.raises(ConfigError, match="not fitted"):
            copy.recommend(["u1"], n=2)
        other = pd.DataFrame({"user_id": ["a", "a", "b", "b", "b"], "item_id": ["x", "y", "x", "y", "z"]})
        frame = copy.fit(other).recommend(["a"], n=1)
        assert frame["item_id"].tolist() == ["z"]
        pd.testing.assert_frame_equal(generator.recommend(["u1"], n=3), before)  # the model given is as it was
        assert np.isfinite(frame["score"]).all()
