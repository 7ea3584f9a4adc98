"""The stored state of a training across Domains, so that it can continue on any machine, also after days.

The coordinator stores it as a draft process, which only its creator can see: plan, model and configuration of the
process. The notes of the draft hold the requests to the Domains and the secret of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pygrid import codes
from pygrid.client.downloads import read_checked
from pygrid.client.hosting import USUAL_PLAN, FormBody, FormPart
from pygrid.errors import Conflict, InvalidInput, NotFound
from pygrid.messages.media import PLAN, TENSORS
from pygrid.messages.processes import DraftInfo, DraftList, DraftRequest, HostRequest, ProcessInfo
from pygrid.plans import Plan
from pygrid.transport import Api, Request
from pygrid.transport.base import BytesBody
from pygrid.transport.encoding import json_body

VERSION = "1"
"""Version of each process that is hosted for a training across Domains."""
_DRAFTS = "/model-centric/drafts"
_NOTES = "federation"
_MAX_ANSWER_BYTES = 1024 * 1024


class FederationMember(msgspec.Struct):
    """A Domain that gets a request to take part."""

    name: str
    url: str
    dataset: str
    dataset_id: int
    job_id: str = ""
    """Empty: no request was sent, or it was refused at once."""
    refusal: str = ""
    """The reason why the Domain does not take part; empty: none is known."""
    binding: dict[str, str] = {}
    """Data port of the plan -> column of this dataset, where the user names it."""


class Notes(msgspec.Struct):
    """The state of a training, in addition to the process."""

    secret: str
    """Signs the tokens with which Domains prove that they may take part."""
    reached_at: str
    """Address of the coordinator for the Domains."""
    rounds: int
    min_domains: int
    asked: dict[str, Any]
    """Fields of each Domain's `JobRequest`."""
    members: list[FederationMember]


@dataclass
class Record:
    """A training across Domains, as its coordinator stores it."""

    api: Api
    """Connection to the coordinator."""
    draft: DraftInfo
    notes: Notes
    _plan: Plan | None = None
    _model: bytes | None = None

    @property
    def name(self) -> str:
        return self.draft.name

    @property
    def members(self) -> list[FederationMember]:
        return self.notes.members

    @property
    def is_hosted(self) -> bool:
        """Whether the training has begun."""
        return self.draft.process is not None

    def save(self) -> None:
        """Store the notes."""
        body = json_body({"notes": {_NOTES: self.notes}})
        request = Request(
            "PUT", f"{_DRAFTS}/{self.draft.id}/notes", headers={"Content-Type": "application/json"}, body=body
        )
        self.api.exchange(request, lambda response: response.read(_MAX_ANSWER_BYTES))

    def host(self, server_config: Mapping[str, Any]) -> None:
        """Begin the training once; these values replace those in the configuration of the draft."""
        sent = {"server_config": {**self.draft.server_config, **server_config}}
        info = self.api.post(f"{_DRAFTS}/{self.draft.id}/host", ProcessInfo, json=sent, timeout_s=120.0, once=True)
        self.draft.process = info.id

    def delete(self) -> None:
        """Delete the training; its name becomes free if it was not hosted."""
        request = Request("DELETE", f"{_DRAFTS}/{self.draft.id}")
        self.api.exchange(request, lambda response: response.read(_MAX_ANSWER_BYTES))

    def plan(self) -> Plan:
        """The plan of the training; it can be fetched only until the process is hosted."""
        if self._plan is None:
            self._plan = Plan.from_bytes(self._download(f"plan:{USUAL_PLAN}"))
        return self._plan

    def model(self) -> bytes:
        """The model that the training begins with; it can be fetched only until the process is hosted."""
        if self._model is None:
            self._model = self._download("model")
        return self._model

    def _download(self, part: str) -> bytes:
        digest = next((file.hash for file in self.draft.files if file.part == part), "")
        return bytes(read_checked(self.api, Request("GET", f"{_DRAFTS}/{self.draft.id}/files/{digest}")))


def make_record(api: Api, process: HostRequest, notes: Notes, plan: Plan, model: bytes) -> Record:
    """Prepare a training: the coordinator checks the future process, and stores it under its name.

    Args:
        process: the configuration of the process, with its name.
    Raises:
        Conflict: the coordinator has a process or a training of that name (``process_exists``).
        InvalidInput and its subclasses: a part cannot be hosted; the message names it.
    """
    name = process.client_config["name"]
    request = DraftRequest(process.client_config, process.server_config, {_NOTES: msgspec.to_builtins(notes)})
    parts = [FormPart("config", "application/json", json_body(request))]
    parts += [FormPart("model", TENSORS, BytesBody(model)), FormPart(f"plan:{USUAL_PLAN}", PLAN, BytesBody(plan.data))]
    form = FormBody(parts)
    try:
        draft = api.send_body(_DRAFTS, DraftInfo, form, headers={"Content-Type": form.media_type}, once=True)
    except Conflict as error:
        if error.code != "process_exists":
            raise
        own = bool(_list(api, name))
        hint = f"it is a training of yours: resume_federated(coordinator, {name!r}) continues it; or " if own else ""
        raise Conflict(f"{api.url} has a process {name!r}; {hint}choose another name", code=error.code) from error
    return Record(api, draft, notes, plan, model)


def load_record(api: Api, name: str) -> Record:
    """A training of the caller, as the coordinator stores it.

    Raises:
        NotFound: there is no such training (``federation_not_found``).
        InvalidInput: the notes of the draft are not valid (``federation_damaged``).
    """
    found = next(iter(_list(api, name)), None)
    if found is None:
        yours = ", ".join(draft.name for draft in _list(api) if _NOTES in draft.notes) or "none"
        raise NotFound(
            f"you have no training {name!r} at {api.url}; your trainings there: {yours}",
            code=codes.FEDERATION_NOT_FOUND,
        )
    try:
        return Record(api, found, msgspec.convert(found.notes.get(_NOTES), Notes))
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"this version cannot continue the training in draft {name!r} at {api.url}: {error}",
            code=codes.FEDERATION_DAMAGED,
        ) from error


def _list(api: Api, name: str | None = None) -> list[DraftInfo]:
    """The caller's drafts, or the one that holds the name of a training, if there is one."""
    query = {} if name is None else {"name": name, "version": VERSION}
    return api.get(_DRAFTS, DraftList, query=query).drafts
