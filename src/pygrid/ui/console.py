"""The console of one app: its templates, its static files, its cookie, and the frame around each page."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from litestar import Response

from pygrid.core.access import Permission, Principal
from pygrid.errors import PygridError, Unavailable
from pygrid.features.accounts.service import AccountService
from pygrid.storage.audit import AuditedWrites
from pygrid.ui.render import Renderer
from pygrid.ui.static import StaticFiles
from pygrid.web.auth import find_principal
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types htmx"
)
"""No script and no style may stand in a page, and no code in an attribute."""
_HEADERS = {
    "Content-Security-Policy": CSP,
    "Cache-Control": "no-store",
    # Without a referrer, forms would send the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Vary": "Cookie, HX-Request, Accept-Encoding",
}
_MIN_GZIP_BYTES = 1024
MAX_SHOWN = 10
"""Rows of a list on a start page."""


class MenuEntry(msgspec.Struct, frozen=True):
    """A section of the console."""

    path: str
    label: str
    key: str
    """Letter of the keyboard shortcut, after ``g``."""
    permissions: tuple[Permission, ...] = ()
    """One of them is needed to see the entry; empty: every account sees it."""
    is_rare: bool = False
    """Phones show it under *More*."""


_SUPERVISION = (
    MenuEntry("/admin/settings", "Settings", "s", (Permission.EDIT_SETTINGS,), True),
    MenuEntry("/admin/health", "Health", "h", (Permission.EDIT_SETTINGS,), True),
)
_DOMAIN_MENU = (
    MenuEntry("/admin/", "Dashboard", "d"),
    MenuEntry("/admin/requests", "Requests", "r", (Permission.TRIAGE_REQUESTS, Permission.UPLOAD_DATA)),
    MenuEntry("/admin/processes", "Processes", "p"),
    MenuEntry("/admin/datasets", "Datasets", "t"),
    MenuEntry("/admin/budgets", "Budgets", "b"),
    MenuEntry("/admin/jobs", "Jobs", "j"),
    MenuEntry("/admin/models", "Models", "m"),
    MenuEntry("/admin/workers", "Workers", "w", (Permission.MANAGE_INFRASTRUCTURE,), True),
    MenuEntry("/admin/networks", "Networks", "n", (Permission.MANAGE_INFRASTRUCTURE,), True),
    MenuEntry("/admin/search", "Search", "f"),
    MenuEntry("/admin/people", "People", "e", (Permission.TRIAGE_REQUESTS, Permission.CREATE_USERS), True),
    MenuEntry("/admin/roles", "Roles", "o", (Permission.TRIAGE_REQUESTS,), True),
    MenuEntry("/admin/audit", "Audit", "a", (Permission.TRIAGE_REQUESTS,), True),
    *_SUPERVISION,
)
_NETWORK_MENU = (
    MenuEntry("/admin/", "Dashboard", "d"),
    MenuEntry("/admin/domains", "Domains", "o", (Permission.MANAGE_NODES,)),
    MenuEntry("/admin/invitations", "Invitations", "i", (Permission.MANAGE_NODES,)),
    MenuEntry("/admin/relay", "Relay", "y", (Permission.MANAGE_NODES,)),
    MenuEntry("/admin/search", "Search", "f"),
    MenuEntry("/admin/people", "People", "e", (Permission.CREATE_USERS,)),
    MenuEntry("/admin/roles", "Roles", "r", (Permission.EDIT_SETTINGS,)),
    MenuEntry("/admin/audit", "Audit", "a", (Permission.EDIT_SETTINGS,)),
    *_SUPERVISION,
)


class Need(msgspec.Struct, frozen=True):
    """Something that waits for the caller."""

    path: str
    words: str


class Frame(msgspec.Struct, frozen=True):
    """What stands around a page."""

    app: str
    kind: Literal["domain", "network"]
    identity: str
    title: str
    path: str
    menu: tuple[MenuEntry, ...]
    email: str
    role: str
    alarm: str = ""
    """What an operator must do at once, on each page."""
    problem: dict[str, Any] | None = None
    """Why the act of a form was refused."""


class Console(msgspec.Struct, frozen=True):
    kind: Literal["domain", "network"]
    name: str
    identity: str
    cookie: str
    """Name of the cookie. Browsers ignore ports, so apps on one machine need different names."""
    renderer: Renderer
    files: StaticFiles

    @classmethod
    def open(cls, kind: Literal["domain", "network"], name: str, identity: str) -> Console:
        """Return a console with all templates and files loaded."""
        files = StaticFiles.load()
        cookie = f"pygrid_{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
        return cls(kind, name, identity, cookie, Renderer(files.url), files)

    def menu(self, principal: Principal | None) -> tuple[MenuEntry, ...]:
        """Return the sections that a principal may open."""
        if principal is None:
            return ()
        entries = _DOMAIN_MENU if self.kind == "domain" else _NETWORK_MENU
        return tuple(entry for entry in entries if not entry.permissions or any(map(principal.may, entry.permissions)))

    async def page(
        self,
        request: AppRequest,
        template: str,
        title: str,
        view: object = None,
        *,
        status: int = 200,
        error: PygridError | None = None,
    ) -> Response[bytes]:
        """Return a page, or with ``?part=NAME`` that block of its template alone; an error has its own status."""
        principal = find_principal(request)
        email = role = ""
        if principal is not None:
            user = await service(request.app.state, AccountService).get_user(principal, principal.user_id)
            email, role = user.email, user.role.name
        alarm = _find_alarm(request) if principal is not None and principal.may(Permission.EDIT_SETTINGS) else ""
        menu = self.menu(principal)
        problem = None if error is None else error.to_problem()
        path = request.url.path
        frame = Frame(self.name, self.kind, self.identity, title, path, menu, email, role, alarm, problem)
        part = request.query_params.get("part", "") if request.method == "GET" else ""
        html = self.renderer.render(template, part, frame=frame, view=view)
        return self.answer(request, html, status if error is None else error.status)

    def answer(
        self, request: AppRequest, html: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response[bytes]:
        """Return the answer with this HTML, compressed if the browser accepts that."""
        body, extra = html.encode(), {**_HEADERS, **(headers or {})}
        if len(body) >= _MIN_GZIP_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
            body = gzip.compress(body, 5, mtime=0)
            extra["Content-Encoding"] = "gzip"
        return Response(body, status_code=status, media_type="text/html; charset=utf-8", headers=extra)


def _find_alarm(request: AppRequest) -> str:
    """Why no private job may run: an old copy of the database was put back. Empty: none was."""
    writes = request.app.state.services.find(AuditedWrites)
    try:
        if writes is not None:
            writes.check()
    except Unavailable as error:
        return error.detail
    return ""


def console_of(request: AppRequest) -> Console:
    return service(request.app.state, Console)


def see_other(path: str, cookies: list[Any] | None = None) -> Response[bytes]:
    """Return the answer after a change: the browser fetches ``path``."""
    return Response(
        b"", status_code=303, media_type="text/plain", headers={**_HEADERS, "Location": path}, cookies=cookies or []
    )
