"""The documentation: short pages, links that lead somewhere, commands that exist."""

import re
from pathlib import Path

import pytest
import typer.main

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LONGEST = 150
GENERATED = {"cli.md", "settings.md", "http.md"}  # tools/docs_pages.py writes them


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_page_is_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    assert len(text.split()) <= 1200


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=label)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    missing = [
        target
        for target in local
        if not (page.parent / target).exists() and Path(target).name not in GENERATED and "reference/api/" not in target
    ]
    assert missing == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=label)
def test_the_commands_and_flags_that_are_named_exist(page):
    from reranker.cli.app import app

    known = typer.main.get_command(app)
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(
        r"^\s*reranker ([a-z][^\n#&|]*)", "\n".join(re.findall(r"```[a-z]*\n(.*?)```", text, re.S)), re.M
    ):
        words = line.split()
        command, rest = known.commands.get(words[0]), words[1:]
        assert command is not None, f"{label(page)}: no command {words[0]!r}"
        while getattr(command, "commands", None):
            command, rest = command.commands[rest[0]], rest[1:]
        flags = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= flags | {"--help"}, f"{label(page)}: {line}"
