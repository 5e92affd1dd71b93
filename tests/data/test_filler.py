"""implicit's filler is no candidate: left out and counted, in both ways of ranking."""

import numpy as np
import pandas as pd
import pytest

from reranker.data.schema import validate_candidates
from reranker.errors import DataError
from tests.batch.helpers import offline, ranking, rejected

LOWEST = float(np.finfo(np.float32).min)
ROWS = [("u1", "g0i1", 0.5), ("u1", "-1", LOWEST), ("u1", "-1", LOWEST), ("u1", "g0i2", LOWEST), ("u2", "g1i1", -3.0)]


def test_filler_is_left_out_and_counted(caplog):
    table = pd.DataFrame(ROWS, columns=["user_id", "item_id", "score"])
    assert validate_candidates(table)["item_id"].tolist() == ["g0i1", "g1i1"]
    assert "3 of 5 rows are left out: the score is implicit's for no item" in caplog.text
    assert len(validate_candidates(table.assign(score=["0.5", *["-3.4028235e+38"] * 3, "1"]))) == 2
    with pytest.raises(DataError, match="holds no candidate: of all 2 rows the score is implicit's"):
        validate_candidates(table[1:3])


@pytest.mark.parametrize("name", ["c.csv", "c.parquet"])
def test_an_offline_run_rejects_filler(tmp_path, name):
    from tests.pipeline import toys

    toys.fitted().save(tmp_path / "bundle")
    table = pd.DataFrame(ROWS, columns=["user_id", "item_id", "score"])
    table.to_csv(tmp_path / name, index=False) if name.endswith("csv") else table.to_parquet(tmp_path / name)
    summary = offline(tmp_path / "bundle", tmp_path, name).run()
    assert (summary["ranked"], summary["rejected_rows"]) == (2, 3) and len(ranking(tmp_path)) == 2
    assert rejected(tmp_path)["reason"].str.startswith("the score is implicit's for no item").all()
