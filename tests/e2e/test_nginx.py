"""The example for nginx of the page on TLS, in the nginx of this machine, in front of a real Domain.

Should happen: the example is valid as it stands; an upload above nginx's usual limit passes; a device waits for work
and trains; events and messages of the WebSocket pass.
Should not happen: the metrics of the Domain are open to all; an address that a caller made up counts as theirs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect as connect_websocket

from local_processes import LocalProcesses
from operate_site import make_certificate
from pygrid.client import DomainClient, connect
from pygrid.edge import MemoryCache, participate
from support.eventually import eventually_blocking
from support.plans.handmade import logistic_data
from support.sdk import EMAIL, PASSWORD, host

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "tls.md"
MB = 1024**2

pytestmark = pytest.mark.slow


def find_nginx() -> str:
    """Path of the program; the test is skipped without it."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert "CI" not in os.environ, "nginx is not installed"
        pytest.skip("needs nginx")
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    return make_certificate(tmp_path / "ca.pem")


@pytest.fixture
def url(tmp_path: Path, ca_file: Path) -> Iterator[str]:
    """The address of nginx, which passes all to a Domain."""
    program, port = find_nginx(), free_port()
    url = f"https://localhost:{port}"
    with LocalProcesses(tmp_path / "logs") as processes:
        env = {"PYGRID_OPEN_SIGNUP": "0", "PYGRID_TRUSTED_PROXIES": "127.0.0.1"}
        domain = processes.start_domain(tmp_path / "domain", address=url, env=env)
        (site,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
        for written, here in {
            "listen 443 ": f"listen 127.0.0.1:{port} ",
            "/etc/ssl/domain.example.pem": str(ca_file),
            "/etc/ssl/domain.example.key": str(ca_file),
            "http://127.0.0.1:5000": domain,
        }.items():
            assert site.count(written) == 1, written
            site = site.replace(written, here)
        folders = "".join(
            f"{kind}_temp_path {tmp_path / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"pid {tmp_path / 'nginx.pid'};\nerror_log stderr;\ndaemon off;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{folders}{site}}}\n"
        )
        command = [program, "-e", "stderr", "-c", str(config)]
        tried = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert (tried.returncode, "[warn]" in tried.stderr) == (0, False), tried.stderr
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as nginx:
            try:
                eventually_blocking(lambda: is_open(port))
                yield url
            finally:
                nginx.terminate()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sign_up(url: str, ca_file: Path) -> DomainClient:
    owner = connect(url, ca_file=ca_file)
    owner.sign_up(EMAIL, PASSWORD)
    return owner


def test_the_example_of_nginx(url: str, ca_file: Path) -> None:
    owner = sign_up(url, ca_file)
    table = {"x": np.arange(3 * MB // 8, dtype=np.float64)}
    assert owner.datasets.upload("large", table, progress=False).info().num_records == len(table["x"])
    process = host(owner, num_cycles=1)
    done = participate(url, "logistic", logistic_data(), ca_file=str(ca_file), cache=MemoryCache())
    assert (done.finished, done.num_reports) == (True, 1)
    assert [event.kind for event in process.events(after=0)][-1] == "process_finished"
    context = ssl.create_default_context(cafile=str(ca_file))
    with httpx.Client(base_url=url, verify=context) as web:
        assert web.get("/healthz").status_code == 200
        assert web.get("/metrics").status_code == 404
        for number in range(12):  # 10 for an account and an address
            made_up = {"X-Forwarded-For": f"198.51.100.{number}"}
            wrong = {"email": EMAIL, "password": f"wrong {number}"}
            answer = web.post("/users/login", json=wrong, headers=made_up)
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_attempts")
    with connect_websocket(url.replace("https", "wss") + "/", ssl=context) as websocket:
        websocket.send(json.dumps({"type": "socket-ping"}))
        assert json.loads(websocket.recv(timeout=60))["alive"] == "True"
