"""Answers that carry a stored file, with its hash as ``ETag``: cached if the file is small, else streamed."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from litestar import Request, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Stream

from pygrid.errors import RangeNotSatisfiable
from pygrid.messages import media
from pygrid.web.problems import problem_response
from pygrid.web.ranges import read_range

CHUNK_BYTES = 512 * 1024
SMALL_BYTES = 4 * 1024 * 1024
CACHE_BYTES = 16 * 1024 * 1024


def describe_blob() -> dict[int, ResponseSpec]:
    """Return the ``responses=`` of a handler that answers by `BlobResponses`, for the OpenAPI document."""
    return {
        200: ResponseSpec(bytes, generate_examples=False, description="The bytes", media_type=media.TENSORS),
        206: ResponseSpec(bytes, generate_examples=False, description="A range of them", media_type=media.TENSORS),
        304: ResponseSpec(None, generate_examples=False, description="The client has them", media_type=media.TENSORS),
    }


class BlobSource(Protocol):
    """Where blobs are read from."""

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file with the bytes of a blob, which stays until the block ends. It can wait for a disk."""
        ...


class BlobResponses:
    """Serves blobs, and caches small ones that were requested recently."""

    def __init__(self, blobs: BlobSource) -> None:
        self._blobs = blobs
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._loading: dict[str, asyncio.Task[bytes]] = {}

    async def respond(
        self,
        request: Request[Any, Any, Any],
        name: str,
        headers: dict[str, str] | None = None,
        media_type: str = media.TENSORS,
    ) -> Response[Any]:
        """Return the blob, a range of it (``Range``), or 304 if the client has it (``If-None-Match``)."""
        etag = f'"{name}"'
        all_headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes", **(headers or {})}
        if etag in request.headers.get("if-none-match", ""):
            return Response(None, status_code=304, headers=all_headers)
        data = self._cache.get(name)
        if data is not None:
            self._cache.move_to_end(name)
        else:
            data = await self._load(name)
        size = len(data) if data else await asyncio.to_thread(self._size, name)
        wanted, status = range(size), 200
        if "range" in request.headers and request.headers.get("if-range", etag) == etag:
            try:
                asked = read_range(request.headers["range"], size)
            except RangeNotSatisfiable as error:
                return problem_response(error.to_problem(), {**all_headers, "Content-Range": f"bytes */{size}"})
            if asked is not None:
                wanted, status = asked, 206
                all_headers["Content-Range"] = f"bytes {asked.start}-{asked.stop - 1}/{size}"
        if data:
            part = data if status == 200 else data[wanted.start : wanted.stop]
            return Response(part, status_code=status, media_type=media_type, headers=all_headers)
        all_headers["Content-Length"] = str(len(wanted))
        return Stream(self._stream(name, wanted), status_code=status, media_type=media_type, headers=all_headers)

    def preload(self, name: str) -> None:
        """Begin to read a blob that will soon be requested, if it is small enough for the cache."""
        if name not in self._cache and name not in self._loading:
            self._start_loading(name)

    async def _load(self, name: str) -> bytes:
        """Read a small blob into the cache, once for all simultaneous requests."""
        return await asyncio.shield(self._loading.get(name) or self._start_loading(name))

    def _start_loading(self, name: str) -> asyncio.Task[bytes]:
        task = self._loading[name] = asyncio.create_task(asyncio.to_thread(self._read, name))
        task.add_done_callback(partial(self._loaded, name))
        return task

    def _read(self, name: str) -> bytes:
        """Return the bytes of a small blob; empty for a large one, which is streamed."""
        with self._blobs.local(name) as path:
            return path.read_bytes() if path.stat().st_size <= SMALL_BYTES else b""

    def _size(self, name: str) -> int:
        with self._blobs.local(name) as path:
            return path.stat().st_size

    def _loaded(self, name: str, task: asyncio.Task[bytes]) -> None:
        del self._loading[name]
        if not task.cancelled() and task.exception() is None and task.result():
            self._keep(name, task.result())

    def _keep(self, name: str, data: bytes) -> None:
        if name in self._cache:
            return
        self._cache[name] = data
        self._cached_bytes += len(data)
        while self._cached_bytes > CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

    async def _stream(self, name: str, wanted: range) -> AsyncIterator[bytes]:
        descriptor = await asyncio.to_thread(self._open, name)
        try:
            offset = wanted.start
            while offset < wanted.stop:
                length = min(CHUNK_BYTES, wanted.stop - offset)
                chunk = await asyncio.to_thread(os.pread, descriptor, length, offset)
                if not chunk:
                    break
                offset += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        with self._blobs.local(name) as path:
            return os.open(path, os.O_RDONLY)


class ProcessBlobs(BlobResponses):
    """Models and plans of hosted processes."""


class DraftBlobs(BlobResponses):
    """Models and plans of drafts."""


class StateBlobs(BlobResponses):
    """Checkpoints as States, for clients of 2020."""


class ServedModelBlobs(BlobResponses):
    """Served models."""
