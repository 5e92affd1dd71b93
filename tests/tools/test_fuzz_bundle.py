"""Some of the cases of `tools.fuzz_bundle`, which runs 10,000."""

import logging

import pytest

from tools.fuzz_bundle import MOST_BYTES, fuzz, whole_bundles

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return whole_bundles(tmp_path_factory.mktemp("whole"))


def run(bundles, cases, seed):
    logging.disable(logging.CRITICAL)  # some thousand lines
    try:
        return fuzz(bundles, cases, seed, apart=True)
    finally:
        logging.disable(logging.NOTSET)


def test_two_bundles_have_every_kind_of_file(bundles):
    found = {path.name for bundle in bundles for path in bundle.rglob("*") if path.is_file()}
    kinds = {path.suffix for bundle in bundles for path in bundle.rglob("*") if path.is_file()}
    assert kinds == {".json", ".npz", ".parquet", ".safetensors", ".yaml"}
    assert found >= {"states.npz", "priors.parquet", "context.safetensors", "judged.npz"}


def test_damaged_and_hostile_bundles_are_refused_or_rank(bundles):
    outcome = run(bundles, range(120), seed=1)
    assert outcome.failures == [] and sum(outcome.counts.values()) == 120
    assert outcome.counts["refused"] > 60 and outcome.counts["ranked"] > 0  # both ends are reached
    assert outcome.grown <= MOST_BYTES


@pytest.mark.slow
def test_thousands_of_them_are(bundles):
    assert run(bundles, range(10_000), seed=0).failures == []
