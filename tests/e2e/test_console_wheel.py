"""The console without a checkout: what the wheel holds is enough for every page and every file.

Should happen: each page that needs no object answers 200 for the Owner, with its static files.
Should not happen: a file of the repository that is read; a file of the console that the wheel leaves out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from support import permissions
from support.console_app import ANN, ROOT, App, owner
from support.web import PASSWORD

pytestmark = pytest.mark.slow


def unpack_wheel(folder: Path) -> Path:
    """The files that the build puts into the wheel: those below ``src/pygrid`` that git does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/pygrid"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        target = folder / Path(name).relative_to("src")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder


def test_the_wheel_alone_serves_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(unpack_wheel(tmp_path / "wheel")))
    monkeypatch.chdir(tmp_path)
    app = App(tmp_path / "domain")
    try:
        owner(app)
        files: set[str] = set()
        with httpx.Client(base_url=app.url, headers={"Sec-Fetch-Site": "same-origin"}) as web:
            assert web.post("/admin/login", data={"email": ANN, "password": PASSWORD}).status_code == 303
            pages = [route.removeprefix("GET ") for route in permissions.read()["domain"] if "GET /admin" in route]
            others = ("/admin/setup", "/admin/live", "/admin/oidc/start", "/admin/oidc/callback")
            for path in [page for page in pages if "{" not in page and page not in others]:
                answer = web.get(path, follow_redirects=True)
                assert answer.status_code == 200, (path, answer.text[-500:])
                files |= set(re.findall(r'(?:src|href)="(/admin/static/[^"]+)"', answer.text))
            assert len(files) >= 6
            for name in files:
                assert web.get(name).status_code == 200, name
    finally:
        app.stop()
    log = (tmp_path / "domain" / "log").read_text()
    assert str(ROOT / "src") not in log
