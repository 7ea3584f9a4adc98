"""The images, built without a container engine and tried as one would run them; scripts/check_images.py says what is tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pygrid.deploy.apps import APPS

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_images.py"


def can_make_root_folders() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_make_root_folders(), reason="makes root folders, which takes Linux, root and its right to mount")
@pytest.mark.parametrize("app", APPS)
def test_an_image_works(app: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), app], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{app}: can write to /data and /tmp only" in done.stdout
