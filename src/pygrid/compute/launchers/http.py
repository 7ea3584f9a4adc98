"""The HTTP APIs of engines."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx

from pygrid.compute.engines import EngineError

_PATIENCE_S = 30.0


class HttpEngine:
    """The HTTP API of an engine. It follows no redirect and uses no proxy of the environment."""

    def __init__(self, address: str, *, ca_file: str = "", token_file: str = "") -> None:
        self._address = address
        self._token_file = token_file
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self._client = httpx.AsyncClient(base_url=address, verify=verify, timeout=_PATIENCE_S, trust_env=False)

    async def call(self, verb: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the JSON of an answer; statuses below 400, 404 and 409 only. Raises EngineError."""
        headers = {}
        try:
            if self._token_file:
                # It is read for each request, because a cluster replaces it.
                headers["Authorization"] = f"Bearer {await asyncio.to_thread(_read, self._token_file)}"
            answer = await self._client.request(verb, path, json=body, headers=headers)
            if answer.status_code >= 300 and answer.status_code not in (404, 409):
                raise EngineError(f"{self._address} answered {answer.status_code}: {answer.text[:300]}")
            return answer.status_code, answer.json() if answer.status_code < 300 else None
        except httpx.HTTPError as error:
            raise EngineError(f"{self._address} cannot be reached: {str(error) or type(error).__name__}") from error
        except OSError as error:
            raise EngineError(f"{self._token_file}: {error.strerror}") from error
        except ValueError as error:
            raise EngineError(f"{self._address} answered with what is not JSON") from error

    async def close(self) -> None:
        await self._client.aclose()


def _read(path: str) -> str:
    return Path(path).read_text().strip()
