"""The pages of docs/.

Should happen: a link leads to a file and a heading; a symbol that a page names with its file is there; each page is in
the contents.
Should not happen: a page that is too long to be read at once.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDERS = ("tutorials", "how-to", "explanation", "reference", "development")
GENERATED = {"settings", "cli", "errors", "metrics", "messages", "openapi", "configuration"}
PAGES = sorted(path for folder in FOLDERS for path in (DOCS / folder).rglob("*.md") if path.stem not in GENERATED)
DOCUMENTS = [
    *PAGES,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
]
MAX_WORDS = 1500
"""Of a page, without code."""
UNBOUNDED = {"protocol", "published", "plan-format"}
"""Specifications, which are looked up and not read."""

RUN_BY = {
    "explanation/dataset": "tests/e2e/test_dataset_cli.py",
    "how-to/cycle-settings": "tests/unit/configuration/test_configuration_server.py",
    "how-to/federate": "tests/e2e/test_federated_docs.py",
    "how-to/host-and-train": "tests/e2e/test_sdk_docs.py",
    "how-to/jobs": "tests/e2e/test_sdk_docs.py",
    "how-to/predict-for-records": "tests/e2e/test_sdk_docs.py",
    "how-to/search": "tests/e2e/test_search_processes.py",
    "how-to/serve-a-model": "tests/e2e/test_sdk_docs.py",
    "how-to/track-experiments": "tests/e2e/test_sdk_docs.py",
    "how-to/use-a-trained-model": "tests/e2e/test_sdk_docs.py",
    "how-to/tables": "tests/e2e/test_dataset_cli.py",
    "how-to/databases": "tests/e2e/test_dataset_cli.py",
    "how-to/images": "tests/e2e/test_dataset_cli.py",
    "how-to/texts": "tests/e2e/test_dataset_cli.py",
    "how-to/prepare-columns": "tests/e2e/test_dataset_cli.py",
    "reference/plans": "tests/unit/plans/authoring/test_layer_variants.py",
    "how-to/csv-files": "tests/e2e/test_dataset_cli.py",
    "tutorials/across-hospitals": "tests/docs/test_tutorials.py",
    "tutorials/first-training": "tests/e2e/test_readme.py",
    "tutorials/own-plan": "tests/docs/test_tutorials.py",
    "tutorials/private-statistics": "tests/docs/test_tutorials.py",
}
"""The test that runs all Python and console blocks of a page. Other pages show commands as indented text."""


def names_of(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@functools.cache
def anchors(path: Path) -> set[str]:
    """What a link can point to in a page: its headings as GitHub and the site name them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", names_of(DOCUMENTS))
def test_links_lead_to_a_file_and_a_heading(document: str) -> None:
    path = ROOT / document
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", path.read_text()):
        if "://" in target:
            continue
        name = Path(os.path.normpath(path.parent / target)) if target else path
        if name.parent == DOCS / "reference" and name.stem in GENERATED:
            continue
        assert name.exists(), target
        assert not anchor or anchor in anchors(name), f"{target}#{anchor}"


def test_every_page_is_in_the_contents() -> None:
    listed = re.findall(r"^([a-z-]+/[\w/*-]+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    found = {str(path.relative_to(DOCS).with_suffix("")) for entry in listed for path in DOCS.glob(f"{entry}.md")}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES}
    assert found - {f"reference/{name}" for name in GENERATED} == pages
    assert {f"reference/{name}" for name in GENERATED} <= set(listed)


def test_every_block_of_python_and_console_is_run_by_a_test() -> None:
    found = {
        str(path.relative_to(DOCS).with_suffix(""))
        for path in PAGES
        if re.search(r"^```(python|console)", path.read_text(), re.MULTILINE)
    }
    assert found == RUN_BY.keys()
    for page, test in RUN_BY.items():
        text = (ROOT / test).read_text()
        assert page in text or f'"{Path(page).name}' in text, test


@pytest.mark.parametrize("page", names_of(PAGES))
def test_a_command_of_a_page_is_one_command_for_a_shell(page: str) -> None:
    """A bar outside of quotes, as in ``categories=f|m``, would start another program."""
    for block in re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            assert not {"|", "||", "&", ";", "("}.intersection(words), line


@pytest.mark.parametrize("page", names_of(PAGES))
def test_a_page_is_short_enough_to_be_read(page: str) -> None:
    path = ROOT / page
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    assert path.stem in UNBOUNDED or len(text.split()) <= MAX_WORDS


@functools.cache
def defined_names(path: Path) -> set[str]:
    """Names of classes, functions, methods and assigned names in a module, wherever they are nested."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.name)
    return found


def module_file(name: str) -> list[Path]:
    """Files of the package whose path ends so: pages shorten the path where the folder is clear."""
    return [path for path in (ROOT / "src" / "pygrid").rglob(Path(name).name) if str(path).endswith(f"/{name}")]


@pytest.mark.parametrize(
    "page",
    [
        "development/contributing.md",
        "development/walks.md",
        "development/walks-jobs.md",
        "development/walks-network.md",
        "explanation/states.md",
        "explanation/states-of-jobs.md",
    ],
)
def test_what_a_page_names_in_the_code_is_there(page: str) -> None:
    text = (DOCS / page).read_text()
    files = re.findall(r"`(?:src/pygrid/)?([a-z_0-9/]+\.py)`", text)
    for name in files:
        assert module_file(name), name
    for name, symbols in re.findall(r"`(?:src/pygrid/)?([\w/]+\.py)` ((?:`\w+`(?:, )?)+)", text):
        known = set().union(*map(defined_names, module_file(name)))
        for symbol in re.findall(r"`(\w+)`", symbols):
            assert symbol in known, f"{name} has no {symbol}"


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f != "reference"])
def test_no_page_names_a_place_that_is_gone(folder: str) -> None:
    """A path with a folder of the package that a page writes as code."""
    for path in (DOCS / folder).glob("*.md"):
        for name in re.findall(r"`((?:src/pygrid|tests|benchmarks|examples|scripts|apps)/[\w/.-]+)`", path.read_text()):
            if "APP" not in name:
                assert (ROOT / name).exists(), f"{path.name}: {name}"
