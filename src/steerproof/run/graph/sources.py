"""Which source files decide what a stage does: followed through its imports, never listed by hand.

A list would be forgotten once, and a unit made by old code would then pass for one of the new.
Imports are read from the source, so those inside of functions count and nothing heavy is loaded.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from steerproof.run.graph.keys import digest, file_sha256

ROOT = Path(__file__).parents[2]
"""The package's own directory."""

_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a module is made of."""

    files: Mapping[str, Path]
    """The source file of it and of all of ours that it imports, however far, by module."""
    packages: frozenset[str]
    """Top-level names of others that any of them imports."""

    def version(self) -> str:
        """sha256 over the bytes of all the files."""
        return digest({module: _sha256(path) for module, path in self.files.items()})


def _sha256(path: Path) -> str:
    """Of a source file, read once for all kinds that use it, for as long as it does not change."""
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of(path: Path, _size: int, _changed: int) -> str:
    return file_sha256(path)


def sources_of(module: str, apart: Collection[str] = (), by_name: Collection[str] = ()) -> Sources:
    """Follow a module's imports.

    Args:
        module: Dotted name of one of ours.
        apart: Modules to leave out, with what only they import.
        by_name: Modules of ours that it imports without an import statement.
    """
    files: dict[str, Path] = {}
    packages: set[str] = set()
    todo = [part for name in (module, *by_name) for part in _with_parents(name)]
    seen = set(apart)
    while todo:
        name = todo.pop()
        path = None if name in seen else _source(name)
        seen.add(name)
        if path is None:
            continue  # seen, left out, or a name inside of a module
        files[name] = path
        for imported in _imports(path):
            top, _, _ = imported.partition(".")
            if top == ROOT.name:
                todo += _with_parents(imported)
            else:
                packages.add(top)
    return Sources(files=dict(sorted(files.items())), packages=frozenset(packages))


def _with_parents(name: str) -> list[str]:
    """`a.b.c` runs `a` and `a.b` before itself."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _source(name: str) -> Path | None:
    """The file of one of our modules; None where it is none, but a name inside of one."""
    file, parts = ROOT / "__init__.py", name.split(".")
    for part in parts[1:]:
        inside = _modules(file.parent).get(part) if file.name == "__init__.py" else None
        if inside is None:
            return None
        file = inside
    return file if parts[0] == ROOT.name else None


@cache
def _modules(package: Path) -> Mapping[str, Path]:
    """What is in a package, by name: thousands of names are looked up, and each took two looks."""
    names = [place.name for place in package.iterdir()]
    inside = {name: package / name / "__init__.py" for name in names if "." not in name}
    packages = {name: file for name, file in inside.items() if file.is_file()}
    modules = {name.removesuffix(".py"): package / name for name in names if name.endswith(".py")}
    return packages | modules


@cache
def _imports(path: Path) -> frozenset[str]:
    return frozenset(_names(ast.parse(path.read_bytes())))


def _names(node: ast.AST) -> Iterator[str]:
    """Every module that may be imported; `from a import b` gives `a` and `a.b`."""
    if isinstance(node, ast.If) and _for_types(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, _STATEMENTS):  # an expression imports nothing
            yield from _names(inner)


def _for_types(test: ast.expr) -> bool:
    """Whether what a condition guards is for type checkers alone."""
    named = (getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(test))
    return "TYPE_CHECKING" in named
