"""Files of a bundle that are sound by themselves and do not fit, or unpack to far more than they are."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import save_file

from reranker import Reranker
from reranker.errors import BundleError, PromptError
from reranker.fusion import FusionModel
from reranker.scoring import PriorStore, StateStore
from reranker.utils.safetensors_io import read_tensors
from reranker.utils.untrusted import require_small_parquet
from tests.pipeline import toys
from tests.pipeline.signed import tampered, write_signed


@pytest.fixture(scope="module")
def fitted():
    return toys.fitted(scorer="embedding")


def changed(array):
    yield array[None]
    if array.ndim:
        yield array[:-1]
        yield array.ravel()[:1]


def test_states_and_spaces_fit_each_other(fitted, tmp_path):
    path = tmp_path / "states.npz"
    fitted.llm_scorer.hidden_states.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    StateStore.load(path)
    refused = 0
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        for other in changed(array):
            np.savez(tmp_path / "other.npz", **{**arrays, name: other})
            with pytest.raises((BundleError, ValueError)):
                StateStore.load(tmp_path / "other.npz")
            refused += 1
    assert refused >= 15


@pytest.mark.parametrize("kind", ["M8[s]", "i4", "f8", "?"])
def test_spaces_and_projections_are_of_one_type(fitted, tmp_path, kind):
    path = tmp_path / "states.npz"
    fitted.llm_scorer.hidden_states.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    names = [name for name, array in arrays.items() if array.dtype == np.float32]
    assert len(names) >= 6
    for name in names:
        np.savez(tmp_path / "other.npz", **{**arrays, name: np.ones(arrays[name].shape).astype(kind)})
        with pytest.raises(BundleError, match="float32"):
            StateStore.load(tmp_path / "other.npz")


@pytest.mark.parametrize("value", [1e300, -1e10, float("nan"), float("inf")])
def test_priors_are_log_likelihoods(tmp_path, value):
    path = tmp_path / "priors.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"], "span": ["c", "d"], "log_prob": [-3.5, value]}), path)
    with pytest.raises(BundleError, match="no log-likelihood"):
        PriorStore.load(path)


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns") / "bundle"
    fitted.save(folder)
    return folder


@pytest.mark.parametrize("scorer", ["likelihood", "listwise", "labels", "baseline", "likelihood+embedding"])
def test_weights_belong_to_the_scorer(saved, tmp_path, scorer):
    shutil.copytree(saved, tmp_path / "bundle")
    manifest = yaml.safe_load((saved / "bundle.yaml").read_text())
    manifest["config"]["scorer"] = scorer
    if scorer == "labels":  # its components are words of a template, so names say nothing; numbers do
        tampered(tmp_path / "bundle", "fusion.json", without_a_column(saved))
        manifest["files"] = yaml.safe_load((tmp_path / "bundle" / "bundle.yaml").read_text())["files"]
    write_signed(tmp_path / "bundle" / "bundle.yaml", manifest)
    with pytest.raises(BundleError, match="other columns than its statistics and the scorer"):
        Reranker.load(tmp_path / "bundle", engine="scripted")


def without_a_column(bundle):
    fusion = json.loads((bundle / "fusion.json").read_text())
    fusion["fused"]["columns"].popitem()
    fusion["fused"]["weights"].pop()
    fusion["fused"].pop("past", None)
    return json.dumps(fusion).encode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("domain", ["toy"]),
        ("domain", None),
        ("domain", "x" * 100_000),
        ("templates_sha256", 1),
        ("model.model_id", {}),
        ("model.sha256", None),
        ("model.dim", "16"),
        ("model.dim", -1),
        ("model.dim", True),
        ("model.max_length", 1 << 200),
        ("model.vocab_size", 0.5),
    ],
)
def test_fields_of_the_manifest_are_of_their_types(saved, tmp_path, name, value):
    shutil.copytree(saved, tmp_path / "bundle")
    manifest = yaml.safe_load((saved / "bundle.yaml").read_text())
    *inner, last = name.split(".")
    (manifest[inner[0]] if inner else manifest)[last] = value
    write_signed(tmp_path / "bundle" / "bundle.yaml", manifest)
    with pytest.raises(BundleError, match=f"{name} cannot be what it says"):
        Reranker.load(tmp_path / "bundle", engine="scripted")


@pytest.mark.parametrize("name", ["items", "item_table", "users"])
def test_ids_stand_once(saved, tmp_path, name):
    shutil.copytree(saved, tmp_path / "bundle")
    ids = json.loads((saved / "ids.json").read_text())
    ids[name][1] = ids[name][0]
    tampered(tmp_path / "bundle", "ids.json", json.dumps(ids).encode())
    with pytest.raises(BundleError, match=r"ids\.json is damaged: it names an item .*twice"):
        Reranker.load(tmp_path / "bundle", engine="scripted")


def test_weights_belong_to_the_statistics(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "bundle")
    fusion = json.loads((saved / "fusion.json").read_text())
    columns = fusion["baseline"]["columns"]
    fusion["baseline"]["columns"] = {("x" if name == "popularity" else name): words for name, words in columns.items()}
    tampered(tmp_path / "bundle", "fusion.json", json.dumps(fusion).encode())
    with pytest.raises(BundleError, match="other columns than its statistics"):
        Reranker.load(tmp_path / "bundle", engine="scripted")


def test_coefficients_are_finite(fitted):
    data = fitted.fusion_model.to_json()
    FusionModel.from_json(data)
    for wrong in ([float("nan")], [[1.0]], ["x"], None):
        with pytest.raises(BundleError):
            FusionModel.from_json({**data, "coefficients": wrong})


def test_vectors_are_finite(tmp_path):
    path = tmp_path / "context.safetensors"
    save_file({"a": np.array([1.0, np.nan], dtype=np.float32)}, path)
    with pytest.raises(PromptError, match="not finite"):
        read_tensors(path, ["a"], "context map")


def test_a_text_that_stands_in_every_row_is_not_unpacked(tmp_path):
    path = tmp_path / "items.parquet"
    text = pa.array(["x" * 100_000])
    titles = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, dtype=np.int32)), text)  # 5 GB of texts
    pq.write_table(pa.table({"title": titles.cast(pa.dictionary(pa.int32(), pa.string()))}), path, store_schema=False)
    assert path.stat().st_size < 200_000
    with pytest.raises(BundleError, match="bytes of texts"):
        require_small_parquet(path, 50_000)
    with pytest.raises(BundleError, match="50000 rows, not 3"):
        require_small_parquet(path, 3)


def test_more_rows_than_bytes_are_refused(tmp_path):
    path = tmp_path / "priors.parquet"
    pq.write_table(pa.table({"log_prob": pa.array(np.zeros(1_000_000))}), path)
    with pytest.raises(BundleError, match="1000000 rows"):
        PriorStore.load(path)
