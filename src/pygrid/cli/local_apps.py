"""Names, ports and the invitation of apps that ``pygrid up`` starts on this machine."""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pygrid import codes
from pygrid.durable import make_once
from pygrid.errors import InvalidConfig

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PR_SET_PDEATHSIG = 1


def read_or_make_invitation(data_dir: Path) -> str:
    """The secret by which the Network accepts these Domains, kept in the folder; only this user can read it."""
    path = data_dir / "invitation"
    if not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_once(path, secrets.token_hex(32).encode())
    return path.read_text().strip()


def check_names(names: list[str], *, has_network: bool) -> None:
    """Raises InvalidConfig: a name is not valid, or two apps would have it."""
    for index, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise InvalidConfig(f"{name!r} cannot name a Domain: use a-z, 0-9 and -", code=codes.INVALID_SETTING)
        if name in names[:index] or (has_network and name == "network"):
            raise InvalidConfig(f"{name!r} would name two apps; choose another name", code=codes.INVALID_SETTING)


def check_ports(ports: Mapping[str, int]) -> None:
    """Raises InvalidConfig: ``address_in_use``: an app's port cannot be used; the message lists all of them."""
    taken = []
    for name, port in ports.items():
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                taken.append(f"{name}: port {port} of 127.0.0.1: {getattr(error, 'strerror', None) or error}")
    if taken:
        raise InvalidConfig(
            "nothing was started, because these ports cannot be used:\n  " + "\n  ".join(taken) + "\n"
            "Stop the program that listens there, or choose other ports with --port and --network-port.",
            code=codes.ADDRESS_IN_USE,
        )


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """A function that makes the kernel end a new process when its parent dies; None if the system does not support it.

    It is for the ``preexec_fn`` of a process.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died first
            os._exit(1)

    return ask_kernel
