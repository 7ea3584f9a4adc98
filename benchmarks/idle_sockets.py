"""Memory that idle WebSockets at ``/`` cost a Domain.

    python benchmarks/idle_sockets.py
    python benchmarks/idle_sockets.py --sockets 500

The Domain is a process of its own. Printed is the growth of its memory with all sockets open, and for one socket.
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import tempfile
import time
from pathlib import Path

from server_process import ServerProcess, leave_nothing_behind, start_domain

MAX_GROWTH_BYTES = 60 * 1024 * 1024
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PING = b"\x81\x97\0\0\0\0" + b'{"type": "socket-ping"}'


def read_memory(server: ServerProcess) -> int:
    """Return the resident memory of the process, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def open_socket(address: tuple[str, int]) -> socket.socket:
    """Return a WebSocket that has exchanged one message."""
    one = socket.create_connection(address)
    one.sendall(UPGRADE)
    received = b""
    while b"\r\n\r\n" not in received:
        received += one.recv(4096)
    one.sendall(PING)
    one.recv(4096)
    return one


def measure(num_sockets: int) -> int:
    """Return the growth of the memory with all sockets open, in bytes."""
    with tempfile.TemporaryDirectory() as folder, start_domain(Path(folder)) as server:
        for _ in range(50):  # what is loaded and allocated once
            open_socket(server.address).close()
        time.sleep(2)
        before = read_memory(server)
        sockets = [open_socket(server.address) for _ in range(num_sockets)]
        time.sleep(2)
        grown = read_memory(server) - before
        for one in sockets:
            one.close()
        return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=2000)
    num_sockets = parser.parse_args().sockets
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    leave_nothing_behind()
    grown = measure(num_sockets)
    kept = "kept" if grown <= MAX_GROWTH_BYTES * num_sockets / 2000 else "NOT KEPT"
    print(
        f"{num_sockets:,} idle WebSockets: {grown / 2**20:.1f} MiB, {grown / num_sockets / 1024:.1f} KiB each; budget "
        f"{MAX_GROWTH_BYTES / 2**20:.0f} MiB for 2,000: {kept}"
    )


if __name__ == "__main__":
    main()
