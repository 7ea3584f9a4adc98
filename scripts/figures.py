"""Counts what makes the code hard to read or to change; see scripts/figures.

A figure is a number, or the places it counts.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import prose
from source_tree import ROOT, Source, sources

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 6
MAX_COLUMNS = 120
EVENT_METHODS = {"set", "is_set", "wait", "clear"}
FILE_METHODS = {"read", "write", "seek", "tell", "truncate", "flush", "fileno"}


class Tree:
    """The package and its tests; each file is read and parsed once."""

    def __init__(self, root: Path = ROOT) -> None:
        self.package = sources(root / "src/pygrid", root / "src")
        self.tests = sources(root / "tests")
        self.modules = {source.module for source in self.package}

    def features(self) -> Iterator[Source]:
        return (source for source in self.package if source.module.startswith("pygrid.features"))

    def functions(self) -> Iterator[tuple[Source, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for source in self.package:
            for node in source.nodes:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield source, node

    def classes(self) -> Iterator[tuple[Source, ast.ClassDef]]:
        for source in self.package:
            yield from ((source, node) for node in source.nodes if isinstance(node, ast.ClassDef))


def place(source: Source, line: int, what: str = "") -> str:
    return f"{source.path}:{line}" + (f" {what}" if what else "")


# -- Size --------------------------------------------------------------------------------------------------------------


def lines_in_src(tree: Tree) -> int:
    """Lines of all Python files of the package, empty ones too."""
    return sum(source.text.count("\n") for source in tree.package)


def lines_in_features(tree: Tree) -> int:
    """Lines of all Python files of ``features``, empty ones too."""
    return sum(source.text.count("\n") for source in tree.features())


def long_files(tree: Tree) -> list[str]:
    """Files of the package with more than 500 lines."""
    counts = [(source, source.text.count("\n")) for source in tree.package]
    return [f"{source.path}: {count}" for source, count in counts if count > MAX_FILE_LINES]


def long_functions(tree: Tree) -> list[str]:
    """Functions of more than 60 lines from ``def`` to the last line, with the docstring and without decorators."""
    counts = [(source, node, (node.end_lineno or 0) - node.lineno + 1) for source, node in tree.functions()]
    return [
        place(source, node.lineno, f"{node.name}: {count}")
        for source, node, count in counts
        if count > MAX_FUNCTION_LINES
    ]


def argument_names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return [argument.arg for argument in given if argument.arg not in ("self", "cls")]


def many_arguments(tree: Tree) -> list[str]:
    """Functions with more than 6 arguments; ``self``, ``cls``, ``*args`` and ``**kwargs`` are not counted."""
    counts = [(source, node, len(argument_names(node))) for source, node in tree.functions()]
    return [
        place(source, node.lineno, f"{node.name}: {count}") for source, node, count in counts if count > MAX_ARGUMENTS
    ]


def long_lines(tree: Tree) -> list[str]:
    """Lines of the package with more than 120 characters."""
    return [
        place(source, number)
        for source in tree.package
        for number, line in enumerate(source.text.splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]


# -- Coupling ----------------------------------------------------------------------------------------------------------


def homonyms(tree: Tree) -> list[str]:
    """Names of classes, underscored and nested ones too, that two classes of the package or more have."""
    found = defaultdict(list)
    for source, node in tree.classes():
        found[node.name].append(place(source, node.lineno))
    return [f"{name}: {', '.join(places)}" for name, places in sorted(found.items()) if len(places) > 1]


def module_strings(tree: Tree) -> list[str]:
    """Strings that are the name of a module below ``pygrid``, also with ``:name``, except the lazy commands of
    the CLI.
    """
    below = tree.modules - {"pygrid"}
    others = (source for source in tree.package if source.module != "pygrid.cli")
    return [place(source, line, text) for source in others for line, text in source.module_strings(below)]


def features_with_web(tree: Tree) -> list[str]:
    """Modules of features, except ``routes.py``, ``*_routes.py`` and ``forms.py``, that import ``pygrid.web`` or
    Litestar.
    """
    found = []
    for source in tree.features():
        names = [name for _, name in source.imports() if re.match(r"(?:pygrid\.web|litestar)\b", name)]
        if names and not re.fullmatch(r"(?:.*_)?routes\.py|forms\.py", source.path.name):
            found.append(f"{source.path}: {', '.join(names)}")
    return found


def module_cycles(tree: Tree) -> list[str]:
    """Groups of modules that import each other in a circle, imports inside functions and for types included.

    A group is a strongly connected component, so two circles with a common module count once.
    """
    imported = {
        source.module: {module_in(tree.modules, name) for _, name in source.imports()} for source in tree.package
    }
    reached = {module: reachable(imported, module) for module in imported}
    groups = {frozenset(other for other in reached[module] if module in reached.get(other, ())) for module in imported}
    return [", ".join(sorted(group)) for group in groups if len(group) > 1]


def module_in(modules: set[str], name: str) -> str:
    """The module that an imported name is, or is in; ``""`` for a name of another package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def reachable(imported: dict[str, set[str]], start: str) -> set[str]:
    """The modules that a module imports, directly or through others; itself if it is in a circle."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = imported.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def literal_codes(tree: Tree) -> list[str]:
    """Arguments ``code="..."`` of calls."""
    return [
        place(source, node.value.lineno, str(node.value.value))
        for source in tree.package
        for node in source.nodes
        if isinstance(node, ast.keyword) and node.arg == "code"
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def process_starts(tree: Tree) -> list[str]:
    """Uses of ``Popen`` that are not annotations, outside ``cli/up.py`` and ``sandbox/process.py``."""
    found = []
    for source in tree.package:
        if "Popen" in source.text and source.module not in ("pygrid.cli.up", "pygrid.sandbox.process"):
            types = [getattr(node, name, None) for node in source.nodes for name in ("annotation", "returns")]
            ignored = {id(node) for one in types if isinstance(one, ast.AST) for node in ast.walk(one)}
            for node in source.nodes:
                if isinstance(node, ast.Attribute) and node.attr == "Popen" and id(node) not in ignored:
                    found.append(place(source, node.lineno))
    return found


def pass_through(tree: Tree) -> list[str]:
    """Methods that only call a method of an attribute of theirs with the same arguments.

    Not counted: ``close``, special methods, methods of files and events, and overrides: methods of a class with bases
    that call a method of the same name, as the interface asks for it.
    """
    found = []
    for source, owner in tree.classes():
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (call := only_call(node)):
                is_override = bool(owner.bases) and call.attr == node.name
                is_exempt = (
                    node.name == "close" or node.name.startswith("__") or call.attr in EVENT_METHODS | FILE_METHODS
                )
                if not is_override and not is_exempt:
                    found.append(place(source, node.lineno, f"{owner.name}.{node.name} -> {ast.unparse(call)}"))
    return found


def only_call(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.Attribute | None:
    """``self.a.b`` of a method that does no more than call it with its own arguments, in their order."""
    *before, last = node.body
    if any(not isinstance(one, ast.Expr) or not isinstance(one.value, ast.Constant) for one in before):
        return None
    value = last.value if isinstance(last, ast.Return | ast.Expr) else None
    call = value.value if isinstance(value, ast.Await) else value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    given = [ast.unparse(one) for one in (*call.args, *(keyword.value for keyword in call.keywords))]
    is_own = re.fullmatch(r"self(?:\.\w+)+", ast.unparse(call.func.value))
    return call.func if is_own and given == argument_names(node) else None


# -- Tests and text ----------------------------------------------------------------------------------------------------


def sleeps(tree: Tree) -> list[str]:
    """Lines of the tests with ``sleep(``."""
    return [
        place(source, number, line.strip())
        for source in tree.tests
        for number, line in enumerate(source.text.splitlines(), 1)
        if "sleep(" in line
    ]


def private_patches(tree: Tree) -> list[str]:
    """Calls of ``setattr`` and ``patch`` in tests that replace a name with an underscore in front."""
    found = []
    for source in tree.tests:
        if not re.search(r"\b(?:setattr|patch)\b", source.text):
            continue
        for node in source.nodes:
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "setattr",
                "patch",
                "object",
            ):
                names = [
                    one.value for one in node.args[:2] if isinstance(one, ast.Constant) and isinstance(one.value, str)
                ]
                if any(re.match(r"_(?!_)", name.rpartition(".")[2]) for name in names):
                    found.append(place(source, node.lineno, names[-1]))
    return found


def prose_hits(tree: Tree) -> list[str]:
    """Hits of scripts/prose in the package, in ``docs`` and in the Markdown files of the root."""
    mine = (
        prose.hits_of(f"src/{source.path}", prose.python_texts(source.text, source.nodes), prose.EXCEPTIONS)
        for source in tree.package
    )
    others = prose.find_hits(path for path in prose.DEFAULT if path != "src")
    return [str(hit) for hit in chain(*mine, others)]


FIGURES: dict[str, Callable[[Tree], int | list[str]]] = {
    "lines in src": lines_in_src,
    "lines in features": lines_in_features,
    "files > 500 lines": long_files,
    "functions > 60 lines": long_functions,
    "functions with > 6 arguments": many_arguments,
    "homonym classes": homonyms,
    "strings that name a module": module_strings,
    "modules of features that import web": features_with_web,
    'code="literal"': literal_codes,
    "Popen outside cli/up and sandbox/process": process_starts,
    "pass-through methods": pass_through,
    "module cycles": module_cycles,
    "sleep in tests": sleeps,
    "patches of private names": private_patches,
    "prose hits": prose_hits,
    "Python lines > 120": long_lines,
}


def count(figures: Iterable[str] = FIGURES) -> dict[str, int | list[str]]:
    """Each figure of the present tree: a number, or the places that it counts."""
    tree = Tree()
    return {figure: FIGURES[figure](tree) for figure in figures}


def number(value: int | list[str]) -> int:
    return value if isinstance(value, int) else len(value)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser(
        prog="scripts/figures", description="Count what makes the code hard to read or to change."
    )
    parser.add_argument(
        "figure", nargs="*", choices=[*FIGURES, []], help="Figures whose places to list.", metavar="FIGURE"
    )
    parser.add_argument("--json", action="store_true", help="Print the figures as one JSON object.")
    options = parser.parse_args()
    found = count(options.figure or FIGURES)
    if options.json:
        print(json.dumps({figure: number(value) for figure, value in found.items()}, indent=2))
        return
    for figure, value in found.items():
        print(f"{figure:42} {number(value):7,}")
        if options.figure and not isinstance(value, int):
            print(*value, sep="\n")


if __name__ == "__main__":
    main()
