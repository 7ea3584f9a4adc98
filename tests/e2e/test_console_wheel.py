"""The console without a checkout: the wheel, installed by pip, serves what the checkout serves.

The new environment has the wheel and, of the tests' environment, the packages that the wheel requires, but not the
checkout.

Should happen: each page of the route table answers the same from the wheel and from the checkout, with the same
elements and the same files; the sample dataset is stored.
Should not happen: a file of the checkout that is read; a file of the package that the wheel leaves out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

import pygrid.client
from support.console import Page, fill
from support.console_app import ANN, ROOT, App, owner
from support.web import PASSWORD

pytestmark = pytest.mark.slow

MATRIX = tomllib.loads((ROOT / "tests/web/ui/matrix.toml").read_text())
KNOWN = {"dataset_id": "1", "user_id": "1", "path": "nothing"}
CHANGES = ("/admin/health", "/admin/audit", "/admin/settings")
"""Their rows depend on the time, the machine and the address, so only their status and files are compared."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert find_spec("hatchling"), "the package that builds the wheel is not installed: scripts/env dev"
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (found,) = folder.glob("pygrid-*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    found = folder / "bin" / "python"
    install = ["--python", str(found), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *install], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path of a .pth file: its own .pth files, and so the checkout, are not read.
    (packages / "required.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = subprocess.run(
        [found, "-c", "import pygrid; print(pygrid.__file__)"], cwd=folder, check=True, capture_output=True, text=True
    )
    assert Path(where.stdout.strip()).is_relative_to(packages), where.stdout
    return found


def test_the_wheel_has_each_file_of_the_package(wheel: Path) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/pygrid"]
    found = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    names = {name.removeprefix("src/") for name in found if (ROOT / name).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("pygrid/")} == names


def pages_of(kind: str) -> Iterator[str]:
    for route in MATRIX[kind]:
        if route.startswith("GET ") and "/oidc/" not in route:
            yield fill(route.removeprefix("GET "), KNOWN)


def look_at(app: App, kind: str) -> dict[str, tuple[object, ...]]:
    """Status, title, files and elements of each page, as the Owner sees it."""
    found: dict[str, tuple[object, ...]] = {}
    with httpx.Client(base_url=app.url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=60) as web:
        answer = web.post("/admin/login", data={"email": ANN, "password": PASSWORD})
        # A browser sends the cookie to this machine without TLS, and httpx does not.
        web.headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
        if kind == "domain":
            assert web.post("/admin/datasets/sample").status_code == 303
        for path in pages_of(kind):
            answer = web.get(path)
            assert answer.status_code < 500, (path, answer.text[-500:])
            page = Page.read(answer)
            files = {
                href
                for tag in ("link", "script")
                for one in page.find(tag)
                if (href := one.get("href", one.get("src")))
            }
            elements = [(tag, one.get("id"), one.get("class")) for tag, one in page.elements]
            is_stable = not path.startswith(CHANGES)
            title = re.search("<title>([^·]*)", answer.text)
            found[path] = (answer.status_code, title and title[1], files, elements if is_stable else [])
            for name in files:
                assert web.get(name).status_code == 200, name
    return found


@pytest.mark.parametrize("kind", ["domain", "network"])
def test_the_wheel_serves_what_the_checkout_serves(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    seen = []
    for name, interpreter in (("wheel", str(python)), ("checkout", sys.executable)):
        app = App(tmp_path / name, "--id", "same", kind=kind, python=interpreter)
        try:
            if kind == "domain":
                owner(app)
            else:
                pygrid.client.connect_network(app.url).sign_up(ANN, PASSWORD)
            seen.append(look_at(app, kind))
        finally:
            app.stop()
    of_wheel, of_checkout = seen
    assert of_wheel == of_checkout
    assert sum(page[0] == 200 for page in of_wheel.values()) >= (24 if kind == "domain" else 13)
    assert str(ROOT / "src") not in (tmp_path / "wheel" / "log").read_text()
