from pathlib import Path

import pytest

from reranker.errors import PromptError
from reranker.prompting import BLOCKS, TemplateSet, families, family_for_domain

FAMILIES = ["assistant", "books", "games", "generic", "movies", "music", "news", "search", "shop", "social", "video"]
ALL = [(family, language) for family, languages in families().items() for language in languages]


def write(directory: Path, family: str, source: str, language: str = "en") -> None:
    (directory / family).mkdir(exist_ok=True)
    (directory / family / f"{language}.j2").write_text(source, encoding="utf-8")


def test_every_family_is_there() -> None:
    assert list(families()) == FAMILIES
    assert families()["generic"] == families()["shop"] == ("en", "zh")


@pytest.mark.parametrize(("family", "language"), ALL)
def test_every_packaged_template_has_every_block_and_its_own_words(family: str, language: str) -> None:
    templates = TemplateSet.load(family, language)
    assert templates.block_names >= set(BLOCKS)
    others = [TemplateSet.load(*other) for other in ALL if other != (family, language)]
    assert templates.sha256 not in {other.sha256 for other in others}
    assert templates.render("instruction") not in {other.render("instruction") for other in others}


def test_blocks_that_a_family_does_not_override_are_inherited() -> None:
    movies = TemplateSet.load("movies")
    assert movies.render("separator") == "\n-"
    assert movies.render("terminator") == "\n"
    assert movies.render("history_header") == "Watched before:"


@pytest.mark.parametrize(
    ("family", "language"), [("nonesuch", "en"), ("movies", "xx"), ("../movies", "en"), ("movies", "../../etc/passwd")]
)
def test_an_unknown_template_is_refused_with_a_list_of_what_there_is(family: str, language: str) -> None:
    with pytest.raises(PromptError, match=r"no template .*shop \(en, zh\)"):
        TemplateSet.load(family, language)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="nowhere is no folder"):
        TemplateSet.load("movies", directory=tmp_path / "nowhere")


def test_a_directory_overrides_and_falls_back(tmp_path: Path) -> None:
    write(tmp_path, "movies", '{% extends "packaged/movies/en.j2" %}{% block history_header %}Seen:{% endblock %}')
    movies = TemplateSet.load("movies", directory=tmp_path)
    assert movies.render("history_header") == "Seen:"
    assert movies.render("instruction") == TemplateSet.load("movies").render("instruction")
    assert movies.sha256 != TemplateSet.load("movies").sha256
    assert TemplateSet.load("books", directory=tmp_path).sha256 == TemplateSet.load("books").sha256


def test_an_override_of_generic_reaches_the_families_that_extend_it(tmp_path: Path) -> None:
    write(tmp_path, "generic", '{% extends "packaged/generic/en.j2" %}{% block separator %}{{ "\\n*" }}{% endblock %}')
    assert TemplateSet.load("movies", directory=tmp_path).render("separator") == "\n*"


def test_super_works(tmp_path: Path) -> None:
    source = '{% extends "movies/en.j2" %}{% block history_header %}{{ super() }} really{% endblock %}'
    write(tmp_path, "cinema", source)
    assert TemplateSet.load("cinema", directory=tmp_path).render("history_header") == "Watched before: really"
    assert family_for_domain("cinema", tmp_path) == "cinema"
    assert family_for_domain("cinema") == "generic"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% block instruction %}Hello{% endblock %}", "lacks the block history_header"),
        ('{% extends "generic/en.j2" %}{% block query %}{% if %}{% endblock %}', "line 1"),
        ('{% extends "own/en.j2" %}', "extends itself"),
        ('{% extends "nonesuch/en.j2" %}', "no template 'nonesuch/en.j2'"),
        ('{% extends "../secret.j2" %}', "no template"),
        ("{% extends parent %}", "name in quotes"),
    ],
)
def test_a_faulty_template_is_refused_when_it_is_loaded(tmp_path: Path, source: str, message: str) -> None:
    write(tmp_path, "own", source)
    with pytest.raises(PromptError, match=message):
        TemplateSet.load("own", directory=tmp_path)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{{ nonesuch }}", "'nonesuch' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ item.update({}) }}", "unsafe|not safely callable"),
    ],
)
def test_a_failing_block_names_template_and_block(tmp_path: Path, block: str, message: str) -> None:
    write(tmp_path, "own", '{% extends "generic/en.j2" %}{% block query %}' + block + "{% endblock %}")
    with pytest.raises(PromptError, match=rf"own.en\.j2, block 'query': .*({message})"):
        TemplateSet.load("own", directory=tmp_path).render("query", {"item": {}})


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(PromptError, match="no block 'chorus'; it has candidate"):
        TemplateSet.load("music").render("chorus")


def test_fields_are_read_off_the_template(tmp_path: Path) -> None:
    head = '{% extends "generic/en.j2" %}'
    write(tmp_path, "own", head + "{% block candidate %}{{ item.title }} {{ item['year'] }}{% endblock %}")
    write(tmp_path, "loop", head + "{% block candidate %}{% for key in item %}{{ key }}{% endfor %}{% endblock %}")
    assert TemplateSet.load("generic").fields("history_item") == ("category", "title")
    assert TemplateSet.load("own", directory=tmp_path).fields("candidate") == ("title", "year")
    assert TemplateSet.load("loop", directory=tmp_path).fields("candidate") is None
