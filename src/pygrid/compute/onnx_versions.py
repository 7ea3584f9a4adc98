"""The versions of ONNX Runtime with which jobs run: those with which the tests of exactness passed.

A private job relies on how the runtime rounds (`pygrid.plans.exact`), and the gate on the shapes and values of its
operators. Both can differ in a version that was not tested. ``scripts/test-runtimes`` tests each version.
"""

from __future__ import annotations

from pygrid import codes
from pygrid.errors import Unavailable

TESTED = ("1.25.1", "1.26.0", "1.27.0", "1.28.0")
"""All releases in the range of ``pyproject.toml``."""


def check_version(version: str) -> None:
    """Check the version of ONNX Runtime that a Worker has loaded. Raises Unavailable: ``runtime_untested``."""
    if version not in TESTED:
        raise Unavailable(
            f"ONNX Runtime {version} is installed, with which jobs were not tested, so this machine runs no job; "
            f"install {', '.join(TESTED[:-1])} or {TESTED[-1]}, for example: pip install onnxruntime=={TESTED[-1]}",
            code=codes.RUNTIME_UNTESTED,
        )
