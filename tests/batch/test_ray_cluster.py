"""The same parts on a local Ray cluster of two workers: the same files, also when a worker is killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reranker.batch import Engines
from reranker.batch.ray_cluster import _share
from reranker.errors import ConfigError
from tests.batch.helpers import manifest, offline

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def workers_of(session):
    """Process ids of the actors that hold a Reranker."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::MapWorker" in status.read_bytes() and os.getsid(int(status.parent.name)) == session:
                found.append(int(status.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_two_workers_give_the_same_files_also_when_one_is_killed(bundle, folder, kill):
    arguments = ["--bundle", bundle, "--candidates", folder / "candidates.parquet", "--out", folder / "out"]
    flags = ["--part-users", 2, "--order", "fused", "--cluster", "ray", "--workers", 2]
    program = "from reranker.cli import main; main()"
    command = [sys.executable, "-c", program, "rerank", *arguments, *flags]
    log = folder / "log"
    with log.open("w") as stderr:
        environment = {**os.environ, "RAY_DISABLE_DASHBOARD": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        child = subprocess.Popen(
            list(map(str, command)), stdout=stderr, stderr=stderr, env=environment, start_new_session=True
        )
        killed = []
        while kill and not killed:
            assert child.poll() is None, log.read_text()
            if done := list((folder / "out").glob("_run/part-*.json")):
                assert len(done) < 25, "too late to kill a worker"
                killed = workers_of(child.pid)[:1]
            time.sleep(0.005)
        for process in killed:
            os.kill(process, signal.SIGKILL)
        assert child.wait(timeout=300) == 0, log.read_text()
    assert bool(killed) == kill
    offline(bundle, folder, out="here", part_users=2, order="fused").run()
    parts = [part.read_bytes() for part in sorted((folder / "out" / "ranking").iterdir())]
    assert parts == [part.read_bytes() for part in sorted((folder / "here" / "ranking").iterdir())]
    assert len(parts) == 30
    ours, theirs = (json.dumps(strip(manifest(folder, out)["counts"])) for out in ("out", "here"))
    assert ours == theirs


def strip(counts):
    return {name: value for name, value in counts.items() if "second" not in name}


@pytest.mark.parametrize(
    ("cluster", "nodes", "options", "workers", "share"),
    [
        ({"CPU": 16.0}, 2, {}, None, {"workers": 2, "num_cpus": 8}),
        ({"CPU": 16.0}, 2, {}, 5, {"workers": 5, "num_cpus": 3}),
        ({"CPU": 64.0, "GPU": 8.0}, 1, {}, None, {"workers": 8, "num_gpus": 1, "num_cpus": 1}),
        ({"CPU": 64.0, "GPU": 8.0}, 1, {"tensor_parallel_size": 2}, None, {"workers": 4, "num_gpus": 2, "num_cpus": 1}),
        (
            {"CPU": 64.0, "GPU": 8.0},
            1,
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            1,
            {"workers": 1, "num_gpus": 4, "num_cpus": 1},
        ),
    ],
)
def test_what_each_worker_takes(cluster, nodes, options, workers, share):
    assert _share(cluster, nodes, Engines(options=options), workers) == share


@pytest.mark.parametrize(
    ("cluster", "options", "workers"),
    [({"CPU": 2.0}, {}, 3), ({"CPU": 9.0, "GPU": 2.0}, {"tensor_parallel_size": 4}, None), ({"GPU": 2.0}, {}, 3)],
)
def test_a_cluster_that_is_too_small(cluster, options, workers):
    with pytest.raises(ConfigError):
        _share(cluster, 1, Engines(options=options), workers)
