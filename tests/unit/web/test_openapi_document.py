"""The OpenAPI document is made once, and not on the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, cast

from litestar import Litestar

from pygrid.web.openapi import OpenApiDocument
from support.eventually import turns


class Schema:
    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def to_schema(self) -> dict[str, Any]:
        self.threads.append(threading.current_thread())
        return {"openapi": "3.1.0"}


class App:
    def __init__(self) -> None:
        self.openapi_schema = Schema()


async def test_all_who_ask_share_one_document_that_a_thread_made() -> None:
    app, document = App(), OpenApiDocument()
    first, second = await asyncio.gather(*(document.read(cast(Litestar, app)) for _ in range(2)))
    assert first is second
    assert json.loads(first) == {"openapi": "3.1.0"}
    assert await document.read(cast(Litestar, app)) is first
    assert len(app.openapi_schema.threads) == 1
    assert app.openapi_schema.threads[0] is not threading.current_thread()


async def test_the_document_is_made_although_its_first_reader_went() -> None:
    app, document = App(), OpenApiDocument()
    first = asyncio.create_task(document.read(cast(Litestar, app)))
    await turns()
    first.cancel()
    assert json.loads(await document.read(cast(Litestar, app))) == {"openapi": "3.1.0"}
    assert len(app.openapi_schema.threads) == 1
