"""Datasets on a Domain, for their owners and for data scientists.

columns = {"image": "image 1x8x8", "label": "label 0..9"}
domain.datasets.upload("digits", "digits.npz", columns=columns, visibility="listed")
domain.datasets.search("digits", schema="label:int32")
domain.datasets["digits"].mock()
"""

from __future__ import annotations

import builtins
import contextlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from pygrid import codes
from pygrid.client.declarations import Prepare, of_source, origin_of, read_declarations
from pygrid.client.display.tables import Table, TableColumn, html_or_error
from pygrid.client.display.uploads import shown_upload
from pygrid.client.downloads import MAX_MEMORY_BYTES
from pygrid.client.hosting import FormBody, FormPart
from pygrid.client.sql_query import SqlQuery
from pygrid.client.table_files import DataSource, body_of, check_packed_name
from pygrid.configs import did_you_mean
from pygrid.errors import InvalidInput, NotFound, PreconditionFailed, PygridError
from pygrid.messages.datasets import (
    TIMES,
    Column,
    DatasetInfo,
    DatasetList,
    DatasetSummary,
    Preview,
    Schema,
    UpdateDataset,
    UploadRequest,
    UploadTrial,
    VersionRequest,
    Visibility,
)
from pygrid.messages.jobs import BudgetInfo, PolicyInfo
from pygrid.messages.plain_words import in_plain_words
from pygrid.messages.preparation_text import preparations_of, write_preparation
from pygrid.messages.preparations import PrepareRequest
from pygrid.tensors import decode
from pygrid.transport import Api, Body, Request, Response
from pygrid.transport.encoding import json_body, to_message
from pygrid.units import counted, size

T = TypeVar("T")

_PAGE = 1000
_MAX_ANSWER_BYTES = 256 * 1024**2
_UPLOAD_PATIENCE_S = 4 * 3600.0
"""The Domain sends nothing while it reads a file."""


class Datasets:
    """The datasets of a Domain that the caller can see; see `DomainClient.datasets`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def upload(
        self,
        name: str,
        data: DataSource,
        *,
        mock: DataSource | None = None,
        description: str = "",
        tags: Sequence[str] = (),
        visibility: Visibility = "private",
        progress: bool | None = None,
        **version: Any,
    ) -> Dataset:
        """Upload a new dataset. The first axis of each column is the record.

        Args:
            name: a name that your other datasets do not have.
            data: a file, arrays by the name of their column, a data frame, a query (`SqlQuery`), or a
                folder of images (`ImageFolder`).
            mock: a table of the same columns that others can see; None: the Domain draws one from the schema.
            visibility: users that can see the dataset: ``private`` (you), ``listed`` (users with an account),
                ``public`` (everybody). Nobody else sees records in any case.
            progress: show a bar; None: on a terminal or in a notebook.
            version: ``columns``, ``prepare`` (as `Dataset.prepare`), ``skip``, ``subject`` with
                ``max_records_per_subject``, ``format``, ``note``, ``draw_mock``, ``num_mock_records``, ``mock_seed``:
                see `pygrid.messages.datasets.VersionRequest`; for CSV files ``header``, ``names``, ``index``,
                ``delimiter``, ``decimal``, ``thousands``, ``missing``, ``skip_lines``, ``encoding``: see
                `pygrid.messages.datasets.CsvOptions`.
        Raises:
            Conflict: you have a dataset of that name (``dataset_exists``).
            Unauthenticated, Forbidden: you are not logged in, or may not upload.
            InvalidInput and its subclasses: the file or its description is not valid; the message names the fault.
                Nothing is stored.
        """
        described = {"name": name, "description": description, "tags": tuple(tags), "visibility": visibility}
        config = _request(UploadRequest, version, **described, **of_source(data, version))
        return Dataset(self._api, _send(self._api, "/data-centric/datasets", config, (data, mock), progress))

    add = upload

    def dry_run(
        self, data: DataSource, *, mock: DataSource | None = None, progress: bool | None = None, **version: Any
    ) -> UploadTrial:
        """The schema that an upload of this table would have; nothing is stored. Arguments and errors as `upload`."""
        config = _request(VersionRequest, version, **of_source(data, version))
        return _send(self._api, "/data-centric/datasets/dry-run", config, (data, mock), progress, UploadTrial)

    def list(self) -> DatasetTable:
        """All datasets that the caller can see, newest first."""
        return self.search()

    def search(
        self, text: str = "", *, tags: Sequence[str] = (), schema: str | None = None, meaning: str | None = None
    ) -> DatasetTable:
        """Datasets that fit, newest first.

        Args:
            text: each word occurs in the name, the description, a tag, or the declaration of a column.
            tags: the dataset has all of these.
            schema: a column of the dataset: ``NAME``, ``NAME:DTYPE`` or ``:DTYPE``.
            meaning: a part of the meaning of that column, for example ``image``.
        """
        column, _, dtype = (schema or "").partition(":")
        wanted = {"text": text, "column": column, "dtype": dtype, "meaning": meaning or ""}
        query = {key: value for key, value in wanted.items() if value} | {"limit": str(_PAGE)}
        found = DatasetTable()
        while True:
            page = self._page(query, tags)
            found += page
            if len(page) < _PAGE:
                return found
            query["before"] = str(page[-1].id)

    def _page(self, query: Mapping[str, str], tags: Sequence[str]) -> builtins.list[DatasetSummary]:
        # Pairs, because the key ``tag`` can occur several times.
        several: Any = [*query.items(), *(("tag", tag) for tag in tags)]
        return self._api.get("/data-centric/datasets", DatasetList, query=several).datasets

    def __getitem__(self, name: str) -> Dataset:
        """The dataset of a name: your own, else the newest of this name.

        Raises:
            NotFound: there is no such dataset, or you cannot see it (``dataset_not_found``).
        """
        try:
            info = self._api.get("/data-centric/datasets/by-name", DatasetInfo, query={"name": name})
        except NotFound as error:
            near = did_you_mean(name, (other.name for other in self.list()))
            raise NotFound(
                f"{self._api.url} has no dataset {name!r} that you can see{near}", code=codes.DATASET_NOT_FOUND
            ) from error
        return Dataset(self._api, info)

    def by_id(self, dataset_id: int) -> Dataset:
        """The dataset of an id. Raises NotFound: you can see no such dataset (``dataset_not_found``)."""
        return Dataset(self._api, self._api.get(f"/data-centric/datasets/{dataset_id}", DatasetInfo))

    def __iter__(self) -> Iterator[Dataset]:
        for summary in self.list():
            yield Dataset(self._api, summary)

    def __len__(self) -> int:
        return len(self.list())

    def __repr__(self) -> str:
        return f"Datasets(url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: self.list().html())


class DatasetTable(Table[DatasetSummary]):
    """Datasets of a Domain."""

    def columns(self) -> Sequence[TableColumn[DatasetSummary]]:
        return (
            TableColumn("name", lambda item: item.name, weight=5),
            TableColumn("description", lambda item: item.description, min=20),
            TableColumn("tags", lambda item: ", ".join(item.tags), weight=2),
            TableColumn("version", lambda item: item.version, weight=4, align="right"),
            TableColumn("records", lambda item: f"{item.num_records:,}", weight=4, align="right"),
            TableColumn("size", lambda item: size(item.size_bytes), weight=3, align="right"),
            TableColumn("visibility", lambda item: item.visibility, weight=3),
        )


class ColumnTable(Table[Column]):
    """The columns of a dataset."""

    def columns(self) -> Sequence[TableColumn[Column]]:
        return (
            TableColumn("column", lambda item: item.name, weight=5),
            TableColumn("dtype", lambda item: item.dtype, weight=4),
            TableColumn("shape", lambda item: "x".join(map(str, item.shape)), weight=3),
            TableColumn("meaning", lambda item: item.meaning, weight=3),
            TableColumn("unit", lambda item: item.unit, weight=2),
            TableColumn("description", _described, min=20),
        )


def _described(column: Column) -> str:
    """The description of a column, or how it is prepared."""
    return column.description if column.prepared is None else write_preparation(column.prepared)


class Dataset:
    """One dataset on a Domain."""

    def __init__(self, api: Api, info: DatasetSummary) -> None:
        self._api = api
        self.id = info.id
        self.name = info.name
        self.notes = info.notes if isinstance(info, DatasetInfo) else ()
        """After an upload: what the Domain decided while it read the file."""

    @property
    def _path(self) -> str:
        return f"/data-centric/datasets/{self.id}"

    def info(self, version: int | None = None) -> DatasetInfo:
        """The dataset as it is now, with the schema of a version; None: the newest."""
        return self._api.get(self._path, DatasetInfo, query=_version(version))

    @property
    def schema(self) -> Schema:
        """The columns of the newest version."""
        return self.info().schema

    def mock(self, version: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """The mock dataset: columns of the same names, dtypes and shapes, with invented records.

        Texts are strings, and None where a category is missing; dates and datetimes are datetime64.


        Raises:
            NotFound: the version has no mock dataset (``mock_not_found``).
        """
        request = Request("GET", f"{self._path}/mock", _version(version))
        arrays, metadata = decode(self._api.exchange(request, lambda response: response.collect(MAX_MEMORY_BYTES)))
        schema = msgspec.json.decode(metadata["schema"], type=Schema)
        return {column.name: _shown_values(column, arrays[column.name]) for column in schema.columns}

    def preview(self, num_records: int = 10, version: int | None = None) -> Preview:
        """The first records, for users who may change the dataset. Raises Forbidden, NotFound: for other users."""
        return self._api.get(
            f"{self._path}/preview", Preview, query={**_version(version), "num_records": str(num_records)}
        )

    def update(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        tags: Sequence[str] | None = None,
        visibility: Visibility | None = None,
    ) -> DatasetInfo:
        """Change the description of the dataset; None leaves a field as it is.

        Raises:
            Forbidden: it is not yours. Conflict: you have another dataset of that name.
            InvalidConfig: a value is not valid; the message names it.
        """
        update = UpdateDataset(
            name=UNSET if name is None else name,
            description=UNSET if description is None else description,
            tags=UNSET if tags is None else tuple(tags),
            visibility=UNSET if visibility is None else visibility,
        )
        info = self._api.change("PUT", self._path, DatasetInfo, json=update)
        self.name = info.name
        return info

    def new_version(
        self, data: DataSource, *, mock: DataSource | None = None, progress: bool | None = None, **version: Any
    ) -> DatasetInfo:
        """Add a version. The dataset and its spent budget stay the same.

        Args:
            version: as for `Datasets.upload`; without ``columns``, the declarations of the last version apply, and
                without ``prepare``, its prepared columns, and without ``skip``, the columns that it left out.
        Raises:
            As `Datasets.upload`.
        """
        config = _request(VersionRequest, version, **origin_of(data))
        return _send(self._api, f"{self._path}/versions", config, (data, mock), progress)

    def refresh(self, url: str | None = None, query: str | None = None, **version: Any) -> DatasetInfo:
        """Run the query of the newest version again, and add its result as a version.

        Columns that the newest version does not have, such as skipped ones, are not sent.

        Args:
            url: the database with the user and the password; None: that of the newest version, without them.
            query: another query, of which all columns are sent; None: that of the newest version.
            version: as for `new_version`.
        Raises:
            InvalidInput: ``invalid_sql_source``: the newest version does not come from a query, or as `SqlQuery`.
            As `new_version`.
        """
        schema = self.info().schema
        origin = schema.origin
        if origin is None and (url is None or query is None):
            raise InvalidInput(
                f"the newest version of {self.name!r} does not come from a query; pass url and query, or upload a file",
                code=codes.INVALID_SQL_SOURCE,
            )
        names = tuple(column.name for column in schema.columns if column.prepared is None)
        kept = None if query is not None or "columns" in version else names
        source = SqlQuery(url or (origin.database if origin else ""), query or (origin.query if origin else ""), kept)
        return self.new_version(source, **version)

    def prepare(
        self, columns: Prepare | None = None, *, remove: Sequence[str] = (), note: str = "", fresh_budget: bool = False
    ) -> DatasetInfo:
        """Add a version with the same records and columns that the Domain computes from the others.

        dataset.prepare({"age_std": "age,fill=40,clip=0..120,standardize", "sex_hot": "sex,one_hot"})

        Args:
            columns: prepared columns by name: a text (`pygrid.messages.preparation_text`), or ``source`` and ``steps``.
                One with the name of an earlier prepared column replaces it; the others stay.
            remove: prepared columns that the new version does not have.
            fresh_budget: see `pygrid.messages.datasets.VersionRequest`.
        Raises:
            InvalidInput: ``invalid_preparation``: a step does not apply to its column; the message names it.
            Forbidden, NotFound: as `update`. PreconditionFailed: another version was added at the same time.
        """
        given = {"columns": preparations_of(columns or {}), "remove": tuple(remove), "note": note}
        request = _request(PrepareRequest, given, fresh_budget=fresh_budget)
        return self._api.post(
            f"{self._path}/prepare", DatasetInfo, json=request, timeout_s=_UPLOAD_PATIENCE_S, once=True
        )

    def policy(self, **changes: Any) -> PolicyInfo:
        """The policy and the privacy budget of the dataset; with arguments, change them or set them the first time.

        Args:
            changes: ``epsilon`` and ``delta`` of the whole dataset, ``epsilon_per_user``, ``auto_approve`` (private
                jobs within these caps need no person), ``max_epsilon_per_job``, ``use``, ``allow_remote_workers``,
                ``pools``, ``unit``, ``fresh_budget``: see `pygrid.messages.jobs.PolicyInfo`. Other fields stay as they
                are. ``allow_remote_workers`` is the pool ``leased``: each of the two follows the other.
        Raises:
            NotFound: the dataset has no policy, and there are no changes (``policy_not_found``).
            Forbidden: you may not change it. InvalidInput: a value is not valid; the message names it.
            PreconditionFailed: somebody else changed the policy at the same time; read it, and decide again.
            Conflict: the same records have a budget in another dataset, and ``fresh_budget=True`` was not passed
                (``content_has_budget``).
        """
        path = f"{self._path}/policy"
        if not changes:
            return self._api.get(path, PolicyInfo)
        if changes.get("pools") is not None:
            changes = {"allow_remote_workers": "leased" in changes["pools"]} | changes
        try:
            known, etag = self._api.get_tagged(path, PolicyInfo)
            if "allow_remote_workers" in changes and "pools" not in changes:
                others = [name for name in known.pools or ("local",) if name != "leased"]
                changes = changes | {"pools": [*others, *(["leased"] if changes["allow_remote_workers"] else [])]}
            given, seen = msgspec.to_builtins(known) | changes, {"If-Match": etag}
        except NotFound as error:
            if error.code != "policy_not_found":
                raise
            given, seen = changes, {"If-None-Match": "*"}
        wanted = _request(PolicyInfo, given)
        body = json_body(wanted)
        request = Request("PUT", path, headers={"Content-Type": "application/json", **seen}, body=body)
        try:
            return self._api.exchange(request, _reader(PolicyInfo, self._api.url))
        except PreconditionFailed:
            # An earlier try may have succeeded, with a lost answer.
            if (now_is := self._api.get(path, PolicyInfo)) == wanted:
                return now_is
            raise

    def budget(self) -> BudgetInfo:
        """The spent privacy budget: yours and, if you may see it, that of all users.

        Raises:
            NotFound: the dataset has no budget (``policy_not_found``).
        """
        return self._api.get(f"{self._path}/budget", BudgetInfo)

    def rename(self, name: str) -> DatasetInfo:
        """Change the name; jobs and budgets stay with the dataset. Raises as `update`."""
        return self.update(name=name)

    def delete(self) -> None:
        """Delete the dataset with all its versions."""
        self._api.exchange(Request("DELETE", self._path), lambda response: response.read(1024))

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, id={self.id}, url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: dataset_html(self.info()))


def _shown_values(column: Column, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Stored values as a user works with them."""
    if column.categories is not None:
        texts = np.array([*column.categories, None] if np.any(values < 0) else column.categories)
        shown: npt.NDArray[Any] = texts[values]  # the code -1 of a missing value is the last place
        return shown
    if column.dtype not in TIMES:
        return values
    whole = np.where(np.isnan(values), 0, values).astype(np.int64)
    times = whole.astype("datetime64[D]" if column.dtype == "date" else "datetime64[us]")
    times[np.isnan(values)] = np.datetime64("NaT")
    return times


def dataset_html(info: DatasetInfo) -> str:
    """A dataset with its columns as HTML, escaped."""
    records = counted(info.num_records, "record")
    title = f"<b>{html.escape(info.name)}</b> version {info.version}, {records}, {info.visibility}"
    return f"{title}<br>{html.escape(info.description)}{ColumnTable(info.schema.columns).html()}"


def _request(kind: type[T], given: Mapping[str, Any], **more: Any) -> T:
    values = {**given, **more}
    if "columns" in values and kind is not PrepareRequest:
        values["columns"] = read_declarations(values["columns"])
    if values.get("prepare") is not None:
        values["prepare"] = preparations_of(values["prepare"])
    try:
        return to_message(values, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the description of the upload is not valid: {in_plain_words(str(error))}",
            code=codes.INVALID_DATASET_CONFIG,
        ) from error


def _send(
    api: Api,
    path: str,
    config: VersionRequest,
    tables: tuple[DataSource, DataSource | None],
    progress: bool | None,
    kind: type[T] = DatasetInfo,  # type: ignore[assignment]
) -> T:
    with contextlib.ExitStack() as stack:
        parts = [FormPart("config", "application/json", json_body(config))]
        for name, source in zip(("data", "mock"), tables, strict=True):
            if source is not None:
                if config.format is None:
                    check_packed_name(source)
                parts.append(FormPart(name, "application/octet-stream", body_of(source, stack)))
        form = FormBody(parts)
        body: Body = stack.enter_context(shown_upload(form, progress, "stored" if kind is DatasetInfo else "checked"))
        headers = {"Content-Type": form.media_type}
        return api.send_body(path, kind, body, headers=headers, timeout_s=_UPLOAD_PATIENCE_S, once=True)


def _reader(kind: type[T], url: str) -> Callable[[Response], T]:
    def read(response: Response) -> T:
        try:
            return msgspec.json.decode(response.read(_MAX_ANSWER_BYTES), type=kind)
        except msgspec.DecodeError as error:
            raise PygridError(
                f"the answer of {url} does not follow the protocol ({error})", code=codes.UNEXPECTED_ANSWER
            ) from error

    return read


def _version(number: int | None) -> dict[str, str]:
    return {} if number is None else {"version": str(number)}
