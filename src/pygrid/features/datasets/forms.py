"""Reads the multipart form of a dataset as it arrives: first ``config``, then the files, which go to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import msgspec
from multipart import MultipartSegment

from pygrid import codes
from pygrid.errors import InvalidConfig, InvalidInput, PayloadTooLarge
from pygrid.features.datasets.intake import UploadedFiles
from pygrid.messages.datasets import VersionRequest
from pygrid.messages.decoding import decode_json, invalid_form
from pygrid.web.forms import FormEvent, form_events

MAX_CONFIG_BYTES = 4 * 1024**2
WRITE_BYTES = 1024**2
_FILES = ("data", "mock")

R = TypeVar("R", bound=VersionRequest)


class Upload:
    """The form of a dataset, read as it arrives: first ``config``, then the files.

    Args:
        max_bytes: limit of each file.
    """

    def __init__(self, content_type: str, body: AsyncIterator[bytes], max_bytes: int) -> None:
        self._events = form_events(content_type, body, parts="the parts config, data and optionally mock", max_parts=8)
        self._max_bytes = max_bytes

    async def config(self, kind: type[R]) -> R:
        """Read the part ``config``, which must be the first one.

        Raises:
            InvalidInput: ``invalid_form``: another form, or another part comes first.
            InvalidConfig: ``invalid_dataset_config``. PayloadTooLarge: the part is over its limit.
        """
        config = bytearray()
        async for event in self._events:
            if isinstance(event, MultipartSegment):
                _check_first(event.name or "")
            elif event is None:
                return _decode(bytes(config), kind)
            else:
                config += event
                _check_size("config", len(config), MAX_CONFIG_BYTES)
        raise invalid_form("the form has no part 'data'")

    async def files_into(self, folder: Path) -> UploadedFiles:
        """Write the files into a folder, after `config` was read.

        Raises:
            InvalidInput: ``invalid_form``: a part that is missing, repeated, unknown or empty.
            PayloadTooLarge: a part is over its limit.
        """
        async with _FileWriter(folder, self._max_bytes) as writer:
            async for event in self._events:
                await writer.take(event)
            return writer.files()


def _check_first(name: str) -> None:
    _check_known(name)
    if name != "config":
        raise invalid_form("the part 'config' must come before the files, so that it is checked before they are sent")


def _check_known(name: str) -> None:
    if name != "config" and name not in _FILES:
        raise invalid_form(f"the form has an unknown part {name[:100]!r}")


def _check_size(name: str, num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise PayloadTooLarge(f"part {name!r} has more than {limit:,} bytes", max_bytes=limit)


class _FileWriter:
    """Handles the events of the parser: the head of a segment, its pieces, None at its end."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._paths: dict[str, Path] = {}
        self._filename = ""
        self._name = ""
        self._file: BinaryIO | None = None
        self._pending = bytearray()
        self._size = 0
        self._writing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Also after an error: the thread must have finished with the file before the file is closed.
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._file is not None:
            self._file.close()

    async def take(self, event: FormEvent) -> None:
        if isinstance(event, MultipartSegment):
            if event.name == "data":
                self._filename = event.filename or ""
            self._begin(event.name or "")
        elif event is None:
            await self._end()
        else:
            self._size += len(event)
            _check_size(self._name, self._size, self._max_bytes)
            self._pending += event
            if len(self._pending) >= WRITE_BYTES:
                await self._write()

    def files(self) -> UploadedFiles:
        """Return the files, after the whole form was read."""
        if "data" not in self._paths:
            raise invalid_form("the form has no part 'data'")
        return UploadedFiles(self._paths["data"], self._paths.get("mock"), self._filename)

    def _begin(self, name: str) -> None:
        _check_known(name)
        if name in self._paths or name == "config":
            raise invalid_form(f"the form has part {name!r} twice")
        self._name, self._pending, self._size = name, bytearray(), 0
        self._paths[name] = self._folder / name
        # Opening a file of this folder does not block. Writing can block, so a thread does it.
        self._file = self._paths[name].open("xb", buffering=0)

    async def _write(self) -> None:
        """Start to write the pending bytes, after the last write has ended."""
        assert self._file is not None
        data, self._pending = self._pending, bytearray()
        await self._written()
        self._writing = asyncio.ensure_future(asyncio.to_thread(_write_all, self._file, data))

    async def _written(self) -> None:
        """Wait until the last write has ended, and raise its error if it failed."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    async def _end(self) -> None:
        await self._write()
        await self._written()
        assert self._file is not None
        self._file.close()
        self._file = None
        if not self._size:
            raise invalid_form(f"part {self._name!r} is empty")


def _write_all(file: BinaryIO, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _decode(config: bytes, kind: type[R]) -> R:
    try:
        return msgspec.convert(decode_json(config), kind)
    except InvalidInput as error:
        raise InvalidConfig(f"config: {error.detail}", code=codes.INVALID_DATASET_CONFIG) from error
    except msgspec.ValidationError as error:
        raise InvalidConfig(
            f"config does not describe an upload: {error}", code=codes.INVALID_DATASET_CONFIG
        ) from error
