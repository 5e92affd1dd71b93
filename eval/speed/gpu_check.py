"""Could each step of a day with a GPU begin? Nothing is measured, and no GPU is needed: `tools/gpu_day.sh --check`."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.speed.gpu_day import Step

ROOT = Path(__file__).resolve().parents[2]


class Programs:
    """What programs say to `--help`, each asked once."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, ...], tuple[str, str]] = {}

    def problem(self, step: "Step") -> str:
        """Why a step could not begin; "" where it could.

        Its program is imported, has the options that it is given, and among their choices the values; tests are
        collected.
        """
        command = [part.format(out="out") for part in step.command]
        if "pytest" in command:
            return _answer([*command, "--collect-only"], step.environment)[1]
        at = 3 + ("-c" in command)  # python -m MODULE, or python -c PROGRAM COMMAND
        program = tuple(command[:at])
        if program not in self._told:
            self._told[program] = _answer([*program, "--help"], step.environment)
        told, problem = self._told[program]
        return problem or unknown(command[at:], told)


def unknown(arguments: Sequence[str], told: str) -> str:
    """The first argument that a program's help does not know; "" where it knows them all.

    Args:
        arguments: of the program.
        told: its help; `--engine {vllm,torch}` names the choices of an option, `{users,prefix}` those of a place.
    """
    before = ""
    for argument in arguments:
        if argument.startswith("--"):
            if not re.search(rf"(?<![\w-]){re.escape(argument)}(?![\w-])", told):
                return f"no option {argument}"
        else:
            choices = re.search(rf"{re.escape(before)}[ =]\{{([^}}]*)\}}", told) if before else None
            choices = choices or (re.search(r"(?:^|[\s\]])\{([^}]*)\}\s*$", told, re.MULTILINE) if not before else None)
            if choices and argument not in choices[1].split(","):
                return f"{argument} is none of {choices[1]}"
        before = argument if argument.startswith("--") else ""
    return ""


def _answer(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, str]:
    """What a program says, and its last line where it fails."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    plain = {"COLUMNS": "250", "TERM": "dumb", "PYTHONPATH": paths}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | plain | environment, check=False
    )
    lines = (done.stderr + done.stdout).strip().splitlines() or ["it says nothing"]
    return done.stdout, lines[-1] if done.returncode else ""
