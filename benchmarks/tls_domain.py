"""A Domain that belongs to a Network and also listens for TLS itself, with the certificate that it shows through the
relay.

    python benchmarks/tls_domain.py --port-file FILE --folder FOLDER --network URL

The baseline of `relay.py`: the same app, server and TLS, without a relay in between. The file gets the port for TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from pathlib import Path

from pygrid.domain import build_domain
from pygrid.settings import DomainSettings, load_settings
from pygrid.transport.certificates import server_context
from pygrid.transport.identity import IDENTITY_FILE, Identity
from pygrid.web.allocator import limit_fragmentation
from pygrid.web.server import AppServer
from pygrid.web.services import service


class TlsServer(AppServer):
    """Reads what comes over TLS as it reads what comes through pipes."""

    port_file: Path

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        state = self._app.state
        folder = service(state, DomainSettings).data_dir
        context = server_context(service(state, Identity), folder / IDENTITY_FILE)
        server = await asyncio.get_running_loop().create_server(
            lambda: self._read_relayed("direct"), "127.0.0.1", 0, ssl=context, backlog=2048
        )
        self.servers.append(server)
        self.port_file.write_text(f"{server.sockets[0].getsockname()[1]}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--network", required=True)
    given = parser.parse_args()
    limit_fragmentation()
    settings = load_settings(dict(os.environ), id="hospital-a", data_dir=given.folder, network=given.network)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = TlsServer(build_domain(settings), 5, lambda: None)
    server.port_file = given.port_file
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
