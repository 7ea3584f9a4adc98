"""Uploads: send a file, look at what it holds, describe its columns, store it as a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid import codes
from pygrid.core.access import Permission
from pygrid.core.column_hints import find_series
from pygrid.errors import InvalidInput, PayloadTooLarge, PygridError
from pygrid.features.datasets.forms import Upload
from pygrid.features.datasets.intake import MAX_MOCK_BYTES
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.datasets.staging import StagedTrial, StagingService
from pygrid.features.datasets.uploads import UploadsService
from pygrid.messages.datasets import Column, VersionRequest
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import PathText, read_fields
from pygrid.ui.pages.datasets import RecordTable, show_cell, show_records
from pygrid.ui.sample_data import load_sample
from pygrid.ui.upload_forms import (
    DTYPES,
    ENCODINGS,
    MAX_COLUMNS,
    MAX_UPLOAD_FIELDS,
    MAX_UPLOAD_FORM_BYTES,
    OWN_MOCK,
    edit_selected,
    fill_bounds,
    in_words_of_the_form,
    read_upload,
    read_version,
)
from pygrid.ui.words import VISIBILITIES
from pygrid.web.forms import PartTarget, read_form
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service

_GUARD = signed_in(Permission.UPLOAD_DATA)
_LEFT_OUT: dict[str, str] = {
    codes.DATASET_TOO_MANY_CATEGORIES: "left out: a column of texts is for categories, and this one has too many",
    codes.DATASET_TEXT_TOO_LONG: "left out: it has a text that is too long for a category",
}
"""Words for a column that the Domain has left out by itself."""


class NewUploadView(msgspec.Struct, frozen=True):
    staged: list[tuple[str, str, int]]
    """Id, name of the file, and bytes of the uploads that wait."""
    max_bytes: int
    refusal: str
    """Why a file of the size that a script has asked about cannot be sent now; empty: it can."""
    command: str


class ColumnRow(msgspec.Struct, frozen=True):
    index: int
    name: str
    source: str
    use: bool
    found: str
    """The type that the file has."""
    dtype: str
    shape: str
    values: dict[str, str]
    """What was typed: min, max, meaning, unit, description, categories."""
    sample: str
    hints: tuple[str, ...]


class StagedView(msgspec.Struct, frozen=True):
    problem: dict[str, Any] | None
    id: str
    filename: str
    num_bytes: int
    num_records: int
    stored_bytes: int
    notes: tuple[str, ...]
    columns: list[ColumnRow]
    num_more: int
    series: list[tuple[str, int]]
    tables: list[RecordTable]
    fields: Mapping[str, str]
    targets: list[tuple[str, str]]
    """Ids and words: a new dataset, or a version of one of the caller's own."""
    is_csv: bool
    mocks: list[tuple[str, str]] = []
    dtypes: tuple[str, ...] = DTYPES
    encodings: tuple[str, ...] = ENCODINGS
    visibilities: tuple[tuple[str, str], ...] = tuple(VISIBILITIES.items())


@get("/datasets/new", guards=[_GUARD])
async def new_dataset_page(request: AppRequest, state: State, bytes: FromQuery[str] = "") -> Response[bytes]:
    """Show the form of an upload. A script asks here whether a file of this size can be sent."""
    staging, refusal = service(state, StagingService), ""
    try:
        if (num_bytes := _read_size(bytes)) is not None:
            await staging.check_space(request.user, num_bytes)
    except PygridError as error:
        refusal = error.detail
    staged = await staging.list_staged(request.user)
    view = NewUploadView(
        [(one.id, one.filename or "file", one.num_bytes) for one in staged],
        service(state, UploadsService).limits.max_upload_bytes,
        refusal,
        "pygrid dataset add patients.csv --name patients --visibility listed",
    )
    return await console_of(request).page(request, "new_dataset.html", "New dataset", view)


@post("/datasets/staged", guards=[_GUARD], request_max_body_size=None)
async def stage_upload(request: AppRequest, state: State) -> Response[bytes]:
    """Receive a file; the next page describes its columns."""
    staging, limits = service(state, StagingService), service(state, UploadsService).limits
    async with staging.receive(request.user, _read_size(request.headers.get("content-length", ""))) as folder:
        body = stream_body(request, limits.max_upload_bytes + 1024 * 1024)
        upload = Upload(request.headers.get("content-type", ""), body, limits.max_upload_bytes)
        await upload.config(VersionRequest)
        files = await upload.files_into(folder)
        staged = await staging.stage(request.user, folder, files.filename)
    return see_other(f"/admin/datasets/staged/{staged.id}")


def _read_size(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


@post("/datasets/sample", guards=[_GUARD])
async def store_sample(request: AppRequest, state: State) -> Response[bytes]:
    """Store the sample dataset."""
    found = await load_sample(state, request.user)
    return see_other(f"/admin/datasets/{found.id}")


@get("/datasets/staged/{staged_id:str}", guards=[_GUARD])
async def staged_page(request: AppRequest, state: State, staged_id: PathText) -> Response[bytes]:
    """Show what a file holds, and the form that describes it."""
    return await _staged(request, state, staged_id, {})


@post("/datasets/staged/{staged_id:str}", guards=[_GUARD], request_max_body_size=MAX_UPLOAD_FORM_BYTES)
async def change_staged(request: AppRequest, state: State, staged_id: PathText) -> Response[bytes]:
    """Look at a file again with other descriptions, store it, or discard it."""
    staging, fields = service(state, StagingService), await read_fields(request, MAX_UPLOAD_FIELDS)
    act = fields.get("act", "")
    if act == "discard":
        await staging.discard(request.user, staged_id)
        return see_other("/admin/datasets/new")
    try:
        if act == "store":
            return see_other(f"/admin/datasets/{await _store(request, state, staged_id, fields)}")
        if act == "bulk":
            fields = edit_selected(fields)
        elif act == "bounds":
            fields = fill_bounds(fields, await staging.profile(request.user, staged_id, read_version(fields)))
        elif act != "check":
            raise InvalidInput("choose Check, Store or Discard", code=codes.INVALID_FORM)
    except PygridError as error:
        if error.code == codes.STAGED_NOT_FOUND:
            raise
        return await _staged(request, state, staged_id, fields, error)
    return await _staged(request, state, staged_id, fields)


@post("/datasets/staged/{staged_id:str}/mock", guards=[_GUARD], request_max_body_size=None)
async def stage_mock(request: AppRequest, state: State, staged_id: PathText) -> Response[bytes]:
    """Receive the file of a mock dataset with the form of its data."""
    staging, sent, error = service(state, StagingService), dict[str, bytes](), None
    length = _read_size(request.headers.get("content-length", ""))
    try:
        async with staging.receive_mock(request.user, staged_id, length or 0) as path:
            await _read_mock(request, path, sent)
    except (InvalidInput, PayloadTooLarge) as failed:
        error = failed
    fields = {name: data.decode(errors="replace").replace("\0", "") for name, data in sent.items()}
    return await _staged(request, state, staged_id, {**fields, "draw_mock": OWN_MOCK}, error)


async def _read_mock(request: AppRequest, path: Path, sent: dict[str, bytes]) -> None:
    """Write the file of a mock dataset to ``path``, and the form that comes with it to ``sent``."""
    with path.open("xb") as file:

        def begin(name: str, before: Mapping[str, bytes]) -> PartTarget:
            sent.update(before)
            if name == "mock":
                return PartTarget(MAX_MOCK_BYTES, file.write)
            return PartTarget(MAX_UPLOAD_FORM_BYTES - sum(map(len, before.values())))

        body = stream_body(request, MAX_MOCK_BYTES + MAX_UPLOAD_FORM_BYTES)
        kind = request.headers.get("content-type", "")
        sent.update(await read_form(kind, body, begin, parts="the fields of the page", max_parts=MAX_UPLOAD_FIELDS))


async def _store(request: AppRequest, state: State, staged_id: str, fields: Mapping[str, str]) -> int:
    staging, target = service(state, StagingService), fields.get("target", "")
    own_mock = fields.get("draw_mock") == OWN_MOCK
    if target.isdigit() and len(target) < 10:
        found = await staging.store_version(
            request.user, staged_id, int(target), read_version(fields), own_mock=own_mock
        )
    else:
        found = await staging.store(request.user, staged_id, read_upload(fields), own_mock=own_mock)
    return found.id


async def _staged(
    request: AppRequest, state: State, staged_id: str, fields: Mapping[str, str], error: PygridError | None = None
) -> Response[bytes]:
    staging = service(state, StagingService)
    staged = await staging.get(request.user, staged_id)
    trial: StagedTrial | None = None
    # If the mock or the descriptions do not fit, the page shows the rest: last the columns as the file has them.
    mock = fields.get("draw_mock") == OWN_MOCK
    for wanted, with_mock in ((fields, mock), (fields, False), (_csv_fields(fields), False)):
        try:
            trial = await staging.look_at(request.user, staged_id, read_version(wanted), own_mock=with_mock)
            break
        except PygridError as failed:
            if failed.code == codes.STAGED_NOT_FOUND:
                raise
            error = error or failed
    own = await service(state, DatasetsService).list_datasets(request.user)
    view = _view(staged_id, staged.filename, staged.num_bytes, trial, fields, error)
    targets = [("", "a new dataset"), *((str(one.id), f"a version of {one.name}") for one in own if one.mine)]
    mocks = [("1", "made up from the columns"), ("0", "none"), *([(OWN_MOCK, "your file")] if staged.num_mocks else [])]
    view = msgspec.structs.replace(view, targets=targets, mocks=mocks)
    return await console_of(request).page(request, "staged.html", "Describe the data", view, error=error)


def _csv_fields(fields: Mapping[str, str]) -> dict[str, str]:
    names = ("header", "delimiter", "decimal", "thousands", "missing", "encoding")
    return {name: fields[name] for name in names if name in fields}


def _view(
    staged_id: str,
    filename: str,
    num_bytes: int,
    trial: StagedTrial | None,
    fields: Mapping[str, str],
    error: PygridError | None,
) -> StagedView:
    problem = None if error is None else error.to_problem()
    if problem is not None:
        problem["detail"] = in_words_of_the_form(problem["detail"])
    given = {"name": filename.rpartition(".")[0] or filename, "visibility": "private", "draw_mock": "1", **fields}
    if trial is None:
        return StagedView(problem, staged_id, filename, num_bytes, 0, 0, (), [], 0, [], [], given, [], True)
    schema = trial.trial.schema
    rows = [_row(index, column, trial, fields) for index, column in enumerate(schema.columns[:MAX_COLUMNS])]
    chosen = [
        name
        for index in range(MAX_COLUMNS)
        if (name := fields.get(f"col_{index}")) and fields.get(f"use_{index}") != "1"
    ]
    skipped = [*trial.left_out, *(name for name in chosen if name not in trial.left_out)]
    tables = [show_records("The first records, for you alone", trial.records)]
    if trial.mock is not None:
        tables.append(show_records("The mock dataset: made-up records that others see", trial.mock))
    return StagedView(
        problem=problem,
        id=staged_id,
        filename=filename,
        num_bytes=num_bytes,
        num_records=schema.num_records,
        stored_bytes=trial.trial.size_bytes,
        notes=tuple(map(in_words_of_the_form, trial.trial.notes)),
        columns=[*rows, *(_skipped_row(len(rows) + number, name, trial) for number, name in enumerate(skipped))],
        num_more=max(0, len(schema.columns) - MAX_COLUMNS),
        series=find_series([column.name for column in schema.columns]),
        tables=tables,
        fields=given,
        targets=[],
        is_csv=filename.lower().endswith((".csv", ".tsv", ".txt")) or not filename,
    )


def _row(index: int, column: Column, trial: StagedTrial, fields: Mapping[str, str]) -> ColumnRow:
    typed = _typed(column.name, fields)
    sample = ", ".join(show_cell(value) for value in trial.records.columns.get(column.name, [])[:3])
    return ColumnRow(
        index,
        column.name,
        typed.get("source", ""),
        True,
        typed.get("found", column.dtype),
        column.dtype,
        " x ".join(map(str, column.shape)),
        typed,
        sample,
        trial.hints.get(column.name, ()),
    )


def _skipped_row(index: int, name: str, trial: StagedTrial) -> ColumnRow:
    reason = _LEFT_OUT.get(trial.left_out.get(name, ""), "")
    return ColumnRow(index, name, "", False, "", "", "", {}, "", (reason,) if reason else ())


def _typed(name: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Return what was typed for a column, whose number can have changed."""
    parts = ("min", "max", "meaning", "unit", "description", "categories", "source", "found")
    for index in range(MAX_COLUMNS):
        if fields.get(f"col_{index}") == name:
            return {part: fields.get(f"{part}_{index}", "") for part in parts}
    for key, value in fields.items():
        prefix = key.removeprefix("join_")
        if key.startswith("join_") and value == "1" and (prefix.rstrip("_-. ") or prefix) == name:
            return {"source": f"{prefix}*"}
    return {}
