"""`reranker train prompt`, killed and started again, writes what an undisturbed run writes, bit for bit."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from safetensors.numpy import load_file

from reranker.soft_tokens import CONTEXT_FILE
from tests.engines.models import save_tiny_model
from tests.training.toys import saved

STEPS = 16


def start(config: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from reranker.cli import main; main()", "train", "prompt"]
    return subprocess.Popen(
        [*command, "--config", str(config), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()


def settings_of(tmp_path: Path, **changes: object) -> Path:
    settings = {
        "domains": [{"name": "shop", "data": str(saved(tmp_path / "data")), "family": "generic"}],
        "reranker": {
            "model": str(save_tiny_model(tmp_path / "tiny")),
            "soft_tokens": 2,
            "prompt": {"history_items": 3, "instruction": False},
        },
        "algorithm": "cavia",
        "inner_steps": 1,
        "steps": STEPS,
        "first_fit_lists": 16,
        "lists_per_step": 2,
        "learning_rate": 0.05,
        "refit_every": 5,
        "validate_every": 8,
        "validation_lists": 2,
        "checkpoint_every": 3,
        "rounds": 1,
        "hold_out": 1,
        "min_history": 1,
        "n_candidates": 6,
        "dtype": "float32",
        **changes,
    }
    config = tmp_path / "meta.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


def test_a_run_that_is_asked_to_end_keeps_its_last_step(tmp_path: Path) -> None:
    """It had kept what was there `checkpoint_every` steps before, or nothing."""
    config = settings_of(tmp_path, steps=100_000, checkpoint_every=7, validate_every=100_000)
    process = start(config, tmp_path / "out")
    while not (tmp_path / "out" / "curve.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and b"Traceback" not in said
    done = len(json.loads((tmp_path / "out" / "curve.json").read_text())["losses"])
    assert f"stopped after step {done} of 100000, which is kept".encode() in said and done >= 7
    assert (tmp_path / "out" / "checkpoint.pt").exists() and not (tmp_path / "out" / "prompt").exists()


def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    config = settings_of(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(config, whole)

    process = start(config, killed)
    while not (killed / "curve.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "prompt").exists()
    finish(start(config, killed))
    finish(undisturbed)

    assert (killed / "curve.json").read_text() == (whole / "curve.json").read_text()
    for name in ("adapter_model.safetensors", CONTEXT_FILE):
        again, expected = (load_file(folder / "prompt" / name) for folder in (killed, whole))
        assert again.keys() == expected.keys()
        assert all(again[key].tobytes() == expected[key].tobytes() for key in again), name
    assert len(json.loads((killed / "curve.json").read_text())["losses"]) == STEPS
    assert (killed / "curve.png").read_bytes()[:4] == b"\x89PNG"
