"""The script for a day with a GPU: its record, what it does when a step fails, and its measurements on a tiny model."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from eval.speed import gpu_parts
from eval.speed.gpu_check import unknown
from eval.speed.gpu_day import Step, goals, main, steps
from reranker.engines.torch.engine import TorchEngine
from tests.engines.models import save_tiny_model

HELP = """usage: python -m parts [-h] [--engine {vllm,torch}]
                       [--count COUNT]
                       {users,prefix}

options:
  --engine {vllm,torch}  the engine
  --count COUNT          users or items
"""
ROOT = Path(__file__).resolve().parents[2]


def python(name: str, program: str, seconds: int = 60, result: str = "") -> Step:
    return Step(name=name, command=(sys.executable, "-c", program), seconds=seconds, result=result)


def record(out: Path) -> dict:
    return json.loads((out / "gpu_day.json").read_text(encoding="utf-8"))


def test_each_step_is_recorded_and_a_failed_one_stops_nothing(tmp_path, capsys) -> None:
    write = "import json, pathlib; pathlib.Path('{out}/a.json').write_text(json.dumps(dict(minutes_per_million=4.0)))"
    planned = [
        python("measures", write, result="a.json"),
        python("fails", "print('first'); raise SystemExit('no kernel image')"),
        python("after", "import os; print(os.getpid())"),
    ]
    assert main(["--out", str(tmp_path)], planned) == 1
    found = record(tmp_path)
    assert found["dry_run"] is False and found["machine"]["device"]
    assert list(found["steps"]) == ["measures", "fails", "after"]
    assert found["steps"]["measures"]["measured"] == {"minutes_per_million": 4.0}
    assert found["steps"]["fails"]["ended"] == "exit 1"
    assert found["steps"]["fails"]["last_lines"] == ["first", "no kernel image"]
    assert "PASS  measures: a million items in 4.0 minutes, goal 10" in capsys.readouterr().out


def test_the_same_command_goes_on_after_what_is_done(tmp_path) -> None:
    counter = tmp_path / "count"
    count = (
        f"p = __import__('pathlib').Path({str(counter)!r}); p.write_text((p.read_text() if p.exists() else '') + 'x')"
    )
    main(["--out", str(tmp_path)], [python("one", count), python("two", f"{count}; raise SystemExit(3)")])
    assert counter.read_text() == "xx"
    assert main(["--out", str(tmp_path)], [python("one", count), python("two", count)]) == 0
    assert counter.read_text() == "xxx"  # the one that failed
    assert record(tmp_path)["steps"]["two"]["ended"] == "exit 0"


def test_a_step_over_its_limit_ends_with_the_processes_it_started(tmp_path) -> None:
    child = tmp_path / "child"
    program = (
        "import pathlib, subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(child)!r}).write_text(str(p.pid)); time.sleep(600)"
    )
    assert main(["--out", str(tmp_path)], [python("hangs", program, seconds=8)]) == 1
    assert record(tmp_path)["steps"]["hangs"]["ended"] == "over its limit"
    ended = time.monotonic() + 30
    while time.monotonic() < ended and _runs(int(child.read_text())):
        time.sleep(0.1)
    assert not _runs(int(child.read_text()))


def _runs(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_goals_are_told_of_checks_with_a_target() -> None:
    checks = [
        {"name": "reranking over plain prefill", "value": 0.8, "unit": "x", "target": ">= 0.85", "passed": False},
        {"name": "reranking", "value": 1e5, "unit": "tokens/s", "target": "", "passed": True},
    ]
    found = goals({"speed": {"measured": {"checks": checks}}, "users": {"ended": "exit 1"}})
    assert found == ["FAIL  speed: reranking over plain prefill 0.8 x >= 0.85"]


@pytest.mark.parametrize("dry", [False, True])
def test_what_is_planned_is_there_and_fits_an_afternoon(dry: bool) -> None:
    planned = steps(dry)
    assert len({step.name for step in planned}) == len(planned)
    assert all(step.name in {one.name for one in steps(False)} for step in planned)
    for step in planned:
        if "-m" in step.command:
            assert importlib.util.find_spec(step.command[step.command.index("-m") + 1]), step
        for part in step.command:
            assert not part.startswith("tests/") or (ROOT / part).is_file()
    assert sum(step.seconds for step in planned) < 4 * 3600


def test_every_step_that_is_planned_could_begin(capsys) -> None:
    """So that none ends at its first line on the day; the contracts, which vLLM's import makes slow, are below."""
    planned = [one for one in [*steps(False), *steps(True)] if "pytest" not in one.command]
    assert main(["--check"], planned) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(planned) == len(steps(False)) + len(steps(True)) - 1
    assert all(line.startswith("PASS  ") for line in told)


@pytest.mark.slow
def test_the_contracts_that_are_planned_are_collected(capsys) -> None:
    pytest.importorskip("vllm")
    assert main(["--check", "--only", "contracts on V2"]) == 0
    assert capsys.readouterr().out == "PASS  contracts on V2\n"


def test_a_step_that_could_not_begin_is_told(capsys) -> None:
    def help_of(*options: str) -> str:
        return unknown(options, HELP)

    assert help_of("users", "--engine", "vllm", "--count", "7") == ""
    assert help_of("user", "--engine", "vllm") == "user is none of users,prefix"
    assert help_of("users", "--engine", "vlm") == "vlm is none of vllm,torch"
    assert help_of("users", "--counts", "7") == "no option --counts"
    planned = [
        Step(name="no module", command=(sys.executable, "-m", "eval.speed.nothing"), seconds=1),
        Step(name="no option", command=(sys.executable, "-m", "tools.check_vllm", "--instaled"), seconds=1),
        Step(name="no test", command=(sys.executable, "-m", "pytest", "-q", "tests/no_such_test.py"), seconds=1),
        Step(name="good", command=(sys.executable, "-m", "tools.check_vllm", "--installed"), seconds=1),
    ]
    assert main(["--check"], planned) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in told] == ["FAIL", "FAIL", "FAIL", "PASS"]
    assert "No module named eval.speed.nothing" in told[0] and told[1] == "FAIL  no option: no option --instaled"


def test_without_a_gpu_it_says_so_at_once(tmp_path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit, match="--dry-run"):
        main(["--out", str(tmp_path)])


def test_the_shell_script_passes_on_what_it_is_given(tmp_path) -> None:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHON": sys.executable}
        command = ["bash", str(ROOT / "tools/gpu_day.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    plan = script("--dry-run", "--plan", str(tmp_path))
    assert plan.returncode == 0, plan.stderr
    assert "--tiny" in plan.stdout and "eval.agreement" in plan.stdout
    wrong = script("--dryrun")
    assert wrong.returncode == 2 and "no option --dryrun" in wrong.stderr


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[TorchEngine]:
    from transformers import LlamaConfig

    from tests.engines.models import TINY

    config = LlamaConfig(**TINY | {"max_position_embeddings": 4096}, num_attention_heads=4, num_key_value_heads=2)
    made = TorchEngine(save_tiny_model(tmp_path_factory.mktemp("tiny"), config), dtype="float32", device="cpu")
    yield made
    made.close()


@pytest.mark.parametrize("part", sorted(gpu_parts.PARTS))
def test_parts_are_measured(engine: TorchEngine, part: str) -> None:
    found = gpu_parts.PARTS[part](engine, 3)
    assert found and all(value > 0 for value in found.values())
    if part == "catalogue":
        assert found["minutes_per_million"] == pytest.approx(1e6 / found["items_per_second"] / 60)
    if part == "users":
        assert found["soft_vectors"] == 48
        assert found["candidates_per_second"] == pytest.approx(50 * found["users_per_second"])


def test_memory_is_told() -> None:
    assert gpu_parts.memory()["process_gib"] > 0.01
