"""Imports follow the picture in CONTRIBUTING.md; read from the source, so that nothing has to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT, Source, sources

from support.import_picture import Picture, PictureError, read_picture


def test_imports_follow_the_picture():
    picture = read_picture((ROOT / "CONTRIBUTING.md").read_text())
    faults = list(picture.faults(sources(ROOT / "src/pygrid", ROOT / "src")))
    assert not faults, "\n".join(faults)


def test_the_domain_and_the_edge_sdk_work_without_torch():
    program = (
        "import sys\n"
        "sys.modules['torch'] = None  # importing it raises ImportError\n"
        "import pygrid.client, pygrid.domain, pygrid.edge, pygrid.plans.runner, pygrid.cli\n"
        "assert sys.modules['torch'] is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# -- The reader of the picture -----------------------------------------------------------------------------------------

PICTURE = """
# A page

```imports
ground                = errors clock                        (also by each other)
tensors, sandbox      = ground                              pygrid/__init__.py: plans (on first use)
messages, plans       = tensors ground                      plans: sandbox too

core                  = plans messages tensors ground
storage               = core and what core may import
compute               = core, sandbox, and what core may import, without messages
web                   = core, and what core may import
features              = storage web compute, and what they may import
ui, legacy            = features, and what features may import            ui: not storage
domain                = features legacy, and below          domain: edge too
edge                  = messages ground
cli                   = all of the above
never: features/X -> features/Y        compute/runtime -> storage, web       * -> torch, except plans/authoring
never: features/* -> web, litestar     except routes.py, *_routes.py, forms.py     (31 other modules do today)
never: a string that names a module    except in cli/__init__.py (lazy commands; a test imports each)
```

    pygrid = a tree
"""


@pytest.fixture
def picture() -> Picture:
    return read_picture(PICTURE)


def test_packages_may_import_what_their_line_says(picture):
    ground, below_core = {"errors", "clock"}, {"plans", "messages", "tensors", "errors", "clock"}
    assert picture.ground == ground
    assert picture.allowed["errors"] == picture.allowed["tensors"] == picture.allowed["sandbox"] == ground
    assert picture.files == {"pygrid/__init__.py": {"plans"}}
    assert picture.allowed["messages"] == {"tensors"} | ground
    assert picture.allowed["plans"] == {"tensors", "sandbox"} | ground
    assert picture.allowed["core"] == below_core
    assert picture.allowed["storage"] == {"core"} | below_core
    assert picture.allowed["compute"] == {"core", "sandbox"} | below_core - {"messages"}
    features = {"storage", "web", "compute", "core", "sandbox"} | below_core
    assert picture.allowed["features"] == features
    assert picture.allowed["legacy"] == {"features"} | features
    assert picture.allowed["ui"] == {"features"} | features - {"storage"}
    assert picture.allowed["domain"] == {"features", "legacy", "edge"} | features
    assert picture.allowed["cli"] == set(picture.allowed) - {"cli"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("```imports", "```"), "needs one block"),
        (("# A page", "```imports\n```"), "this one has 2"),
        (("plans messages tensors", "plans mesages tensors"), "no line has mesages on its left"),
        (("core and what core may import", "core and what web may import"), "no line above has 'web' on its left"),
        (("storage               =", "storage"), "write names, `=`, and what these may import"),
        (("domain: edge too", "domain edge too"), "is not a note like"),
        (("never: features/X ->", "never: features/X"), "is not a rule like"),
    ],
)
def test_a_block_that_cannot_be_read_says_why(change, message):
    with pytest.raises(PictureError, match=message):
        read_picture(PICTURE.replace(*change, 1))


# -- What it finds -----------------------------------------------------------------------------------------------------

MODULES = [
    "",
    "errors",
    "core",
    "core/cycles",
    "messages",
    "storage",
    "web",
    "features/jobs/service",
    "plans",
    "sandbox",
    "edge",
]


def faults_of(picture: Picture, folder: Path, path: str, text: str) -> list[str]:
    """What a file does against the picture, in a package with MODULES."""
    for name in MODULES:
        file = folder / "pygrid" / name / "__init__.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    file = folder / "pygrid" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return list(picture.faults([*sources(folder / "pygrid", folder)]))


@pytest.mark.parametrize(
    "text", ["import pygrid.storage", "from pygrid import storage", "from .. import storage", "from ..storage import y"]
)
@pytest.mark.parametrize("frame", ["{}", "def f():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_each_spelling_of_an_import_is_seen(picture, tmp_path, frame, text):
    (fault,) = faults_of(picture, tmp_path, "edge/x.py", frame.format(text))
    assert fault.startswith(f"edge/x.py:{frame.count(chr(10)) + 1} imports pygrid.storage")
    assert fault.endswith(": edge may not import storage")


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("core/x.py", "import pygrid, json, pygrid.core.cycles, pygrid.errors, pygrid.messages", None),
        ("core/x.py", "from pygrid import __version__", None),
        ("clock.py", "import pygrid.core", "clock may not import core"),
        ("__init__.py", "def f(): from pygrid.plans import x", None),
        ("__init__.py", "import pygrid.core", "pygrid may not import core"),
        ("unheard/x.py", "", "the picture has no package unheard"),
        ("ui/x.py", "import pygrid.storage", "ui may not import storage"),
        ("legacy/x.py", "import pygrid.storage", None),
        ("plans/x.py", "import pygrid.sandbox", None),
        ("messages/x.py", "import pygrid.sandbox", "messages may not import sandbox"),
        ("features/cycles/x.py", "from pygrid.features.jobs import service", "never features/X -> features/Y"),
        ("features/cycles/x.py", "from pygrid.features import jobs", "never features/X -> features/Y"),
        ("features/jobs/x.py", "from pygrid.features.jobs import service", None),
        ("legacy/x.py", "from pygrid.features.jobs import service", None),
        ("plans/x.py", "import torch.nn", "never * -> torch, except plans/authoring"),
        ("plans/x.py", "import torchvision", None),
        ("plans/authoring/deep/x.py", "from torch import nn", None),
        ("features/jobs/x.py", "from litestar.di import Provide", "never features/* -> web, litestar except"),
        ("features/jobs/x.py", "import pygrid.web.auth", "never features/* -> web, litestar except"),
        ("features/jobs/routes.py", "import litestar, pygrid.web", None),
        ("features/jobs/network_routes.py", "import litestar, pygrid.web", None),
        ("features/jobs/routes/x.py", "import litestar", "never features/* -> web, litestar except"),
        ("features/jobs/more_forms.py", "import litestar", "never features/* -> web, litestar except"),
        (
            "compute/x.py",
            "NAME = 'pygrid.core.cycles'",
            "compute/x.py:1 names the module pygrid.core.cycles in a string",
        ),
        (
            "compute/x.py",
            "NAME = 'pygrid.core.cycles:f'",
            "compute/x.py:1 names the module pygrid.core.cycles:f in a string",
        ),
        ("compute/x.py", "NAME = 'pygrid.unheard'; TEXT = 'see pygrid.core.cycles'", None),
        ("cli/__init__.py", "NAME = 'pygrid.core.cycles'", None),
        ("cli/x.py", "NAME = 'pygrid.core.cycles'", "cli/x.py:1 names the module pygrid.core.cycles in a string"),
    ],
)
def test_what_is_a_fault(picture, tmp_path, path, text, fault):
    found = faults_of(picture, tmp_path, path, text)
    assert len(found) == (fault is not None), found
    assert all(fault in one for one in found)


def test_a_rule_can_refuse_what_the_packages_allow(picture, tmp_path):
    text = "import pygrid.storage"
    assert faults_of(picture, tmp_path, "compute/runtime/x.py", text) == [
        "compute/runtime/x.py:1 imports pygrid.storage: compute may not import storage",
        "compute/runtime/x.py:1 imports pygrid.storage: never compute/runtime -> storage, web",
    ]


def test_imported_names_keep_their_lines():
    source = Source(Path(__file__), Path(__file__).parents[1])
    assert next(source.imports())[1] == "__future__.annotations"
    assert "support.import_picture.Picture" in [name for _, name in source.imports()]
