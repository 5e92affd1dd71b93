"""Numbers against their targets: how every benchmark here reports."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic_core import to_json


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number against its target.

    Attributes:
        target: what it should be, in words; empty for a number that is only reported.
        passed: whether it met the target.
    """

    name: str
    value: float
    target: str
    passed: bool
    unit: str

    @property
    def verdict(self) -> str:
        return ("PASS" if self.passed else "FAIL") if self.target else "-"


def at_most(name: str, value: float, bound: float, unit: str) -> Check:
    """A number that must not be above a bound."""
    return Check(name=name, value=float(value), target=f"<= {bound:g}", passed=bool(value <= bound), unit=unit)


def at_least(name: str, value: float, bound: float, unit: str) -> Check:
    """A number that must not be below a bound."""
    return Check(name=name, value=float(value), target=f">= {bound:g}", passed=bool(value >= bound), unit=unit)


def reported(name: str, value: float, unit: str) -> Check:
    """A number that is only reported."""
    return Check(name=name, value=float(value), target="", passed=True, unit=unit)


def report(checks: Sequence[Check], path: Path, environment: dict[str, object], say: Callable[[str], None]) -> None:
    """Prints one line a check and writes all of them to `path`, a JSON file."""
    for check in checks:
        say(f"{check.verdict:5} {check.name:56} {check.value:12.4g} {check.unit:10} {check.target}")
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = {"checks": [asdict(one) for one in checks], "environment": environment}
    path.write_bytes(to_json(measured, indent=1, inf_nan_mode="null") + b"\n")
    say(f"wrote {path}")


def machine(packages: Sequence[str], **more: object) -> dict[str, object]:
    """What the numbers were measured on: versions of these packages and the machine, and whatever the caller adds."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        **{package: version(package) for package in packages},
        **more,
    }
