"""Finds phrases that the project's style rules out, in code, Markdown and commit subjects; see scripts/prose."""

from __future__ import annotations

import argparse
import ast
import io
import re
import signal
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ("src", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
MAX_SUBJECT = 60
with (ROOT / "scripts/prose.toml").open("rb") as _file:
    STYLE = tomllib.load(_file)
VERBS, RULES, EXCEPTIONS = STYLE["verbs"], STYLE["rules"], STYLE.get("exception", [])
PATTERNS = {name: re.compile(rule["pattern"].replace(" ", r"\s+"), re.MULTILINE) for name, rule in RULES.items()}
INDENTATION = re.compile(r"\n[ \t]+")
CODE = re.compile(r"(`+)[^`]+\1")
EXEMPT = re.compile(r"<!--\s*prose: ok\s+[^\s-].*?-->", re.DOTALL)
INSTEAD = {"code_inline": "_", "softbreak": "\n", "hardbreak": "\n", "html_inline": ""}
MARKDOWN = MarkdownIt("commonmark").enable("table")


class Text(NamedTuple):
    """A docstring, a comment, a string or a paragraph, and the lines of the file that it stands on, from `line` on."""

    line: int
    rows: list[str]
    text: str


class Hit(NamedTuple):
    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.rule} {self.text} -> {RULES[self.rule]['hint']}"


# -- Texts of a file ---------------------------------------------------------------------------------------------------


def python_texts(source: str, nodes: Iterable[ast.AST] | None = None) -> Iterator[Text]:
    """Docstrings (also of fields), strings with two spaces or more, and comments; without what is in backquotes."""
    rows = source.splitlines()
    skipped: set[int] = set()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)) if nodes is None else nodes:
        if isinstance(node, ast.Expr):
            docstrings.add(id(node.value))
            continue
        if isinstance(node, ast.JoinedStr):
            skipped.update(map(id, node.values))
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "_" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            text = node.value
        else:
            continue
        if text.count(" ") >= 2 or id(node) in docstrings:
            yield Text(node.lineno, rows[node.lineno - 1 : node.end_lineno], plain(text))
    yield from comments(source, rows)


def plain(text: str) -> str:
    """The text without code and without indentation."""
    return CODE.sub("_", INDENTATION.sub("\n", text))


def comments(source: str, rows: list[str]) -> Iterator[Text]:
    """Comments; those on lines of their own, one below the other, are one text."""
    blocks: list[tuple[int, list[str]]] = []
    below = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            (line, column), text = token.start, token.string.lstrip("#! ")
            is_alone = not rows[line - 1][:column].strip()
            if is_alone and line == below:
                blocks[-1][1].append(text)
            else:
                blocks.append((line, [text]))
            below = line + 1 if is_alone else 0
    return (Text(line, block, plain("\n".join(block))) for line, block in blocks)


def markdown_texts(source: str) -> Iterator[Text]:
    """Paragraphs, items, headings and cells; without code, and without blocks after a comment ``prose: ok REASON``."""
    rows = source.splitlines()
    exempt_to, is_exempt = 0, False
    for token in MARKDOWN.parse(source):
        if token.map is None:
            continue
        start, end = token.map
        if is_exempt:
            exempt_to, is_exempt = end, False
        if token.type == "html_block":
            is_exempt = EXEMPT.search(token.content) is not None
        elif token.type == "inline" and start >= exempt_to and not EXEMPT.search(token.content):
            yield Text(
                start + 1,
                rows[start:end],
                "".join(INSTEAD.get(part.type, part.content) for part in token.children or ()),
            )


# -- Hits --------------------------------------------------------------------------------------------------------------


def hits_of(path: str, texts: Iterable[Text], exceptions: Iterable[dict[str, str]] = ()) -> Iterator[Hit]:
    """What the rules P01 to P15 find in the texts of a file, except in the phrases of `exceptions`."""
    phrases = [one["phrase"].split() for one in exceptions if one["path"] == path]
    hidden = [re.compile(r"\s+".join(map(re.escape, phrase))) for phrase in phrases]
    for line, rows, text in texts:
        for phrase in hidden:
            text = phrase.sub("_", text)
        for rule, pattern in PATTERNS.items():
            for match in pattern.finditer(text):
                words = match[0].split()
                near = line + text.count("\n", 0, match.start())  # a string in several pieces has no ends of lines
                holds = (line + number for number, row in enumerate(rows) if words[0] in row and line + number >= near)
                yield Hit(path, next(holds, line), rule, " ".join(words)[:80])


def files_below(paths: Iterable[str]) -> Iterator[Path]:
    """Python and Markdown files, without the pages of the site that are generated and ignored by git."""
    generated = {ROOT / line for line in (ROOT / ".gitignore").read_text().splitlines() if line.endswith(".md")}
    for path in (ROOT / name for name in paths):
        files = path.rglob("*") if path.is_dir() else [path]
        yield from sorted(file for file in files if file.suffix in (".py", ".md") and file not in generated)


def find_hits(paths: Iterable[str] = DEFAULT) -> Iterator[Hit]:
    """Hits in files and folders; paths are relative to the root of the repository."""
    for file in files_below(paths):
        source = file.read_text()
        texts = python_texts(source) if file.suffix == ".py" else markdown_texts(source)
        yield from hits_of(file.relative_to(ROOT).as_posix(), texts, EXCEPTIONS)


def package_of(path: str) -> str:
    """The part of the tree that is counted together: ``src/pygrid/core``, ``src/pygrid/ids``, ``docs``,
    ``README.md``.
    """
    return "/".join(path.split("/")[: 3 if path.startswith("src/") else 1]).removesuffix(".py")


def subject_faults(subject: str) -> list[str]:
    """What is wrong with the subject of a commit (P16)."""
    faults = {
        f"at most {MAX_SUBJECT} characters, not {len(subject)}": len(subject) > MAX_SUBJECT,
        "no final period": subject.endswith("."),
        f"begin with one of {', '.join(VERBS)}": not subject.startswith(tuple(f"{verb} " for verb in VERBS)),
    }
    return [fault for fault, is_there in faults.items() if is_there]


def subjects(commits: str) -> Iterator[tuple[str, ...]]:
    """The short hash and the subject of each commit of a range, merges aside."""
    command = ["git", "log", "--no-merges", "--format=%h %s", commits]
    log = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return (tuple(line.split(" ", 1)) for line in log.splitlines())


def count_table(hits: list[Hit]) -> list[str]:
    """Hits of each rule in each package, one package a line; no lines if there are no hits."""
    counts = Counter((package_of(hit.path), hit.rule) for hit in hits)
    rules = sorted({rule for _, rule in counts})
    lines = [f"{'':24} total " + " ".join(f"{rule:>4}" for rule in rules)] if hits else []
    for package in sorted({package for package, _ in counts}):
        row = [counts[package, rule] for rule in rules]
        lines.append(f"{package:24} {sum(row):5} " + " ".join(f"{number or '-':>4}" for number in row))
    return lines


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser(prog="scripts/prose", description="Find phrases that the style rules out.")
    parser.add_argument(
        "paths", nargs="*", default=DEFAULT, help=f"Files and folders to read (default: {' '.join(DEFAULT)})."
    )
    parser.add_argument("--count", action="store_true", help="Print the number of hits of each rule in each package.")
    parser.add_argument(
        "--commits", metavar="RANGE", help="Check the subjects of these commits instead, such as main..HEAD."
    )
    options = parser.parse_args()
    if options.commits:
        log = subjects(options.commits)
        lines = [f"{commit} P16 {subject} -> {fault}" for commit, subject in log for fault in subject_faults(subject)]
    else:
        hits = list(find_hits(options.paths))
        lines = count_table(hits) if options.count else [str(hit) for hit in hits]
    print(*lines, sep="\n", end="\n" if lines else "")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
