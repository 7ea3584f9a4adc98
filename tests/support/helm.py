"""The program Helm, as `scripts/engines` installs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LAYER = "2.2.2"
"""Version of the package that contains it."""


def find_helm() -> Path:
    """The program. Where it is not installed, the test is skipped; in CI that is an error."""
    folder = os.environ.get("PYGRID_ENGINES_DIR") or str(Path.home() / ".cache" / "pygrid-engines")
    program = Path(folder) / f"helm-{LAYER}" / "helm"
    if not program.exists():
        text = f"Helm is not installed in {folder}: run scripts/engines"
        assert not os.environ.get("CI"), text
        pytest.skip(text)
    return program
