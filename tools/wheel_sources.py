"""The Python sources of a wheel, read without unpacking, importing or running them."""

import ast
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

_HOPS = 8  # re-exports followed, one module after another

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign
Function = ast.FunctionDef | ast.AsyncFunctionDef


class WheelSources:
    """Modules, classes and functions of one wheel.

    Args:
        wheel: the file.
    """

    def __init__(self, wheel: Path) -> None:
        archive = zipfile.ZipFile(wheel)
        self._files = set(archive.namelist())
        self._read: Callable[[str], bytes] = archive.read
        self._module = cache(self._parsed)

    @classmethod
    def installed(cls, name: str) -> "WheelSources":
        """Of a distribution that is installed here.

        Raises:
            PackageNotFoundError: it is not.
        """
        found = distribution(name)
        sources = cls.__new__(cls)
        sources._files = {str(file) for file in found.files or () if file.suffix == ".py" or file.name == "METADATA"}
        sources._read = lambda file: Path(str(found.locate_file(file))).read_bytes()
        sources._module = cache(sources._parsed)
        return sources

    @property
    def requirements(self) -> list[str]:
        """`Requires-Dist` of the wheel's metadata, with their markers."""
        return self._metadata().get_all("Requires-Dist") or []

    @property
    def version(self) -> str:
        return str(self._metadata()["Version"])

    def has_module(self, module: str) -> bool:
        return self._file_of(module) is not None

    def definition(self, module: str, name: str) -> tuple[str, Definition] | None:
        """A name at the top of a module, and the module that defines it: re-exports are followed."""
        for _ in range(_HOPS):
            tree = self._module(module)
            if tree is None:
                return None
            for node in tree.body:
                if name in _names(node):
                    assert isinstance(node, Definition)
                    return module, node
            source = _import_of(tree, name, module, self._is_package(module))
            if source is None:
                return None
            module, name = source
        return None

    def exports(self, module: str, name: str) -> bool:
        """Whether `from module import name` finds something: a definition, an import or a module."""
        tree = self._module(module)
        if self.has_module(f"{module}.{name}"):
            return True
        if tree is None:
            return False
        defined = any(name in _names(node) for node in ast.walk(tree) if isinstance(node, Definition))
        return defined or _import_of(tree, name, module, self._is_package(module)) is not None

    def bodies(self, module: str, class_name: str) -> Iterator[tuple[str, ast.ClassDef]]:
        """A class and those it inherits from, as far as the wheel defines them, with their modules."""
        waiting, seen = [(module, class_name)], set()
        while waiting:
            place = waiting.pop(0)
            found = self.definition(*place)
            if found is None or not isinstance(found[1], ast.ClassDef) or (found[0], found[1].name) in seen:
                continue
            seen.add((found[0], found[1].name))
            yield found[0], found[1]
            waiting += [(found[0], base.id) for base in found[1].bases if isinstance(base, ast.Name)]

    def method(self, module: str, class_name: str, name: str) -> Function | None:
        """A method or property of a class or of what it inherits from; with overloads, the last."""
        for _, body in self.bodies(module, class_name):
            methods = [node for node in body.body if isinstance(node, Function) and node.name == name]
            if methods:
                return methods[-1]
        return None

    def attributes(self, module: str, class_name: str) -> set[str]:
        """Names that instances have: class variables, fields, methods, slots, and what any method gives `self`."""
        found: set[str] = set()
        for _, body in self.bodies(module, class_name):
            for node in ast.walk(body):
                stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                if stored and isinstance(node.value, ast.Name) and node.value.id == "self":
                    found.add(node.attr)
            for node in body.body:
                found |= _names(node)
        return found

    def _metadata(self) -> object:
        name = next(one for one in self._files if one.count("/") == 1 and one.endswith(".dist-info/METADATA"))
        return Parser().parsestr(self._read(name).decode())

    def _file_of(self, module: str) -> str | None:
        base = module.replace(".", "/")
        return next((name for name in (f"{base}.py", f"{base}/__init__.py") if name in self._files), None)

    def _is_package(self, module: str) -> bool:
        return (self._file_of(module) or "").endswith("__init__.py")

    def _parsed(self, module: str) -> ast.Module | None:
        file = self._file_of(module)
        return None if file is None else ast.parse(self._read(file), filename=file)


def parameters(function: Function) -> list[str]:
    """Names of a function's parameters, in order, `self` among them; `**` where it takes any keyword."""
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [*names, "**"] if arguments.kwarg else names


def _names(node: ast.AST) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}


def _import_of(tree: ast.Module, name: str, module: str, is_package: bool) -> tuple[str, str] | None:
    """Where an import anywhere in a module (under `if TYPE_CHECKING`, too) takes a name from."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for one in node.names:
            if (one.asname or one.name) == name:
                package = module if is_package else module.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                source = ".".join(part for part in (package if node.level else "", node.module or "") if part)
                return source, one.name
    return None
