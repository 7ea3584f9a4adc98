"""What a terminal would obey never reaches it: every command is run against a server whose every text is hostile.

The server answers each request by the OpenAPI document of a real app, so that answers have the right form, and puts
escape sequences, control characters, direction marks, line breaks and markup into every text. A second one refuses
everything.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import pygrid.cli
from pygrid.cli import COMMANDS, app
from pygrid.cli.output import line, say, say_json
from pygrid.domain import build_domain
from pygrid.features.accounts.service import AccountService
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.storage.sql.database import Database
from pygrid.web.services import service

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2066\u200f\rfake\x00[bold red]x[/]\x7f\nfake: line"
LOCAL = {"domain", "network", "plan", "audit", "up", "edge", "federate", "doctor", "store"}
"""Commands that print answers of no server, or only in walks of their own; their files are checked by the test of
sources.
"""

WALK = [
    words.split()
    for words in """
login {url} --email a@b.c --password-stdin
login {url} --logout
account rotate-key
account revoke-key
account password --password-stdin
user list
user list --json
user add evil --password-stdin
user role evil evil
user password evil --password-stdin
user remove evil --yes
user invite evil
user invitations
user withdraw evil
user reset evil
account accept {url} evil --password-stdin
account recover {url} evil --password-stdin
token make evil
token list
token revoke evil
role list
role show evil
role add evil
role remove evil
search evil --network {url}
search evil --network {url} --json
process list
process list --json
process show evil
process pause evil
process resume evil
process delete evil --yes
dataset rename evil worse
process show evil --json
process finish evil
dataset list
dataset list --json
dataset search evil
dataset show evil
dataset show evil --json
dataset update evil --description x
dataset delete evil --yes
job list
job list --json
job show evil
job show evil --json
job cancel evil
request list
request show evil
request approve evil --yes
request deny evil
request revoke evil
budget show evil --url {url}
budget show evil --url {url} --json
model checkpoints evil
model served
model withdraw evil
host nothing.safetensors --plan nothing --name x --version y
association list
association list --json
association join {url}
association leave evil
domains list --network {url}
domains list --network {url} --json
domains show evil --network {url}
domains show evil --network {url} --json
domains accept evil --network {url}
domains deny evil --network {url}
domains revoke evil --network {url}
domains forget evil --network {url}
domains invitations --network {url}
domains invite --network {url}
worker list
worker list --json
worker token evil
worker revoke evil
""".strip().splitlines()
]


class Answers:
    """Values that fit a schema, with `EVIL` wherever a text is free."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._schemas = document["components"]["schemas"]
        self._routes = [
            (method.upper(), re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path)), operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in ("get", "post", "put", "delete")
        ]

    def answer(self, method: str, path: str) -> tuple[int, Any] | None:
        for known, pattern, operation in self._routes:
            if known == method and pattern.fullmatch(path):
                status, response = next(iter(sorted(operation["responses"].items())))
                content = response.get("content", {}).get("application/json")
                return int(status), None if content is None else self._fill(content["schema"], 0)
        return None

    def _fill(self, schema: dict[str, Any], depth: int) -> Any:
        if "$ref" in schema:
            return self._fill(self._schemas[schema["$ref"].rpartition("/")[2]], depth + 1)
        for key in ("oneOf", "anyOf"):
            if key in schema:
                kinds = [kind for kind in schema[key] if kind.get("type") != "null"]
                return None if depth > 12 else self._fill(kinds[0], depth + 1)
        if "const" in schema or "enum" in schema:
            return schema["const"] if "const" in schema else schema["enum"][0]
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next(name for name in kind if name != "null")
        if kind == "string":
            return "2026-01-01T00:00:00Z" if schema.get("format") == "date-time" else EVIL[: schema.get("maxLength")]
        if kind in ("integer", "number"):
            return max(1, schema.get("minimum", 1))
        if kind == "boolean":
            return True
        if kind == "array":
            return [] if depth > 12 else [self._fill(schema.get("items", {"type": "string"}), depth + 1)]
        values = {name: self._fill(part, depth + 1) for name, part in schema.get("properties", {}).items()}
        return values  # a map of free keys stays empty: the document does not say what its values are


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[Answers]:
    folder = tmp_path_factory.mktemp("apps")
    apps = [
        build_domain(load_settings({}, data_dir=folder / "domain")),
        build_network(load_network_settings({}, data_dir=folder / "network")),
    ]
    made = [Answers(json.loads(json.dumps(built.openapi_schema.to_schema(), default=str))) for built in apps]
    for built in apps:
        service(built.state, AccountService).close()
        service(built.state, Database).close()
    return made


@contextmanager
def hostile(answers: list[Answers]) -> Iterator[str]:
    """The address of a server; without ``answers`` it refuses everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            found = next(
                (a for one in answers if (a := one.answer(self.command, self.path.split("?")[0])) is not None), None
            )
            kind = "application/json"
            if found is None:
                kind = "application/problem+json"
                found = 403, {"status": 403, "code": "evil", "title": EVIL, "detail": EVIL}
            body = b"" if found[1] is None else json.dumps(found[1]).encode()
            self.send_response(found[0])
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = handle_one

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def assert_harmless(output: str) -> None:
    found = {character for character in output if character not in "\n\t" and not character.isprintable()}
    assert not found, output
    assert "\nfake: line" not in output, "a line of another speaker"


@pytest.mark.parametrize("refuses", [False, True])
def test_no_command_prints_what_a_terminal_obeys(
    documents: list[Answers], refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    reached = set()
    with hostile([] if refuses else documents) as url:
        monkeypatch.setenv("PYGRID_URL", url)
        monkeypatch.setenv("PYGRID_TOKEN", "t" * 64)
        for words in WALK:
            arguments = [word.format(url=url) for word in words]
            done = CliRunner().invoke(app, arguments, input="a password\ny\n", catch_exceptions=True)
            if words[0] != "host":  # its arguments are files
                assert done.exit_code != 2, (words, done.output)
            assert_harmless(done.output)
            if done.exit_code == 0 and "evil" in done.output:
                reached.add(words[0])
            # What `main` prints of an error.
            assert_harmless(line(getattr(done.exception, "detail", "")))
    if not refuses:
        assert reached >= {"process", "dataset", "job", "request", "association", "domains"}, reached


def test_every_command_is_walked_or_local() -> None:
    assert {words[0] for words in WALK} | LOCAL == set(COMMANDS)


def test_commands_print_through_one_function() -> None:
    """`print`, `typer.echo` and writes to the streams are in one file; a console of Rich gets `Text` or escaped
    text.
    """
    wrong = []
    for file in Path(pygrid.cli.__file__).parent.glob("*.py"):
        if file.name == "output.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            is_stream = called in ("typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write")
            is_raw = called.endswith(".print") and node.args and isinstance(node.args[0], ast.JoinedStr | ast.Constant)
            if called == "print" or is_stream or is_raw:
                wrong.append(f"{file.name}:{node.lineno}: {called}")
    assert not wrong


@pytest.mark.parametrize("text", [EVIL, "\u2028\u2029", "\ud800", "\U000e0001", "\x85", "\u061c"])
def test_a_line_is_one_line_of_printable_characters(text: str) -> None:
    shown = line(f"name {text} end")
    assert shown.isprintable()
    assert shown.startswith("name ")
    assert shown.endswith(" end")


def test_json_for_scripts_keeps_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: [EVIL, "ä", "\U000e0001"]}
    say_json(value)
    printed = capsys.readouterr().out
    assert_harmless(printed)
    assert msgspec.json.decode(printed) == value
    assert "ä" in printed


def test_a_line_is_written_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the lines of two threads can become one, as with the apps of ``pygrid up``."""
    writes: list[str] = []

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Out())
    say("is ready", label="alice | ")
    assert [text for text in writes if text] == ["alice | is ready\n"]
