"""Measure the size of the code for a reader: lines, files, floors, the ways of values, and names of settings.

python -m tests.house          the counts; exit status 1 if one is above its limit (lines have none)

- **Lines and files** are those of Python files that git tracks; lines of tests are counted separately.
- **Floors**: a file is one floor above the highest file that it imports. Imports within functions count too.
- **The way** of a function's parameter is the set of functions that its value reaches; the number of their files is
  counted. Syntax trees show which calls pass the value on. Within a function, a name carries the value if it is
  assigned the value, a part of it (an attribute or item), or an object that holds it. A call passes the value on if
  an argument carries it, or if the object whose method or property is used carries it. Classes of objects are known
  only from annotations, so calls through a Protocol or a generator are not followed. Parts that are not objects of
  these packages, such as texts and numbers, are not followed either.
- **Settings** are the distinct names of the fields of all classes that `conf/` configures.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[1]
PACKAGES = ("pruning", "analysis")
PROGRAMS = (*PACKAGES, "hydra_plugins", "benchmarks", "docs", "launch.py")
# The module, function and parameter at which a way begins, and the largest number of files that it may pass through.
WAYS = {
    "a run": ("pruning.runs.run_cell", "run", "prepared", 25),
    "the cells of a command": ("pruning.study.command", "run_cells", "cells", 35),
    "an export": ("pruning.export.pipeline", "export", "wanted", 25),
    "the report": ("analysis.report.page", "page", "m", 12),
}
# Lines are counted but not limited: a limit that is nearly reached makes code dense instead of short.
LIMITS = {"files": 220, "floors": 20, "settings": 180}

Class: TypeAlias = tuple[str, str]  # the module and the name of a class
Place: TypeAlias = tuple[str, ast.FunctionDef]


@dataclass
class Module:
    """The definitions in one file, and the meaning of each imported name: (module, None) or (module, definition)."""

    tree: ast.Module
    package: bool
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)


@cache
def modules() -> dict[str, Module]:
    """Every module of the packages, by its dotted name."""
    found: dict[str, Module] = {}
    for path in sorted(file for part in PACKAGES for file in (ROOT / part).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        found[name] = Module(ast.parse(path.read_text("utf-8")), package)
    for name, module in found.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom):
                here = name.split(".") if module.package else name.split(".")[:-1]
                base = here[: len(here) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                for one in node.names:
                    whole = f"{source}.{one.name}"
                    meaning = (whole, None) if whole in found else (source, one.name)
                    module.imported[one.asname or one.name] = meaning
        for statement in module.tree.body:
            if isinstance(statement, ast.FunctionDef):
                module.functions[statement.name] = statement
            elif isinstance(statement, ast.ClassDef):
                module.classes[statement.name] = statement
    return found


def definition(module: str, name: str) -> tuple[str, str, str] | None:
    """What a name means in a module: ("function", "class" or "module", its module, its name)."""
    if (known := modules().get(module)) is None:
        return None
    if name in known.functions:
        return "function", module, name
    if name in known.classes:
        return "class", module, name
    where, what = known.imported.get(name, (module, None))
    if where == module:
        return None
    return ("module", where, "") if what is None else definition(where, what)


def class_of(module: str, annotation: ast.expr | None) -> Class | None:
    """The class of these packages that an annotation names, alone or with None."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):
        return class_of(module, annotation.left) or class_of(module, annotation.right)
    found = None
    if isinstance(annotation, ast.Name):
        found = definition(module, annotation.id)
    elif isinstance(annotation, ast.Attribute) and isinstance(annotation.value, ast.Name):
        inner = definition(module, annotation.value.id)
        found = definition(inner[1], annotation.attr) if inner and inner[0] == "module" else None
    return found[1:] if found and found[0] == "class" else None


def member(cls: Class, name: str) -> tuple[str, ast.FunctionDef | ast.AnnAssign] | None:
    """The module and syntax tree of a method or an annotated field of a class or its bases."""
    node = modules()[cls[0]].classes[cls[1]]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == name:
            return cls[0], item
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == name:
            return cls[0], item
    bases = (class_of(cls[0], base) for base in node.bases)
    return next((found for base in bases if base and base != cls and (found := member(base, name))), None)


def method(cls: Class | None, name: str) -> Place | None:
    """The module and syntax tree of a method or property of a class."""
    found = member(cls, name) if cls else None
    return (found[0], found[1]) if found and isinstance(found[1], ast.FunctionDef) else None


class Body:
    """One function: the classes of its names, and the names that carry the value of one parameter."""

    def __init__(self, place: Place, owner: Class | None, parameter: str) -> None:
        self.module, self.function = place
        self.nodes = list(ast.walk(self.function))
        given = self.function.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        self.types = {one.arg: class_of(self.module, one.annotation) for one in arguments}
        if owner and arguments and arguments[0].arg == "self":
            self.types["self"] = owner
        self.carrying, before = {parameter}, 0
        while len(self.carrying) != before:
            before = len(self.carrying)
            for target, value in self._assignments():
                if isinstance(target, ast.Name) and target.id not in self.types:
                    self.types[target.id] = self.type_of(value)
                if self.carries(value):
                    names = (one for one in ast.walk(target) if isinstance(one, ast.Name))
                    self.carrying |= {one.id for one in names if isinstance(one.ctx, ast.Store)}

    def _assignments(self) -> Iterator[tuple[ast.expr, ast.expr]]:
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                yield from ((target, node.value) for target in node.targets)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr | ast.AugAssign) and node.value is not None:
                yield node.target, node.value
            elif isinstance(node, ast.For | ast.comprehension):
                yield node.target, node.iter
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                yield node.optional_vars, node.context_expr

    def carries(self, node: ast.expr) -> bool:
        """Whether an expression is the value, a part of it, or an object that holds it."""
        match node:
            case ast.Name():
                return node.id in self.carrying
            case ast.Attribute() | ast.Subscript() | ast.Starred() | ast.NamedExpr():
                return self.carries(node.value)
            case ast.Tuple() | ast.List() | ast.Set():
                return any(map(self.carries, node.elts))
            case ast.Dict() | ast.BoolOp():
                return any(map(self.carries, node.values))
            case ast.IfExp():
                return any(map(self.carries, (node.body, node.orelse)))
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
                return self.carries(node.elt)
            case ast.Call(func=ast.Name(id=name)):
                found = definition(self.module, name)
                holds = name in ("replace", "list", "tuple", "dict", "sorted", "enumerate", "zip", "partial")
                given = [*node.args, *(word.value for word in node.keywords)]
                return (holds or bool(found and found[0] == "class")) and any(map(self.carries, given))
            case _:
                return False

    def type_of(self, node: ast.expr) -> Class | None:
        """The class of an expression; None if annotations do not give it."""
        match node:
            case ast.Name():
                return self.types.get(node.id)
            case ast.IfExp():
                return self.type_of(node.body) or self.type_of(node.orelse)
            case ast.Attribute():
                cls = self.type_of(node.value)
                if (found := member(cls, node.attr) if cls else None) is None:
                    return None
                module, item = found
                return class_of(module, item.annotation if isinstance(item, ast.AnnAssign) else item.returns)
            case ast.Call():
                if (found := self.meaning(node.func)) and found[0] == "class":
                    return found[1:]
                called = self.called(node.func)
                return class_of(called[0][0], called[0][1].returns) if called else None
            case _:
                return None

    def meaning(self, function: ast.expr) -> tuple[str, str, str] | None:
        """What a called name means, alone or within a module, as `definition` gives it."""
        if isinstance(function, ast.Name):
            return definition(self.module, function.id)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            name = function.value.id
            inner = None if name in self.types else definition(self.module, name)
            return definition(inner[1], function.attr) if inner and inner[0] == "module" else None
        return None

    def called(self, function: ast.expr) -> tuple[Place, Class | None] | None:
        """The function that a call runs, and the class that it belongs to."""
        cls: Class | None = None
        if found := self.meaning(function):
            kind, module, name = found
            if kind == "function":
                return (module, modules()[module].functions[name]), None
            cls = (module, name)
            place = method(cls, "__init__") or method(cls, "__post_init__")
        elif isinstance(function, ast.Attribute):
            cls = self.type_of(function.value)
            if cls is None and isinstance(function.value, ast.Name):
                inner = definition(self.module, function.value.id)
                cls = inner[1:] if inner and inner[0] == "class" else None
            place = method(cls, function.attr)
        else:
            return None
        return (place, cls) if place else None

    def passed_on(self) -> Iterator[tuple[Place, Class | None, str]]:
        """Yield the functions to which the value is passed, their classes, and their parameters that receive it."""
        for node in self.nodes:
            if isinstance(node, ast.Attribute) and self.carries(node.value):
                cls = self.type_of(node.value)
                if place := method(cls, node.attr):
                    yield place, cls, "self"
            if not isinstance(node, ast.Call) or (found := self.called(node.func)) is None:
                continue
            (module, function), owner = found
            names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
            names = names[1:] if owner and names and names[0] in ("self", "cls") else names
            given = [*zip(names, node.args, strict=False)]
            given += [(word.arg, word.value) for word in node.keywords if word.arg]
            yield from (((module, function), owner, name) for name, value in given if self.carries(value))


def is_object(place: Place, parameter: str) -> bool:
    """Whether a parameter's annotation names a class of these packages, such as `Cell` or `Sequence[Cell]`."""
    given = place[1].args
    for one in (*given.posonlyargs, *given.args, *given.kwonlyargs):
        if one.arg == parameter and one.annotation is not None:
            parts = (node for node in ast.walk(one.annotation) if isinstance(node, ast.Name | ast.Attribute))
            return any(class_of(place[0], node) for node in parts)
    return parameter == "self"


def way(module: str, function: str, parameter: str) -> dict[str, set[str]]:
    """The names of the functions that the value of a parameter reaches, by module."""
    start = (module, modules()[module].functions[function])
    todo: list[tuple[Place, Class | None, str]] = [(start, None, parameter)]
    seen: set[tuple[str, str, Class | None, str]] = set()
    found: dict[str, set[str]] = {}
    while todo:
        place, owner, name = todo.pop()
        key = (place[0], place[1].name, owner, name)
        if key in seen or not (place == start or is_object(place, name)):
            continue
        seen.add(key)
        found.setdefault(place[0], set()).add(place[1].name)
        todo += Body(place, owner, name).passed_on()
    return found


def floors() -> int:
    """The number of floors: the length of the longest chain of files that import each other."""
    above: dict[str, set[str]] = {}
    for name, module in modules().items():
        meanings = module.imported.values()
        wanted = {where for where, _ in meanings if where in modules()}
        above[name] = wanted - {name}

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(one) for one in above[name]), default=0)

    return max(map(floor, above))


def lines(*parts: str) -> tuple[int, int]:
    """The number of lines and of files in `parts` of the repository."""
    command = ["git", "ls-files", *parts]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [(ROOT / name).read_text("utf-8") for name in listed if name.endswith(".py")]
    return sum(text.count("\n") for text in texts), len(texts)


def settings() -> set[str]:
    """The distinct names of the settings of all classes that `conf/` configures."""
    from pruning.config.app import Config
    from pruning.config.groups import BUILT, members

    found: set[str] = set()

    def add(cls: Any) -> None:
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            if item.init:
                found.add(item.name)
                if dataclasses.is_dataclass(hints[item.name]):
                    add(hints[item.name])

    for cls in [Config, *(cls for group in BUILT for _, cls in members(group))]:
        add(cls)
    return found


def main() -> int:
    """Print each count beside its limit; returns 1 if one is above it."""
    (count, files), (tested, _) = lines(*PROGRAMS), lines("tests")
    counts = {"lines": count, "files": files, "lines of tests": tested, "floors": floors()}
    counts["settings"] = len(settings())
    rows = [(name, number, LIMITS.get(name, 0)) for name, number in counts.items()]
    for name, (module, function, parameter, most) in WAYS.items():
        found = way(module, function, parameter)
        rows.append((f"files that {name} passes through", len(found), most))
        if "--ways" in sys.argv:
            rows += [
                (f"    {one}: {', '.join(sorted(names))}", len(names), 0) for one, names in found.items()
            ]
    for name, number, most in rows:
        sys.stdout.write(f"{number:>7,} {f'of at most {most:,}' if most else '':<18} {name}\n")
    return int(any(most and number > most for _, number, most in rows))


if __name__ == "__main__":
    sys.exit(main())
