"""mkdocs hook: the pages of the reference that are written from the code, and the parts of `nav` that are folders.

`mkdocs build` calls `on_config` and `on_files` (mkdocs.yml names this file under `hooks`). Nothing is fetched: the one
Reranker that the HTTP page needs reads by the scripted engine.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import griffe
import pandas as pd
import typer
import typer.cli
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

GENERATED = "*This page is generated from the code.*\n"

SETTINGS = {
    "reranker.config.RerankerConfig": "`reranker fit --config FILE`, `Reranker.from_pretrained(**settings)`",
    "reranker.prompting.PromptSettings": "`prompt:` within the settings above",
    "reranker.serve.settings.ServeSettings": "`reranker serve --config FILE`",
    "reranker.serve.exploration.Explore": "`explore:` within the settings above",
    "reranker.serve.exploration.Experiment": "`experiment:` within the settings above",
    "reranker.drift.settings.DriftSettings": "`drift:` within the settings of the server",
    "reranker.training.config.MetaConfig": "`reranker train prompt --config FILE`",
    "reranker.training.config.DomainSource": "an entry of `domains:` in the settings above",
}
"""Settings model -> where it is given."""

API = {
    "reranker": "The package's face. Errors have [a page of their own](../errors.md).",
    "candidate_gen": "Candidate generators: who proposes what is reranked.",
    "reranker.protocols": "Interfaces for your own parts. `tests/contracts/` holds a suite for each.",
    "reranker.adapters": "Plugs into other libraries.",
}
"""Package -> what its page says first."""

HTTP_VERBS = ("get", "post", "put", "delete")
LONGEST_DEFAULT = 60


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the entries of `nav` that end in "/" with the pages of that folder, sorted by name, index.md first."""
    config.nav = _filled(config.nav or [], Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {
        "reference/cli.md": cli_page(),
        "reference/settings.md": settings_page(),
        "reference/http.md": http_page(openapi()),
        **api_pages(),
    }
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def cli_page() -> str:
    """Every command with its options, as Typer documents them."""
    from reranker.cli.app import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="reranker")
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="reranker", title="Commands")
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{GENERATED}{rest}"


def settings_page() -> str:
    """A table for each settings model: field, type, default, meaning."""
    parts = ["# Settings\n", GENERATED, "Settings are YAML files or keyword arguments. Unknown keys are refused."]
    for path, given in SETTINGS.items():
        model = _resolved(path)
        parts += [f"\n## {model.__name__}\n", f"Given by {given}.\n", _fields_table(model)]
    return "\n".join(parts)


def openapi() -> dict[str, Any]:
    """The OpenAPI description of a server of a toy bundle."""
    from reranker import Dataset, Reranker, RerankerConfig
    from reranker.serve.app import create_app

    users = [f"u{number}" for number in range(24)]
    chosen = pd.DataFrame({"user_id": users, "item_id": [f"i{number % 4}" for number in range(24)]})
    items = pd.DataFrame({"item_id": [f"i{number}" for number in range(8)], "title": [f"t {n}" for n in range(8)]})
    served = pd.DataFrame(
        [
            {"user_id": user, "item_id": item, "rank": rank + 1}
            for user in users
            for rank, item in enumerate(["i4", "i5", "i6"])
        ]
    )
    held_out = pd.DataFrame({"user_id": users, "item_id": [f"i{4 + number % 3}" for number in range(24)]})
    config = RerankerConfig(engine="scripted", n_candidates=3)
    reranker = Reranker(config).fit(Dataset(interactions=chosen, items=items), candidates=served, held_out=held_out)
    return create_app(reranker).openapi()


def http_page(spec: Mapping[str, Any]) -> str:
    """Every route with its parameters and the fields of its body."""
    parts = ["# HTTP\n", GENERATED, "A running server shows the same at `/openapi.json`.", _names_of_routes(spec)]
    shown: dict[str, str] = {}
    for path, methods in spec["paths"].items():
        for verb in HTTP_VERBS:
            if verb in methods:
                parts.append(_route(spec, f"{verb.upper()} {path}", methods[verb], shown))
    return "\n".join(parts)


def api_pages() -> dict[str, str]:
    """URI -> page, one a package: a mkdocstrings block for each exported name."""
    pages = {}
    for number, (package, intro) in enumerate(API.items(), start=1):
        blocks = [f"::: {path}" for path in _public(importlib.import_module(package))]
        body = "\n\n".join([f"# {package}", GENERATED, intro, *blocks])
        pages[f"reference/api/{number}-{package.replace('.', '-')}.md"] = f"{body}\n"
    return pages


def _filled(nav: Iterable[Any], docs: Path) -> list[Any]:
    filled: list[Any] = []
    for entry in nav:
        if not isinstance(entry, dict):
            filled.append(entry)
            continue
        for title, value in entry.items():
            if isinstance(value, list):
                filled.append({title: _filled(value, docs)})
            elif value.endswith("/"):
                filled.append({title: _pages_in(value, docs)})
            else:
                filled.append({title: value})
    return filled


def _pages_in(folder: str, docs: Path) -> list[str]:
    if folder == "reference/api/":
        return list(api_pages())
    names = [file.name for suffix in ("*.md", "*.ipynb") for file in (docs / folder).glob(suffix)]
    return [f"{folder}{name}" for name in sorted(names, key=lambda name: (name != "index.md", name))]


def _resolved(path: str) -> type[BaseModel]:
    module, _, name = path.rpartition(".")
    found: type[BaseModel] = getattr(importlib.import_module(module), name)
    return found


def _fields_table(model: type[BaseModel]) -> str:
    meaning = _documented(model)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        annotation = inspect.formatannotation(field.annotation).replace("typing.", "").replace("reranker.", "")
        if field.default is not PydanticUndefined:
            default = f"`{field.default!r}`"
        else:
            default = "**required**" if field.is_required() else "`{}`"
        if len(default) > LONGEST_DEFAULT:
            default = "see its own table"
        rows.append(f"| `{name}` | {_code(annotation)} | {_cell(default)} | {_cell(meaning.get(name, ''))} |")
    return "\n".join(rows)


def _documented(model: type[BaseModel]) -> dict[str, str]:
    return _described(inspect.getdoc(model) or "")[1]


def _described(text: str) -> tuple[str, dict[str, str]]:
    """A docstring's text, and field -> what stands under `Attributes:`. "a, b: text" documents both."""
    texts: list[str] = []
    meaning: dict[str, str] = {}
    for section in griffe.Docstring(text, parser="google").parse(warnings=False):
        if section.kind is griffe.DocstringSectionKind.attributes:
            for attribute in section.value:
                meaning |= dict.fromkeys(re.split(r",\s*", attribute.name), attribute.description)
        elif section.kind is griffe.DocstringSectionKind.text:
            texts.append(section.value)
    return "\n\n".join(texts), meaning


def _names_of_routes(spec: Mapping[str, Any]) -> str:
    return f"\n{len(spec['paths'])} paths. Bodies and answers are JSON unless a route says otherwise.\n"


def _route(spec: Mapping[str, Any], name: str, route: Mapping[str, Any], shown: dict[str, str]) -> str:
    """One route. `shown`, body schema -> route that showed its fields, is added to."""
    parts = [f"\n## `{name}`\n", route.get("description") or route.get("summary") or "", ""]
    rows = [
        (one["name"], one.get("required", False), one.get("schema", {}), one.get("description", ""))
        for one in route.get("parameters", ())
    ]
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    kind, schema = _type_of(body), _referred(spec, body)
    if body and kind in shown:
        parts += [f"The body of `{shown[kind]}`.", ""]
    elif body:
        shown[kind] = name
        text, meaning = _described(schema.get("description", ""))
        required = schema.get("required", ())
        parts += [text, ""]
        fields = schema.get("properties", {})
        documented = {field: about for field, about in fields.items() if field in meaning or field in required}
        rows += [(field, field in required, about, meaning.get(field, "")) for field, about in documented.items()]
        undocumented = [f"`{field}`" for field in fields if field not in documented]
    else:
        undocumented = []
    if rows:
        parts += ["| field | type | required | meaning |", "|---|---|---|---|"]
        parts += [
            f"| `{field}` | {_code(_type_of(about))} | {'yes' if needed else ''} | {_cell(meaning)} |"
            for field, needed, about, meaning in rows
        ]
    if body and shown[kind] == name and undocumented:
        parts += ["", f"Further fields that are taken: {', '.join(undocumented)}."]
    return "\n".join(parts)


def _referred(spec: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _type_of(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type_of(one) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _public(module: Any) -> list[str]:
    """Where each exported name is defined; without `__all__`, a module's own classes and the modules below it."""
    if not hasattr(module, "__all__"):
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        below = [f"{module.__name__}.{one.name}" for one in pkgutil.iter_modules(getattr(module, "__path__", ()))]
        return [f"{module.__name__}.{value.__name__}" for value in own if not value.__name__.startswith("_")] + below
    values = [value for name in module.__all__ if hasattr(value := getattr(module, name), "__name__")]
    return [f"{value.__module__}.{value.__name__}" for value in values if value.__module__ != "reranker.errors"]


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
