"""Pages of other sites, and names of other hosts.

Should happen: every name that the operator gave, every IP address and loopback name reaches the app; devices' pages of
any origin reach the devices' routes; programs, which send no `Origin`, are not concerned.
Should not happen: a page of another origin changes anything, by a request or a WebSocket; a name that somebody points
to this machine (DNS rebinding) reaches anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from pygrid.domain import build_domain
from pygrid.features.cycles.routes import DEVICE_PATHS
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.web.sites import Site
from support.web import PASSWORD, People, assert_problem, running

Web = httpx.AsyncClient
BODY = {"email": "intruder@example.org", "password": PASSWORD}


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Web]:
    """A Domain that others reach, under two names."""
    settings = load_settings(
        {"SECRET_KEY": "k" * 32, "PYGRID_SETUP_CODE": "c" * 16},
        data_dir=tmp_path,
        host="0.0.0.0",
        address="https://Domain.Example:8443/under",
        hosts="alice, other.example.",
        open_signup=True,
    )
    async with running(build_domain(settings)) as client:
        yield client


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "a.localhost", "127.0.0.1", "127.9.9.9:1", "[::1]:5000"]
)
async def test_loopback_names_and_addresses_are_known(web: Web, host: str) -> None:
    assert (await web.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["domain.example", "DOMAIN.EXAMPLE:8443", "alice:5000", "other.example", "other.example.:80", "192.168.1.7:5000"],
)
async def test_given_names_and_every_ip_address_are_known(far: Web, host: str) -> None:
    assert (await far.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "domain.example.evil.example", "0.0.0.0.evil.example", "localhost.evil.example"),
        *("alice.evil.example", "x@localhost", "localhost:x", "localhost/", "", "[::1", "127.0.0.1.nip.io", "1.2.3"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_every_other_host_is_refused_whatever_is_asked(far: Web, host: str, method: str) -> None:
    for path in ("/healthz", "/users", "/model-centric/authenticate", "/nothing"):
        assert_problem(await far.request(method, path, headers={"host": host}), 421, "unknown_host")


async def test_two_hosts_are_refused(web: Web) -> None:
    answer = await web.get("/healthz", headers=[("host", "localhost"), ("host", "evil.example")])
    assert_problem(answer, 421, "unknown_host")


FOREIGN = [
    "https://evil.example",
    "null",
    "http://localhost:3000",
    "http://localhost.evil.example",
    "http://127.0.0.1",
    "",
    "file://",
]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_page_of_another_origin_changes_nothing(web: Web, people: People, origin: str) -> None:
    owner = await people.owner()
    for method, path, headers in [
        *(("POST", "/users", {}), ("POST", "/users/login", {}), ("DELETE", "/users/1", owner)),
        *(
            ("PUT", "/users/1/password", owner),
            ("POST", "/model-centric/host-training", owner),
            ("POST", "/search", {}),
        ),
        *(("POST", "/data-centric/datasets", owner), ("PATCH", "/nothing", {})),
    ]:
        answer = await web.request(method, path, json=BODY, headers={**headers, "origin": origin})
        assert_problem(answer, 403, "cross_site_refused")
    assert (await web.get("/users/me", headers={**owner, "origin": origin})).status_code == 200, (
        "reading is by token only"
    )


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_browser_that_names_no_origin_is_known_by_the_fetch_site(web: Web, site: str) -> None:
    assert_problem(await web.post("/users", json=BODY, headers={"sec-fetch-site": site}), 403, "cross_site_refused")
    assert (await web.post("/users", json=BODY, headers={"sec-fetch-site": "none"})).status_code == 200


async def test_a_page_cannot_host_on_a_domain_that_is_open_as_in_2020(tmp_path: Path) -> None:
    """A form is sent without asking first, and hosting needs no account there."""
    app = build_domain(load_settings({}, data_dir=tmp_path, legacy_open=True))
    async with running(app) as web:
        answer = await web.post(
            "/model-centric/host-training", files={"config": b"{}"}, headers={"origin": "http://evil.example"}
        )
        assert_problem(answer, 403, "cross_site_refused")


async def test_devices_in_pages_of_any_origin_reach_their_routes_and_no_others(web: Web, domain: Litestar) -> None:
    paths = {route.path for route in domain.routes if route.path.startswith("/model-centric/")}
    assert set(DEVICE_PATHS) < paths
    for path in paths - set(DEVICE_PATHS):
        plain = path.split("{")[0].rstrip("/")
        answer = await web.options(
            plain, headers={"origin": "https://app.example", "access-control-request-method": "GET"}
        )
        assert "access-control-allow-origin" not in answer.headers
    for path in DEVICE_PATHS:
        answer = await web.post(
            path, content=b"{", headers={"origin": "https://app.example", "content-type": "text/plain"}
        )
        assert answer.status_code in (400, 401, 405)
        assert answer.headers["access-control-allow-origin"] == "*"


async def websocket(app: Litestar, path: str, **headers: str) -> list[dict[str, Any]]:
    """What an app answers to a WebSocket; a client that goes as soon as it is let in."""
    sent: list[dict[str, Any]] = []
    given = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive() -> Any:
        return next(given)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        **{
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "ws",
        },
        **{"headers": [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]},
        **{"client": ("127.0.0.1", 1), "server": ("localhost", 80), "subprotocols": [], "asgi": {"version": "3.0"}},
        **{"extensions": {"websocket.http.response": {}}},
    }
    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"host": "evil.example"}, 421),
        ("/", {"host": "evil.example", "origin": "https://evil.example"}, 421),
        ("/relay/x", {"origin": "https://evil.example"}, 403),
    ],
)
async def test_a_page_of_another_origin_opens_no_other_websocket(
    web: Web, domain: Litestar, path: str, headers: dict[str, str], status: int
) -> None:
    sent = await websocket(domain, path, **headers)
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == status


@pytest.mark.parametrize("headers", [{}, {"origin": "http://localhost"}, {"origin": "http://localhost:80"}])
async def test_programs_and_own_pages_open_the_websocket(web: Web, domain: Litestar, headers: dict[str, str]) -> None:
    """The WebSocket library that clients of 2020 use sends the origin of the server itself."""
    assert (await websocket(domain, "/", **headers))[0]["type"] == "websocket.accept"


async def test_a_network_is_as_strict(tmp_path: Path) -> None:
    app = build_network(load_network_settings({"PYGRID_HOSTS": "network"}, data_dir=tmp_path))
    async with running(app) as web:
        assert (await web.get("/healthz", headers={"host": "network:7000"})).status_code == 200
        assert_problem(await web.get("/healthz", headers={"host": "evil.example"}), 421, "unknown_host")
        assert_problem(await web.post("/users", json=BODY, headers={"origin": "null"}), 403, "cross_site_refused")
        for path in ("/", "/relay/x"):
            sent = await websocket(app, path, origin="https://evil.example")
            assert sent[0]["status"] == 403


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://localhost:5000", "localhost:5000", True),
        ("https://domain.example", "domain.example", True),
        ("https://domain.example", "domain.example:443", True),
        ("https://DOMAIN.example", "127.0.0.1:5000", True),
        ("http://domain.example", "127.0.0.1:5000", False),
        ("https://domain.example:444", "domain.example", False),
        ("https://other.example", "other.example:80", False),
        ("chrome-extension://abc", "abc", False),
        ("https://[", "x", False),
    ],
)
def test_which_origin_is_the_apps_own(origin: str, host: str, is_own: bool) -> None:
    assert Site(address="https://domain.example/under").is_own(origin, host) is is_own


# The setup code


async def test_off_loopback_the_first_account_needs_the_code(far: Web) -> None:
    needed = assert_problem(await far.post("/users", json=BODY), 403, "setup_code_needed")
    assert needed["error"] == needed["detail"], "a text that says what to do"
    assert_problem(await far.post("/users", json={**BODY, "setup_code": "d" * 16}), 403, "setup_code_wrong")
    owner = await far.post("/users", json={**BODY, "setup_code": "CCCC-cccc-cccc cccc"})
    assert owner.json()["user"]["role"]["name"] == "Owner"
    other = await far.post("/users", json={**BODY, "email": "other@example.org"})
    assert other.json()["user"]["role"]["name"] == "User", "afterwards it is neither needed nor of use"


async def test_guessing_the_code_is_limited(far: Web) -> None:
    answers = [await far.post("/users", json={**BODY, "setup_code": f"guess {number}"}) for number in range(60)]
    assert [answer.status_code for answer in answers] == [403] * 50 + [429] * 10


async def test_the_kept_code_is_private_and_ends_with_the_first_account(tmp_path: Path) -> None:
    settings = load_settings({"SECRET_KEY": "k" * 32}, data_dir=tmp_path, host="0.0.0.0")
    async with running(build_domain(settings)) as web:
        assert_problem(await web.post("/users", json={**BODY, "setup_code": "x"}), 403, "setup_code_wrong")
        file = tmp_path / "setup-code"
        assert file.stat().st_mode & 0o777 == 0o600
        code = file.read_text().strip()
        assert len(code.replace("-", "")) == 16
        assert (await web.post("/users", json={**BODY, "setup_code": code})).status_code == 200
        assert not file.exists()


async def test_on_loopback_no_code_is_needed(people: People) -> None:
    assert (await people.sign_up("owner@example.org"))["role"]["name"] == "Owner"
