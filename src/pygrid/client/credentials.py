"""Session tokens that ``pygrid login`` stores for a user, by the address of the Domain."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.transport.address import config_dir, network_token_of_environment, plain_address

URL_VARIABLE = "PYGRID_URL"
TOKEN_VARIABLE = "PYGRID_TOKEN"
NETWORK_VARIABLE = "PYGRID_NETWORK_URL"


class Credentials(msgspec.Struct):
    """The content of the file: tokens by address, and the Domain and the Network of the last logins."""

    tokens: dict[str, str] = {}
    last_url: str | None = None
    last_network_url: str | None = None


def credentials_file() -> Path:
    """``$XDG_CONFIG_HOME/pygrid/credentials.json``, else the same under ``~/.config``."""
    return config_dir() / "credentials.json"


def load_credentials() -> Credentials:
    """The stored credentials; empty before the first login.

    Raises:
        InvalidInput: the file is damaged (``credentials_damaged``).
    """
    path = credentials_file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (FileNotFoundError, NotADirectoryError):
        return Credentials()
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"{path} can't be read ({error}); delete it and log in again", code=codes.CREDENTIALS_DAMAGED
        ) from error


def remember_token(url: str, token: str, *, is_network: bool = False) -> Path:
    """Store a token, readable by this user only, and return the path of the file."""
    credentials = load_credentials()
    credentials.tokens[url] = token
    if is_network:
        credentials.last_network_url = url
    else:
        credentials.last_url = url
    return _save(credentials)


def forget_token(url: str) -> bool:
    """Delete the token for an address, and return whether there was one."""
    credentials = load_credentials()
    known = credentials.tokens.pop(url, None) is not None
    if known:
        _save(credentials)
    return known


def choose_url(url: str | None) -> str:
    """The address of the Domain: the given one, ``PYGRID_URL``, or that of the last login.

    Raises:
        InvalidInput: there is no address (``url_missing``).
    """
    chosen = url or os.environ.get(URL_VARIABLE) or load_credentials().last_url
    if not chosen:
        raise InvalidInput(
            f"which Domain? Pass its address, set {URL_VARIABLE}, or log in with: pygrid login http://HOST:PORT",
            code=codes.URL_MISSING,
        )
    return chosen.rstrip("/")


def choose_network_url(url: str | None) -> str:
    """The address of the Network: the given one, ``PYGRID_NETWORK_URL``, or that of the last login.

    Raises:
        InvalidInput: there is no address (``url_missing``).
    """
    chosen = url or os.environ.get(NETWORK_VARIABLE) or load_credentials().last_network_url
    if not chosen:
        raise InvalidInput(
            f"which Network? Pass its address, set {NETWORK_VARIABLE}, or log in with: pygrid login http://HOST:PORT",
            code=codes.URL_MISSING,
        )
    return chosen.rstrip("/")


def find_token(url: str) -> str | None:
    """The token for an address: ``PYGRID_TOKEN``, else the one of ``pygrid login``.

    If ``PYGRID_URL`` is set, ``PYGRID_TOKEN`` goes to that address only.
    """
    home = os.environ.get(URL_VARIABLE)
    if (token := os.environ.get(TOKEN_VARIABLE)) and (home is None or plain_address(home) == url):
        return token
    return load_credentials().tokens.get(url)


def find_network_token(network_url: str) -> str | None:
    """The token for a Network and its relay: ``PYGRID_NETWORK_TOKEN``, else the one of ``pygrid login``.

    Never ``PYGRID_TOKEN``: it belongs to the Domain and must not reach the Network.
    """
    return network_token_of_environment(network_url) or load_credentials().tokens.get(network_url)


def _save(credentials: Credentials) -> Path:
    path = credentials_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)  # readable by this user only from the start
    except OSError as error:
        raise InvalidInput(
            f"the login cannot be kept in {path}: {error.strerror}. Set XDG_CONFIG_HOME to a folder that you can "
            f"write, or pass an API token in {TOKEN_VARIABLE}",
            code=codes.CREDENTIALS_DAMAGED,
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(credentials), indent=2) + b"\n")
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
    return path
