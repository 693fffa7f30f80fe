"""The package as its source has it: modules, what they import, the names they define."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


@dataclass(frozen=True)
class Module:
    """A module of the package `top`, by its dotted name below it ("" is the package itself)."""

    name: str
    path: Path
    top: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text("utf-8"))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def lines(self) -> int:
        return self.path.read_text("utf-8").count("\n")

    def imports(self, known: set[str]) -> set[str]:
        """The modules of the package that this one imports, wherever in it: in functions and for type
        checkers too."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.update(self._below(alias.name))
            elif isinstance(node, ast.ImportFrom) and node.module:
                for base in self._below(node.module):
                    for alias in node.names:
                        inner = f"{base}.{alias.name}".lstrip(".")
                        found.add(inner if inner in known else base)
        return found - {self.name}

    def _below(self, dotted: str) -> Iterator[str]:
        if dotted == self.top:
            yield ""
        elif dotted.startswith(f"{self.top}."):
            yield dotted.removeprefix(f"{self.top}.")

    @property
    def public_classes(self) -> list[str]:
        return [
            node.name
            for node in self.tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]

    @cached_property
    def private_names(self) -> set[str]:
        """Every private name that the module defines: functions, classes, variables, attributes."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
        return {name for name in found if _is_private(name)}

    def private_uses(self) -> set[str]:
        """Private names that it takes from elsewhere: imported, or attributes of other objects."""
        used: set[str] = set()
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.ImportFrom)
                and next(self._below(node.module or ""), None) is not None
            ):
                used.update(alias.name for alias in node.names if _is_private(alias.name))
            elif isinstance(node, ast.Attribute) and _is_private(node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                is_super = (
                    isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super"
                )
                if not own and not is_super:
                    used.add(node.attr)
        return used - self.private_names

    def flags(self) -> set[str]:
        """Flags of the command line in its texts."""
        return {
            flag
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            for flag in FLAG.findall(node.value)
        }


@cache
def modules(root: Path) -> dict[str, Module]:
    """The modules of the package in folder `root`, by their names below it."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, root.name)
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """What each module imports of the package."""
    found = modules(root)
    return {name: module.imports(set(found)) & set(found) for name, module in found.items()}


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Some circle of imports, empty where there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for other in sorted(edges[name]):
            if found := visit(other):
                return found
        path.pop()
        done.add(name)
        return []

    for name in edges:
        if found := visit(name):
            return found
    return []


def room(name: str) -> str:
    """The room of a module: its folder, or itself at the root."""
    return name.partition(".")[0]


def room_graph(root: Path) -> dict[str, set[str]]:
    """What each room imports of the others; the package itself, which only names things, left out."""
    rooms: dict[str, set[str]] = {}
    for name, imported in graph(root).items():
        if name:
            others = {room(other) for other in imported if other}
            rooms.setdefault(room(name), set()).update(others - {room(name)})
    return rooms


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"
