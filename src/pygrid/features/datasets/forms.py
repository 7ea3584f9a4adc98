"""Reads the multipart form of a dataset as it arrives: first ``config``, then the files, which go to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from multipart import MultipartSegment

from pygrid.errors import PayloadTooLarge
from pygrid.messages.decoding import invalid_form
from pygrid.web.forms import FormEvent, form_events

MAX_CONFIG_BYTES = 4 * 1024**2
WRITE_BYTES = 1024**2
_FILES = ("data", "mock")


@dataclass(frozen=True)
class UploadedFiles:
    """Paths of the files, valid until the folder of the upload is removed."""

    data: Path
    mock: Path | None


OnConfig = Callable[[bytes], Awaitable[Path]]
"""`config part -> folder for the files`; called before any byte of a file is read, and checks the part."""


async def read_upload_form(
    content_type: str, body: AsyncIterator[bytes], on_config: OnConfig, max_bytes: int
) -> UploadedFiles:
    """Read the form.

    Args:
        max_bytes: limit of each file.
    Raises:
        InvalidInput: ``invalid_form``: another form, or a part that is missing, repeated, unknown or before ``config``.
        PayloadTooLarge: a part is over its limit.
        PygridError: as ``on_config``.
    """
    parts = "the parts config, data and optionally mock"
    async with _Reader(on_config, max_bytes) as reader:
        async for event in form_events(content_type, body, parts=parts, max_parts=8):
            await reader.take(event)
        return reader.files()


class _Reader:
    """Handles the events of the parser: the head of a segment, its pieces, None at its end."""

    def __init__(self, on_config: OnConfig, max_bytes: int) -> None:
        self._on_config = on_config
        self._max_bytes = max_bytes
        self._folder: Path | None = None
        self._paths: dict[str, Path] = {}
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
            self._begin(event.name or "")
        elif event is None:
            await self._end()
        else:
            self._size += len(event)
            limit = MAX_CONFIG_BYTES if self._name == "config" else self._max_bytes
            if self._size > limit:
                raise PayloadTooLarge(f"part {self._name!r} has more than {limit:,} bytes", max_bytes=limit)
            self._pending += event
            if self._file is not None and len(self._pending) >= WRITE_BYTES:
                await self._write()

    def files(self) -> UploadedFiles:
        """Return the files, after the whole form was read."""
        if "data" not in self._paths:
            raise invalid_form("the form has no part 'data'")
        return UploadedFiles(self._paths["data"], self._paths.get("mock"))

    def _begin(self, name: str) -> None:
        if name != "config" and name not in _FILES:
            raise invalid_form(f"the form has an unknown part {name[:100]!r}")
        if name in self._paths or (name == "config" and self._folder is not None):
            raise invalid_form(f"the form has part {name!r} twice")
        if name != "config" and self._folder is None:
            raise invalid_form(
                "the part 'config' must come before the files, so that it is checked before they are sent"
            )
        self._name, self._pending, self._size = name, bytearray(), 0
        if self._folder is not None:
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
        if self._file is None:
            self._folder = await self._on_config(bytes(self._pending))
            return
        await self._write()
        await self._written()
        self._file.close()
        self._file = None
        if not self._size:
            raise invalid_form(f"part {self._name!r} is empty")


def _write_all(file: BinaryIO, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
