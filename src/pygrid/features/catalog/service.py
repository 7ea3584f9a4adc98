"""Answers a Network's requests about a Domain's public content, which is what anonymous callers may see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.configuration import read_server_config
from pygrid.core.datasets import Schema, SchemaQuery, visible_schema
from pygrid.core.discovery import MAX_ANSWER_BYTES, ByteLimit, asks_for, check_query, encoded_size, mentions, snippet
from pygrid.errors import InvalidConfig, InvalidInput
from pygrid.messages.discovery import (
    MAX_COLUMNS,
    MAX_ITEMS,
    MAX_NAMES,
    MAX_SNIPPET,
    CatalogAnswer,
    CatalogSummary,
    FoundColumn,
    FoundDataset,
    FoundModel,
    FoundPort,
    FoundProcess,
    SearchQuery,
)
from pygrid.plans.manifest import Port
from pygrid.plans.text import printable
from pygrid.storage import datasets, models, processes
from pygrid.storage.datasets import DatasetRow, DatasetVersion
from pygrid.storage.models import StoredModel
from pygrid.storage.processes import ProcessRow
from pygrid.storage.public_content import PublicContent
from pygrid.storage.sql.database import Database

SEARCHED_AT_ONCE = 200
_NUM_SEARCHES = 4
"""Searches that run in parallel. Few, because a Network searches for many callers, and owners use the database too."""
_HEAD_BYTES = 1024

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
T = TypeVar("T", FoundDataset, FoundModel, FoundProcess)


class CatalogService:
    """Searches the public content."""

    def __init__(self, database: Database, public: PublicContent) -> None:
        self._database = database
        self._public = public
        self._turns = asyncio.Semaphore(_NUM_SEARCHES)

    @property
    def version(self) -> str:
        """Version of the public content; each change of the content changes it."""
        return self._public.version

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers of requests over a link to a Network: ``search`` and ``summary``."""
        return {"search": self._answer_search, "summary": self._answer_summary}

    async def search(self, query: SearchQuery) -> CatalogAnswer:
        """Return the public content that matches, newest first; at most 100 hits of each kind and 256 KiB.

        Raises:
            InvalidInput: ``invalid_search``.
        """
        query = check_query(query)

        def load(connection: sa.Connection) -> CatalogAnswer:
            limit = ByteLimit(MAX_ANSWER_BYTES - _HEAD_BYTES, MAX_ITEMS)
            found_models = limit.take(_find_models(connection, query))
            found_processes = limit.take(_find_processes(connection, query))
            found_datasets = limit.take(_find_datasets(connection, query))
            return CatalogAnswer(version, found_datasets, found_models, found_processes, limit.is_full)

        async with self._turns:
            version = self._public.version
            return await self._database.read(load)

    async def summary(self) -> CatalogSummary:
        """Return all public tags and models, sorted; at most 2,000 of each."""

        def load(connection: sa.Connection) -> CatalogSummary:
            tags = datasets.list_all_tags(connection, None)
            served = [model.model_id for model in _public_models(connection)]
            return CatalogSummary(version, _fitting(tags), _fitting(served))

        async with self._turns:
            version = self._public.version
            return await self._database.read(load)

    async def _answer_search(self, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            query = msgspec.convert(payload, SearchQuery)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the search is not valid: {error}", code=codes.INVALID_SEARCH) from error
        return _as_payload(await self.search(query))

    async def _answer_summary(self, _payload: dict[str, Any]) -> dict[str, Any]:
        return _as_payload(await self.summary())


def _find_datasets(connection: sa.Connection, query: SearchQuery) -> list[FoundDataset]:
    """Return up to one dataset more than the answer may hold, so that the answer shows whether there are more."""
    if not asks_for(query, "dataset"):
        return []
    columns = SchemaQuery(query.column or None, query.dtype, query.meaning or None)
    found: list[tuple[DatasetRow, DatasetVersion, Schema]] = []
    position: int | None = None
    # The database cannot search schemas, so pages are read until there are enough hits.
    while len(found) <= MAX_ITEMS:
        page = datasets.list_datasets(
            connection, None, words=query.text.split(), tags=query.tags, before=position, limit=SEARCHED_AT_ONCE
        )
        for dataset, version in page:
            schema = datasets.get_schema(connection, version.id)
            if not columns or columns.fits(schema):
                found.append((dataset, version, schema))
            if len(found) > MAX_ITEMS:
                break
        if len(page) < SEARCHED_AT_ONCE:
            break
        position = page[-1][0].id
    tags = datasets.list_tags(connection, [dataset.id for dataset, _, _ in found])
    return [_describe_dataset(dataset, version, schema, tags[dataset.id]) for dataset, version, schema in found]


def _describe_dataset(
    dataset: DatasetRow, version: DatasetVersion, schema: Schema, tags: tuple[str, ...]
) -> FoundDataset:
    shown = visible_schema(schema, to_owner=False).columns[:MAX_COLUMNS]
    return FoundDataset(
        id=dataset.id,
        name=dataset.name,
        description=_shorten(dataset.description),
        tags=tags,
        version=version.number,
        num_records=version.num_records,
        num_columns=version.num_columns,
        columns=tuple(
            FoundColumn(one.name, one.dtype, one.shape, printable(one.unit), printable(one.meaning)) for one in shown
        ),
        updated_at=dataset.updated_at,
    )


def _find_models(connection: sa.Connection, query: SearchQuery) -> list[FoundModel]:
    if not asks_for(query, "model"):
        return []
    words = query.text.split()
    return [
        _describe_model(model)
        for model in _public_models(connection)
        if (not query.model or model.model_id == query.model) and mentions(_texts_of_model(model), words)
    ]


def _public_models(connection: sa.Connection) -> list[StoredModel]:
    return [model for model in models.list_models(connection) if model.visibility == "public"]


def _texts_of_model(model: StoredModel) -> list[str]:
    ports = (*model.report.inputs, *model.report.outputs)
    return [model.model_id, model.description, *(port.name for port in ports)]


def _describe_model(model: StoredModel) -> FoundModel:
    return FoundModel(
        id=model.model_id,
        description=_shorten(model.description),
        inputs=_describe_ports(model.report.inputs),
        outputs=_describe_ports(model.report.outputs),
        allow_download=model.allow_download,
        allow_remote_inference=model.allow_remote_inference,
        num_parameters=model.report.num_parameters,
        size_bytes=model.size_bytes,
        sha256=model.file,
    )


def _describe_ports(ports: Sequence[Port]) -> tuple[FoundPort, ...]:
    return tuple(FoundPort(printable(port.name), port.dtype, port.shape) for port in ports)


def _find_processes(connection: sa.Connection, query: SearchQuery) -> list[FoundProcess]:
    if not asks_for(query, "process"):
        return []
    words = query.text.split()
    return [
        FoundProcess(
            name=process.name,
            version=process.version,
            state=process.state,
            num_parameters=process.num_parameters,
            created_at=process.created_at,
        )
        for process in processes.list_processes(connection)
        if mentions((process.name, process.version), words) and _is_public(process)
    ]


def _is_public(process: ProcessRow) -> bool:
    try:
        return read_server_config(process.server_config).is_public
    except InvalidConfig:  # hosted under earlier rules; a process whose configuration cannot be read is not shown
        return False


def _fitting(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first names that fit in half of an answer."""
    left = MAX_ANSWER_BYTES // 2 - _HEAD_BYTES
    for number, name in enumerate(names[:MAX_NAMES]):
        left -= encoded_size(name) + 1
        if left < 0:
            return tuple(names[:number])
    return tuple(names[:MAX_NAMES])


def _shorten(description: str) -> str:
    return snippet(printable(description), MAX_SNIPPET)


def _as_payload(answer: CatalogAnswer | CatalogSummary) -> dict[str, Any]:
    payload: dict[str, Any] = msgspec.to_builtins(answer)
    return payload
