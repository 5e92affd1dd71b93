"""What an offline run takes for its input: linked folders, kinds of ids in a CSV, and the same answer for any cut."""

import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.data.table_io import read_table
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError, DataError
from tests.batch.helpers import offline, ranking, rejected, write
from tests.pipeline import toys

KINDS = {"number": int, "text": str, "zeros": "{:05d}".format}


def of_kind(kind):
    """A Reranker whose users and items have ids of digits."""
    data = toys.taste_dataset()
    numbers = {item: number for number, item in enumerate(data.items["item_id"], start=1)}
    items = data.items.assign(item_id=[KINDS[kind](numbers[one]) for one in data.items["item_id"]])
    rows = data.interactions
    rows = rows.assign(
        user_id=[KINDS[kind](int(one[1:]) + 1) for one in rows["user_id"]],
        item_id=[KINDS[kind](numbers[one]) for one in rows["item_id"]],
    )
    data = Dataset(interactions=rows, items=items)
    return Reranker(toys.config(), ScriptedEngine()).fit(data, PopularityGenerator().fit(data.interactions))


@pytest.fixture(scope="module", params=KINDS)
def digits(request, tmp_path_factory):
    """(its folder, the Reranker) for each kind of ids."""
    place, reranker = tmp_path_factory.mktemp("digits") / "bundle", of_kind(request.param)
    reranker.save(place)
    return place, reranker


@pytest.mark.parametrize("given", [True, False])
def test_ids_of_a_csv_are_of_the_bundles_kind(digits, tmp_path, given):
    bundle, reranker = digits
    candidates = reranker.generator.recommend(reranker.user_ids, 4)
    candidates.to_csv(tmp_path / "c.csv", index=False)
    reranker.generator.recommend(reranker.user_ids, 2)[["user_id", "item_id"]].to_csv(
        tmp_path / "newer.csv", index=False
    )
    summary = offline(bundle, tmp_path, "c.csv", interactions=tmp_path / "newer.csv").run(
        reranker=reranker if given else None
    )
    assert (summary["ranked"], summary["unknown_users"], summary["unknown_items"]) == (192, 0, 0)
    found = ranking(tmp_path)
    pairs = candidates[["user_id", "item_id"]]
    assert set(found[pairs.columns].itertuples(index=False)) == set(pairs.itertuples(index=False))
    assert rejected(tmp_path).empty


@pytest.mark.parametrize("number", ["candidates", "interactions"])
def test_users_of_a_csv_are_of_the_kind_that_the_other_table_has(bundle, tmp_path, number):
    candidates = pd.DataFrame({"user_id": [1, 1], "item_id": ["g0i1", "g1i1"], "score": [1.0, 2.0]})
    newer = candidates[["user_id", "item_id"]]
    names = {"candidates": "c.csv", "interactions": "i.csv", number: f"{number}.parquet"}
    for name, table in (("candidates", candidates), ("interactions", newer)):
        (write if name == number else pd.DataFrame.to_csv)(table, tmp_path / names[name])
    offline(bundle, tmp_path, names["candidates"], interactions=tmp_path / names["interactions"]).run()
    assert ranking(tmp_path)["user_id"].tolist() == [1, 1]  # the bundle's are texts


def test_a_part_without_rows_has_no_types(bundle, tmp_path):
    rows = pd.DataFrame({"user_id": ["u1", "u1"], "item_id": ["g0i1", "g1i1"], "score": [1.0, 2.0]})
    (tmp_path / "c").mkdir()
    rows.iloc[:0].astype({"user_id": "float64", "item_id": "float64"}).to_parquet(tmp_path / "c/a.parquet")
    write(rows, tmp_path / "c/b.parquet")
    rows.iloc[:0].astype({"item_id": "int64"}).to_parquet(tmp_path / "c/c.parquet")
    offline(bundle, tmp_path, "c").run()
    assert ranking(tmp_path)["user_id"].tolist() == ["u1", "u1"]


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan"])
def test_words_of_a_csv_are_ids(bundle, tmp_path, word):
    (tmp_path / "c.csv").write_text(f"user_id,item_id,score\n{word},g0i1,1\n{word},{word},2\n,g0i1,3\n")
    offline(bundle, tmp_path, "c.csv", order="first_stage").run()
    assert ranking(tmp_path)[["user_id", "item_id"]].to_numpy().tolist() == [[word, word], [word, "g0i1"]]
    assert rejected(tmp_path)["reason"].tolist() == ["user_id is missing"]


@pytest.fixture(scope="module")
def numbered():
    """A Reranker whose users are numbers, but not its items."""
    data = toys.taste_dataset()
    rows = data.interactions.assign(user_id=[int(one[1:]) for one in data.interactions["user_id"]])
    data = Dataset(interactions=rows, items=data.items)
    return Reranker(toys.config(), ScriptedEngine()).fit(data, PopularityGenerator().fit(data.interactions))


@pytest.mark.parametrize("part_users", [1, 2, 3])
def test_the_cut_decides_nothing_where_few_users_have_newer_histories(numbered, tmp_path, part_users):
    candidates = toys.lists_for(list("abc"), ["g0i1", "g1i1"])  # texts, and the bundle's users are numbers
    newer = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["g0i2", "g1i2"]})
    write(candidates, tmp_path / "c.parquet")
    write(newer, tmp_path / "newer.parquet")
    numbered.save(tmp_path / "bundle")
    settings = {"interactions": tmp_path / "newer.parquet", "part_users": part_users}
    offline(tmp_path / "bundle", tmp_path, "c.parquet", **settings).run(reranker=numbered)
    expected = numbered.rerank(candidates, interactions=newer, order="baseline").to_frame()
    expected, found = expected.sort_values(["user_id", "rank"], ignore_index=True), ranking(tmp_path)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-9)
    for table in (candidates, newer):  # nor does it where the items are of another kind than the bundle's
        table["item_id"] = range(len(table))
    write(candidates, tmp_path / "c.parquet")
    write(newer[1:], tmp_path / "newer.parquet")
    with pytest.raises(DataError, match="of kind number, those known so far of kind text"):
        offline(tmp_path / "bundle", tmp_path, "c.parquet", **settings).run(reranker=numbered, force=True)


class TestLinks:
    @pytest.fixture
    def linked(self, tmp_path, candidates):
        """in/a.parquet, and in/more, a link to a folder that holds b.parquet and a link back."""
        (tmp_path / "in").mkdir()
        (tmp_path / "elsewhere").mkdir()
        write(candidates[:133], tmp_path / "in" / "a.parquet")
        write(candidates[133:], tmp_path / "elsewhere" / "b.parquet")
        (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
        return tmp_path

    def test_tables_in_linked_folders_are_read_once(self, bundle, linked, candidates):
        summary = offline(bundle, linked, "in").run()
        assert summary["rows"] == len(candidates) == len(ranking(linked))

    def test_a_run_inside_a_linked_folder_is_refused(self, bundle, linked):
        with pytest.raises(ConfigError, match="lies in the folder of the candidates"):
            offline(bundle, linked, "in", "elsewhere/out")
        offline(bundle, linked, "in", "elsewhere/_hidden/out")

    def test_a_link_to_nothing_is_refused(self, bundle, linked):
        (linked / "in" / "c.parquet").symlink_to(linked / "gone")
        with pytest.raises(DataError, match="which does not exist"):
            offline(bundle, linked, "in").run()


class TestIdsThatDoNotMatch:
    def test_numbers_of_a_parquet_are_texts_where_the_bundles_are(self, tmp_path):
        """`reranker recall` knows no item table: it writes numbers where the bundle has texts, "X1" among them."""
        data = toys.taste_dataset()
        numbers = {item: str(number) for number, item in enumerate(data.items["item_id"])} | {"g0i1": "X1"}
        items = data.items.assign(item_id=data.items["item_id"].map(numbers))
        rows = data.interactions.assign(item_id=data.interactions["item_id"].map(numbers))
        reranker = Reranker(toys.config(), ScriptedEngine())
        data = Dataset(interactions=rows, items=items)
        reranker.fit(data, PopularityGenerator().fit(data.interactions)).save(tmp_path / "bundle")
        candidates = pd.DataFrame({"user_id": ["u1", "u1"], "item_id": [2, 5], "score": [1.0, 2.0]})
        write(candidates, tmp_path / "c.parquet")
        summary = offline(tmp_path / "bundle", tmp_path, "c.parquet", order="first_stage").run()
        assert summary["unknown_items"] == 0 and ranking(tmp_path)["item_id"].tolist() == ["5", "2"]

    @pytest.mark.parametrize(
        ("users", "items", "said"),
        [
            (["u1", "u2", "u3"], ["g0i1.0", "x", "y"], r"'item_id': 3 of 3 rows .* not in the bundle's item table"),
            ([" u1", " u2", "u3"], ["g0i1", "g0i1", "g0i1"], r"'user_id': 2 of 3 .*' u1' here is 'u1' there"),
        ],
    )
    def test_most_unknown_is_refused_before_anything_is_ranked(self, bundle, tmp_path, users, items, said):
        pd.DataFrame({"user_id": users, "item_id": items, "score": 1.0}).to_csv(tmp_path / "c.csv", index=False)
        with pytest.raises(DataError, match=said):
            offline(bundle, tmp_path, "c.csv").run()
        assert not (tmp_path / "out" / "ranking").exists()


@pytest.mark.parametrize("separate", [True, False])
def test_interactions_with_an_open_quote_are_refused_with_the_line(bundle, tmp_path, separate):
    pd.DataFrame({"user_id": ["u1"], "item_id": ["g0i1"], "score": [1.0]}).to_csv(tmp_path / "c.csv", index=False)
    (tmp_path / "newer.csv").write_text('user_id,item_id\nu1,g0i1\nu1,"g1i1\nu2,g2i1\nu2,g0i1\n')
    with pytest.raises(DataError, match=r"newer\.csv.*line 3"):
        if separate:
            offline(bundle, tmp_path, "c.csv", interactions=tmp_path / "newer.csv").run()
        else:
            read_table(tmp_path / "newer.csv")
