"""The static files: each has a name with its hash, so that browsers can keep it for a year."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec
from litestar import Response, get

from pygrid import codes
from pygrid.errors import NotFound
from pygrid.ui.forms import PathText
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}


class StaticFile(msgspec.Struct, frozen=True):
    media_type: str
    data: bytes
    compressed: bytes


class StaticFiles(msgspec.Struct, frozen=True):
    """All files, in memory: about 150 kB."""

    names: dict[str, str]
    """Hashed name by name."""
    by_name: dict[str, StaticFile]
    """File by hashed name."""

    @classmethod
    def load(cls) -> StaticFiles:
        names, files = {}, {}
        for path in sorted(FOLDER.rglob("*")):
            if path.suffix not in _TYPES:
                continue
            data = path.read_bytes()
            hashed = f"{path.stem}.{hashlib.sha256(data).hexdigest()[:12]}{path.suffix}"
            names[path.name] = hashed
            files[hashed] = StaticFile(_TYPES[path.suffix], data, gzip.compress(data, 9, mtime=0))
        return cls(names, files)

    def url(self, name: str) -> str:
        return f"/admin/static/{self.names[name]}"


@get("/static/{name:str}")
async def static_file(request: AppRequest, name: PathText) -> Response[bytes]:
    """Answer with a file of the console."""
    found = service(request.app.state, StaticFiles).by_name.get(name)
    if found is None:
        raise NotFound("there is no such file", code=codes.FILE_NOT_FOUND)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.compressed, media_type=found.media_type, headers={**_HEADERS, "Content-Encoding": "gzip"})
    return Response(found.data, media_type=found.media_type, headers=_HEADERS)
