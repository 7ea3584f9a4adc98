"""People with datasets on a Domain that runs in the test's event loop."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np

CSV = b"name,age\nann,30\nbob,41\ncleo,52\n"
PATH = "/data-centric/datasets"

Parts = list[tuple[str, tuple[str, bytes, str]]]


def parts(config: dict[str, Any] | bytes, data: bytes | None = CSV, mock: bytes | None = None) -> Parts:
    """The form of an upload."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    made = [("config", ("config", text, "application/json"))]
    for name, content in (("data", data), ("mock", mock)):
        if content is not None:
            made.append((name, (name, content, "application/octet-stream")))
    return made


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class Owner:
    """Somebody who uploads, with the headers of a session."""

    def __init__(self, web: httpx.AsyncClient, headers: dict[str, str], folder: Path) -> None:
        self.web = web
        self.headers = headers
        self.folder = folder

    async def try_upload(
        self, config: dict[str, Any] | bytes, data: bytes | None = CSV, mock: bytes | None = None
    ) -> httpx.Response:
        return await self.web.post(PATH, files=parts(config, data, mock), headers=self.headers)

    async def upload(
        self, name: str = "people", data: bytes = CSV, mock: bytes | None = None, **config: Any
    ) -> dict[str, Any]:
        answer = await self.try_upload({"name": name, **config}, data, mock)
        assert answer.status_code == 201, answer.text
        info: dict[str, Any] = answer.json()
        return info

    def stored(self) -> list[Path]:
        """Everything that lies in the folder of datasets, drafts included."""
        return sorted((self.folder / "datasets").iterdir())
