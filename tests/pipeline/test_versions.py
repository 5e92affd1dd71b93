"""Versions of a bundle beside each other: whole, in order, and never half there for whoever reads."""

import threading

import pytest

from reranker import Reranker
from reranker.errors import BundleError
from reranker.pipeline import bundle_parts, versions
from tests.pipeline import toys


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(scorer="embedding")


def text(words):
    return lambda folder: (folder / "file").write_text(words)


def served(directory):
    return (versions.current_version(directory) / "file").read_text()


def plain(directory):
    directory.mkdir()
    text("first")(directory)
    return directory


def test_a_plain_folder_becomes_the_first_version(tmp_path):
    bundle = plain(tmp_path / "bundle")
    assert versions.current_version(bundle) == bundle and versions.versions(bundle) == []
    assert versions.add_version(bundle, text("second")).name == "000002"
    assert versions.versions(bundle) == ["000001", "000002"] and served(bundle) == "second"
    assert (bundle / "versions/000001/file").read_text() == "first"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bundle"]


def test_back_and_forth(tmp_path):
    bundle = plain(tmp_path / "bundle")
    for words in ("second", "third"):
        versions.add_version(bundle, text(words))
    assert versions.rollback(bundle) == ("000003", "000002") and served(bundle) == "second"
    assert versions.rollback(bundle) == ("000002", "000001")
    with pytest.raises(BundleError, match="000001 is the oldest"):
        versions.rollback(bundle)
    assert versions.rollback(bundle, "000003")[1] == "000003" and served(bundle) == "third"
    with pytest.raises(BundleError, match="no version '9'; there are 000001, 000002, 000003"):
        versions.rollback(bundle, "9")
    versions.rollback(bundle, "000001")
    assert versions.add_version(bundle, text("fourth")).name == "000004"  # a number is used once


def test_no_versions_no_rollback(tmp_path):
    with pytest.raises(BundleError, match="has no versions"):
        versions.rollback(plain(tmp_path / "bundle"))


def test_the_oldest_go_and_the_rest_stay(tmp_path):
    bundle = plain(tmp_path / "bundle")
    for number in range(5):
        versions.add_version(bundle, text(str(number)), keep=3)
    assert versions.versions(bundle) == ["000004", "000005", "000006"] and served(bundle) == "4"
    assert versions.remove_others(bundle) == ["000004", "000005"] and served(bundle) == "4"


def test_a_version_that_cannot_be_written_changes_nothing(tmp_path):
    bundle = plain(tmp_path / "bundle")
    versions.add_version(bundle, text("second"))

    def fails(folder):
        text("half")(folder)
        raise OSError("no space left")

    with pytest.raises(BundleError, match="no space left"):
        versions.add_version(bundle, fails)
    assert served(bundle) == "second" and versions.versions(bundle) == ["000001", "000002"]
    assert not [one for one in bundle.rglob("*") if "tmp" in one.name]


@pytest.mark.parametrize("target", ["../elsewhere", "/etc", "versions/000001/.."])
def test_a_link_out_of_the_bundle_is_refused(tmp_path, target):
    bundle = plain(tmp_path / "bundle")
    versions.add_version(bundle, text("second"))
    (bundle / "current").unlink()
    (bundle / "current").symlink_to(target)
    with pytest.raises(BundleError, match="no version of this bundle"):
        versions.current_version(bundle)


def test_two_writers_make_two_versions(tmp_path):
    bundle = plain(tmp_path / "bundle")
    versions.add_version(bundle, text("second"))
    threads = [threading.Thread(target=versions.add_version, args=(bundle, text(str(one)), 20)) for one in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(versions.versions(bundle)) == 8
    assert len({(bundle / "versions" / one / "file").read_text() for one in versions.versions(bundle)}) == 8


def test_a_reranker_is_loaded_from_the_current_version(reranker, tmp_path):
    bundle = tmp_path / "bundle"
    reranker.save(bundle)
    version = reranker.save_version(bundle)
    assert version == bundle / "versions" / "000002"
    assert Reranker.load(bundle).user_ids == Reranker.load(version).user_ids == reranker.user_ids
    reranker.save(bundle)  # over a bundle with versions: the next one
    assert versions.versions(bundle) == ["000001", "000002", "000003"]
    versions.rollback(bundle)
    assert Reranker.load(bundle).user_ids == reranker.user_ids


def test_a_version_beside_nothing_is_refused(reranker, tmp_path):
    with pytest.raises(BundleError, match="no bundle"):
        reranker.save_version(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_readers_get_whole_bundles_while_versions_come(reranker, tmp_path):
    bundle = tmp_path / "bundle"
    reranker.save(bundle)
    problems, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                Reranker.load(bundle)
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(4):
        reranker.save_version(bundle, keep=3)
    done.set()
    reader.join()
    assert problems == []


def test_a_version_that_goes_while_it_is_read_is_read_in_its_next(reranker, tmp_path, monkeypatch):
    bundle = tmp_path / "bundle"
    reranker.save(bundle)
    reranker.save_version(bundle)
    read, gone = bundle_parts._verify, []

    def verify(folder, files):
        if not gone:  # as a walk over the folder sees it: the scan of a removed directory raises
            gone.append(folder)
            reranker.save_version(bundle, keep=1)
            list(folder.iterdir())
        read(folder, files)

    monkeypatch.setattr(bundle_parts, "_verify", verify)
    assert Reranker.load(bundle).user_ids == reranker.user_ids
    assert [one.name for one in gone] == ["000002"] and not gone[0].exists()
    assert versions.versions(bundle) == ["000003"]


def test_links_of_a_bundle_from_elsewhere_lead_to_no_file_of_the_operator(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes").write_text("keep me")
    bundle = plain(tmp_path / "bundle")
    versions.add_version(bundle, text("second"))
    (bundle / ".lock").unlink()
    (bundle / ".lock").symlink_to(theirs / "notes")
    for work in (
        lambda: versions.add_version(bundle, text("third")),
        lambda: versions.remove_others(bundle),
        lambda: versions.rollback(bundle),
    ):
        with pytest.raises(BundleError):
            work()
    assert (theirs / "notes").read_text() == "keep me" and served(bundle) == "second"
    (bundle / "versions/000003").symlink_to(theirs)
    (bundle / "current").unlink()
    (bundle / "current").symlink_to("versions/000003")
    with pytest.raises(BundleError, match="no version of this bundle"):
        versions.current_version(bundle)
