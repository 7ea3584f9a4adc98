"""Requests to the Domains of a training across Domains: one for each, also after interruptions."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from pygrid.client.datasets import Datasets
from pygrid.client.federation.records import VERSION, FederationMember, Record
from pygrid.client.jobs import ENDED, find_jobs, submit_job
from pygrid.client.terms import protected_unit
from pygrid.errors import Conflict, PygridError
from pygrid.messages.jobs import FederationRequest
from pygrid.transport import Api

_TOKEN_DAYS = 365


def ask(record: Record, member: FederationMember, api: Api, *, is_first_try: bool) -> None:
    """Send the request for a federated job to a Domain, unless it has one; the outcome is stored in ``member``.

    Args:
        is_first_try: whether no request can have been sent before, so that none is searched for.
    """
    try:
        member.job_id = ("" if is_first_try else _find(record, member, api)) or _submit(record, member, api)
    except Conflict as error:
        if is_first_try or error.code != "federation_exists":
            member.refusal = error.detail
        else:  # the same user has just sent it from another machine
            member.job_id = str(error.fields.get("job_id", ""))
    except PygridError as error:
        member.refusal = error.detail


def _submit(record: Record, member: FederationMember, api: Api) -> str:
    notes = record.notes
    token = make_token(notes.secret, member.name)
    federation = FederationRequest(notes.reached_at, record.name, VERSION, notes.rounds, token)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.write_bytes(record.model())
        asked = {**notes.asked, "plan": record.plan(), "model": model, "federation": federation}
        asked["binding"] = asked.get("binding", {}) | member.binding
        dataset, privacy = Datasets(api).by_id(member.dataset_id), asked.pop("privacy")
        if privacy is not None and privacy["unit"] is None:
            privacy = privacy | {"unit": protected_unit(dataset)}
        return submit_job(api, dataset, "train", asked.pop("reason"), privacy, **asked).id


def _find(record: Record, member: FederationMember, api: Api) -> str:
    """The id of the job that was requested before an interruption; empty: there is none."""
    wanted = record.notes.reached_at, record.name, VERSION
    for info in find_jobs(api, mine=True):
        federation = None if info.request is None else info.request.federation
        if federation is None or info.dataset != member.dataset_id:
            continue
        # An earlier training can have had the same name; its jobs have ended.
        is_of_this = info.state not in ENDED or info.created_at >= record.draft.created_at
        if is_of_this and (federation.coordinator, federation.process, federation.version) == wanted:
            return info.id
    return ""


def make_token(secret: str, who: str) -> str:
    """The token with which a Domain takes part in this training as the client ``who``."""
    import jwt  # here, because few users need it and it costs 9 MB

    return jwt.encode({"sub": who, "exp": int(time.time()) + _TOKEN_DAYS * 24 * 3600}, secret, "HS256")
