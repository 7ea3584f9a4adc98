"""Datasets on a Domain, for their owners and for data scientists.

columns = {"image": "image 1x8x8", "label": "label 0..9"}
domain.datasets.upload("digits", "digits.npz", columns=columns, visibility="listed")
domain.datasets.search("digits", schema="label:int32")
domain.datasets["digits"].mock()
"""

from __future__ import annotations

import builtins
import contextlib
import csv
import html
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn, html_or_error
from pygrid.client.display.units import counted, size
from pygrid.client.downloads import MAX_MEMORY_BYTES
from pygrid.client.hosting import FileBody, FormBody, FormPart
from pygrid.errors import InvalidInput, NotFound, PreconditionFailed, PygridError
from pygrid.messages.datasets import (
    Column,
    ColumnDeclaration,
    DatasetInfo,
    DatasetList,
    DatasetSummary,
    Preview,
    Schema,
    UpdateDataset,
    UploadRequest,
    VersionRequest,
    Visibility,
)
from pygrid.messages.jobs import BudgetInfo, PolicyInfo
from pygrid.tensors import decode
from pygrid.transport import Api, Body, Request, Response
from pygrid.transport.base import BytesBody

T = TypeVar("T")

DataSource = Mapping[str, Any] | str | os.PathLike[str] | Any
"""The path of a CSV, Parquet, Arrow, NPZ or safetensors file; arrays by the name of their column; or a data frame."""
Columns = Mapping[str, str | Mapping[str, Any]] | Sequence[ColumnDeclaration]
"""Declarations of columns: name -> meaning, or name -> fields of `ColumnDeclaration`."""

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
            data: a file, arrays by the name of their column, or a data frame.
            mock: a table of the same columns that others can see; None: the Domain draws one from the schema.
            visibility: users that can see the dataset: ``private`` (you), ``listed`` (users with an account),
                ``public`` (everybody). Nobody else sees records in any case.
            progress: show a bar; None: on a terminal or in a notebook.
            version: ``columns``, ``skip``, ``subject`` with ``max_records_per_subject``, ``format``, ``note``,
                ``draw_mock``, ``num_mock_records``, ``mock_seed``: see `pygrid.messages.datasets.VersionRequest`.
        Raises:
            Conflict: you have a dataset of that name (``dataset_exists``).
            Unauthenticated, Forbidden: you are not logged in, or may not upload.
            InvalidInput and its subclasses: the file or its description is not valid; the message names the fault.
                Nothing is stored.
        """
        config = _request(
            UploadRequest, version, name=name, description=description, tags=tuple(tags), visibility=visibility
        )
        return Dataset(self._api, _send(self._api, "/data-centric/datasets", config, data, mock, progress))

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
        return Dataset(self._api, self._api.get("/data-centric/datasets/by-name", DatasetInfo, query={"name": name}))

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
            TableColumn("description", lambda item: item.description, min=20),
        )


class Dataset:
    """One dataset on a Domain."""

    def __init__(self, api: Api, info: DatasetSummary) -> None:
        self._api = api
        self.id = info.id
        self.name = info.name

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
        """The mock dataset: columns of the same names, dtypes and shapes, with invented records. Texts are strings.

        Raises:
            NotFound: the version has no mock dataset (``mock_not_found``).
        """
        request = Request("GET", f"{self._path}/mock", _version(version))
        arrays, metadata = decode(self._api.exchange(request, lambda response: response.collect(MAX_MEMORY_BYTES)))
        schema = msgspec.json.decode(metadata["schema"], type=Schema)
        return {
            column.name: arrays[column.name]
            if column.categories is None
            else np.array(column.categories)[arrays[column.name]]
            for column in schema.columns
        }

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
        body = BytesBody(msgspec.json.encode(update))
        request = Request("PUT", self._path, headers={"Content-Type": "application/json"}, body=body)
        info = self._api.exchange(request, _reader(DatasetInfo, self._api.url))
        self.name = info.name
        return info

    def new_version(
        self, data: DataSource, *, mock: DataSource | None = None, progress: bool | None = None, **version: Any
    ) -> DatasetInfo:
        """Add a version. The dataset and its spent budget stay the same.

        Args:
            version: as for `Datasets.upload`; without ``columns``, the declarations of the last version apply.
        Raises:
            As `Datasets.upload`.
        """
        return _send(self._api, f"{self._path}/versions", _request(VersionRequest, version), data, mock, progress)

    def policy(self, **changes: Any) -> PolicyInfo:
        """The policy and the privacy budget of the dataset; with arguments, change them or set them the first time.

        Args:
            changes: ``epsilon`` and ``delta`` of the whole dataset, ``epsilon_per_user``, ``auto_approve`` (private
                jobs within these caps need no person), ``max_epsilon_per_job``, ``use``, ``allow_remote_workers``,
                ``unit``, ``fresh_budget``: see `pygrid.messages.jobs.PolicyInfo`. Other fields stay as they are.
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
        try:
            known, etag = self._api.get_tagged(path, PolicyInfo)
            given, seen = msgspec.to_builtins(known) | changes, {"If-Match": etag}
        except NotFound as error:
            if error.code != "policy_not_found":
                raise
            given, seen = changes, {"If-None-Match": "*"}
        wanted = _request(PolicyInfo, given)
        body = BytesBody(msgspec.json.encode(wanted))
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

    def delete(self) -> None:
        """Delete the dataset with all its versions."""
        self._api.exchange(Request("DELETE", self._path), lambda response: response.read(1024))

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, id={self.id}, url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: _html(self.info()))


def _html(info: DatasetInfo) -> str:
    records = counted(info.num_records, "record")
    title = f"<b>{html.escape(info.name)}</b> version {info.version}, {records}, {info.visibility}"
    return f"{title}<br>{html.escape(info.description)}{ColumnTable(info.schema.columns).html()}"


def save_csv(columns: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write a table, such as a mock dataset, as CSV; formulas of spreadsheets become plain text by a quote mark.

    Raises:
        InvalidInput: a column has an array for each record, which CSV cannot hold.
    """
    for name, values in columns.items():
        if values.ndim != 1:
            raise InvalidInput(
                f"column {name!r} has records of shape {list(values.shape[1:])}, which CSV cannot hold; use .npz"
            )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([neutralise(name) for name in columns])
        lists = [values.tolist() for values in columns.values()]
        writer.writerows(
            [neutralise(cell) if isinstance(cell, str) else cell for cell in row] for row in zip(*lists, strict=True)
        )


def neutralise(text: str) -> str:
    """The text, with a quote mark before it if a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _request(kind: type[T], given: Mapping[str, Any], **more: Any) -> T:
    values = {**given, **more}
    if "columns" in values:
        values["columns"] = _declarations(values["columns"])
    try:
        return msgspec.convert(msgspec.to_builtins(values), kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the description of the upload is not valid: {error}", code=codes.INVALID_DATASET_CONFIG
        ) from error


def _declarations(columns: Columns) -> list[Any]:
    if not isinstance(columns, Mapping):
        return list(columns)
    return [{"name": name, **({"meaning": said} if isinstance(said, str) else said)} for name, said in columns.items()]


def _send(
    api: Api, path: str, config: VersionRequest, data: DataSource, mock: DataSource | None, progress: bool | None
) -> DatasetInfo:
    with contextlib.ExitStack() as stack:
        parts = [FormPart("config", "application/json", BytesBody(msgspec.json.encode(config)))]
        for name, source in (("data", data), ("mock", mock)):
            if source is not None:
                parts.append(FormPart(name, "application/octet-stream", _body(source, stack)))
        form = FormBody(parts)
        body: Body = stack.enter_context(_shown(form, progress))
        headers = {"Content-Type": form.media_type}
        return api.send_body(path, DatasetInfo, body, headers=headers, timeout_s=_UPLOAD_PATIENCE_S, once=True)


def _body(source: DataSource, stack: contextlib.ExitStack) -> Body:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}", code=codes.FILE_NOT_FOUND)
        return FileBody(path)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pygrid-upload-"))
    path = Path(folder) / "data.npz"
    save_npz(_arrays(source), path)
    return FileBody(path)


def _arrays(source: Any) -> dict[str, npt.NDArray[Any]]:
    """The columns of a mapping or a data frame, by name."""
    if not isinstance(source, Mapping) and not (hasattr(source, "columns") and hasattr(source, "__getitem__")):
        raise InvalidInput(f"a {type(source).__name__} is not a table: pass a file, arrays by name, or a data frame")
    names = source.keys() if isinstance(source, Mapping) else source.columns
    return {str(name): _array(str(name), source[name]) for name in names}


def _array(name: str, values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):  # a tensor of PyTorch
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind in "OT":
        texts = array.tolist()
        if array.ndim != 1 or not all(isinstance(text, str) for text in texts):
            raise InvalidInput(
                f"column {name!r} holds Python objects other than texts; convert them to numbers or texts"
            )
        array = np.array(texts, dtype=np.str_)
    return np.ascontiguousarray(array) if array.ndim else array


def save_npz(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write arrays as an NPZ file, whatever their names, in their order.

    Raises:
        ValueError: an array holds Python objects.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class _CountedBody:
    """A body that reports the number of sent bytes."""

    def __init__(self, body: Body, told: Callable[[int], object]) -> None:
        self._body = body
        self._told = told

    @property
    def num_bytes(self) -> int:
        return self._body.num_bytes

    def __iter__(self) -> Iterator[bytes | memoryview]:
        done = 0
        for piece in self._body:
            yield piece
            done += len(piece)
            self._told(done)


@contextlib.contextmanager
def _shown(body: Body, progress: bool | None) -> Iterator[Body]:
    """The body, with a bar of the sent bytes."""
    from pygrid.client.display.live import ProgressView

    total = body.num_bytes
    with ProgressView("upload", progress) as view:

        def show(done: int) -> None:
            view.show(size(total) if done < total else f"{size(total)} sent, checking", done, total)

        yield _CountedBody(body, show) if view.is_shown else body


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
