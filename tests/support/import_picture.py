"""Reads the picture of imports: the block ``imports`` of a Markdown page, and what the code does against it.

A line says what packages may import, itself aside: names, and phrases that stand for names. Two spaces or more separate
notes on one of the packages, or on a file. Text in parentheses is a comment.

    ground             = errors clock                      the modules that all others may use, and each other
    storage, tabular   = core, and what core may import
    compute            = core sandbox, and what they may import, without messages         compute: tensors too
    cli                = all of the above                                                 pygrid/__init__.py: plans
    never: compute/runtime -> storage, web     features/X -> features/Y      * -> torch, except plans/authoring
    never: features/* -> web, litestar         except routes.py, *_routes.py
    never: a string that names a module        except in cli/__init__.py

A path of a rule stands for all that is below it. ``X`` and ``Y`` stand for any two different names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from source_tree import Source

_BLOCK = re.compile(r"^```imports\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PACKAGES = re.compile(
    r"(?P<names>.*?)(?:,? and (?:what (?P<whose>\w+) may import|(?P<below>below)))?(?:,? without (?P<without>.*))?"
)
_NOTE = re.compile(r"(?P<who>[\w/.]+): (?P<refused>not )?(?P<names>.*?)(?: too)?")
_RULE = re.compile(r"(?P<source>\S+) -> (?P<targets>.*?)(?:,? except (?P<exceptions>.*))?")
_STRINGS = re.compile(r"a string that names a module(?:,? except in (?P<exceptions>.*))?")


class PictureError(ValueError):
    """The block is not one, or a line of it can't be read."""


@dataclass(frozen=True)
class Never:
    """Imports that are refused, whatever the packages may import."""

    text: str
    source: str
    targets: list[str]
    exceptions: list[str]

    def refuses(self, path: str, target: str) -> bool:
        """``path``: of the file, below ``pygrid``. ``target``: of what it imports, such as ``core/cycles/redeem``."""
        for pattern in self.targets:
            mine, other = (bind(self.source, path), bind(pattern, target))
            if mine is None or other is None or any(is_exempt(one, path) for one in self.exceptions):
                continue
            values = [*mine, *other]
            if len(set(values)) == len(values):
                return True
        return False


@dataclass
class Picture:
    ground: set[str] = field(default_factory=set)
    allowed: dict[str, set[str]] = field(default_factory=dict)
    """What each package may import, besides itself."""
    files: dict[str, set[str]] = field(default_factory=dict)
    """What a file may import besides what its package may."""
    rules: list[Never] = field(default_factory=list)
    module_strings: list[str] | None = None
    """Files that may name a module in a string, if others may not."""

    def faults(self, sources: Iterable[Source]) -> Iterator[str]:
        """What the files of a package do against the picture, a line for each."""
        files = list(sources)
        modules = {source.module for source in files}
        for source in files:
            path = source.path.relative_to("pygrid").as_posix()
            package = "" if path == "__init__.py" else path.split("/")[0].removesuffix(".py")
            if package and package not in self.allowed:
                yield f"{path}: the picture has no package {package}"
                continue
            allowed = self.allowed[package] if package else self.ground
            allowed = allowed | self.files.get(source.path.as_posix(), set()) | {package, ""}
            for line, name in source.imports():
                where = f"{path}:{line} imports {name}"
                target = part_of(name, modules)
                if target is not None and target not in allowed:
                    yield f"{where}: {package or 'pygrid'} may not import {target}"
                spelled = name.removeprefix("pygrid.").replace(".", "/")
                yield from (f"{where}: never {rule.text}" for rule in self.rules if rule.refuses(path, spelled))
            if self.module_strings is not None and not any(is_exempt(one, path) for one in self.module_strings):
                for line, text in source.module_strings(modules - {"pygrid"}):
                    yield f"{path}:{line} names the module {text} in a string"


def part_of(name: str, modules: set[str]) -> str | None:
    """``pygrid.core.cycles`` -> ``core``; a name of pygrid's own -> ``""``; another package's -> None."""
    first, *rest = name.split(".")
    if first != "pygrid":
        return None
    return rest[0] if rest and f"pygrid.{rest[0]}" in modules else ""


def bind(pattern: str, path: str) -> list[str] | None:
    """What the variables of a pattern (one capital letter) stand for in a path; None if the path is not below the
    pattern.
    """
    wanted, given = pattern.split("/"), path.split("/")
    if len(given) < len(wanted):
        return None
    values = []
    for one, name in zip(wanted, given, strict=False):
        if re.fullmatch("[A-Z]", one):
            values.append(name)
        elif not fnmatchcase(name, one):
            return None
    return values


def is_exempt(pattern: str, path: str) -> bool:
    """Whether the pattern is one of a path or, without a slash, of the name of a file."""
    return bind(pattern, path) is not None or fnmatchcase(path.rpartition("/")[2], pattern)


def names_in(text: str | None) -> list[str]:
    return re.split(r"[,\s]+", text.strip()) if text and text.strip() else []


def read_picture(markdown: str) -> Picture:
    """The picture of a page, whose only block ``imports`` it is.

    Raises:
        PictureError: if there is no such block or two, a line is of no known form, or a name is on the left of no line.
    """
    blocks = _BLOCK.findall(markdown)
    if len(blocks) != 1:
        raise PictureError(f"a page needs one block ```imports, this one has {len(blocks)}")
    picture = Picture()
    for line in blocks[0].splitlines():
        text = re.sub(r"\([^)]*\)", "", line).strip()
        try:
            if text.startswith("never:"):
                read_rules(picture, text.removeprefix("never:").strip())
            elif text:
                read_packages(picture, text)
        except KeyError as error:
            raise PictureError(f"{line.strip()!r}: no line above has {error} on its left") from None
        except ValueError as error:
            raise PictureError(f"{line.strip()!r}: {error}") from None
    for names in (*picture.allowed.values(), *picture.files.values()):
        if unknown := names - set(picture.allowed):
            raise PictureError(f"no line has {', '.join(sorted(unknown))} on its left")
    return picture


def read_packages(picture: Picture, line: str) -> None:
    """``a, b = c, and what c may import    a: d too``"""
    left, equals, right = line.partition("=")
    packages, (phrase, *notes) = names_in(left), re.split(r"\s{2,}", right.strip())
    match = _PACKAGES.fullmatch(phrase)
    if not equals or not packages or not match:
        raise ValueError("write names, `=`, and what these may import")
    if packages == ["ground"]:
        picture.ground.update(names_in(phrase))
        picture.allowed |= dict.fromkeys(picture.ground, picture.ground)
        return
    allowed = set(picture.allowed) if phrase == "all of the above" else expanded(picture, match["names"])
    if match["whose"] or match["below"]:
        whose = [match["whose"]] if match["whose"] not in (None, "they") else sorted(allowed - picture.ground)
        allowed = allowed.union(*(picture.allowed[name] for name in whose))
    allowed -= set(names_in(match["without"]))
    picture.allowed.update({name: set(allowed) for name in packages})
    for note in notes:
        read_note(picture, note)


def read_note(picture: Picture, note: str) -> None:
    """``a: b too``, ``a: not b`` or, for one file, ``pygrid/a/c.py: b``."""
    match = _NOTE.fullmatch(note)
    if not match:
        raise ValueError(f"{note!r} is not a note like `domain: edge too`")
    names = expanded(picture, match["names"])
    if match["who"].endswith(".py"):
        picture.files.setdefault(match["who"], set()).update(names)
    elif match["refused"]:
        picture.allowed[match["who"]] -= names
    else:
        picture.allowed[match["who"]] |= names


def read_rules(picture: Picture, line: str) -> None:
    """``a -> b, c, except d.py    e -> f``"""
    for text in re.split(r" {2,}", re.sub(r" +except ", " except ", line)):
        if match := _STRINGS.fullmatch(text):
            picture.module_strings = names_in(match["exceptions"])
        elif match := _RULE.fullmatch(text):
            picture.rules.append(
                Never(text, match["source"], names_in(match["targets"]), names_in(match["exceptions"]))
            )
        else:
            raise ValueError(f"{text!r} is not a rule like `a -> b, except c.py`")


def expanded(picture: Picture, names: str) -> set[str]:
    return set().union(*(picture.ground if name == "ground" else {name} for name in names_in(names)))
