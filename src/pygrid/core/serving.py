"""The rules of served models: access, and checks of requests to serve a model."""

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
"""Bytes of a request or an answer in addition to the values of its arrays."""
MAX_DESCRIPTION = 10_000
_MODEL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class ServingRefusal(enum.StrEnum):
    """Why a request is refused. The value is the code of the error."""

    DOWNLOAD = "download_not_allowed"
    INFERENCE = "inference_not_allowed"
    NOT_YOURS = "not_your_model"


@dataclass(frozen=True)
class ServableModel:
    """The data of a model that is needed for predictions. Equal models share a Worker."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch_size: int
    joins: bool
    """Whether a batch may have rows of several callers."""
    size_bytes: int
    peak_bytes: int

    @property
    def max_request_bytes(self) -> int:
        return port_bytes(self.inputs, self.max_batch_size) + HEADER_BYTES


@dataclass(frozen=True)
class Serving:
    """The fields of a served model that decide about access."""

    created_by: int | None
    allow_download: bool
    allow_remote_inference: bool


def is_owner(principal: Principal, model: Serving) -> bool:
    """Whether the caller served the model and still has the permission, or is an Owner of the Domain."""
    if principal.role.id == OWNER.id:
        return True
    return principal.user_id == model.created_by and principal.may(Permission.HOST_MODELS)


def can_download(principal: Principal, model: Serving) -> ServingRefusal | None:
    """Whether the caller may download the file."""
    return None if model.allow_download or is_owner(principal, model) else ServingRefusal.DOWNLOAD


def can_predict(principal: Principal, model: Serving) -> ServingRefusal | None:
    """Whether the caller may request predictions."""
    return None if model.allow_remote_inference or is_owner(principal, model) else ServingRefusal.INFERENCE


def can_withdraw(principal: Principal, model: Serving) -> ServingRefusal | None:
    """Whether the caller may delete the model."""
    return None if is_owner(principal, model) else ServingRefusal.NOT_YOURS


def is_model_id(text: str) -> bool:
    """Whether this is a valid id of a model."""
    return _MODEL_ID.fullmatch(text) is not None


def check_serve_request(request: ServeRequest) -> ServeRequest:
    """Check a request to serve a model. Raises InvalidConfig: names the field and the valid values."""
    if not is_model_id(request.model_id):
        raise InvalidConfig(
            f"model_id {request.model_id[:100]!r} is not valid: use up to 100 letters, digits and any of _ . -",
            field="model_id",
        )
    if not 1 <= request.max_batch_size <= MAX_BATCH_SIZE:
        raise InvalidConfig(
            f"max_batch_size is {request.max_batch_size}; 1 to {MAX_BATCH_SIZE:,} are allowed", field="max_batch_size"
        )
    if len(request.description) > MAX_DESCRIPTION or "\0" in request.description:
        raise InvalidConfig(
            f"description must have at most {MAX_DESCRIPTION:,} characters and no NUL", field="description"
        )
    return request
