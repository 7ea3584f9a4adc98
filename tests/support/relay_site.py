"""A relay and a Domain behind it, in one thread of the test's process, over real sockets: what a test changes, it hands
in.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from litestar import Litestar

from pygrid.clock import SystemClock
from pygrid.core.access import USER, Principal
from pygrid.errors import InvalidCredentials, NotFound, Unavailable
from pygrid.features.relay.domain import PipeServer
from pygrid.features.relay.network.pipes import Pipes, RelayLimits
from pygrid.features.relay.network.routes import relay_routes
from pygrid.features.relay.network.service import Relay
from pygrid.lifecycle import AppContext, Feature, Stopping, TaskRunner
from pygrid.metrics import Metrics
from pygrid.transport import open_transport
from pygrid.transport.address import parse_address
from pygrid.transport.certificates import server_context
from pygrid.transport.identity import Identity, IdentityKey
from pygrid.transport.known_domains import KnownDomains
from pygrid.transport.pipes import RelayedConnections
from pygrid.transport.relayed import RelayedTransport, RelayToken
from pygrid.web.app import build_app
from pygrid.web.connections import ConnectionLimits, Connections
from pygrid.web.relayed_reader import RelayedProtocol
from pygrid.web.server import AppServer


class Directory:
    """The Network's Domains, as far as the relay asks: who they are, and how they are asked."""

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.identities: dict[str, IdentityKey] = {}

    async def reach(self, name: str) -> Any:
        if name not in self.identities:
            raise NotFound(f"no Domain {name!r} belongs to this Network", code="domain_not_found")
        if name not in self.members:
            raise Unavailable(f"the Domain {name!r} is not connected now", code="domain_offline", retry_after_s=1.0)
        return self.members[name]

    async def find_identity(self, name: str) -> IdentityKey | None:
        return self.identities.get(name)


class Sessions:
    """One session of the Network, with the token ``good``."""

    async def authenticate(self, token: str) -> Principal:
        if token != "good":
            raise InvalidCredentials("this session is over")
        return Principal(7, USER)


class Member:
    """A Domain in the same event loop, asked without a control link."""

    name = "hospital-a"

    def __init__(self, site: RelaySite, pipes: PipeServer) -> None:
        self.site = site
        self.pipes = pipes

    async def request(
        self, type: str, payload: Mapping[str, Any] | None = None, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        assert type == "open_pipe"
        self.site.asked.append(dict(payload or {}))
        answering = asyncio.ensure_future(self.pipes.handlers(self.site.network_url)[type](dict(payload or {})))
        return await asyncio.shield(answering)  # who asks may stop to listen; the Domain answers all the same


class RelaySite:
    """`running_site` gives one."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, folder: Path, directory: Directory, network_url: str, relay: Relay
    ) -> None:
        self.loop = loop
        self.folder = folder
        self.directory = directory
        self.network_url = network_url
        self.relay = relay
        self.pipe_servers: dict[str, PipeServer] = {}
        self.asked: list[dict[str, Any]] = []
        self.identity: Identity
        self.network_identity: IdentityKey

    def address(self, name: str = "hospital-a", identity: IdentityKey | None = None) -> str:
        url = f"grid+{self.network_url}/{name}"
        return f"{url}?identity={identity}" if identity else url

    def open(
        self, name: str = "hospital-a", *, pinned: bool = True, token: RelayToken | None = None
    ) -> RelayedTransport:
        """A transport to the Domain; ``pinned``: to its identity."""
        address = parse_address(self.address(name, self.directory.identities[name] if pinned else None))
        assert not isinstance(address, str)
        return RelayedTransport(address, relay_token=token, known=KnownDomains(self.folder / "known_domains.json"))

    def open_by_url(self, url: str) -> Any:
        return open_transport(url)

    def call(self, work: Any, timeout_s: float = 30.0) -> Any:
        """What a coroutine gives that runs in the site's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)


@contextlib.contextmanager
def running_site(
    app: Any,
    folder: Path,
    *,
    limits: RelayLimits | None = None,
    is_open: bool = True,
    make_pipes: Callable[[RelayLimits, Stopping, Metrics], Pipes] = Pipes,
    max_pipes: int = 1000,
) -> Iterator[RelaySite]:
    """A relay with one Domain, ``hospital-a``, that serves ``app`` (ASGI).

    Args:
        make_pipes: makes what carries the bytes, for a relay that lies.
    """
    directory, metrics, stopping = Directory(), Metrics(), Stopping()
    identity = Identity.load_or_make(folder / "identity.pem")
    directory.identities["hospital-a"] = identity.key
    network_identity = Identity.make()
    pipes = make_pipes(limits or RelayLimits(), stopping, metrics)
    relay = Relay(pipes, directory, Sessions(), network_identity.key, SystemClock(), is_open=is_open)

    network: Litestar = build_app(
        title="Relay",
        description="A relay alone.",
        context=AppContext(SystemClock(), stopping, metrics, TaskRunner(metrics)),
        features=[Feature(services=(relay,), routes=tuple(relay_routes()))],
        authenticator=Sessions(),
    )
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        relayed = RelayedConnections()
        pipe_server = PipeServer(server_context(identity, folder / "identity.pem"), relayed, max_pipes=max_pipes)
        ready = threading.Event()
        server = AppServer(network, 2, ready.set)
        domain = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=2))
        loops: list[asyncio.AbstractEventLoop] = []

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            domain.config.load()
            domain.lifespan = domain.config.lifespan_class(domain.config)
            await domain.lifespan.startup()
            connections = Connections(ConnectionLimits(), loops[0].time)
            relayed.serve_with(
                lambda caller: RelayedProtocol(
                    domain.config, domain.server_state, domain.lifespan.state, caller=caller, connections=connections
                )
            )
            await server.serve(sockets=[listening])
            await pipe_server.close()
            for connection in list(domain.server_state.connections):
                connection.shutdown()
            await domain.lifespan.shutdown()

        factory = server.config.get_loop_factory()

        def in_thread() -> None:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(run())

        thread = threading.Thread(target=in_thread)
        thread.start()
        try:
            assert ready.wait(30)
            site = RelaySite(loops[0], folder, directory, f"http://127.0.0.1:{listening.getsockname()[1]}", relay)
            site.identity = identity
            site.network_identity = network_identity.key
            site.pipe_servers["hospital-a"] = pipe_server
            directory.members["hospital-a"] = Member(site, pipe_server)
            yield site
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()
