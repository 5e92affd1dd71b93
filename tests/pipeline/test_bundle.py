"""A saved Reranker: the same rankings again, or a clear refusal."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candidate_gen import ALSGenerator, PopularityGenerator, ReciprocalRankFusion, register_generator
from candidate_gen.registry import _CLASSES
from reranker import BundleError, ConfigError, DataError, Dataset, Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.pipeline import bundle as bundle_places
from reranker.pipeline import bundle_parts
from reranker.pipeline.bundle import require_storable
from reranker.prompting import PromptSettings
from tests.pipeline import toys
from tests.pipeline.signed import tampered, write_signed

CHOSEN = ["g0i0", "g1i1", "g2i2", "g3i3", "unheard of"]
LISTS = toys.lists_for(["u1", "u2", "new_user"], CHOSEN)
ORDERS = ("fused", "baseline", "first_stage")


@pytest.fixture(scope="module")
def reranker():
    data = toys.taste_dataset()
    data = Dataset(interactions=data.interactions, items=data.items.assign(category="a|b", year=1999), domain="toy")
    return Reranker(toys.config(), ScriptedEngine()).fit(data, ALSGenerator(factors=4).fit(data.interactions))


@pytest.fixture
def bundle(reranker, tmp_path):
    reranker.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def files_of(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("order", ORDERS)
def test_a_loaded_bundle_ranks_the_same(reranker, bundle, order):
    loaded = Reranker.load(bundle)
    pd.testing.assert_frame_equal(
        loaded.rerank(LISTS, order=order).to_frame(), reranker.rerank(LISTS, order=order).to_frame(), check_exact=True
    )


def test_everything_else_comes_back_too(reranker, bundle):
    loaded = Reranker.load(str(bundle))
    assert loaded.fusion_model.guard == reranker.fusion_model.guard
    assert loaded.config == reranker.config
    assert loaded.user_ids == reranker.user_ids
    assert loaded.rank("zorblax", CHOSEN) == reranker.rank("zorblax", CHOSEN)
    users = ["u1", "u5", "nobody"]
    pd.testing.assert_frame_equal(loaded.generator.recommend(users, 6), reranker.generator.recommend(users, 6))
    assert loaded.inspect(LISTS[LISTS["user_id"] == "u1"]).candidate_texts


def test_a_loaded_bundle_is_saved_as_it_was(bundle, tmp_path):
    Reranker.load(bundle).save(tmp_path / "again")
    first, second = files_of(bundle), files_of(tmp_path / "again")
    assert first.keys() == second.keys()
    same = [name for name in first if name.endswith((".json", ".parquet"))]
    assert len(same) >= 5
    assert [name for name in same if first[name] != second[name]] == []  # zip and safetensors headers may vary


def test_kept_priors_are_not_computed_again(reranker, tmp_path):
    reranker.rerank(LISTS, order="fused")  # priors of these items are kept by now
    reranker.save(tmp_path / "bundle")
    engine = toys.WatchedEngine()
    Reranker.load(tmp_path / "bundle", engine=engine).rerank(LISTS, order="fused")
    assert [len(call) for call in engine.calls] == [3]  # one request a user and none for priors


def test_reference_histories_come_back_and_new_items_leave_them(tmp_path):
    data = toys.taste_dataset(per_group=16)
    fitted = Reranker(toys.config(calibration_histories=3), ScriptedEngine()).fit(
        data, ALSGenerator(factors=4).fit(data.interactions)
    )
    fitted.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    loaded.add_items(pd.DataFrame({"item_id": ["new"], "title": ["zorblax 99"]}))
    loaded.save(tmp_path / "with new")
    titles = set(data.items["title"])
    drawn = fitted.llm_scorer.renderer.calibration_histories
    assert [len(history) for history in drawn] == [12] * 3
    assert {item["title"] for history in drawn for item in history} <= titles
    for one in (loaded, Reranker.load(tmp_path / "with new")):
        assert one.llm_scorer.renderer.calibration_histories == drawn
        pd.testing.assert_frame_equal(
            one.rerank(LISTS, order="fused").to_frame(), fitted.rerank(LISTS, order="fused").to_frame()
        )
    ids = dict(zip(data.items["title"], data.items["item_id"], strict=True))
    words = ["entirely other words"] * 12
    other_words = pd.DataFrame({"item_id": [ids[one["title"]] for one in drawn[0]], "title": words})
    assert fitted.add_items(other_words) == 0
    fitted.save(tmp_path / "other words")
    again = Reranker.load(tmp_path / "other words")
    assert again.llm_scorer.renderer.calibration_histories == drawn  # what weights were fitted on
    pd.testing.assert_frame_equal(
        again.rerank(LISTS, order="fused").to_frame(), fitted.rerank(LISTS, order="fused").to_frame()
    )


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again(reranker, tmp_path, monkeypatch):
    path = tmp_path / "bundle"
    reranker.save(path)
    data = toys.taste_dataset(users=30)
    other = Reranker(toys.config(), ScriptedEngine()).fit(data, PopularityGenerator().fit(data.interactions))
    read, calls = bundle_parts.read_statistics, []

    def replaced_meanwhile(*arguments):
        if not calls:
            other.save(path)
        calls.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(bundle_parts, "read_statistics", replaced_meanwhile)
    loaded = Reranker.load(path, engine=ScriptedEngine())
    assert len(calls) == 2
    assert loaded.user_ids == other.user_ids
    pd.testing.assert_frame_equal(
        loaded.rerank(LISTS, order="fused").to_frame(), other.rerank(LISTS, order="fused").to_frame()
    )
    monkeypatch.setattr(bundle_places, "_standing", lambda directory: (directory, object()))
    with pytest.raises(BundleError, match=r"was replaced \d+ times"):
        Reranker.load(path)


def test_the_manifest_says_what_it_is(bundle):
    manifest = yaml.safe_load((bundle / "bundle.yaml").read_text())
    assert manifest["format"] == 13
    assert manifest["model"]["model_id"] == "scripted"
    assert manifest["served"].startswith("serving ")
    assert set(manifest["files"]) == set(files_of(bundle)) - {"bundle.yaml"}


def test_another_user_can_read_what_is_saved(bundle, tmp_path):
    """A bundle is copied to a server, or mounted into a container."""
    plain = tmp_path / "plain"
    plain.touch()
    assert {(bundle / name).stat().st_mode for name in files_of(bundle)} == {plain.stat().st_mode}


def test_no_file_needs_pickle(bundle):
    names = set(files_of(bundle))
    assert {Path(name).suffix for name in names} <= {".yaml", ".json", ".npz", ".parquet", ".safetensors"}
    archives = [bundle / name for name in names if name.endswith(".npz")]
    assert len(archives) == 3
    for archive in archives:
        with np.load(archive, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype != object for name in arrays.files)
        with zipfile.ZipFile(archive) as members:
            assert all(member.endswith(".npy") for member in members.namelist())


def test_each_changed_file_is_named(bundle):
    for name, content in files_of(bundle).items():
        if name == "bundle.yaml":
            continue
        path = bundle / name
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name} changed since it was saved"):
            Reranker.load(bundle)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(BundleError, match=f"{name} changed since it was saved"):
            Reranker.load(bundle)
        path.unlink()
        with pytest.raises(BundleError, match=f"{name} missing"):
            Reranker.load(bundle)
        path.write_bytes(content)
    assert Reranker.load(bundle).user_ids  # whole again


def test_an_added_file_is_named(bundle):
    (bundle / "generator" / "extra.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(BundleError, match=r"generator/extra\.pkl not part of the bundle"):
        Reranker.load(bundle)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "format None, this version reads 13"),
        ("format: 13\n", "does not list the bundle's files"),
        ("format: 2\nfiles: {}\n", "format 2, this version reads 13"),
        ("- a list\n", "format None"),
        ("format: [3\n", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        ("format: 13\nfiles: {}\n", "it is not what was saved"),
    ],
)
def test_a_damaged_manifest_is_refused(bundle, text, problem):
    (bundle / "bundle.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match=problem):
        Reranker.load(bundle)


@pytest.mark.parametrize("key", ["config", "model", "domain", "templates_sha256"])
def test_a_manifest_without_a_key_is_refused(bundle, key):
    path = bundle / "bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    del manifest[key]
    write_signed(path, manifest)
    with pytest.raises(BundleError, match=key):
        Reranker.load(bundle)


def test_settings_of_a_later_version_are_refused(bundle):
    path = bundle / "bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["config"]["telepathy"] = True
    write_signed(path, manifest)
    with pytest.raises(BundleError, match="telepathy"):
        Reranker.load(bundle)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.json", b"{}"),
        ("ids.json", b"[]"),
        ("items.parquet", b"PAR1"),
        ("calibration_items.parquet", b"PAR1"),
        ("statistics.npz", b"PK"),
        ("fusion.json", b"{}"),
    ],
)
def test_the_file_that_cannot_be_read_is_named(bundle, name, content):
    tampered(bundle, name, content)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Reranker.load(bundle)


def test_weights_of_new_items_over_other_columns_are_refused(bundle):
    fusion = json.loads((bundle / "fusion.json").read_text())
    head = fusion["new_items"]
    head["columns"], head["weights"] = {**head["columns"], "price": "its price"}, [*head["weights"], 1.0]
    tampered(bundle, "fusion.json", json.dumps(fusion).encode())
    with pytest.raises(BundleError, match="other columns"):
        Reranker.load(bundle)


def test_well_signed_nonsense_is_refused(bundle):
    """The hash of a file is right, its content is not: written by something else than this version."""
    path = bundle / "bundle.yaml"
    whole = files_of(bundle)
    nonsense = {
        "ids.json": [b"[]", b"{}", b"not json"],
        "fusion.json": [b"{}", b"[]", b'{"coefficients": 1}'],
        "statistics.npz": [b"", b"PK\x03\x04 cut off", whole["statistics.npz"][:-50]],
        "items.parquet": [b"PAR1"],
        "priors.parquet": [whole["items.parquet"]],
        "generator/generator.npz": [whole["statistics.npz"]],
    }
    for name, contents in nonsense.items():
        for content in contents:
            (bundle / name).write_bytes(content)
            manifest = yaml.safe_load(whole["bundle.yaml"])
            manifest["files"][name] = hashlib.sha256(content).hexdigest()
            write_signed(path, manifest)
            with pytest.raises(BundleError):
                Reranker.load(bundle)
        (bundle / name).write_bytes(whole[name])


def test_a_half_written_bundle_is_refused(bundle, tmp_path):
    (bundle / "bundle.yaml").unlink()  # it is written last
    with pytest.raises(BundleError, match=r"no bundle: it has no bundle\.yaml"):
        Reranker.load(bundle)
    for directory in (tmp_path / "not there", tmp_path):
        with pytest.raises(BundleError, match="no bundle"):
            Reranker.load(directory)


def test_a_bundle_of_another_model_is_refused_when_the_model_is_met(bundle):
    loaded = Reranker.load(bundle, engine=ScriptedEngine(dim=8))
    assert len(loaded.rerank(LISTS, order="first_stage")) == len(LISTS)  # needs no model
    for _ in range(2):  # also the second time
        with pytest.raises(BundleError, match=r"width 16.*width 8"):
            loaded.rerank(LISTS, order="fused")
    with pytest.raises(BundleError, match=r"width 16.*width 8"):
        loaded.rank("query", ["document"])


def test_another_model_without_a_hash_is_refused_by_its_name(bundle):
    loaded = Reranker.load(bundle, engine=ScriptedEngine(model_id="some other model"))
    with pytest.raises(BundleError, match="some other model"):
        loaded.rerank(LISTS, order="fused")


@pytest.mark.parametrize(
    "changed",
    [
        *({"scorer": "listwise"}, {"soft_tokens": 0}, {"permutations": 2}, {"calibration_histories": 2}),
        {"prompt": {"title_tokens": 3}},
    ],
)
def test_settings_that_the_weights_depend_on_cannot_be_changed(bundle, changed):
    with pytest.raises(ConfigError, match=f"fitted with {next(iter(changed))}="):
        Reranker.load(bundle, **changed)
    assert Reranker.load(bundle, dtype="float32", seed=3).config.seed == 3


def test_a_changed_template_is_refused(tmp_path):
    template = tmp_path / "templates" / "generic" / "en.j2"
    template.parent.mkdir(parents=True)
    template.write_text('{% extends "packaged/generic/en.j2" %}')
    prompt = PromptSettings(title_tokens=64, history_tokens=2048, directory=tmp_path / "templates")
    toys.fitted(prompt=prompt).save(tmp_path / "bundle")
    own = {"templates": tmp_path / "templates"}
    assert Reranker.load(tmp_path / "bundle", trusted_options=own).user_ids
    template.write_text('{% extends "packaged/generic/en.j2" %}{% block history_header %}Bought:{% endblock %}')
    with pytest.raises(BundleError, match=r"other text in the template .*en\.j2"):
        Reranker.load(tmp_path / "bundle", trusted_options=own)


def test_a_bundle_may_not_point_at_a_folder_of_templates(reranker, bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("RERANKER_TEMPLATES", raising=False)
    manifest = yaml.safe_load((bundle / "bundle.yaml").read_text())
    manifest["config"]["prompt"] = {**manifest["config"]["prompt"], "directory": "/etc"}
    write_signed(bundle / "bundle.yaml", manifest)
    with pytest.raises(BundleError, match=r"may not point at folders.*RERANKER_TEMPLATES=/etc"):
        Reranker.load(bundle)
    monkeypatch.setenv("RERANKER_TEMPLATES", str(tmp_path))  # the operator's own word, wherever they lie here
    assert Reranker.load(bundle).config.prompt.directory == tmp_path


def test_saving_again_replaces_the_bundle(reranker, bundle):
    other = toys.fitted(soft_tokens=2)
    other.save(bundle)
    assert Reranker.load(bundle).config.soft_tokens == 2
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]  # nothing is left behind


def test_another_folder_is_not_overwritten(reranker, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"smile")
    with pytest.raises(BundleError, match="is not a bundle: choose another folder"):
        reranker.save(tmp_path / "photos")
    assert files_of(tmp_path) == {"photos/me.jpg": b"smile"}


def test_a_file_in_the_way_is_not_overwritten(reranker, tmp_path):
    (tmp_path / "file").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "bundle"):
        with pytest.raises(BundleError):
            reranker.save(directory)
    assert files_of(tmp_path) == {"file": b"mine"}


def test_an_empty_folder_is_used(reranker, tmp_path):
    (tmp_path / "bundle").mkdir()
    reranker.save(tmp_path / "bundle")
    assert Reranker.load(tmp_path / "bundle").user_ids


def test_ids_that_need_pickle_are_refused_and_leave_nothing(tmp_path):
    data = toys.taste_dataset()
    users = data.interactions["user_id"].map(lambda user: frozenset([user]))
    data = Dataset(interactions=data.interactions.assign(user_id=users), items=data.items, domain="toy")
    reranker = Reranker(toys.config(), ScriptedEngine()).fit(data, ALSGenerator(factors=4).fit(data.interactions))
    with pytest.raises(DataError, match="frozenset"):
        reranker.save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blended", [False, True])
def test_a_first_stage_of_ones_own_is_left_out(tmp_path, caplog, blended):
    class Mine(PopularityGenerator):
        pass

    data = toys.taste_dataset()
    generator = (ReciprocalRankFusion([PopularityGenerator(), Mine()]) if blended else Mine()).fit(data.interactions)
    Reranker(toys.config(n_candidates=32), ScriptedEngine()).fit(data, generator).save(tmp_path / "bundle")
    assert f"the candidate generator ({type(generator).__name__}) is not saved with the bundle" in caplog.text
    loaded = Reranker.load(tmp_path / "bundle")
    assert loaded.generator is None
    assert len(loaded.rerank(LISTS, order="fused")) == len(LISTS)


def test_a_first_stage_of_ones_own_that_is_registered_is_kept(tmp_path, monkeypatch, caplog):
    class Mine(PopularityGenerator):
        pass

    data = toys.taste_dataset()
    monkeypatch.setitem(_CLASSES, "Mine", register_generator(Mine))
    fitted = Reranker(toys.config(), ScriptedEngine()).fit(data, Mine().fit(data.interactions))
    fitted.save(tmp_path / "bundle")
    assert type(Reranker.load(tmp_path / "bundle").generator) is Mine
    monkeypatch.delitem(_CLASSES, "Mine")
    assert Reranker.load(tmp_path / "bundle").generator is None
    assert "the bundle's candidate generator is left out" in caplog.text


def test_items_that_cannot_be_stored_are_refused_before_anything_is_read():
    data = toys.taste_dataset()
    items = data.items.assign(year=[object() for _ in range(len(data.items))])
    with pytest.raises(DataError, match="table 'items', column 'year': its values cannot be stored together"):
        require_storable(Dataset(interactions=data.interactions, items=items, domain="toy"))
    mixed = data.items.assign(year=["n.d.", *range(1990, 1989 + len(data.items))])
    require_storable(Dataset(interactions=data.interactions, items=mixed, domain="toy"))


def test_new_items_with_texts_where_the_old_ones_have_numbers_can_be_saved(reranker, tmp_path):
    reranker.save(tmp_path / "before")
    loaded = Reranker.load(tmp_path / "before")
    loaded.add_items(pd.DataFrame({"item_id": ["new"], "title": ["zorblax 99"], "year": ["n.d."]}))  # the others: 1999
    loaded.save(tmp_path / "after")
    assert set(pd.read_parquet(tmp_path / "after" / "items.parquet")["year"]) == {"1999", "n.d."}


FULL_DISK = """
import resource, signal, sys
from reranker import BundleError, Reranker
reranker = Reranker.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing past the limit is then an OSError, like a full disk
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        reranker.save(sys.argv[2])
        print(limit, "saved")
    except BundleError as error:
        print(limit, "refused", error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_leaves_the_old_bundle_whole(reranker, bundle, tmp_path):
    toys.fitted(soft_tokens=2).save(tmp_path / "other")
    sizes = sorted(len(content) for content in files_of(tmp_path / "other").values())
    limits = [str(size - 1) for size in sizes]
    before = files_of(bundle)
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "other"), str(bundle), *limits]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["refused"] * len(sizes)
    assert all("What stood there before is untouched" in line for line in lines)
    assert files_of(bundle) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other"]

    command = [*command[:5], str(2 * sizes[-1])]
    assert "saved" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert json.loads((bundle / "fusion.json").read_text()) == json.loads((tmp_path / "other/fusion.json").read_text())


@pytest.mark.parametrize(
    "options",
    [{"trust_remote_code": True}, {"base_url": "http://127.0.0.1:9/v1"}, {"hf_overrides": "x"}, {"base_url": None}],
)
def test_a_bundle_may_not_choose_what_acts(bundle, options, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    path = bundle / "bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["config"] |= {"engine": "openai", "engine_options": options}
    write_signed(path, manifest)
    with pytest.raises(BundleError, match=rf"sets {next(iter(options))}=.*may not choose"):
        Reranker.load(bundle)
    Reranker.load(bundle, trusted_options=options)  # the operator's own word


@pytest.mark.parametrize("model", ["somebody/model", "{folder}"])
@pytest.mark.parametrize("engine", ["torch", "auto", "vllm", "openai"])
def test_a_bundle_may_not_choose_a_repository_or_a_folder(bundle, tmp_path, engine, model, monkeypatch):
    monkeypatch.delenv("RERANKER_MODELS", raising=False)
    model = model.format(folder=tmp_path)
    path = bundle / "bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["config"] |= {"engine": engine, "model": model}
    write_signed(path, manifest)
    with pytest.raises(BundleError, match=f"names the model '{model}'.*RERANKER_MODELS"):
        Reranker.load(bundle)
    with pytest.raises(BundleError, match="names the model"):
        Reranker.load(bundle, engine="torch")
    assert Reranker.load(bundle, model=model).config.model == model
    assert Reranker.load(bundle, engine="scripted").config.engine == "scripted"
    monkeypatch.setenv("RERANKER_MODELS", f"another, {model}")
    assert Reranker.load(bundle).config.model == model


def test_the_operators_own_address_is_no_choice_of_the_bundle(bundle, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    path = bundle / "bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["config"] |= {"engine": "openai", "engine_options": {"base_url": "http://127.0.0.1:9/v1"}}
    write_signed(path, manifest)
    Reranker.load(bundle)


def test_aliases_of_yaml_are_refused(bundle):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (bundle / "bundle.yaml").write_text("\n".join(lines))
    with pytest.raises(BundleError, match="aliases are not read"):
        Reranker.load(bundle)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format: " + ":".join(["1"] * 100_000), "a number of 199999 characters"),  # base 60, quadratic in its length
        ("format: " + ":".join(["1"] * 1000) + ".5", "a number of 2001 characters"),
        ("format: 0b" + "1" * 100_000, "a number of 100002 characters"),
        ("a: [" + "x," * 100_000 + "]", "more than 20000 values"),
        ("[" * 60 + "]" * 60, "50 within each other"),
        ("a: " + "x " * 600_000, "bytes, 1048576 at most"),
    ],
)
def test_yaml_that_takes_long_is_refused(bundle, text, said):
    (bundle / "bundle.yaml").write_text(text)
    with pytest.raises(BundleError, match=said):
        Reranker.load(bundle)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine": "os.system"}, "names the engine 'os.system', which there is not"),
        ({"prompt": {"family": "../../../../tmp"}}, "bundle.yaml names templates that there are not"),
        ({"prompt": {"language": "../../etc"}}, "bundle.yaml names templates that there are not"),
    ],
)
def test_engines_and_templates_that_there_are_not_are_the_bundles_fault(bundle, changed, said):
    manifest = yaml.safe_load((bundle / "bundle.yaml").read_text())
    manifest["config"] |= changed
    write_signed(bundle / "bundle.yaml", manifest)
    with pytest.raises(BundleError, match=said):
        Reranker.load(bundle)


def test_deep_json_and_endless_numbers_are_refused(bundle):
    whole = files_of(bundle)
    for name in ("fusion.json", "ids.json", "generator/generator.json", "prompts/index.json"):
        if name not in whole:
            continue
        for content in (b"[" * 200_000, b'{"a": ' + b"9" * 10_000 + b"}"):
            tampered(bundle, name, content)
            with pytest.raises(BundleError, match=str(bundle)):
                Reranker.load(bundle)
            tampered(bundle, name, whole[name])


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_arrays_that_lie_are_refused(bundle):
    with np.load(bundle / "statistics.npz") as kept:
        right = {name: kept[name] for name in kept.files}
    wrong = {
        "vectors": [np.full_like(right["vectors"], np.nan), right["vectors"][:-1], right["vectors"].astype(object)],
        "popularity": [np.full_like(right["popularity"], np.inf), right["popularity"][:-1], -right["popularity"] - 1],
        "recent_popularity": [right["recent_popularity"] - 10],  # its logarithm is none
        "transitions_data": [right["transitions_data"] - 10, right["transitions_data"] + 1e30],
        "history_rows": [right["history_rows"] + 10_000, right["history_rows"] - 10_000],
        "history_lengths": [-right["history_lengths"], right["history_lengths"] + 1],
        "co_visits_indices": [right["co_visits_indices"] + 10_000],
        "co_visits_shape": [np.array([1 << 40, 1 << 40]), np.array([3])],
        "categories_shape": [np.array([len(right["popularity"]), -1])],
    }
    for name, values in wrong.items():
        for value in values:
            tampered(bundle, "statistics.npz", npz(**{**right, name: value}))
            with pytest.raises(BundleError, match="bundle"):
                Reranker.load(bundle)
    tampered(bundle, "statistics.npz", npz(**right))
    assert Reranker.load(bundle).user_ids


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_before_it_is_unpacked(bundle):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("vectors.npy", "w") as member:
        for _ in range(200):
            member.write(bytes(1 << 20))
    tampered(bundle, "statistics.npz", bomb.getvalue())
    with pytest.raises(BundleError, match="unpack to"):
        Reranker.load(bundle)


def test_an_array_that_claims_more_than_it_holds_is_refused(bundle):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 43,)})
    lie = io.BytesIO()
    with zipfile.ZipFile(lie, "w") as archive:
        archive.writestr("vectors.npy", header.getvalue() + bytes(64))
    tampered(bundle, "statistics.npz", lie.getvalue())
    with pytest.raises(BundleError, match="claims"):
        Reranker.load(bundle)


def test_paths_out_of_the_bundle_are_refused(bundle):
    path = bundle / "prompts" / "index.json"
    index = json.loads(path.read_text())
    index["domains"] = [["generic", "../../elsewhere"]]
    tampered(bundle, "prompts/index.json", json.dumps(index).encode())
    with pytest.raises(BundleError, match="outside the bank"):
        Reranker.load(bundle)


@pytest.mark.parametrize("name", ["bundle.yaml", "items.parquet", "prompts"])
def test_links_and_devices_are_refused_and_not_followed(bundle, tmp_path, name):
    for target in (tmp_path / "elsewhere", Path("/dev/zero")):
        shutil.move(bundle / name, tmp_path / "elsewhere")
        (bundle / name).symlink_to(target)
        with pytest.raises(BundleError, match=rf"{name} is a link or no ordinary file"):
            Reranker.load(bundle)
        (bundle / name).unlink()
        shutil.move(tmp_path / "elsewhere", bundle / name)
    os.mkfifo(bundle / "pipe")
    with pytest.raises(BundleError, match="pipe is a link or no ordinary file"):
        Reranker.load(bundle)


def test_folders_that_lie_deeper_than_any_of_a_bundle_are_refused(bundle):
    bundle.joinpath(*["d"] * 20).mkdir(parents=True)  # a thousand more would end the interpreter's stack
    with pytest.raises(BundleError, match="deeper than anything in a bundle"):
        Reranker.load(bundle)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_bytes_a_bundle_holds_only_bundle_errors_come_out(bundle, data):
    whole = files_of(bundle)
    name = data.draw(st.sampled_from(sorted(set(whole) - {"bundle.yaml"})))
    content = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    tampered(bundle, name, bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))]))
    try:
        Reranker.load(bundle)
    except BundleError:
        pass
    finally:
        tampered(bundle, name, whole[name])
