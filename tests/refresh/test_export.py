"""What a bundle keeps of a user, and that nothing of it is left of one who is forgotten."""

from reranker import Reranker
from reranker.refresh import exported_user, forget_users
from tests.pipeline.test_own_features import fitted, priced


def test_a_user_s_own_columns_are_exported_and_forgotten(tmp_path):
    data = priced()
    reranker = fitted(["users.segment", "price"], data)
    assert reranker.fusion_model.own.keeps
    kept = exported_user(reranker, "u5")
    mine = data.interactions[data.interactions["user_id"] == "u5"].sort_values("timestamp")
    assert kept["columns"] == {"segment": "s1"} and kept["domain"] == "toy"
    rows = [(row["item_id"], row["timestamp"]) for row in kept["interactions"]]
    assert rows == list(zip(mine["item_id"], mine["timestamp"], strict=True))
    forget_users(reranker, ["u5"])
    reranker.save(tmp_path / "bundle")
    left = Reranker.load(tmp_path / "bundle")
    assert "u5" not in left.user_ids and "u5" not in set(left._data.statistics.own.users["user_id"])
    assert exported_user(left, "u5") == {
        "domain": "toy",
        "columns": {},
        "interactions": [],
        "judged_lists": [],
        "learned_from": False,
    }
    assert exported_user(left, "u6")["columns"] == {"segment": "s2"}
