"""Which packages the process of a Domain loads.

Should happen: importing the Domain loads the packages below.
Should not happen: it loads what only its children need (ONNX Runtime, onnx, pyarrow), which costs each Domain time and
memory. A function that runs in a child imports such packages itself (`pygrid.sandbox.process`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALLOWED = {
    "annotated_types",
    "anyio",
    "argon2",
    "certifi",
    "cryptography",
    "h11",
    "httpcore",
    "litestar",
    "msgspec",
    "multidict",
    "multipart",
    "numpy",
    "prometheus_client",
    "pygrid",
    "sniffio",
    "sqlalchemy",
    "typing_extensions",
    "websockets",
    "yaml",
}
PROGRAM = """
import sys
before = set(sys.modules)
import pygrid.domain
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(*sorted(name for name in loaded if not name.startswith("_") and name != "cython_runtime"))
"""


def test_importing_the_domain_loads_no_package_that_only_its_children_need() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", PROGRAM], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"pygrid", "litestar"} <= loaded
    assert loaded - ALLOWED == set()


RUNNING = """
import asyncio, sys
from pathlib import Path
from pygrid.{kind} import build_{kind}
from pygrid.settings import {load}

async def run():
    async with build_{kind}({load}({{}}, data_dir=Path(sys.argv[1]))).lifespan():
        print(*sorted(sys.modules))

asyncio.run(run())
"""


def modules_of(kind: str, folder: Path) -> list[str]:
    """What a started app has loaded, with its console."""
    load = "load_settings" if kind == "domain" else "load_network_settings"
    command = [sys.executable, "-I", "-c", RUNNING.format(kind=kind, load=load), str(folder / "data")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_domain_with_its_files_in_the_data_folder_loads_no_client_of_a_store(tmp_path: Path) -> None:
    loaded = modules_of("domain", tmp_path)
    assert {"pygrid.domain", "pygrid.ui.pages.datasets"} <= set(loaded)
    assert [name for name in loaded if name.startswith(("obstore", "pygrid.storage.blobs.s3"))] == []
    assert "pygrid.storage.blobs.remote_store" not in loaded
    assert not {"attr", "pydantic"} & set(loaded)  # msgspec alone checks values
    # Of the console, only what is needed before somebody opens it; nothing of the SDK.
    assert not {"jinja2", "rich", "pygrid.client", "pygrid.ui.pages.relay"} & set(loaded)


def test_a_network_loads_no_page_of_a_domain(tmp_path: Path) -> None:
    loaded = modules_of("network", tmp_path)
    assert "pygrid.ui.pages.relay" in loaded
    own = [name for name in loaded if name.startswith(("pygrid.features.jobs", "pygrid.ui.pages.datasets", "jinja2"))]
    assert own == []
