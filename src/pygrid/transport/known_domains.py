"""Identities of the Domains that this user reached through a Network, so that a change of identity is noticed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import IdentityChanged, InvalidConfig, InvalidInput
from pygrid.transport.address import RelayedAddress, config_dir
from pygrid.transport.identity import IdentityKey


class _Content(msgspec.Struct):
    domains: dict[str, str] = {}
    """Address -> identity."""


class KnownDomains:
    """The file ``known_domains.json``, mode 0600. Several processes can use it at once.

    Args:
        path: None: in `config_dir`, looked up at each use.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path or config_dir() / "known_domains.json"

    def find(self, address: RelayedAddress) -> IdentityKey | None:
        """The identity that answered at this address before.

        Raises:
            InvalidInput: the file cannot be read (``known_domains_damaged``).
        """
        text = self._load().domains.get(str(address))
        return IdentityKey.parse(text) if text is not None else None

    def check(self, address: RelayedAddress, seen: IdentityKey) -> None:
        """Return if the identity that answers is the expected one: that of the address, or that of the first time.

        The identity is stored at the first use, and if the address names it.

        Raises:
            IdentityChanged: not the identity of the address (``wrong_identity``), or not the one of the first time
                (``identity_changed``).
            InvalidInput, InvalidConfig: the file cannot be read or written.
        """
        if address.identity is not None and seen != address.identity:
            raise _wrong(address, address.identity, seen)
        known = self.find(address)
        if known == seen:
            return
        if known is not None and address.identity is None:
            raise _changed(address, known, seen, self.path)
        self._remember(address, seen)

    def _load(self) -> _Content:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return _Content()
        except (msgspec.DecodeError, OSError) as error:
            raise InvalidInput(
                f"{self.path} cannot be read ({error}), so the identities of Domains cannot be checked. Repair the "
                "file; if you delete it, the next identity that answers is trusted",
                code=codes.KNOWN_DOMAINS_DAMAGED,
            ) from error

    def _remember(self, address: RelayedAddress, seen: IdentityKey) -> None:
        try:
            with _locked(self.path.with_suffix(".lock")):
                content = self._load()
                content.domains[str(address)] = str(seen)
                write_atomically(self.path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
        except OSError as error:
            raise InvalidConfig(
                f"the identity of {address} cannot be stored in {self.path} ({error.strerror}). Make the folder "
                f"writable, set XDG_CONFIG_HOME to one that is, or name the identity: {address}?identity={seen}",
                code=codes.KNOWN_DOMAINS_UNWRITABLE,
            ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            import fcntl
        except ImportError:  # on Windows, one of two first uses at the same moment can be lost
            pass
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _wrong(address: RelayedAddress, wanted: IdentityKey, seen: IdentityKey) -> IdentityChanged:
    return IdentityChanged(
        f"another Domain than expected answers at {address}:\n"
        f"  expected  {wanted}\n"
        f"  answers   {seen}\n"
        "Either the address names the wrong identity, or somebody in between pretends to be the Domain. Nothing was "
        "sent. Ask the operator of the Domain for its identity (pygrid shows it at start; GET /identity returns it).",
        code=codes.WRONG_IDENTITY,
        wanted=str(wanted),
        seen=str(seen),
    )


def _changed(address: RelayedAddress, known: IdentityKey, seen: IdentityKey, path: Path) -> IdentityChanged:
    return IdentityChanged(
        f"the identity of the Domain at {address} has changed:\n"
        f"  known (in {path})  {known}\n"
        f"  answers now  {seen}\n"
        "Either the Domain was set up again and lost its identity file, or somebody in between pretends to be the "
        "Domain. Nothing was sent. Ask the operator of the Domain for its identity, over another channel. If it is the "
        f"new one, trust it by using this address once:\n  {address}?identity={seen}",
        known=str(known),
        seen=str(seen),
    )
