"""The code that the first account needs if other machines can reach the app. The first account ends it."""

from __future__ import annotations

import base64
import hmac
import secrets
from pathlib import Path

from pygrid import codes
from pygrid.durable import make_once
from pygrid.errors import InvalidConfig
from pygrid.settings import AppSettings, is_loopback_url, make_data_dir

SETUP_CODE_FILE = "setup-code"
_CODE_BYTES = 10


class SetupCode:
    """A setup code: from the settings, else a random one that is kept in a file (mode 0600)."""

    def __init__(self, path: Path, given: str = "") -> None:
        self.path = path
        self._given = given

    def read(self) -> str:
        """The code. Raises InvalidConfig: ``setup_code_damaged``: the file is empty."""
        return self._given or _kept_code(self.path)

    def fits(self, given: str) -> bool:
        """Whether ``given`` is the code; case, dashes and blanks make no difference. Raises as `read`."""
        return hmac.compare_digest(_plain(given), _plain(self.read()))

    def remove(self) -> None:
        """Delete the file. Call it when an Owner exists."""
        self.path.unlink(missing_ok=True)


def find_setup_code(settings: AppSettings) -> SetupCode | None:
    """The setup code of an app; None if only this machine can reach the app.

    An app that listens on loopback and has a public address is behind a proxy, so others can reach it.
    """
    if settings.is_loopback and (not settings.address or is_loopback_url(settings.address)):
        return None
    return SetupCode(settings.data_dir / SETUP_CODE_FILE, settings.setup_code)


def _kept_code(path: Path) -> str:
    make_data_dir(path.parent)
    if not path.exists():
        make_once(path, f"{_new_code()}\n".encode())
    code = path.read_text().strip()
    if not code:
        raise InvalidConfig(
            f"{path} contains no setup code: delete the file, and the next start makes a new one",
            code=codes.SETUP_CODE_DAMAGED,
        )
    return code


def _new_code() -> str:
    """80 random bits, like ``k7qd-x2mv-...``, which a person can type."""
    text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode().lower()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def _plain(code: str) -> bytes:
    return "".join(code.lower().replace("-", "").split()).encode("utf-8", "surrogatepass")
