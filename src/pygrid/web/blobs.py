"""Answers that carry a stored file: from memory if it is small and hot, else streamed, always with its hash as ``ETag``."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from litestar import Request, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Stream

from pygrid.messages import media

CHUNK_BYTES = 512 * 1024
SMALL_BYTES = 4 * 1024 * 1024
CACHE_BYTES = 16 * 1024 * 1024


def describe_blob() -> dict[int, ResponseSpec]:
    """What a handler's ``responses=`` says about an answer of `BlobResponses`, for the OpenAPI document."""
    return {
        200: ResponseSpec(bytes, generate_examples=False, description="The bytes", media_type=media.TENSORS),
        304: ResponseSpec(None, generate_examples=False, description="The client has them", media_type=media.TENSORS),
    }


class Blobs(Protocol):
    """Where blobs are read from."""

    def path(self, name: str) -> Path:
        """The file of a blob."""
        ...


class BlobResponses:
    """Serves blobs; keeps small ones that were asked for lately in memory."""

    def __init__(self, blobs: Blobs) -> None:
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
        """The blob, or 304 if the client has it (``If-None-Match``)."""
        etag = f'"{name}"'
        all_headers = {"ETag": etag, "Cache-Control": "private, no-cache", **(headers or {})}
        if etag in request.headers.get("if-none-match", ""):
            return Response(None, status_code=304, headers=all_headers)
        data = self._cache.get(name)
        if data is not None:
            self._cache.move_to_end(name)
            return Response(data, media_type=media_type, headers=all_headers)
        size = await asyncio.to_thread(lambda: self._blobs.path(name).stat().st_size)
        if size > SMALL_BYTES:
            all_headers["Content-Length"] = str(size)
            return Stream(self._stream(name), media_type=media_type, headers=all_headers)
        data = await self._load(name)
        return Response(data, media_type=media_type, headers=all_headers)

    async def _load(self, name: str) -> bytes:
        """Read a small blob into the cache, once for all who ask for it at the same time."""
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(asyncio.to_thread(self._blobs.path(name).read_bytes))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        data = await asyncio.shield(task)
        self._keep(name, data)
        return data

    def _keep(self, name: str, data: bytes) -> None:
        if name in self._cache:
            return
        self._cache[name] = data
        self._cached_bytes += len(data)
        while self._cached_bytes > CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

    async def _stream(self, name: str) -> AsyncIterator[bytes]:
        descriptor = await asyncio.to_thread(os.open, self._blobs.path(name), os.O_RDONLY)
        try:
            offset = 0
            while chunk := await asyncio.to_thread(os.pread, descriptor, CHUNK_BYTES, offset):
                offset += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)
