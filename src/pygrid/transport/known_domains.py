"""Who answered as a Domain behind a Network when this user first talked to it, so that anybody else is noticed."""

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
    """Identity by address."""


class KnownDomains:
    """The file ``known_domains.json``, mode 0600. Processes may use it at once.

    Args:
        path: None: in `config_dir`, looked up at each use.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path or config_dir() / "known_domains.json"

    def find(self, address: RelayedAddress) -> IdentityKey | None:
        """Who answered there before.

        Raises:
            InvalidInput: ``known_domains_damaged``: the file can't be read.
        """
        text = self._load().domains.get(str(address))
        return IdentityKey.parse(text) if text is not None else None

    def check(self, address: RelayedAddress, seen: IdentityKey) -> None:
        """Return if the one who answers is who is expected: the address's identity, or who answered the first time.

        What is seen is kept: at first use, and where the address itself says who must answer.

        Raises:
            IdentityChanged: ``wrong_identity``: not who the address names; ``identity_changed``: not who answered
                before.
            InvalidInput, InvalidConfig: the file can't be read, or not written.
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
                f"{self.path} can't be read ({error}), so nobody can tell whether Domains are who they were. Repair "
                "it; if you delete it, whoever answers next is trusted",
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
                f"who {address} is can't be kept in {self.path} ({error.strerror}). Make the folder writable, set "
                f"XDG_CONFIG_HOME to one that is, or say who must answer: {address}?identity={seen}",
                code=codes.KNOWN_DOMAINS_UNWRITABLE,
            ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            import fcntl
        except ImportError:  # not on Windows, where two first uses at the same moment may forget one another
            pass
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _wrong(address: RelayedAddress, wanted: IdentityKey, seen: IdentityKey) -> IdentityChanged:
    return IdentityChanged(
        f"it is not the Domain you asked for that answers at {address}:\n"
        f"  you asked for  {wanted}\n"
        f"  there answers  {seen}\n"
        "Either the address names the wrong identity, or somebody in between pretends to be the Domain. Nothing was "
        "sent. Ask those who run the Domain for its identity (pygrid shows it at start, GET /identity gives it).",
        code=codes.WRONG_IDENTITY,
        wanted=str(wanted),
        seen=str(seen),
    )


def _changed(address: RelayedAddress, known: IdentityKey, seen: IdentityKey, path: Path) -> IdentityChanged:
    return IdentityChanged(
        f"the Domain at {address} is another than before:\n"
        f"  known (in {path})  {known}\n"
        f"  there answers now  {seen}\n"
        "Either it was set up anew and lost its identity file, or somebody in between pretends to be the Domain. "
        "Nothing was sent. Ask those who run the Domain, by another way than this one, for its identity. If it is the "
        f"new one, trust it by using this address once:\n  {address}?identity={seen}",
        known=str(known),
        seen=str(seen),
    )
