"""Template families: Jinja2 files made of blocks, packaged or the user's own."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from jinja2 import FunctionLoader, StrictUndefined, TemplateError, TemplateNotFound, TemplateSyntaxError, nodes
from jinja2.runtime import BlockReference, Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reranker.errors import PromptError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TEMPLATE = re.compile(rf"(packaged/)?({_NAME.pattern})/({_NAME.pattern})\.j2")

TEXT_PARTS = ("text_title", "text_category", "text_description")
"""Blocks that make up an item by itself, one behind the other."""

BLOCKS = (
    "instruction",
    "history_header",
    "history_empty",
    "history_item",
    *TEXT_PARTS,
    "query",
    "separator",
    "candidate",
    "terminator",
    "labels_candidate",
    "labels_cue",
    "labels",
    "listwise_header",
    "listwise_open",
    "listwise_label",
    "listwise_candidate",
    "listwise_cue",
)

# One rendered block: what a template's compiled block function looks like.
_Block = Callable[[Context], Iterator[str]]


class TemplateSet:
    """The blocks of one family in one language.

    Templates are code of whoever runs the reranker; what they show (titles, queries) is not. So the environment is
    sandboxed, variables are never parsed as templates, and an undefined variable is an error.

    Attributes:
        family: for instance "movies".
        language: for instance "en".
        directory: where the user's own templates are looked for first, or None.
    """

    def __init__(self, family: str, language: str = "en", directory: Path | None = None) -> None:
        self.family, self.language, self.directory = family, language, directory
        self._environment = ImmutableSandboxedEnvironment(
            loader=FunctionLoader(self._source_or_none),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=False,
            keep_trailing_newline=False,
            autoescape=False,
        )
        self._chain = self._inheritance(f"{family}/{language}.j2")

    @classmethod
    def load(cls, family: str, language: str = "en", directory: Path | None = None) -> "TemplateSet":
        """Reads a family: `directory`/family/language.j2 if there is one, else the packaged one.

        A user's template may extend any other by its name ("generic/en.j2"), and the packaged one that it replaces by
        "packaged/movies/en.j2".

        Raises:
            PromptError: no such folder, family or language, a syntax error, or a block is missing.
        """
        if directory is not None and not directory.is_dir():
            raise PromptError(f"prompt.directory {directory} is no folder: give the folder of your templates, or none")
        templates = cls(family, language, directory)
        missing = [block for block in BLOCKS if block not in templates.block_names]
        if missing:
            raise PromptError(
                f"template {templates.name} lacks the block {', '.join(missing)}; it has "
                f"{', '.join(sorted(templates.block_names))}. Add the block, or start with "
                '{% extends "generic/en.j2" %}'
            )
        return templates

    @property
    def name(self) -> str:
        """ "movies/en.j2", with the directory when the user's own file is the one in use."""
        name = f"{self.family}/{self.language}.j2"
        own = self.directory is not None and (self.directory / name).is_file()
        return str(self.directory / name) if own and self.directory else name

    @cached_property
    def sha256(self) -> str:
        """Hash over every source that takes part, the template and those it extends; a bundle refuses another
        one than it was fitted with."""
        digest = hashlib.sha256()
        for name, source in self._chain:
            digest.update(f"{name}\0{len(source)}\0{source}\0".encode())
        return digest.hexdigest()

    @cached_property
    def block_names(self) -> frozenset[str]:
        """Names of the blocks that can be rendered."""
        return frozenset(self._blocks)

    def render(self, block: str, variables: Mapping[str, object] | None = None) -> str:
        """Text of one block.

        Raises:
            PromptError: unknown block, undefined variable, or the template fails.
        """
        functions = self._blocks.get(block)
        if not functions:
            raise PromptError(
                f"template {self.name} has no block {block!r}; it has {', '.join(sorted(self.block_names))}"
            )
        context = Context(self._environment, {**self._environment.globals, **(variables or {})}, self.name, {})
        # What {% extends %} would fill in: the block of this file first, then those behind super().
        context.blocks = {name: list(chain) for name, chain in self._blocks.items()}
        try:
            return str(BlockReference(block, context, functions, 0)())
        except Exception as error:  # a template is the user's code: whatever it raises is its fault
            raise PromptError(f"template {self.name}, block {block!r}: {error}") from error

    def fields(self, block: str) -> tuple[str, ...] | None:
        """Which fields of `item` the block reads, sorted; None when it uses `item` in a way that cannot be told."""
        names: set[str] = set()
        for _, source in self._chain:
            for node in self._environment.parse(source).find_all(nodes.Block):
                if node.name != block:
                    continue
                read = [
                    _constant_key(reference)
                    for reference in node.find_all((nodes.Getattr, nodes.Getitem))
                    if isinstance(reference, nodes.Getattr | nodes.Getitem)
                    and isinstance(reference.node, nodes.Name)
                    and reference.node.name == "item"
                ]
                uses = sum(1 for name in node.find_all(nodes.Name) if name.name == "item")
                if uses != len(read) or None in read:
                    return None
                names.update(map(str, read))
        return tuple(sorted(names))

    @cached_property
    def _blocks(self) -> dict[str, list[_Block]]:
        blocks: dict[str, list[_Block]] = {}
        for name, _ in self._chain:
            for block, function in self._environment.get_template(name).blocks.items():
                blocks.setdefault(block, []).append(function)
        return blocks

    def _inheritance(self, name: str) -> list[tuple[str, str]]:
        """(name, source) of the template and of everything it extends, most specific first."""
        chain: list[tuple[str, str]] = []
        while True:
            if name in [seen for seen, _ in chain]:
                raise PromptError(
                    f"template {name} extends itself. To build on the packaged template write "
                    f'{{% extends "packaged/{name}" %}}'
                )
            source = self._source_or_none(name)
            if source is None:
                raise PromptError(self._unknown(name))
            chain.append((name, source))
            try:
                tree = self._environment.parse(source, name)
                self._environment.get_template(name)
            except (TemplateSyntaxError, TemplateNotFound) as error:
                line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
                raise PromptError(f"template {name}{line}: {error}") from error
            except TemplateError as error:
                raise PromptError(f"template {name}: {error}") from error
            parent = tree.find(nodes.Extends)
            if parent is None:
                return chain
            if not isinstance(parent.template, nodes.Const):
                raise PromptError(f"template {name}: {{% extends %}} needs a name in quotes")
            name = str(parent.template.value)

    def _source_or_none(self, name: str) -> str | None:
        # Jinja's loaders call this for {% extends %} and {% include %} too: only plain family/language names pass.
        match = _TEMPLATE.fullmatch(name)
        if match is None:
            return None
        file = f"{match[2]}/{match[3]}.j2"
        places: list[Traversable] = [_packaged()]
        if self.directory is not None and not match[1]:
            places.insert(0, self.directory)
        for place in places:
            source = place / file
            if source.is_file():
                try:
                    return source.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    raise PromptError(f"cannot read the template {source}: {error}") from error
        return None

    def _unknown(self, name: str) -> str:
        known = families(self.directory)
        listed = "; ".join(f"{family} ({', '.join(languages)})" for family, languages in known.items())
        where = "the packaged templates" if self.directory is None else f"{self.directory} and the packaged templates"
        return f"no template {name!r} in {where}. There are: {listed}"


def families(directory: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Family -> languages, both sorted: the packaged ones and those in `directory`."""
    found: dict[str, set[str]] = {}
    places: list[Traversable] = [_packaged()]
    if directory is not None and directory.is_dir():
        places.append(directory)
    for place in places:
        for family in place.iterdir():
            if not family.is_dir() or _NAME.fullmatch(family.name) is None:
                continue
            for file in family.iterdir():
                if file.name.endswith(".j2"):
                    found.setdefault(family.name, set()).add(file.name.removesuffix(".j2"))
    return {family: tuple(sorted(languages)) for family, languages in sorted(found.items())}


def family_for_domain(domain: str, directory: Path | None = None) -> str:
    """The family called like the domain, else "generic"."""
    return domain if domain in families(directory) else "generic"


def _constant_key(reference: nodes.Getattr | nodes.Getitem) -> str | None:
    if isinstance(reference, nodes.Getattr):
        return reference.attr
    key = reference.arg.value if isinstance(reference.arg, nodes.Const) else None
    return key if isinstance(key, str) else None


def _packaged() -> Traversable:
    return resources.files("reranker.prompts")
