"""Settings of Sphinx. `scripts/docs` builds the site; nothing is read from the network."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

import pygrid

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
importlib.import_module("reference").write_pages()

project = "pygrid"
author = "the authors of pygrid"
version = release = pygrid.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"pygrid {release}"
exclude_patterns = ["_build", "[!i]*.md"]
"""The pages of old names, at the top, are only for readers of the repository."""
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]
autodoc_default_options = {"members": True, "imported-members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
copybutton_prompt_text = "$ "


def name_repository_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links to files outside of the site into their text and path: the site has no copy of them."""
    folder = (ROOT / "docs" / page).parent

    def plain(link: re.Match[str]) -> str:
        path = (folder / link[2]).resolve()
        if not path.exists() or path.is_relative_to(ROOT / "docs"):
            return link[0]
        return f"{link[1]} (`{path.relative_to(ROOT)}`)"

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#:\s]+)(?:#[^)]*)?\)", plain, source[0])


def leave_out_module_docstrings(
    app: Sphinx, kind: str, name: str, item: object, options: object, lines: list[str]
) -> None:
    """Each page of a module has its own words; what is documented on it are the names."""
    if kind == "module":
        lines.clear()


def setup(app: Sphinx) -> None:
    app.connect("source-read", name_repository_files)
    app.connect("autodoc-process-docstring", leave_out_module_docstrings)
