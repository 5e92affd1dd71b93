"""What is installed, what importing it costs, and what it exports."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "vllm", "implicit", "transformers", "peft", "matplotlib", "lightgbm")


def settings() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]


def test_every_package_in_the_tree_is_installed():
    in_tree = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for top in ("reranker", "candidate_gen")
        for file in (ROOT / top).rglob("__init__.py")
    }
    setuptools = settings()["setuptools"]
    listed = setuptools["packages"]
    mapped = set(setuptools["package-dir"])
    assert set(listed) == in_tree | mapped
    assert len(listed) == len(set(listed))


def test_every_module_lies_in_a_package():
    for top in ("reranker", "candidate_gen"):
        for file in (ROOT / top).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.relative_to(ROOT)} would be left out of the wheel"


def test_every_file_that_is_no_module_is_installed():
    top = ROOT / "reranker"
    files = {file for file in top.rglob("*") if file.is_file() and file.suffix not in {".py", ".pyc"}}
    patterns = settings()["setuptools"]["package-data"]
    packed = {
        file for name, some in patterns.items() for one in some for file in ROOT.joinpath(*name.split(".")).glob(one)
    }
    assert {file for file in files - packed if top / "prompts" not in file.parents} == set()


def test_templates_are_found_through_the_installed_package():
    from importlib.resources import files

    in_tree = {str(file.relative_to(ROOT / "prompts")) for file in (ROOT / "prompts").rglob("*.j2")}
    assert in_tree
    for template in in_tree:
        assert files("reranker.prompts").joinpath(template).is_file()


@pytest.mark.parametrize("package", ["reranker", "candidate_gen"])
def test_importing_loads_nothing_heavy(package):
    program = f"import sys, {package}; print(*sorted({set(HEAVY)!r} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_the_command_loads_nothing_that_keeps_vllm_from_starting():
    """vLLM's processes import the program anew, and on a CPU none starts where llvmlite (numba) is loaded before it."""
    program = "import sys, reranker.cli.app; print(*sorted({'bm25s', 'numba', 'llvmlite'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


@pytest.mark.parametrize("package", ["reranker", "reranker.hub", "candidate_gen"])
def test_what_is_exported_exists_once_and_in_order(package):
    module = importlib.import_module(package)
    names = list(module.__all__)
    constants_first = sorted(set(names), key=lambda name: (not name.isupper(), name))  # as ruff sorts them
    assert names == constants_first
    assert [name for name in names if not hasattr(module, name)] == []


def test_the_console_script_points_at_a_function():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["reranker"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
