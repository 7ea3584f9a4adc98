"""Host a process from a plan file: the files first, then a form that is made from the plan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State

from pygrid.configs import faults_of
from pygrid.core.access import Permission
from pygrid.errors import InvalidConfig, PygridError
from pygrid.features.jobs.presenter import describe_plan
from pygrid.features.processes.drafts import DraftsService
from pygrid.features.processes.forms import MAX_FORM_BYTES, MAX_MODEL_BYTES, MAX_PLAN_BYTES
from pygrid.features.processes.hosting import HostForm
from pygrid.messages.processes import DraftInfo
from pygrid.plans.archive import Plan
from pygrid.storage.blobs.protocol import BlobWriter
from pygrid.tensors.flat import check_model
from pygrid.tensors.stream import StreamCheck
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES as MAX_FIELDS_BYTES
from pygrid.ui.forms import PathId, read_fields
from pygrid.ui.snippets import literal
from pygrid.units import decimal
from pygrid.web.forms import PartTarget, read_form, unknown_part
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service

_FIRST_CONFIG = {"cycle_length": 60, "num_cycles": 10, "max_diffs": 10}
_PARTS = "name, version, plan and model"


class Setting(msgspec.Struct, frozen=True):
    """A field of the form."""

    name: str
    """Field of the configuration; nested ones with a dot."""
    label: str
    help: str
    kind: Literal["whole", "number", "choice"] = "number"
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


class SettingGroup(msgspec.Struct, frozen=True):
    name: str
    settings: tuple[Setting, ...]
    is_open: bool = True


SERVER_GROUPS = (
    SettingGroup(
        "Cycles",
        (
            Setting("num_cycles", "Number of cycles", "0: no end.", "whole", low=0),
            Setting("cycle_length", "Length of a cycle in seconds", "Empty: no deadline.", low=0.1),
            Setting("max_diffs", "Reports that close a cycle", "Empty: the deadline closes it.", "whole", low=1),
            Setting("min_diffs", "Reports that a cycle needs", "Empty: 1.", "whole", low=1),
            Setting("grace_s", "Seconds of grace for late devices", "0: none.", low=0),
        ),
    ),
    SettingGroup(
        "Devices",
        (
            Setting("min_workers", "Devices that open a cycle", "0 or 1: the first one does.", "whole", low=0),
            Setting("max_workers", "Devices in a cycle, at most", "Empty: any number.", "whole", low=1),
            Setting("pool_selection", "Choice among too many devices", "", "choice", ("iterate", "random")),
            Setting("do_not_reuse_workers_until_cycle", "Cycles that a device pauses", "0: none.", "whole", low=0),
            Setting("minimum_upload_speed", "Upload speed in Mbit/s", "Empty: no speed test.", low=0),
            Setting("minimum_download_speed", "Download speed in Mbit/s", "Empty: no speed test.", low=0),
        ),
        is_open=False,
    ),
    SettingGroup(
        "Averaging",
        (
            Setting(
                "server_optimizer.name",
                "Server optimizer",
                "How the mean diff is applied to the model.",
                "choice",
                ("sgd", "momentum", "adagrad", "adam", "yogi"),
            ),
            Setting("server_optimizer.learning_rate", "Server learning rate", "Empty: the default of the optimizer."),
            Setting("visibility", "Visibility", "", "choice", ("", "listed", "public")),
        ),
        is_open=False,
    ),
)


class NewView(msgspec.Struct, frozen=True):
    name: str
    version: str
    drafts: list[DraftInfo]
    python: str


class DraftView(msgspec.Struct, frozen=True):
    problem: dict[str, Any] | None
    faults: dict[str, str]
    id: int
    name: str
    version: str
    plans: list[tuple[str, list[str]]]
    """Name of each plan, and what it does in words."""
    groups: list[SettingGroup]
    values: dict[str, str]
    python: str


@get("/processes/new", guards=[signed_in(Permission.HOST_MODELS)])
async def new_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show the form for the files of a process."""
    return await _new_page(request, state, "", "1.0")


@post("/processes/new", guards=[signed_in(Permission.HOST_MODELS)], request_max_body_size=None)
async def upload(request: AppRequest, state: State) -> Response[bytes]:
    """Keep the files as a draft. The form with its settings follows."""
    drafts, texts = service(state, DraftsService), {"name": "", "version": ""}
    try:
        async with drafts.receive(request.user) as model:
            body = stream_body(request, MAX_FORM_BYTES)
            form = await _read_files(request.headers.get("content-type", ""), body, model, texts)
            draft = await drafts.create(request.user, model, form)
    except PygridError as error:
        return await _new_page(request, state, texts["name"], texts["version"], error)
    return see_other(f"/admin/processes/drafts/{draft.id}")


async def _read_files(
    content_type: str, body: AsyncIterator[bytes], model: BlobWriter, texts: dict[str, str]
) -> HostForm:
    """Return the form of a draft; ``texts`` gets the name and the version as soon as they are read."""
    check = StreamCheck(MAX_MODEL_BYTES, check_model)

    def take_model(data: bytearray) -> None:
        check.add(data)
        model.write(data)

    def begin(name: str, before: Mapping[str, bytes]) -> PartTarget:
        texts.update({key: before[key].decode(errors="replace") for key in texts if key in before})
        if name not in ("name", "version", "plan", "model"):
            raise unknown_part(name, _PARTS)
        if name == "model":
            return PartTarget(MAX_MODEL_BYTES, take_model)
        return PartTarget(MAX_PLAN_BYTES if name == "plan" else 1000)

    found = await read_form(content_type, body, begin, parts=f"the parts {_PARTS}", max_parts=8)
    texts.update({key: found[key].decode(errors="replace") for key in texts if key in found})
    config = {"client_config": texts, "server_config": _FIRST_CONFIG}
    plans = {"training_plan": found["plan"]} if found.get("plan") else {}
    layout = check.finish().layout if "model" in found else None
    return HostForm(msgspec.json.encode(config), plans, None, layout)


async def _new_page(
    request: AppRequest, state: State, name: str, version: str, error: PygridError | None = None
) -> Response[bytes]:
    drafts = await service(state, DraftsService).list_drafts(request.user, None, None)
    waiting = [draft for draft in drafts if draft.process is None]
    python = (
        'process = domain.host("digits", "1.0", model="digits.safetensors", plans={"training_plan": "digits.plan"})'
    )
    view = NewView(name, version, waiting, python)
    return await console_of(request).page(request, "host.html", "Host a model", view, error=error)


@get("/processes/drafts/{draft_id:int}", guards=[signed_in(Permission.HOST_MODELS)])
async def draft_page(request: AppRequest, state: State, draft_id: PathId) -> Response[bytes]:
    """Show the settings of a draft."""
    draft = await service(state, DraftsService).get(request.user, draft_id)
    if draft.process is not None:
        return see_other(f"/admin/processes/{draft.process}")
    return await _draft_page(request, state, draft, {})


@post(
    "/processes/drafts/{draft_id:int}/host",
    guards=[signed_in(Permission.HOST_MODELS)],
    request_max_body_size=MAX_FIELDS_BYTES,
)
async def host(request: AppRequest, state: State, draft_id: PathId) -> Response[bytes]:
    """Host a draft with the settings of the form."""
    drafts, fields = service(state, DraftsService), await read_fields(request)
    draft = await drafts.get(request.user, draft_id)
    try:
        plans = [] if draft.process is not None else await drafts.review(request.user, draft_id)
        groups = _groups([plan for _, plan, _ in plans])
        server, client = _read_settings(SERVER_GROUPS, fields), _read_settings(groups, fields)
        server.setdefault("cycle_length", None)
        info = await drafts.host(request.user, draft_id, server, client)
    except PygridError as error:
        return await _draft_page(request, state, draft, fields, error)
    return see_other(f"/admin/processes/{info.id}")


@post("/processes/drafts/{draft_id:int}/delete", guards=[signed_in(Permission.HOST_MODELS)])
async def discard(request: AppRequest, state: State, draft_id: PathId) -> Response[bytes]:
    """Delete a draft."""
    await service(state, DraftsService).delete(request.user, draft_id)
    return see_other("/admin/processes/new")


async def _draft_page(
    request: AppRequest, state: State, draft: DraftInfo, fields: Mapping[str, str], error: PygridError | None = None
) -> Response[bytes]:
    plans = await service(state, DraftsService).review(request.user, draft.id)
    groups = [*_groups([plan for _, plan, _ in plans]), *SERVER_GROUPS]
    given = {**draft.client_config, **draft.server_config}
    for _, plan, _ in plans:
        given = {**{name: hyper.default for name, hyper in plan.manifest.hyper.items()}, **given}
    values = {
        setting.name: fields.get(setting.name, _shown(given.get(setting.name))) if not fields else ""
        for group in groups
        for setting in group.settings
    }
    values.update({name: text for name, text in fields.items() if name in values})
    faults = {fault.field: fault.text for fault in faults_of(error)} if isinstance(error, InvalidConfig) else {}
    name, version = literal(draft.name), literal(draft.version)
    view = DraftView(
        problem=None if error is None else error.to_problem(),
        faults=faults,
        id=draft.id,
        name=draft.name,
        version=draft.version,
        plans=[(name, describe_plan(plan, report).splitlines()) for name, plan, report in plans],
        groups=groups,
        values=values,
        python=f"domain.host({name}, {version}, model=..., plans=..., server_config={_FIRST_CONFIG})",
    )
    title, status = f"Host {draft.name} {draft.version}", 200 if error is None else error.status
    return await console_of(request).page(request, "draft.html", title, view, status=status)


def _groups(plans: list[Plan]) -> list[SettingGroup]:
    """Return the fields of the settings of devices: those of each plan, and its hyperparameters."""
    hypers = {name: hyper for plan in plans for name, hyper in plan.manifest.hyper.items()}
    largest = min((plan.manifest.max_batch_size for plan in plans), default=None)
    settings = (
        Setting("epochs", "Passes over the data of a device", "Empty: 1.", "whole", low=1),
        Setting("batch_size", "Examples for one update", f"At most {largest}.", "whole", low=1, high=largest),
        *(
            Setting(
                name, name, f"{decimal(one.min)} to {decimal(one.max)}; the author's default is {decimal(one.default)}."
            )
            for name, one in sorted(hypers.items())
        ),
    )
    return [SettingGroup("Training on a device", settings)]


def _read_settings(groups: tuple[SettingGroup, ...] | list[SettingGroup], fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of the fields. A text that is not a number is refused later."""
    values: dict[str, Any] = {}
    for setting in (setting for group in groups for setting in group.settings):
        text = fields.get(setting.name, "").strip()
        if not text:
            continue
        value: Any = text
        if setting.kind != "choice":
            try:
                value = int(text) if setting.kind == "whole" else float(text)
            except ValueError:
                value = text[:80]
        outer, _, inner = setting.name.rpartition(".")
        (values.setdefault(outer, {}) if outer else values)[inner] = value
    return values


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
