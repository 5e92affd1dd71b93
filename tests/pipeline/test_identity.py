"""By what a bundle is told from others of its domain."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
import yaml

from reranker import Reranker
from reranker.errors import BundleError
from reranker.pipeline.manifest import BundleIdentity, bundle_identity, identity_of
from reranker.refresh import refresh
from tests.pipeline import toys
from tests.pipeline.signed import write_signed


@pytest.fixture
def reranker():
    return toys.fitted(scorer="embedding")


def test_a_bundle_is_itself_after_saving_loading_and_copying(reranker, tmp_path):
    assert reranker.identity is None  # nobody could find it
    reranker.save(tmp_path / "one")
    reranker.save(tmp_path / "copy")
    loaded = Reranker.load(tmp_path / "one", engine="scripted")
    assert (
        bundle_identity(tmp_path / "one") == bundle_identity(tmp_path / "copy") == loaded.identity == reranker.identity
    )
    assert timedelta(0) <= datetime.now(UTC) - loaded.identity.fitted < timedelta(hours=1)
    loaded.save(tmp_path / "again")
    assert bundle_identity(tmp_path / "again") == reranker.identity


def test_another_fit_is_another_bundle(reranker, tmp_path):
    reranker.save(tmp_path / "one")
    toys.fitted(scorer="embedding", l2=3.0).save(tmp_path / "two")
    assert bundle_identity(tmp_path / "two").fingerprint != reranker.identity.fingerprint


def test_a_refreshed_bundle_is_another_one_and_a_later(reranker, tmp_path):
    reranker.save(tmp_path / "bundle")
    before = reranker.identity
    refresh(reranker, pd.DataFrame({"user_id": ["u1"], "item_id": ["g0i3"], "timestamp": [9000]}))
    assert reranker.identity is None  # it is no longer what was saved
    version = reranker.save_version(tmp_path / "bundle")
    after = bundle_identity(tmp_path / "bundle")
    assert after == reranker.identity == bundle_identity(version)
    assert after.fingerprint != before.fingerprint and after.fitted >= before.fitted
    assert bundle_identity(tmp_path / "bundle/versions/000001") == before


def test_time_and_version_of_the_package_are_no_content():
    fields = {"domain": "toy", "files": {"a": "1"}}
    mark = identity_of(fields).fingerprint
    later = identity_of({**fields, "fitted": "2026-11-30T02:00:00+00:00", "reranker": "9"})
    assert later == BundleIdentity(fingerprint=mark, fitted=datetime(2026, 11, 30, 2, tzinfo=UTC)) and len(mark) == 12
    assert str(later) == f"{mark} (fitted 2026-11-30 02:00)"
    assert identity_of({**fields, "files": {"a": "2"}}).fingerprint != mark


def test_a_time_that_is_none_is_damage(reranker, tmp_path):
    reranker.save(tmp_path / "bundle")
    path = tmp_path / "bundle/bundle.yaml"
    manifest = yaml.safe_load(path.read_text())
    write_signed(path, {**manifest, "fitted": "yesterday"})
    for read in (bundle_identity, Reranker.load):
        with pytest.raises(BundleError, match="'yesterday' is no time"):
            read(tmp_path / "bundle")
    del manifest["fitted"]  # as earlier versions saved it
    write_signed(path, manifest)
    assert bundle_identity(tmp_path / "bundle").fitted is None
    assert Reranker.load(tmp_path / "bundle").fitted_at is None
