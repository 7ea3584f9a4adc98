"""A browser of the web console, without its engine: it keeps the cookie, and sends what browsers send."""

from __future__ import annotations

import http.cookies
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import httpx
import sqlalchemy as sa
from litestar import Litestar

from pygrid.storage.store import Store
from pygrid.web.services import service
from support.web import PASSWORD

_TYPED = re.compile(r"{(\w+):\w+}")
LAST = ("POST /admin/logout",)
"""Ends the session of the person who asks."""
VOID = {"meta", "link", "input", "br", "hr", "img", "path", "rect", "circle"}


def routes_of(app: Litestar) -> Iterator[str]:
    """``METHOD path`` of each page and act, in the order in which they are tried."""
    found = set()
    for route in app.routes:
        if route.path.startswith("/admin"):
            for method in getattr(route, "methods", ()):
                if method in ("GET", "POST"):
                    found.add(f"{method} {_TYPED.sub(lambda match: '{' + match[1] + '}', route.path)}")
    return iter(sorted(found, key=lambda one: (one in LAST, one.startswith("POST"), one)))


def fill(path: str, known: dict[str, str]) -> str:
    """The path with the ids of things that exist."""
    return re.sub(r"{(\w+)}", lambda match: known.get(match[1], "nothing"), path)


@contextmanager
def noted_statements(app: Litestar) -> Iterator[list[str]]:
    """The statements that the database of the app runs inside the block."""
    engine, statements = service(app.state, Store).database.engine, list[str]()

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


class Browser:
    """Somebody at the console."""

    def __init__(self, web: httpx.AsyncClient) -> None:
        self._web = web
        self.cookie = ""
        """The header ``Cookie``."""
        self.set_cookie = ""
        """The header ``Set-Cookie`` of the last answer that had one."""

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self._send("GET", path, **more)

    async def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """Send a form of a page."""
        return await self._send("POST", path, data=fields or {}, headers={"Sec-Fetch-Site": "same-origin", **headers})

    async def send_file(self, path: str, data: bytes, name: str, config: str = "{}") -> httpx.Response:
        """Send a file by a form of a page."""
        files = [("config", (None, config.encode())), ("data", (name, data))]
        return await self._send("POST", path, files=files, headers={"Sec-Fetch-Site": "same-origin"})

    async def upload(self, path: str, fields: dict[str, str], files: dict[str, bytes]) -> httpx.Response:
        """Send a form with files."""
        parts = [(name, (None, text.encode())) for name, text in fields.items()]
        parts += [(name, (name, data)) for name, data in files.items()]
        return await self._send("POST", path, files=parts, headers={"Sec-Fetch-Site": "same-origin"})

    async def sign_in(self, email: str, password: str = PASSWORD) -> Browser:
        answer = await self.post("/admin/login", {"email": email, "password": password})
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/"), answer.text
        return self

    async def page(self, path: str, status: int = 200) -> Page:
        """A page that must have this status and break none of the rules of pages."""
        answer = await self.get(path)
        assert answer.status_code == status, answer.text
        return Page.read(answer)

    async def _send(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        sent = {**({"Cookie": self.cookie} if self.cookie else {}), **(headers or {})}
        answer = await self._web.request(method, path, headers=sent, follow_redirects=False, **more)
        if (given := answer.headers.get("set-cookie")) is not None:
            self.set_cookie = given
            (morsel,) = http.cookies.SimpleCookie(given).values()
            self.cookie = f"{morsel.key}={morsel.value}" if morsel.value else ""
        return answer


class Page(HTMLParser):
    """The elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.html = ""

    @classmethod
    def read(cls, answer: httpx.Response) -> Page:
        page = cls()
        page.html = answer.text
        page.feed(answer.text)
        page.close()
        assert page.faults() == []
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """The words of the page."""
        return " ".join(" ".join(self.texts).split())

    def find(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of all elements of this kind."""
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    def faults(self) -> list[str]:
        """What the policy of the console forbids: code or style in a page, and links to other hosts."""
        faults = []
        for tag, attributes in self.elements:
            if tag in ("style", "iframe", "object", "embed", "base") or (tag == "script" and "src" not in attributes):
                faults.append(f"<{tag}>")
            for name, value in attributes.items():
                if name == "style" or name.startswith("on") or name.startswith("hx-on") or "javascript:" in value:
                    faults.append(f"<{tag} {name}>")
                if name in ("href", "src", "action") and not re.match(r"(/(?!/)|#)", value):
                    faults.append(f"<{tag} {name}={value!r}>")
        return faults
