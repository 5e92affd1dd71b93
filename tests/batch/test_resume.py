"""A run that was killed, damaged or begun with something else."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from filelock import FileLock

from reranker import Reranker
from reranker.batch import Engines
from reranker.batch.manifest import differences
from reranker.errors import BundleError, ConfigError, DataError
from tests.batch.helpers import manifest, offline, rejected, write
from tests.pipeline import toys


def contents(folder, out="out"):
    """name -> bytes of every part."""
    return {path.name: path.read_bytes() for path in (folder / out / "ranking").iterdir()}


def record(folder, part):
    return folder / "out" / "_run" / f"part-{part:05d}.json"


@pytest.fixture
def finished(bundle, folder, candidates):
    """A run over shuffled rows, some of them bad."""
    bad = candidates.copy()
    bad.loc[[3, 140, 290], "score"] = float("nan")
    write(bad.sample(frac=1, random_state=0), folder / "candidates.parquet")
    offline(bundle, folder).run()
    return folder


@pytest.mark.parametrize("kills", [(0.0,), (1.0,), (0.5, 3.0, 6.5)])
def test_kill_9_loses_nothing_and_repeats_at_most_one_part(bundle, folder, candidates, kills):
    rows = pd.concat(
        [candidates.assign(user_id=candidates["user_id"] + suffix) for suffix in "abcdefgh"], ignore_index=True
    )
    write(rows.sample(frac=1, random_state=0), folder / "candidates.parquet")
    arguments = ["--bundle", bundle, "--candidates", folder / "candidates.parquet", "--out", folder / "out"]
    program = "from reranker.cli import main; main()"
    command = [sys.executable, "-c", program, "-v", "rerank", *arguments, "--part-users", 40, "--order", "fused"]
    log = folder / "log"
    for after in (*kills, None):
        with log.open("a") as stderr:
            child = subprocess.Popen([*map(str, command), "--resume"], stdout=subprocess.DEVNULL, stderr=stderr)
            while after is not None and len(list((folder / "out").glob("_run/part-*.json"))) < int(after):
                assert child.poll() is None, log.read_text()
                time.sleep(0.005)
            if after is not None:
                time.sleep(after % 1 / 10 if after else 1.0)  # 0.0: while it still reads and sorts
                os.kill(child.pid, signal.SIGKILL)
            code = child.wait(timeout=120)
        assert code in ((0,) if after is None else (0, -signal.SIGKILL)), log.read_text()
    begun = log.read_text().count(": begun")
    assert 12 <= begun <= 12 + len(kills)
    offline(bundle, folder, out="whole", part_users=40, order="fused").run()
    assert contents(folder) == contents(folder, "whole")
    assert manifest(folder)["counts"]["ranked"] == len(rows)
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]  # no half-written file is left


def test_what_a_kill_left_half_written_is_removed(bundle, finished):
    half = finished / "out" / "ranking" / ".part-00003.parquet.0123.tmp"
    half.write_text("half")
    offline(bundle, finished).run(resume=True)
    assert not half.exists()


def test_only_missing_parts_are_done_again(bundle, finished):
    before, rows = contents(finished), rejected(finished)
    record(finished, 4).unlink()
    (finished / "out" / "ranking" / "part-00004.parquet").unlink()
    summary = offline(bundle, finished).run(resume=True)
    assert summary["parts_reused"] == 8
    assert contents(finished) == before
    pd.testing.assert_frame_equal(rejected(finished), rows)


@pytest.mark.parametrize("damage", ["part", "rejected", "record"])
def test_a_damaged_part_is_found_and_done_again(bundle, finished, damage):
    before, rows = contents(finished), rejected(finished)
    state = finished / "out" / "_run"
    victim = {
        "part": finished / "out" / "ranking" / "part-00002.parquet",
        "rejected": sorted(state.glob("rejected-*.parquet"))[0],
        "record": record(finished, 2),
    }[damage]
    victim.write_bytes(victim.read_bytes()[:-7])
    summary = offline(bundle, finished).run(resume=True)
    assert summary["parts_reused"] == 8
    assert contents(finished) == before
    pd.testing.assert_frame_equal(rejected(finished), rows)


def test_a_finished_run_is_not_done_again(bundle, finished):
    times = {path: path.stat().st_mtime_ns for path in (finished / "out" / "ranking").iterdir()}
    summary = offline(bundle, finished).run(resume=True)
    assert summary["rejected_rows"] == 3
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_second_run_in_the_same_folder_must_say_what_it_wants(bundle, finished):
    with pytest.raises(DataError, match="--resume, or start over with --force"):
        offline(bundle, finished).run()
    other = offline(bundle, finished, k=1).run(force=True)
    assert (other["parts_reused"], other["written"]) == (0, 60)


def test_two_processes_in_one_folder(bundle, finished):
    with FileLock(finished / "out" / "_run" / "lock"), pytest.raises(ConfigError, match="another process"):
        offline(bundle, finished).run(resume=True)


def touched(finished):
    os.utime(finished / "candidates.parquet", ns=(1, 1))


def another_file(finished):
    write(pd.read_parquet(finished / "candidates.parquet")[:-1], finished / "candidates.parquet")


@pytest.mark.parametrize("change", [touched, another_file])
def test_a_changed_input_is_refused(bundle, finished, change):
    change(finished)
    with pytest.raises(DataError, match=r"changed: the candidates \(candidates.parquet\)"):
        offline(bundle, finished).run(resume=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 3}, r"k \(None, now 3\)"),
        ({"part_users": 8}, r"part_users \(7, now 8\)"),
        ({"order": "first_stage"}, "order"),
        ({"engines": Engines(dtype="float32")}, "dtype"),
    ],
)
def test_changed_settings_are_refused(bundle, finished, settings, words):
    with pytest.raises(DataError, match=f"changed: {words}"):
        offline(bundle, finished, **settings).run(resume=True)


def test_the_engines_options_and_the_cluster_may_change(bundle, finished):
    record(finished, 1).unlink()
    engines = Engines(options={"max_length": 4096})
    assert offline(bundle, finished, engines=engines, workers=3).run(resume=True)["parts_reused"] == 8


def test_another_bundle_is_refused_unless_forced(bundle, finished, tmp_path):
    other = tmp_path / "other"
    reranker = Reranker.load(bundle)
    reranker.fusion_model = toys.fitted(seed=5, l2=7.0).fusion_model
    reranker.save(other)
    record(finished, 3).unlink()
    with pytest.raises(DataError, match="changed: the bundle"):
        offline(other, finished).run(resume=True)
    assert offline(other, finished).run(resume=True, force=True)["parts_reused"] == 8
    assert "the bundle" in manifest(finished)["forced"][0][0]
    offline(other, finished).run(resume=True)  # what was forced once is what the run is of now


def test_parts_cut_from_other_rows_cannot_be_kept(bundle, finished):
    another_file(finished)
    with pytest.raises(DataError, match="cut from other rows"):
        offline(bundle, finished).run(resume=True, force=True)


def test_force_with_a_touched_input_keeps_the_parts(bundle, finished):
    touched(finished)
    record(finished, 0).unlink()
    assert offline(bundle, finished).run(resume=True, force=True)["parts_reused"] == 8


def test_a_folder_that_is_no_bundle(folder):
    with pytest.raises(BundleError, match="is no bundle"):
        offline(folder, folder).run()
    assert not (folder / "out").exists()


def test_a_csv_of_other_rows_is_seen_although_size_and_time_are_the_same(bundle, tmp_path):
    path = tmp_path / "c.csv"
    rows = "".join(f"u{number:05d},g0i1,1\n" for number in range(9000))  # the change is not at its end
    path.write_text("user_id,item_id,score\n" + rows)
    before = path.stat()
    run = offline(bundle, tmp_path, "c.csv", order="first_stage", part_users=5000)
    first = run._identity()
    path.write_text(path.read_text().replace("u00000,g0i1", "u00000,g1i1"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert differences(first, run._identity()) == ["the candidates (c.csv)"]
