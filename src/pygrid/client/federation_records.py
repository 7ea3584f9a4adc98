"""What is kept of a training across Domains, so that it can be taken up again: by another notebook, or after days.

    <config>/federated/<name>.json           who was asked for what, and the secret of the process
    <config>/federated/<name>.plan           what is hosted once the Domains have decided
    <config>/federated/<name>.safetensors

``<config>`` is the folder of ``credentials.json``; like that file, these can be read by this user only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from pygrid.client.credentials import credentials_file
from pygrid.errors import InvalidInput, NotFound


class Member(msgspec.Struct):
    """A Domain that was asked to take part."""

    name: str
    url: str
    dataset: str
    job_id: str = ""
    """Empty: it refused at once."""
    refusal: str = ""
    """Why it takes no part, in words, once that is known."""


class Record(msgspec.Struct):
    """A training across Domains."""

    coordinator: str
    name: str
    version: str
    secret: str
    """Signs the tokens by which Domains prove that they may take part."""
    rounds: int
    min_domains: int
    cycle_s: float
    client_config: dict[str, Any]
    server_optimizer: dict[str, Any] | None
    members: list[Member]
    is_hosted: bool = False

    @property
    def _stem(self) -> Path:
        return _stem(self.coordinator, self.name)

    @property
    def plan_path(self) -> Path:
        return self._stem.with_suffix(".plan")

    @property
    def model_path(self) -> Path:
        return self._stem.with_suffix(".safetensors")

    def save(self) -> None:
        """Keep it as it is now."""
        _write(self._stem.with_suffix(".json"), msgspec.json.encode(self))

    def save_inputs(self, plan: bytes, model: bytes) -> None:
        """Keep what is to be hosted."""
        _write(self.plan_path, plan)
        _write(self.model_path, model)


def load_record(coordinator: str, name: str) -> Record:
    """What is kept of a training.

    Raises:
        NotFound: nothing is (``federation_not_found``). InvalidInput: the file is damaged.
    """
    path = _stem(coordinator, name).with_suffix(".json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        raise NotFound(
            f"nothing is known here of a training {name!r} at {coordinator}; it can be followed where it was begun",
            code="federation_not_found",
        ) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path} can't be read: {error}", code="federation_damaged") from error


def _stem(coordinator: str, name: str) -> Path:
    """Names are anybody's, so they are no part of a path."""
    digest = hashlib.sha256(f"{coordinator}\n{name}".encode()).hexdigest()[:32]
    return credentials_file().parent / "federated" / digest


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)  # readable by this user only from the start
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
