"""Imports point down, as the picture in CONTRIBUTING.md draws them; read from the source, so that nothing has to run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pygrid

ROOT = Path(pygrid.__file__).parent
NOTHING: frozenset[str] = frozenset()
GROUND = {"", "errors", "clock", "ids", "settings", "logs", "metrics"}
PURE = {"plans", "aggregation", "privacy", "secagg", "tensors"}
WIRE = {"transport", "messages", "tensors"}
CORE = PURE | {"core", "messages"}
FEATURES = CORE | WIRE | {"web", "storage", "sandbox", "tabular"}
APPS = FEATURES | {"features", "ui"}
TOP = APPS | {"domain", "network", "worker", "client", "edge"}

BELOW = {
    **dict.fromkeys(GROUND, NOTHING),
    "": {"plans"},  # the root package offers the authoring names, on first use
    "tensors": NOTHING,
    "sandbox": NOTHING,
    "messages": {"tensors"},
    "transport": {"messages", "tensors"},
    **dict.fromkeys(PURE - {"tensors"}, frozenset({"tensors"})),
    "plans": {"tensors", "sandbox"},  # what reads a stranger's plan locks itself in first
    "core": PURE | {"messages"},  # both sides spell the reasons for a refusal in the same way
    "storage": CORE,
    "tabular": CORE,
    "web": CORE | WIRE,
    "features": FEATURES,
    "ui": FEATURES | {"features"},
    **dict.fromkeys(("network", "worker"), APPS),
    "domain": APPS | {"edge"},  # a federated job makes it a client of another Domain
    **dict.fromkeys(("client", "edge"), PURE | WIRE),
    **dict.fromkeys(("deploy", "simulation"), TOP),
    "cli": TOP | {"deploy"},
    "__main__": {"cli"},
}
"""What each part may import besides itself and the ground."""


def imports(file: Path) -> Iterator[str]:
    """The dotted names of every import in a file, wherever it stands; relative ones made absolute."""
    package = ["pygrid", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """The part of pygrid that a dotted name belongs to: ``pygrid.core.cycles`` -> ``core``; pygrid's own names -> ``""``."""
    first = name.split(".")[1] if "." in name else ""
    return first if (ROOT / first).is_dir() or (ROOT / f"{first}.py").is_file() else ""


def test_imports_point_down():
    wrong = []
    for file in ROOT.rglob("*.py"):
        here = file.relative_to(ROOT).parts
        own = "" if here == ("__init__.py",) else here[0].removesuffix(".py")
        assert own in BELOW, f"{file} belongs to no part that the picture knows"
        for name in imports(file):
            if name.split(".")[0] == "pygrid" and (target := part(name)) not in BELOW[own] | GROUND | {own}:
                wrong.append(f"{file.relative_to(ROOT)} ({own}) imports {name} ({target})")
    assert not wrong, "\n".join(wrong)


def test_features_do_not_import_each_other():
    wrong = []
    for file in (ROOT / "features").rglob("*.py"):
        own = file.relative_to(ROOT / "features").parts[0]
        for name in imports(file):
            if name.startswith("pygrid.features.") and name.split(".")[2] != own:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_only_authoring_names_torch():
    authoring = ROOT / "plans" / "authoring"
    files = [file for file in ROOT.rglob("*.py") if not file.is_relative_to(authoring)]
    assert not [file for file in files if any(name.split(".")[0] == "torch" for name in imports(file))]


def test_the_check_sees_what_it_should(tmp_path, monkeypatch):
    """A wrong import of each spelling is found, so an empty list above means something."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "edge").mkdir()
    (tmp_path / "storage.py").touch()
    file = tmp_path / "edge" / "x.py"
    for text in ("import pygrid.storage", "from pygrid import storage", "from .. import storage", "from ..storage import y"):
        file.write_text(f"def f():\n    {text}\n")
        assert [part(name) for name in imports(file)] == ["storage"], text


def test_the_domain_and_the_edge_sdk_work_without_torch():
    program = (
        "import sys\n"
        "sys.modules['torch'] = None  # importing it raises ImportError\n"
        "import pygrid.client, pygrid.domain, pygrid.edge, pygrid.plans.runner, pygrid.cli\n"
        "assert sys.modules['torch'] is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
