"""Who may do what with a served model, and what may be said when one is served."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path

from pygrid.core.access import OWNER, Permission, Principal
from pygrid.errors import InvalidConfig
from pygrid.messages.models import ServeRequest
from pygrid.plans.manifest import Port
from pygrid.plans.serving import MAX_BATCH_SIZE, port_bytes

HEADER_BYTES = 1024**2
"""What a question or an answer may have beside the values of its arrays."""
MAX_DESCRIPTION = 10_000
_MODEL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class ServingRefusal(enum.StrEnum):
    """Why something is refused; the value is the error's code."""

    DOWNLOAD = "download_not_allowed"
    INFERENCE = "inference_not_allowed"
    NOT_YOURS = "not_your_model"


@dataclass(frozen=True)
class ServableModel:
    """What has to be known of a model to answer with it; equal ones share a Worker."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch_size: int
    joins: bool
    """Whether the rows of several callers may share a batch."""
    size_bytes: int
    peak_bytes: int

    @property
    def max_request_bytes(self) -> int:
        return port_bytes(self.inputs, self.max_batch_size) + HEADER_BYTES


@dataclass(frozen=True)
class Serving:
    """Of a served model what decides about access."""

    created_by: int | None
    allow_download: bool
    allow_remote_inference: bool


def is_holder(principal: Principal, model: Serving) -> bool:
    """Whether the caller served the model, with a role that still may, or is an Owner of the Domain."""
    if principal.role.id == OWNER.id:
        return True
    return principal.user_id == model.created_by and principal.may(Permission.UPLOAD_DATA)


def can_download(principal: Principal, model: Serving) -> ServingRefusal | None:
    """Whether the caller may take the file."""
    return None if model.allow_download or is_holder(principal, model) else ServingRefusal.DOWNLOAD


def can_ask(principal: Principal, model: Serving) -> ServingRefusal | None:
    """Whether the caller may have the model answer."""
    return None if model.allow_remote_inference or is_holder(principal, model) else ServingRefusal.INFERENCE


def can_withdraw(principal: Principal, model: Serving) -> ServingRefusal | None:
    """Whether the caller may delete the model."""
    return None if is_holder(principal, model) else ServingRefusal.NOT_YOURS


def is_model_id(text: str) -> bool:
    """Whether a model may have this id."""
    return _MODEL_ID.fullmatch(text) is not None


def check_serve_request(request: ServeRequest) -> ServeRequest:
    """Check what is said of a model.

    Raises:
        InvalidConfig: names the field and what is wanted.
    """
    if not is_model_id(request.model_id):
        raise InvalidConfig(
            f"model_id {request.model_id[:100]!r} is no id for a model: use up to 100 letters, digits and any of _ . -",
            field="model_id",
        )
    if not 1 <= request.max_batch_size <= MAX_BATCH_SIZE:
        raise InvalidConfig(
            f"max_batch_size is {request.max_batch_size}; 1 to {MAX_BATCH_SIZE:,} are allowed", field="max_batch_size"
        )
    if len(request.description) > MAX_DESCRIPTION or "\0" in request.description:
        raise InvalidConfig(
            f"description may have up to {MAX_DESCRIPTION:,} characters, none of them NUL", field="description"
        )
    return request
