"""Routes of datasets. Only one of them returns records: the preview, for callers who may change the dataset."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any

from litestar import Response, Router, delete, get, post, put
from litestar.datastructures import State
from litestar.params import FromQuery, JSONBody, QueryParameter
from litestar.response import Stream

from pygrid.core.access import Permission
from pygrid.core.datasets import SchemaQuery
from pygrid.core.preconditions import Precondition
from pygrid.features.datasets.forms import Upload
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.datasets.uploads import UploadsService
from pygrid.messages import media
from pygrid.messages.datasets import (
    DatasetInfo,
    DatasetList,
    Preview,
    UpdateDataset,
    UploadRequest,
    UploadTrial,
    VersionRequest,
)
from pygrid.messages.preparations import PrepareRequest
from pygrid.web.auth import SESSION, anyone, find_principal, require
from pygrid.web.idempotency import repeatable
from pygrid.web.parameters import PageSize, PathId
from pygrid.web.preconditions import IfMatch, tagged
from pygrid.web.problems import describe_problems
from pygrid.web.published import Area, exception_handlers
from pygrid.web.requests import AppRequest, stream_body, wait_until_gone
from pygrid.web.services import service

Version = Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)]
MAX_SEARCH_CHARS = 1000


def _upload(request: AppRequest, uploads: UploadsService) -> Upload:
    body = stream_body(request, 2 * uploads.limits.max_upload_bytes + 64 * 1024**2)
    return Upload(request.headers.get("content-type", ""), body, uploads.limits.max_upload_bytes)


def _announced_bytes(request: AppRequest) -> int | None:
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isascii() and announced.isdigit() and len(announced) <= 20 else None


_may_upload = require(Permission.UPLOAD_DATA)
_FOUND = describe_problems(400, 401, 404)


@post(
    "/datasets",
    status_code=201,
    request_max_body_size=None,
    guards=[_may_upload],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 408, 409, 413, 507),
)
@repeatable(form=True)
async def upload_dataset(request: AppRequest, state: State) -> DatasetInfo:
    """Upload a dataset: a multipart form with ``config`` (JSON), then the file ``data`` and optionally ``mock``."""
    uploads = service(state, UploadsService)
    upload = _upload(request, uploads)
    config = await upload.config(UploadRequest)
    async with uploads.receive(request.user, config, _announced_bytes(request)) as draft:
        files = await upload.files_into(draft.folder)
        return await uploads.upload(request.user, draft, files, partial(wait_until_gone, request))


@post(
    "/datasets/dry-run",
    status_code=200,
    request_max_body_size=None,
    guards=[_may_upload],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 408, 413, 507),
)
async def try_upload(request: AppRequest, state: State) -> UploadTrial:
    """Show what an upload would store, by the form of a new version; nothing of it is stored."""
    uploads = service(state, UploadsService)
    upload = _upload(request, uploads)
    config = await upload.config(VersionRequest)
    async with uploads.receive_trial(request.user, config, _announced_bytes(request)) as draft:
        files = await upload.files_into(draft.folder)
        return await uploads.try_upload(draft, files, partial(wait_until_gone, request))


@post(
    "/datasets/{dataset_id:int}/versions",
    status_code=201,
    request_max_body_size=None,
    guards=[require()],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404, 408, 409, 413, 507),
)
@repeatable(form=True)
async def add_version(request: AppRequest, state: State, dataset_id: PathId) -> DatasetInfo:
    """Add a version to a dataset, by the form of a new dataset."""
    uploads = service(state, UploadsService)
    await service(state, DatasetsService).check_managed(request.user, dataset_id)
    upload = _upload(request, uploads)
    config = await upload.config(VersionRequest)
    async with uploads.receive_version(request.user, dataset_id, config, _announced_bytes(request)) as draft:
        files = await upload.files_into(draft.folder)
        return await uploads.add_version(request.user, dataset_id, draft, files, partial(wait_until_gone, request))


async def _may_manage(request: AppRequest, state: State, dataset_id: int, **_: object) -> None:
    """Raise NotFound or Forbidden if the caller may no longer manage the dataset."""
    await service(state, DatasetsService).check_managed(request.user, dataset_id)


@post(
    "/datasets/{dataset_id:int}/prepare",
    status_code=201,
    guards=[require()],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404, 409, 412, 413, 507),
)
@repeatable(check=_may_manage)
async def prepare_dataset(
    request: AppRequest, state: State, dataset_id: PathId, data: JSONBody[PrepareRequest]
) -> DatasetInfo:
    """Add a version with the same records and other prepared columns."""
    return await service(state, UploadsService).prepare(request.user, dataset_id, data)


@get("/datasets", guards=[anyone], responses=describe_problems(400, 401))
async def list_datasets(
    request: AppRequest,
    state: State,
    text: Annotated[str, QueryParameter(max_length=MAX_SEARCH_CHARS)] = "",
    tag: Annotated[list[str] | None, QueryParameter(max_items=20)] = None,
    column: FromQuery[str | None] = None,
    dtype: FromQuery[str | None] = None,
    meaning: FromQuery[str | None] = None,
    before: Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)] = None,
    limit: PageSize = 100,
) -> DatasetList:
    """List the datasets that the caller may see, newest first; filtered by words, tags and properties of a column."""
    found = await service(state, DatasetsService).list_datasets(
        find_principal(request),
        text=text,
        tags=tuple(tag or ()),
        columns=SchemaQuery(column, dtype, meaning),
        before=before,
        limit=limit,
    )
    return DatasetList(found)


@get("/datasets/by-name", guards=[anyone], responses=_FOUND)
async def find_dataset(
    request: AppRequest, state: State, name: Annotated[str, QueryParameter(min_length=1, max_length=200)]
) -> Response[DatasetInfo]:
    """Show the dataset of a name."""
    return tagged(await service(state, DatasetsService).find_by_name(find_principal(request), name))


@get("/datasets/{dataset_id:int}", guards=[anyone], responses=_FOUND)
async def get_dataset(
    request: AppRequest, state: State, dataset_id: PathId, version: Version = None
) -> Response[DatasetInfo]:
    """Show a dataset with the schema of a version.

    Without ``version``, it is the newest one, and the answer has an ``ETag``.
    """
    info = await service(state, DatasetsService).get(find_principal(request), dataset_id, version)
    return tagged(info) if version is None else Response(info)


@put(
    "/datasets/{dataset_id:int}",
    guards=[require()],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404, 409, 412),
)
async def update_dataset(
    request: AppRequest, state: State, dataset_id: PathId, data: JSONBody[UpdateDataset], if_match: IfMatch = None
) -> Response[DatasetInfo]:
    """Change the name, description, tags or visibility; fields that the body omits stay."""
    return tagged(await service(state, DatasetsService).update(request.user, dataset_id, data, Precondition(if_match)))


@delete(
    "/datasets/{dataset_id:int}",
    status_code=204,
    guards=[require()],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404, 412),
)
async def delete_dataset(request: AppRequest, state: State, dataset_id: PathId, if_match: IfMatch = None) -> None:
    """Delete a dataset with all its versions."""
    await service(state, DatasetsService).delete(request.user, dataset_id, Precondition(if_match))


@get("/datasets/{dataset_id:int}/mock", guards=[anyone], responses=_FOUND)
async def download_mock(
    request: AppRequest, state: State, dataset_id: PathId, version: Version = None
) -> Response[Any]:
    """Download the mock dataset: safetensors bytes, with the schema in the metadata."""
    length, pieces = await service(state, DatasetsService).mock(find_principal(request), dataset_id, version)
    return Stream(_each(pieces), media_type=media.TENSORS, headers={"Content-Length": str(length)})


async def _each(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@get(
    "/datasets/{dataset_id:int}/preview",
    guards=[require()],
    security=SESSION,
    responses=describe_problems(400, 401, 403, 404),
)
async def preview_dataset(
    request: AppRequest,
    state: State,
    dataset_id: PathId,
    version: Version = None,
    num_records: Annotated[int, QueryParameter(ge=1, le=100)] = 10,
) -> Preview:
    """Show the first records, for callers who may change the dataset."""
    return await service(state, DatasetsService).preview(request.user, dataset_id, version, num_records)


@get("/dataset-tags", guards=[anyone], responses=describe_problems(401))
async def list_tags(request: AppRequest, state: State) -> list[str]:
    """List all tags of the datasets that the caller may see."""
    return await service(state, DatasetsService).list_tags(find_principal(request))


router = Router(
    "/data-centric",
    route_handlers=[
        upload_dataset,
        try_upload,
        add_version,
        prepare_dataset,
        list_datasets,
        find_dataset,
        get_dataset,
        update_dataset,
        delete_dataset,
        download_mock,
        preview_dataset,
        list_tags,
    ],
    tags=["datasets"],
    exception_handlers=exception_handlers(Area.DATA),
)
