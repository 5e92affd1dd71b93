"""The daily loop from the shell."""

import pandas as pd

from reranker import Reranker
from reranker.pipeline.manifest import bundle_identity
from tests.cli.command import refused, run
from tests.pipeline import toys


def test_a_day_and_back(tmp_path):
    bundle, data = tmp_path / "bundle", toys.taste_dataset()
    toys.fitted(scorer="embedding").save(bundle)
    assert "has no versions yet" in run("rollback", "--bundle", bundle, "--list")[0]
    new = pd.DataFrame(
        {"user_id": ["u1", "u1", "new"], "item_id": ["n1", "g1i0", "n1"], "timestamp": [9000, 9001, 9002]}
    )
    new.to_csv(tmp_path / "new.csv", index=False)
    pd.DataFrame({"item_id": ["n1"], "title": ["mipfen ninety"]}).to_csv(tmp_path / "items.csv", index=False)
    tables = ("--interactions", tmp_path / "new.csv", "--items", tmp_path / "items.csv")
    said, _ = run("refresh", "--bundle", bundle, *tables)
    assert "3 new interactions (0 of them late), 0 known already; 1 new users, 1 new items" in said
    assert f"saved {bundle}/versions/000002" in said
    again, _ = run("refresh", "--bundle", bundle, "--interactions", tmp_path / "new.csv")
    assert "0 new interactions" in again and "nothing is new" in again
    assert Reranker.load(bundle).history("u1")[-2:] == ["n1", "g1i0"]
    listed, _ = run("rollback", "--bundle", bundle, "--list")
    names = [str(bundle_identity(bundle / "versions" / name)) for name in ("000001", "000002")]
    assert listed.splitlines() == [f"000001  {names[0]}", f"000002  {names[1]}  <- current"]
    assert "000002 -> 000001" in run("rollback", "--bundle", bundle)[0]
    assert Reranker.load(bundle).history("u1") == data.interactions.query("user_id == 'u1'")["item_id"].tolist()
    assert "000001 is the oldest" in refused("rollback", "--bundle", bundle)
    run("rollback", "--bundle", bundle, "--to", "000002")
    forgotten, _ = run("users", "forget", "--bundle", bundle, "--user", "u1", "--user", "nobody")
    assert "forgot 1 users (1 were not known): 7 interactions" in forgotten
    assert "older versions removed: 000001, 000002" in forgotten
    assert Reranker.load(bundle).history("u1") == []
