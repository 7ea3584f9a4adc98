"""Jobs run with the versions of ONNX Runtime that were tested, and with no other one.

Should happen: a machine with another version says which one it has, and which ones it may have.
Should not happen: a job on a version that pip installed by itself.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import onnxruntime
import pytest
from packaging.requirements import Requirement

from pygrid.compute.local import LocalDriver
from pygrid.compute.onnx_versions import TESTED, check_version
from pygrid.errors import Unavailable


def test_the_package_allows_the_tested_versions_only() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    wanted = next(one for one in map(Requirement, project["dependencies"]) if one.name == "onnxruntime")
    assert all(wanted.specifier.contains(version) for version in TESTED)
    # Of the releases of ONNX Runtime around the range.
    assert not any(wanted.specifier.contains(version) for version in ("1.23.2", "1.24.4", "1.25.0", "1.29.0", "1.32.0"))
    assert onnxruntime.__version__ in TESTED


@pytest.mark.parametrize("version", ["1.23.2", "1.25.0", "1.28.1", "1.29.0", "1.32.0", "", "1.28.0.dev1"])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(Unavailable, match=r"install 1\.25\.1, .* or 1\.28\.0") as refused:
        check_version(version)
    assert refused.value.code == "runtime_untested"


async def test_a_worker_with_another_version_runs_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalDriver():
        pass
    monkeypatch.setattr("pygrid.compute.onnx_versions.TESTED", ("1.0.0", "1.1.0"))
    driver = LocalDriver()
    try:
        with pytest.raises(Unavailable, match=f"ONNX Runtime {onnxruntime.__version__} is installed") as refused:
            await driver.start()
        assert refused.value.code == "runtime_untested"
    finally:
        await driver.close()
