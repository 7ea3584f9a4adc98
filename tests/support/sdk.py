"""A Domain in this process for the tests of the SDKs, and a transport to it on which things go wrong when told to."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pygrid.client import DomainClient, Process, connect
from pygrid.domain import build_domain
from pygrid.errors import PygridError
from pygrid.settings import load_settings
from pygrid.transport import AsgiTransport, Request, Response
from pygrid.transport.base import connection_lost
from support.plans.handmade import logistic_params, logistic_plan

EMAIL, PASSWORD = "owner@example.org", "correct horse battery staple"


@contextlib.contextmanager
def running_domain(folder: Path) -> Iterator[AsgiTransport]:
    """A Domain with everything in ``folder``, without sockets; leave the context and enter it again to restart it."""
    transport = AsgiTransport(build_domain(load_settings({}, data_dir=folder)))
    try:
        yield transport
    finally:
        transport.close()


def owner_of(transport: AsgiTransport) -> DomainClient:
    """The Owner's session; the account is made if it is not there."""
    domain = connect(transport=transport)
    try:
        domain.sign_up(EMAIL, PASSWORD)
    except PygridError:
        domain.login(EMAIL, PASSWORD)
    return domain


def host(domain: DomainClient, name: str = "logistic", version: str = "1.0", **changes: Any) -> Process:
    """A process of softmax regression, by default for one device and two cycles."""
    client_config = {"epochs": 2, "batch_size": 16, "lr": 0.1} | changes.pop("client_config", {})
    server_config = {"num_cycles": 2, "cycle_length": 60, "min_workers": 1, "min_diffs": 1, "max_diffs": 1} | changes
    return domain.host(
        name,
        version,
        model=logistic_params(),
        plans=logistic_plan(),
        client_config=client_config,
        server_config=server_config,
    )


class Flaky:
    """A transport that passes requests on, except for what was planned for the next ones to a path.

    ``lose_answer``: the server acts on the request, but its answer does not arrive. ``lose_request``: it never arrives.
    ``refuse``: the server would have said this. ``before``: something happens first.
    """

    def __init__(self, inner: AsgiTransport) -> None:
        self.inner = inner
        self.requests: list[Request] = []
        self._plans: dict[str, deque[Any]] = {}

    @property
    def url(self) -> str:
        return self.inner.url

    def plan(self, path: str, *steps: Any) -> None:
        """What is to happen to the next requests whose path ends so: a name, an error to raise, or a function
        to call.
        """
        self._plans.setdefault(path, deque()).extend(steps)

    def paths(self) -> list[str]:
        """The last part of the path of each request so far."""
        return [request.path.rpartition("/")[2] for request in self.requests]

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        steps = self._plans.get(request.path.rpartition("/")[2])
        step = steps.popleft() if steps else None
        if isinstance(step, PygridError):
            raise step
        if step == "lose_request":
            raise connection_lost(self.url, "the test said so")
        if callable(step):
            step()
        response = self.inner.send(request)
        if step == "lose_answer":
            with response:
                response.read(10_000_000)
            raise connection_lost(self.url, "the test said so")
        return response

    def close(self) -> None:
        self.inner.close()
