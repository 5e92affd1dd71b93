"""The table of own features: columns read from texts, and a price that tells what is chosen next."""

import numpy as np
import pandas as pd
import pytest

from eval import own_features_table
from reranker.data.dataset import Dataset
from reranker.evaluation import leave_last_k

pytest.importorskip("lightgbm")


def test_columns_are_read_from_the_texts():
    items = pd.DataFrame(
        {
            "title": ["Toy Story (1995)", "Beef stew (national brand)", "2001: A Space Odyssey"],
            "category": ["Pilot", "Grocery;Meat", ""],
            "description": ["Unit price £0.85", "by Eric Eve, 2004, made with TADS 3", ""],
        }
    )
    columns = {domain: read(items) for domain, read in own_features_table.COLUMNS.items()}
    assert columns["movies"]["year"].tolist()[0] == 1995
    assert columns["giftware_retail"]["price"].tolist()[0] == 0.85
    assert columns["groceries"]["brand"].tolist()[1] == "national"
    assert columns["groceries"]["department"].tolist()[1] == "Grocery"
    assert columns["interactive_fiction"]["year"].tolist()[1] == 2004
    assert columns["interactive_fiction"]["made_with"].tolist()[1] == "TADS"
    assert columns["office_products"]["brand"].isna().tolist() == [False, False, True]


def test_users_who_keep_to_a_price_are_found(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    price = rng.integers(1, 5, size=120)
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(120)], "title": [f"thing, {one} pounds" for one in price]})
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": time}
        for user in range(160)
        for time, item in enumerate(rng.choice(np.flatnonzero(price == user % 4 + 1), 6, replace=False))
    ]
    data = Dataset(interactions=pd.DataFrame(rows), items=items, domain="shop")
    fold = leave_last_k(data, 1)
    read = {"shop": lambda table: {"price": pd.to_numeric(table["title"].str.extract(r"(\d) pounds")[0])}}
    monkeypatch.setattr(own_features_table, "COLUMNS", read)
    said = []
    checks = own_features_table.run(lambda split: [fold], tmp_path, said.append, ("leave-last",))
    assert (tmp_path / "leave-last" / "domains.csv").exists()
    assert len(checks) == 1 and "own features, shop" in checks[0].name
    row = pd.read_csv(tmp_path / "leave-last" / "domains.csv").iloc[0]
    assert row["gain"] == pytest.approx(row["with"] - row["without"])
    assert row["users"] == 160
    assert any("shop" in line for line in said)
    monkeypatch.setattr(own_features_table, "COLUMNS", {})
    assert own_features_table.run(lambda split: [fold], tmp_path, said.append, ("leave-last",)) == []
    assert "left out: its items have no own columns" in said[-1]
