"""The routes of datasets. Records leave through one of them only: the preview, for those who may change the dataset."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any

from litestar import Response, Router, delete, get, post, put
from litestar.datastructures import State
from litestar.params import FromQuery, JSONBody, PathParameter, QueryParameter
from litestar.response import Stream

from pygrid.core.access import Permission
from pygrid.core.datasets import SchemaQuery
from pygrid.core.preconditions import Precondition
from pygrid.features.datasets.intake import Upload
from pygrid.features.datasets.service import DatasetsService
from pygrid.messages import media
from pygrid.messages.datasets import DatasetInfo, DatasetList, Preview, UpdateDataset
from pygrid.web.auth import anyone, find_principal, require
from pygrid.web.idempotency import repeatable
from pygrid.web.preconditions import IfMatch, tagged
from pygrid.web.problems import describe_problems
from pygrid.web.requests import AppRequest, stream_body, wait_until_gone
from pygrid.web.services import service

PathId = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]
Version = Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)]
MAX_SEARCH_CHARS = 1000


def _upload(request: AppRequest, datasets: DatasetsService) -> Upload:
    """The form that the request brings."""
    announced = request.headers.get("content-length", "")
    return Upload(
        request.headers.get("content-type", ""),
        stream_body(request, _max_form_bytes(datasets)),
        int(announced) if announced.isascii() and announced.isdigit() and len(announced) <= 20 else None,
        partial(wait_until_gone, request),
    )


@post(
    "/datasets",
    status_code=201,
    request_max_body_size=None,
    guards=[require(Permission.UPLOAD_DATA)],
    security=[{"session": []}],
    responses=describe_problems(400, 401, 403, 408, 409, 413, 507),
)
@repeatable(form=True)
async def upload_dataset(request: AppRequest, state: State) -> DatasetInfo:
    """Upload a dataset: a multipart form with ``config`` (JSON), then the files ``data`` and perhaps ``mock``."""
    datasets = service(state, DatasetsService)
    return await datasets.upload(request.user, _upload(request, datasets))


@post(
    "/datasets/{dataset_id:int}/versions",
    status_code=201,
    request_max_body_size=None,
    guards=[require()],
    security=[{"session": []}],
    responses=describe_problems(400, 401, 403, 404, 408, 409, 413, 507),
)
@repeatable(form=True)
async def add_version(request: AppRequest, state: State, dataset_id: PathId) -> DatasetInfo:
    """Add a version to a dataset: a form as for a new one."""
    datasets = service(state, DatasetsService)
    return await datasets.add_version(request.user, dataset_id, _upload(request, datasets))


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
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
) -> DatasetList:
    """Datasets that the caller may know of, newest first; by words, tags, and what a column is like."""
    found = await service(state, DatasetsService).list_datasets(
        find_principal(request),
        text=text,
        tags=tuple(tag or ()),
        columns=SchemaQuery(column, dtype, meaning),
        before=before,
        limit=limit,
    )
    return DatasetList(found)


@get("/datasets/by-name", guards=[anyone], responses=describe_problems(400, 401, 404))
async def find_dataset(
    request: AppRequest, state: State, name: Annotated[str, QueryParameter(min_length=1, max_length=200)]
) -> Response[DatasetInfo]:
    """The dataset of a name."""
    return tagged(await service(state, DatasetsService).find_by_name(find_principal(request), name))


@get("/datasets/{dataset_id:int}", guards=[anyone], responses=describe_problems(400, 401, 404))
async def get_dataset(
    request: AppRequest, state: State, dataset_id: PathId, version: Version = None
) -> Response[DatasetInfo]:
    """One dataset, with the schema of a version.

    Without ``version`` it is the newest, and the answer has an ``ETag``.
    """
    info = await service(state, DatasetsService).get(find_principal(request), dataset_id, version)
    return tagged(info) if version is None else Response(info)


@put(
    "/datasets/{dataset_id:int}",
    guards=[require()],
    security=[{"session": []}],
    responses=describe_problems(400, 401, 403, 404, 409, 412),
)
async def update_dataset(
    request: AppRequest, state: State, dataset_id: PathId, data: JSONBody[UpdateDataset], if_match: IfMatch = None
) -> Response[DatasetInfo]:
    """Change name, description, tags or visibility; what the body leaves out stays."""
    return tagged(await service(state, DatasetsService).update(request.user, dataset_id, data, Precondition(if_match)))


@delete(
    "/datasets/{dataset_id:int}",
    status_code=204,
    guards=[require()],
    security=[{"session": []}],
    responses=describe_problems(400, 401, 403, 404, 412),
)
async def delete_dataset(request: AppRequest, state: State, dataset_id: PathId, if_match: IfMatch = None) -> None:
    """Delete a dataset with all its versions."""
    await service(state, DatasetsService).delete(request.user, dataset_id, Precondition(if_match))


@get("/datasets/{dataset_id:int}/mock", guards=[anyone], responses=describe_problems(400, 401, 404))
async def download_mock(
    request: AppRequest, state: State, dataset_id: PathId, version: Version = None
) -> Response[Any]:
    """The mock twin: safetensors bytes, with its schema in the metadata."""
    length, pieces = await service(state, DatasetsService).mock(find_principal(request), dataset_id, version)
    return Stream(_each(pieces), media_type=media.TENSORS, headers={"Content-Length": str(length)})


async def _each(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@get(
    "/datasets/{dataset_id:int}/preview",
    guards=[require()],
    security=[{"session": []}],
    responses=describe_problems(400, 401, 403, 404),
)
async def preview_dataset(
    request: AppRequest,
    state: State,
    dataset_id: PathId,
    version: Version = None,
    num_records: Annotated[int, QueryParameter(ge=1, le=100)] = 10,
) -> Preview:
    """The first records, for those who may change the dataset."""
    return await service(state, DatasetsService).preview(request.user, dataset_id, version, num_records)


@get("/dataset-tags", guards=[anyone], responses=describe_problems(401))
async def list_tags(request: AppRequest, state: State) -> list[str]:
    """Every tag of the datasets that the caller may know of."""
    return await service(state, DatasetsService).list_tags(find_principal(request))


def _max_form_bytes(datasets: DatasetsService) -> int:
    return 2 * datasets.limits.max_upload_bytes + 64 * 1024**2


router = Router(
    "/data-centric",
    route_handlers=[
        upload_dataset,
        add_version,
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
)
