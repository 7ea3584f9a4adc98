"""The Python files of this repository, parsed: what `scripts/figures` and the test of the import picture read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Source:
    """A Python file; it is parsed when it is first asked for its syntax."""

    def __init__(self, file: Path, package_root: Path) -> None:
        self.path = file.relative_to(package_root)
        """Relative to the folder that holds the top-level package."""
        self.text = file.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def module(self) -> str:
        """The dotted name; a package has the name of its folder."""
        return ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of each import, wherever it stands.

        Relative names are made absolute, ``*`` is left out.
        """
        package = self.path.parent.parts
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                module = [*base, *([node.module] if node.module else [])]
                for alias in node.names:
                    yield node.lineno, ".".join([*module, *([alias.name] if alias.name != "*" else [])])

    def module_strings(self, modules: set[str]) -> Iterator[tuple[int, str]]:
        """Line and text of each string that is the name of one of `modules`, also with ``:name``."""
        constants = (node for node in self.nodes if isinstance(node, ast.Constant))
        for line, text in ((node.lineno, node.value) for node in constants if isinstance(node.value, str)):
            if re.fullmatch(r"[\w.]+(?::\w+)?", text) and text.partition(":")[0] in modules:
                yield line, text


def sources(folder: Path, package_root: Path | None = None) -> list[Source]:
    """The Python files below a folder, in order of their paths."""
    return [Source(file, package_root or folder) for file in sorted(folder.rglob("*.py"))]
