"""Large answers, sent in slices so that they do not delay other requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from litestar import Response
from litestar.response import Stream

from pygrid.messages import media
from pygrid.offload import OFFLOAD_BYTES, slices


def bytes_response(pieces: Sequence[bytes | memoryview], media_type: str = media.TENSORS) -> Response[Any]:
    """Return the answer with these bytes, joined."""
    num_bytes = sum(map(len, pieces))
    if num_bytes <= OFFLOAD_BYTES:
        return Response(b"".join(pieces), media_type=media_type)
    return Stream(_stream(pieces), media_type=media_type, headers={"Content-Length": str(num_bytes)})


async def _stream(pieces: Sequence[bytes | memoryview]) -> AsyncIterator[bytes]:
    for part in slices(pieces):
        yield bytes(part)
