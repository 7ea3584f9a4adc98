"""Whether an app is ready, asked over a real socket.

Should happen: an app that answers 200 is ready; any other is not, with its own words for why.
Should not happen: a health check that asks another port than the app listens on.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pygrid.deploy.apps import LISTENING
from pygrid.deploy.health import find_trouble
from pygrid.errors import InvalidConfig
from pygrid.settings import load_network_settings, load_settings


@contextlib.contextmanager
def app_that_answers(status: int) -> Iterator[int]:
    """The port of an app with this answer to /readyz, and 404 to everything else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b"the database does not answer")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_an_app_that_is_ready_has_no_trouble() -> None:
    with app_that_answers(200) as port:
        assert find_trouble("127.0.0.1", port) is None
        assert find_trouble("0.0.0.0", port) is None


def test_an_app_that_is_not_says_why() -> None:
    with app_that_answers(503) as port:
        assert find_trouble("", port) == "answers 503: the database does not answer"


def test_no_app_is_told_so() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        trouble = find_trouble("127.0.0.1", port, timeout_s=1)
    assert trouble is not None
    assert f"no answer on port {port}" in trouble


@pytest.mark.parametrize(("app", "load"), [("domain", load_settings), ("network", load_network_settings)])
@pytest.mark.parametrize("set_up", [(), (0,), (1,), (0, 1)])
def test_the_port_is_the_one_that_the_app_listens_on(app: str, load: object, set_up: tuple[int, ...]) -> None:
    listening = LISTENING[app]  # type: ignore[index]
    environment = {listening.port_variables[index]: str(6000 + index) for index in set_up}
    settings = load(environment | {"SECRET_KEY": "k" * 64, listening.host_variable: "::1"})  # type: ignore[operator]
    assert listening.port(environment) == settings.port
    assert settings.host == "::1"


def test_a_port_that_is_none_is_named() -> None:
    with pytest.raises(InvalidConfig, match="PORT is 'x'"):
        LISTENING["domain"].port({"PORT": "x"})


def test_the_command_of_the_images() -> None:
    command = [sys.executable, "-m", "pygrid.deploy.health", "network"]
    with app_that_answers(200) as port:
        for status, asked in ((0, port), (1, 1)):
            environment = os.environ | {"GRID_NETWORK_PORT": str(asked), "GRID_NETWORK_HOST": "0.0.0.0"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
            assert done.returncode == status, done.stderr
    assert "no answer on port 1" in done.stderr
    program = (
        "import sys, pygrid.deploy.health; print([name for name in ('httpx', 'yaml', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    assert done.stdout.strip() == "[]", "it is started every half minute, for as long as a container lives"
