"""What an attacker of accounts meets: limits that nothing flushes, the same answer for every account, and a trace.

Should happen: guessing one account, many accounts, from one or many addresses is refused with `Retry-After`; failures
are in the audit log, in a bounded number of entries; sign-ins that succeed are not counted.
Should not happen: over-long passwords or other accounts make room; an unknown account is answered in another way.
"""

from __future__ import annotations

import asyncio
import unicodedata
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.errors import InvalidCredentials, TooManyRequests
from pygrid.features.accounts import attempts
from pygrid.features.accounts.service import AccountService
from pygrid.network import build_network
from pygrid.settings import DomainSettings, load_network_settings, load_settings
from pygrid.storage import accounts as rows
from pygrid.storage import audit
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.web import PASSWORD, People, assert_problem, running

Web = httpx.AsyncClient
TOO_LONG = "x" * 2000
"""As a password it is wrong without being hashed, so that the tests are quick."""


async def entries(app: Litestar) -> list[audit.AuditEntry]:
    return await service(app.state, Database).read(lambda connection: audit.list_entries(connection, limit=1000))


async def actions(app: Litestar) -> list[str]:
    return [entry.action for entry in await entries(app)]


async def guess(accounts: AccountService, email: str, address: str, password: str = TOO_LONG) -> str:
    """What comes of an attempt."""
    try:
        await accounts.log_in(email, password, address)
    except (TooManyRequests, InvalidCredentials) as error:
        return error.code
    return "in"


@pytest.mark.slow
async def test_over_long_passwords_and_other_accounts_do_not_make_room(domain: Litestar, people: People) -> None:
    await people.sign_up("victim@example.org")
    accounts = service(domain.state, AccountService)
    for _ in range(10):
        assert await guess(accounts, "victim@example.org", "10.0.0.1") == "invalid_credentials"
    # 0.1 forgot the victim's counter after 10,000 others.
    for number in range(12_000):
        await guess(
            accounts, f"other{number}@example.org", f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        )
    assert await guess(accounts, "victim@example.org", "10.0.0.1", PASSWORD) == "too_many_attempts"


async def test_spraying_accounts_from_one_address_is_refused(web: Web, domain: Litestar) -> None:
    outcomes = [
        await guess(service(domain.state, AccountService), f"user{number}@example.org", "127.0.0.1")
        for number in range(300)
    ]
    assert outcomes == ["invalid_credentials"] * attempts.MAX_PER_ADDRESS + ["too_many_attempts"] * 250
    answer = await web.post("/users/login", json={"email": "somebody@example.org", "password": PASSWORD})
    assert_problem(answer, 429, "too_many_attempts")
    assert int(answer.headers["retry-after"]) >= 1
    assert await guess(service(domain.state, AccountService), "user1@example.org", "127.0.0.2") == "invalid_credentials"


@pytest.mark.parametrize("app", ["domain", "network"])
@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
async def test_behind_a_trusted_proxy_each_address_has_its_own_attempts(tmp_path: Path, app: str, trusted: str) -> None:
    if app == "domain":
        built = build_domain(load_settings({}, data_dir=tmp_path, trusted_proxies=trusted))
    else:
        built = build_network(load_network_settings({}, data_dir=tmp_path, trusted_proxies=trusted))

    async def log_in(web: Web, number: int, address: str) -> int:
        # The first address is what the client made up.
        forwarded = {"X-Forwarded-For": f"198.51.100.{number % 250}, {address}"}
        body = {"email": f"{number}@example.org", "password": TOO_LONG}
        return (await web.post("/users/login", json=body, headers=forwarded)).status_code

    async with running(built) as web:
        for number in range(attempts.MAX_PER_ADDRESS):
            assert await log_in(web, number, "203.0.113.5") in (400, 401, 403)
        assert await log_in(web, 0, "203.0.113.5") == 429
        assert (await log_in(web, 0, "203.0.113.6") == 429) is (not trusted)


async def test_one_ipv6_network_is_one_address(web: Web, domain: Litestar) -> None:
    outcomes = [
        await guess(service(domain.state, AccountService), f"u{n}@example.org", f"2001:db8::{n:x}") for n in range(60)
    ]
    assert outcomes.count("too_many_attempts") == 60 - attempts.MAX_PER_ADDRESS


async def test_guessing_one_account_from_many_addresses_is_refused(domain: Litestar, people: People) -> None:
    await people.sign_up("victim@example.org")
    accounts = service(domain.state, AccountService)
    outcomes = [await guess(accounts, "victim@example.org", f"10.0.0.{number}") for number in range(120)]
    assert outcomes == ["invalid_credentials"] * 100 + ["too_many_attempts"] * 20


async def test_all_callers_of_networks_share_a_limit(web: Web, domain: Litestar) -> None:
    accounts = service(domain.state, AccountService)
    outcomes = [await guess(accounts, f"u{n}@example.org", f"relayed:10.0.{n // 250}.{n % 250}") for n in range(400)]
    assert outcomes.count("invalid_credentials") == attempts.MAX_RELAYED
    assert await guess(accounts, "u1@example.org", "10.0.0.1") == "invalid_credentials"


async def test_attempts_at_the_same_time_do_not_pass_the_limit_together(domain: Litestar, people: People) -> None:
    await people.sign_up("victim@example.org")
    accounts = service(domain.state, AccountService)
    outcomes = await asyncio.gather(
        *(guess(accounts, "victim@example.org", "10.0.0.1", "wrong one") for _ in range(30))
    )
    assert outcomes.count("invalid_credentials") == 10
    assert outcomes.count("too_many_attempts") == 20


async def test_known_and_unknown_accounts_are_refused_alike(web: Web, people: People, domain: Litestar) -> None:
    await people.sign_up("known@example.org")

    async def told(email: str) -> list[dict[str, Any]]:
        answers = [await web.post("/users/login", json={"email": email, "password": TOO_LONG}) for _ in range(12)]
        return [{**answer.json(), "retry": answer.headers.get("retry-after")} for answer in answers]

    assert await told("known@example.org") == await told("unknown@example.org")


async def test_failures_leave_one_entry_a_minute_however_many_there_are(domain: Litestar, people: People) -> None:
    user = await people.sign_up("victim@example.org")
    accounts = service(domain.state, AccountService)
    before = len(await entries(domain))
    for number in range(40):
        await guess(accounts, "victim@example.org", f"203.0.113.{number % 4}")
    await guess(accounts, "nobody@example.org", "203.0.113.200")
    await accounts.failures.write_entry()
    await accounts.failures.write_entry()
    after = await entries(domain)
    assert len(after) == before + 1
    entry = after[-1]
    assert (entry.action, entry.actor) == ("logins_failed", None)
    assert (entry.data["num_failed"], entry.data["num_refused"]) == (41, 0)
    assert len(entry.data["first"]) == attempts.MAX_LISTED
    assert entry.data["first"][0] == {"wrong": "password", "user_id": user["id"], "from": "203.0.113.0/24"}
    assert "victim" not in str(entry.data), "no personal data"


async def test_failures_are_written_when_the_app_stops(settings: DomainSettings, clock: ManualClock) -> None:
    app = build_domain(settings, clock=clock)
    async with running(app) as web:
        await web.post("/users/login", json={"email": "a@example.org", "password": TOO_LONG})
    database = Database(settings.database_url)
    assert "logins_failed" in [entry.action for entry in database.read_now(audit.list_entries)]
    database.close()


async def test_the_audit_log_tells_what_happens_to_accounts(web: Web, domain: Litestar, people: People) -> None:
    first = await people.sign_up("owner@example.org")
    owner = await people.log_in("owner@example.org")
    by_key = {"private-key": first["private_key"]}
    await web.post("/users", json={"email": "a@example.org", "password": PASSWORD, "role": 3}, headers=by_key)
    await people.sign_up("b@example.org")
    await web.put("/users/2/email", json={"email": "c@example.org"}, headers=owner)
    await web.put("/users/2/role", json={"role": 2}, headers=owner)
    await web.put("/users/2/password", json={"password": "another password"}, headers=owner)
    await web.post("/users/me/private-key", headers=owner)
    await web.delete("/users/2/private-key", headers=owner)
    flags = {f"can_{name}": False for name in ("triage_requests", "edit_settings", "create_users", "create_groups")}
    flags |= {f"can_{name}": False for name in ("edit_roles", "manage_infrastructure", "upload_data")}
    await web.post("/roles", json={"name": "new", **flags}, headers=owner)
    await web.put("/roles/5", json={"name": "newer"}, headers=owner)
    await web.delete("/roles/5", headers=owner)
    await web.delete("/users/2", headers=owner)
    found = await entries(domain)
    assert [(entry.action, entry.actor) for entry in found] == [
        ("app_started", None),
        ("user_signed_up", 1),
        ("user_logged_in", 1),
        ("user_signed_up", 1),
        ("user_signed_up", 3),
        ("email_changed", 1),
        ("role_changed", 1),
        ("password_changed", 1),
        ("private_key_rotated", 1),
        ("private_key_revoked", 1),
        ("role_created", 1),
        ("role_edited", 1),
        ("role_deleted", 1),
        ("user_deleted", 1),
    ]
    assert [entry.data["by"] for entry in found if entry.action == "user_signed_up"] == ["first", "private_key", "self"]
    assert next(entry for entry in found if entry.action == "role_changed").data == {
        "user_id": 2,
        "before": "Administrator",
        "role": "Compliance Officer",
    }
    assert not any("example.org" in str(entry.data) for entry in found)
    assert await service(domain.state, Database).read(audit.verify) is None


async def test_each_session_has_an_entry_for_its_log_in_and_one_for_its_log_out(
    web: Web, domain: Litestar, people: People
) -> None:
    await people.sign_up("owner@example.org")
    before = len(await entries(domain))
    sessions = [await people.log_in("owner@example.org") for _ in range(2)]
    assert (await web.get("/users/me", headers=sessions[0])).status_code == 200
    assert (await web.post("/users/logout", headers=sessions[0])).status_code == 200
    assert (await web.post("/users/logout", headers=sessions[0])).status_code == 403
    wrong = {"email": "owner@example.org", "password": "wrong password"}
    assert (await web.post("/users/login", json=wrong)).status_code == 403
    found = (await entries(domain))[before:]
    assert [(entry.action, entry.actor) for entry in found] == [
        ("user_logged_in", 1),
        ("user_logged_in", 1),
        ("user_logged_out", 1),
    ]
    assert found[0].data == {"user_id": 1, "from": "127.0.0.0/24"}
    assert found[2].data == {"user_id": 1}
    assert await service(domain.state, Database).read(audit.verify) is None


async def test_a_start_records_its_settings_and_no_secret(tmp_path: Path) -> None:
    settings = load_settings(
        {"SECRET_KEY": "s" * 40, "PYGRID_SETUP_CODE": "c" * 20, "PYGRID_INVITATION": "i" * 40},
        data_dir=tmp_path,
        host="0.0.0.0",
    )
    app = build_domain(settings)
    async with running(app):
        entry = (await entries(app))[0]
    assert entry.action == "app_started"
    assert (entry.data["host"], entry.data["open_signup"], entry.data["legacy_open"]) == ("0.0.0.0", False, False)
    for secret in ("s" * 40, "c" * 20, "i" * 40):
        assert secret not in str(entry.data)


async def test_a_network_keeps_the_same_log(tmp_path: Path) -> None:
    app = build_network(load_network_settings({}, data_dir=tmp_path))
    async with running(app) as web:
        await People(web).sign_up("owner@example.org")
        assert await actions(app) == ["app_started", "user_signed_up"]


async def test_accounts_cannot_be_made_without_end_from_one_address(web: Web, domain: Litestar, people: People) -> None:
    await people.owner()
    limit = service(domain.state, AccountService).attempts
    for _ in range(attempts.MAX_SIGN_UPS_PER_ADDRESS):
        limit.record_sign_up("127.0.0.1")
    answer = await web.post("/users", json={"email": "x@example.org", "password": PASSWORD})
    assert_problem(answer, 429, "too_many_attempts")


# Passwords in other code points


NFC = "pässwörd-längst"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(("chosen", "typed"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
async def test_a_password_is_the_same_in_other_code_points(people: People, web: Web, chosen: str, typed: str) -> None:
    await web.post("/users", json={"email": "a@example.org", "password": chosen})
    await people.log_in("a@example.org", typed)


async def test_a_hash_of_0_1_fits_the_password_as_it_was_typed_and_is_replaced(
    domain: Litestar, web: Web, people: People
) -> None:
    await people.sign_up("a@example.org")
    accounts = service(domain.state, AccountService)
    raw = accounts._passwords._hasher.hash(NFD)
    await service(domain.state, Database).write(lambda connection: rows.update_password_hash(connection, 1, raw))
    answer = await web.post("/users/login", json={"email": "a@example.org", "password": NFC})
    assert_problem(answer, 403, "invalid_credentials")
    await people.log_in("a@example.org", NFD)
    await people.log_in("a@example.org", NFC)
