"""The published client in headless Chromium, on a page of another origin than the Domain."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, Route, async_playwright

from support.browser import FLAGS, find_chromium
from support.syftjs import HERE

SCRIPTS = {
    "tf.js": "@tensorflow/tfjs-core/dist/tf-core.min.js",
    "syft.js": "@openmined/syft.js/dist/index.js",
}
CDN = "https://cdn.jsdelivr.net/npm/"
PAGE = """<!doctype html><meta charset="utf-8"><title>Clients of 2020</title>
<script src="/tf.js"></script><script src="/syft.js"></script><script src="/client.js"></script>"""
TRAIN = """async (task) => {
  await tf.setBackend("cpu");
  try { return await publishedClient.train(tf, syft, task); }
  catch (error) { return { events: ["failed"], error: String(error && error.message || error) }; }
}"""


class _Files(http.server.BaseHTTPRequestHandler):
    def __init__(self, files: dict[str, bytes], *args: Any) -> None:
        self._files = files
        super().__init__(*args)

    def do_GET(self) -> None:
        data = self._files.get(self.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Type", "text/javascript" if self.path.endswith(".js") else "text/html")
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, format: str, *args: Any) -> None:
        """The log of a test needs no requests of files."""


@contextmanager
def _serving(files: dict[str, bytes]) -> Iterator[str]:
    """The address of files on loopback, under another name than that of the Domain."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, files))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class PublishedPage:
    """A page with the published client."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def run(self, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results of tasks, which run one after the other."""
        return [await self.page.evaluate(TRAIN, one) for one in tasks]


@asynccontextmanager
async def open_page(folder: Path, path: str = "/", html: str = PAGE) -> AsyncIterator[PublishedPage]:
    """A page in a browser of its own. Requests for packages of npm get the files of ``folder``."""
    modules = folder / "node_modules"
    files = {f"/{name}": (modules / file).read_bytes() for name, file in SCRIPTS.items()}
    files |= {"/client.js": (HERE / "client.js").read_bytes(), path: html.encode()}

    async def answer(route: Route) -> None:
        name, _, rest = route.request.url.removeprefix(CDN).rpartition("@")
        await route.fulfill(path=modules / name / rest.partition("/")[2], content_type="text/javascript")

    with _serving(files) as origin:
        async with async_playwright() as playwright:
            flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
            browser = await playwright.chromium.launch(executable_path=find_chromium(), args=flags)
            page = await browser.new_page()
            page.set_default_timeout(120_000)
            if CDN in html:
                # All requests of the page take the way through Playwright then, with their bodies.
                await page.route(f"{CDN}**", answer)
            await page.goto(origin + path)
            yield PublishedPage(page)
            await browser.close()
