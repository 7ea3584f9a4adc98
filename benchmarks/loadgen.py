"""A lean client of the native protocol: many devices in one process that cost it as little as possible.

It measures the server, so it trains nothing and parses only what it must. It speaks the protocol of
`docs/reference/protocol.md`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

Bytes = bytes | bytearray | memoryview
Address = tuple[str, int]


class RequestFailed(Exception):
    """The server answered with another status than expected; ``status`` and the start of the body."""

    def __init__(self, path: str, status: int, body: bytes) -> None:
        super().__init__(f"{path}: {status} {body[:500].decode(errors='replace')}")
        self.status = status


@dataclass(frozen=True)
class Response:
    """An answer; ``body`` is empty if the request asked to discard it, ``num_bytes`` is its length in any case."""

    status: int
    headers: dict[str, str]
    body: bytes
    num_bytes: int

    def json(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.body)
        return answer


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection, one request at a time. Gives ConnectionError when the server goes away."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._asked = ""
        self._reset(False)

    @classmethod
    async def open(cls, address: Address, source: str = "127.0.0.1") -> Connection:
        """Connect from one of the loopback addresses."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, *address, local_addr=(source, 0))
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(
                ConnectionError(f"the server closed the connection before it answered {self._asked}")
            )

    async def request(
        self,
        method: str,
        path: str,
        body: Bytes = b"",
        *,
        content_type: str = "application/octet-stream",
        bearer: str = "",
        expect: Sequence[int] = (200,),
        discard: bool = False,
    ) -> Response:
        """Send one request and wait for its answer. ``discard`` counts the bytes of the answer's body and forgets them.

        Raises:
            RequestFailed: the status is not among ``expect``.
            ConnectionError: the connection is, or was, closed before the answer came.
        """
        if self._transport is None:
            raise ConnectionError("the connection is closed")
        self._reset(discard)
        self._asked = path
        self._answer = asyncio.get_running_loop().create_future()
        authorization = f"authorization: Bearer {bearer}\r\n" if bearer else ""
        kind = f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n" if method == "POST" else ""
        self._transport.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}{kind}\r\n".encode())
        if body:
            self._transport.write(body)
        response = await self._answer
        if response.status not in expect:
            raise RequestFailed(path.partition("?")[0], response.status, response.body)
        return response

    async def post_json(self, path: str, message: dict[str, Any], **options: Any) -> Response:
        return await self.request(
            "POST", path, json.dumps(message).encode(), content_type="application/json", **options
        )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _reset(self, discard: bool) -> None:
        self._discard = discard
        self._received = bytearray()
        self._headers: dict[str, str] | None = None
        self._status = 0
        self._num_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._headers is None:
            self._received += data
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(bytes(self._received[:end]))
            self._num_bytes = len(self._received) - end - 4
            del self._received[: end + 4]
        else:
            self._num_bytes += len(data)
            if not self._discard or "content-length" not in self._headers:
                self._received += data
        self._finish_if_complete()

    def _read_head(self, head: bytes) -> None:
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self._status = int(status_line.split(" ", 2)[1])
        pairs = (line.partition(":") for line in lines)
        self._headers = {name.lower(): value.strip() for name, _, value in pairs}

    def _finish_if_complete(self) -> None:
        assert self._headers is not None
        if self._headers.get("transfer-encoding") == "chunked":
            # Only small answers of a Domain are chunked, so that reading them again from the start costs nothing.
            body = _dechunk(self._received)
            if body is None:
                return
            self._num_bytes = len(body)
        else:
            length = int(self._headers.get("content-length", 0)) if self._status not in (204, 304) else 0
            if self._num_bytes < length:
                return
            body = b"" if self._discard and self._status == 200 else bytes(self._received)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Response(self._status, self._headers, body, self._num_bytes))


def _dechunk(data: bytearray) -> bytes | None:
    """The body of a complete chunked message, None if more is to come."""
    body = bytearray()
    position = 0
    while (end := data.find(b"\r\n", position)) >= 0:
        size = int(data[position:end].split(b";")[0], 16)
        if len(data) < end + 2 + size + 2:
            return None
        if size == 0:
            return bytes(body)
        body += data[end + 2 : end + 2 + size]
        position = end + 2 + size + 2
    return None


@dataclass(frozen=True)
class Process:
    """A hosted process, as far as a device needs it."""

    name: str
    version: str
    id: int
    token: str
    """The owner's session."""


class Device:
    """One edge client: a connection and, once authenticated, an identity."""

    def __init__(self, connection: Connection, process: Process) -> None:
        self.connection = connection
        self.process = process
        self.worker_id = ""

    async def authenticate(self) -> None:
        message = {"model_name": self.process.name, "model_version": self.process.version}
        answer = await self.connection.post_json("/model-centric/authenticate", message)
        self.worker_id = answer.json()["worker_id"]

    async def join(self, wait_s: float = 0.0) -> dict[str, Any]:
        """Ask for work; the server's answer, accepted or rejected."""
        message = {
            "worker_id": self.worker_id,
            "model": self.process.name,
            "version": self.process.version,
            "wait_s": wait_s,
        }
        return (await self.connection.post_json("/model-centric/cycle-request", message)).json()

    async def download(self, acceptance: dict[str, Any]) -> int:
        """Fetch the model and forget it; gives its length in bytes."""
        path = f"/model-centric/get-model?model_id={acceptance['model_id']}"
        answer = await self.connection.request("GET", path, bearer=acceptance["request_key"], discard=True)
        return answer.num_bytes

    async def report(self, request_key: str, body: Bytes) -> None:
        """Send a report; when this returns it is durable."""
        await self.connection.request("POST", "/model-centric/report", body, bearer=request_key)


async def open_devices(address: Address, process: Process, num: int, source: str = "127.0.0.1") -> list[Device]:
    """``num`` authenticated devices, each with a connection of its own."""
    devices = [Device(await Connection.open(address, source), process) for _ in range(num)]
    await asyncio.gather(*(device.authenticate() for device in devices))
    return devices


async def sign_up(address: Address, email: str, password: str) -> str:
    """Make the first account of a Domain, its Owner, and log in; gives the session token."""
    connection = await Connection.open(address)
    account = {"email": email, "password": password}
    await connection.post_json("/users", account, expect=(200, 201))
    token: str = (await connection.post_json("/users/login", account, expect=(200, 201))).json()["token"]
    connection.close()
    return token


async def host(
    address: Address,
    token: str,
    name: str,
    model: Bytes,
    plan: Bytes,
    server_config: dict[str, Any],
    more: Mapping[str, Bytes] | None = None,
) -> Process:
    """Host a process in version 1.0; ``more``: further parts of the form."""
    config = {"client_config": {"name": name, "version": "1.0"}, "server_config": server_config}
    parts = {"config": json.dumps(config).encode(), "model": model, "plan:training_plan": plan, **(more or {})}
    boundary = secrets.token_hex(16)
    body = bytearray()
    for part, content in parts.items():
        disposition = f'form-data; name="{part}"' + ("" if part == "config" else f'; filename="{part}"')
        body += f"--{boundary}\r\ncontent-disposition: {disposition}\r\n\r\n".encode()
        body += content
        body += b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    connection = await Connection.open(address)
    answer = await connection.request(
        "POST",
        "/model-centric/host-training",
        body,
        content_type=f"multipart/form-data; boundary={boundary}",
        bearer=token,
        expect=(201,),
    )
    connection.close()
    return Process(name, "1.0", answer.json()["id"], token)


async def cycles(address: Address, process: Process, after: int = 0) -> list[dict[str, Any]]:
    """The cycles of a process after a number, oldest first, at most 100."""
    connection = await Connection.open(address)
    path = f"/model-centric/processes/{process.id}/cycles?after={after}&limit=100"
    answer = await connection.request("GET", path, bearer=process.token)
    connection.close()
    found: list[dict[str, Any]] = answer.json()["cycles"]
    return found


async def checkpoint(address: Address, process: Process, number: int) -> bytes:
    """The bytes of a checkpoint."""
    connection = await Connection.open(address)
    path = f"/model-centric/retrieve-model?name={process.name}&version={process.version}&checkpoint={number}"
    answer = await connection.request("GET", path, bearer=process.token)
    connection.close()
    return answer.body
