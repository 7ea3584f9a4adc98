"""A Domain opens the data folder of version 0.1 (tests/vectors/README.md says what it holds), on both databases.

Should happen: its accounts log in; it serves the bytes that version 0.1 served; its open cycle takes the missing
report; its
    jobs go on; its budget has the charges at their new prices; the audit log holds together.
Should not happen: a charge at its old price; a result, a report, a file or an account that is lost; a fault on the
second
    start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from pygrid.domain import build_domain
from pygrid.privacy.accountants import divergence_within
from pygrid.settings import DomainSettings
from pygrid.storage import audit
from pygrid.storage.budget_log import find_altered
from pygrid.storage.charges import charges
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import FOLDER
from pygrid.tensors import decode, encode
from pygrid.web.services import service
from support.eventually import eventually
from support.web import People, running

VECTORS = Path(__file__).parent.parent / "vectors"
RECORDED = VECTORS / "data-folder-0.1.zip"
FACTS: dict[str, Any] = json.loads((VECTORS / "folders-0.1.json").read_text())
CONTENT = ("blobs", "datasets", "served-models", "jobs/results")
"""Folders whose files stay as they are while there is a row that names them."""
REQUEST_KEY = "8262d7492c6f565083ee4d68e77e27905b1ad28b7bbaba0c0be72167c90d91fa"
"""Of the client whose report the open cycle waits for."""
STATISTICS, TRAINING = "9909afc8da4045d399964f07eb9dbd4b", "fc3ce483f4de477384e7f5345ce753c0"
"""The private jobs."""
EXACT, WAITING = "e850611f38884b70b46ed19ab9129246", "e5e352defbc84793a3c6e1d369dde6e0"
COSTS_BEFORE = {
    STATISTICS: (0.08000673604297139, 0.14001178807519993),
    TRAINING: (0.07213765612030996, 0.13217945909686155),
}
"""Divergences that version 0.1 charged, in the ledgers of the dataset (order 4) and of the user (order 7)."""
ROLES = ["Owner", "User", "Compliance Officer", "User"]


def fill_as_recorded(source: Path, url: str) -> None:
    """Bring an empty PostgreSQL database to the tables of version 0.1, and copy the rows of a SQLite file into them."""

    def fill(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        tables = sa.MetaData()
        tables.reflect(connection)
        # Tables refer to each other in circles, so no order would do.
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for table in tables.tables.values():
            if table.name != "alembic_version":
                copy_rows(recorded, connection, table)

    # The database runs `fill` in a thread of its own.
    recorded = sqlite3.connect(source, check_same_thread=False)
    recorded.row_factory = sqlite3.Row
    database = Database(url)
    try:
        database.write_now(fill)
    finally:
        database.close()
        recorded.close()


def copy_rows(recorded: sqlite3.Connection, connection: sa.Connection, table: sa.Table) -> None:
    rows = [dict(row) for row in recorded.execute(f'SELECT * FROM "{table.name}"')]
    for row in rows:
        for name, value in row.items():
            row[name] = converted(value, table.c[name].type)
    if not rows:
        return
    connection.execute(table.insert(), rows)
    for column in table.primary_key.columns:
        sequence = connection.execute(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))).scalar()
        if sequence is not None:
            connection.execute(sa.select(sa.func.setval(sequence, max(row[column.name] for row in rows))))


def converted(value: Any, kind: sa.types.TypeEngine[Any]) -> Any:
    """What PostgreSQL keeps where SQLite keeps this value."""
    if value is None:
        return None
    if isinstance(kind, sa.Boolean):
        return bool(value)
    if isinstance(kind, sa.DateTime):
        return dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC)
    return json.loads(value) if isinstance(kind, sa.JSON) else value


@pytest.fixture(params=["sqlite", "postgresql"])
def recorded(request: pytest.FixtureRequest, settings: DomainSettings) -> DomainSettings:
    """Settings of a Domain whose data folder is the recorded one."""
    with zipfile.ZipFile(RECORDED) as archive:
        archive.extractall(settings.data_dir)
    if request.param == "sqlite":
        return settings
    url = request.getfixturevalue("postgres_url")
    file = settings.data_dir / "domain.db"
    fill_as_recorded(file, url)
    file.unlink()
    return dataclasses.replace(settings, database_url=url)


async def until_state(web: httpx.AsyncClient, job: str, headers: dict[str, str], state: str) -> dict[str, Any]:
    async def is_there() -> dict[str, Any] | None:
        found: dict[str, Any] = (await web.get(f"/data-centric/jobs/{job}", headers=headers)).json()
        return found if found["state"] == state else None

    answered: dict[str, Any] = await eventually(is_there)
    return answered


async def assert_served(web: httpx.AsyncClient, headers: dict[str, str], served: dict[str, str]) -> None:
    """Each address is answered with the bytes of this SHA-256, as version 0.1 answered it."""
    for address, digest in served.items():
        answer = await web.get(address, headers=headers)
        assert answer.status_code == 200, (address, answer.text)
        assert hashlib.sha256(answer.content).hexdigest() == digest, address


def content_of(folder: Path) -> dict[str, bytes]:
    """The files in a data folder that are kept as they are, by path."""
    files = [path for name in CONTENT for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_audit_log_holds(settings: DomainSettings) -> None:
    database = Database(settings.database_url)
    try:
        known = audit.read_head(settings.data_dir / audit.HEAD_FILE)
        assert database.read_now(lambda connection: audit.verify(connection, known)) is None
        assert database.read_now(find_altered) is None
    finally:
        database.close()


async def test_a_data_folder_of_the_first_version_opens_and_goes_on(recorded: DomainSettings) -> None:
    content = content_of(recorded.data_dir)
    app = build_domain(recorded)
    async with running(app) as web:
        people = People(web)
        owner = await people.log_in("owner@example.org")
        await assert_served(web, owner, FACTS[RECORDED.name]["served"])
        scientist = await people.log_in("scientist@example.org")
        assert [user["role"]["name"] for user in (await web.get("/users", headers=owner)).json()["users"]] == ROLES
        await assert_the_cycle_goes_on(web, owner)
        await assert_the_budget_is_priced_again(web, service(app.state, Database), owner, scientist)
        await assert_jobs_go_on(web, owner, scientist)
    # And it opens again, as its own.
    async with running(build_domain(recorded)) as web:
        await assert_served(web, await People(web).log_in("owner@example.org"), FACTS[RECORDED.name]["served"])
    assert content.items() <= content_of(recorded.data_dir).items()
    assert_audit_log_holds(recorded)


def charge_by_epsilon(folder: Path) -> None:
    """Change the charge of the statistics to one of a mechanism that is known by its epsilon, also in the audit log."""
    events, newest = '[{"type":"pure_dp","epsilon":0.5}]', audit.Head(0, audit.START)
    with contextlib.closing(sqlite3.connect(folder / "domain.db")) as connection, connection:
        of_job = "id = (SELECT curve_id FROM charges WHERE job_id = ?)"
        connection.execute(f"UPDATE curves SET events = ? WHERE {of_job}", (events, STATISTICS))
        for number, text in connection.execute("SELECT number, entry FROM audit_entries ORDER BY number").fetchall():
            entry = json.loads(text)
            if entry["action"] == "budget_reserved" and entry["data"]["job_id"] == STATISTICS:
                entry["data"]["events"] = events
            text = msgspec.json.encode(entry, order="deterministic").decode()
            newest = audit.Head(number, hashlib.sha256(newest.hash.encode() + text.encode()).hexdigest())
            connection.execute(
                "UPDATE audit_entries SET entry = ?, hash = ? WHERE number = ?", (text, newest.hash, number)
            )
        connection.execute("UPDATE audit_head SET hash = ?", (newest.hash,))
    (folder / audit.HEAD_FILE).write_bytes(msgspec.json.encode(newest))


async def test_a_charge_that_is_known_by_its_epsilon_is_verified(settings: DomainSettings) -> None:
    with zipfile.ZipFile(RECORDED) as archive:
        archive.extractall(settings.data_dir)
    charge_by_epsilon(settings.data_dir)
    async with running(build_domain(settings)):
        pass
    assert_audit_log_holds(settings)


async def assert_the_cycle_goes_on(web: httpx.AsyncClient, owner: dict[str, str]) -> None:
    """The report that came before the upgrade and the one that comes now are averaged."""

    async def checkpoint(number: int) -> dict[str, Any]:
        wanted = {"name": "digits", "version": "1.0", "checkpoint": number}
        answer = await web.get("/model-centric/retrieve-model", params=wanted, headers=owner)
        return decode(answer.content)[0] if answer.status_code == 200 else {}

    before = await checkpoint(2)
    diff = encode({name: np.full_like(array, 1.0) for name, array in before.items()})
    headers = {"Authorization": f"Bearer {REQUEST_KEY}"}
    answer = await web.post("/model-centric/report", content=diff, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    after = await eventually(lambda: checkpoint(3))
    for name, array in before.items():
        np.testing.assert_array_equal(array, np.float32(0.5))
        np.testing.assert_array_equal(after[name], np.float32(0.5 - (0.5 + 1.0) / 2))


async def assert_the_budget_is_priced_again(
    web: httpx.AsyncClient, database: Database, owner: dict[str, str], scientist: dict[str, str]
) -> None:
    """What the budget shows follows from its charges, each of which is priced for a replaced unit."""
    statement = sa.select(charges.c.job_id, charges.c.dataset_cost, charges.c.user_cost)
    costs = {
        row.job_id: (row.dataset_cost, row.user_cost) for row in database.read_now(lambda c: c.execute(statement).all())
    }
    # To replace a unit moves a noisy count by twice as much as to remove it, and a divergence grows with the square.
    assert costs[STATISTICS] == pytest.approx([4 * cost for cost in COSTS_BEFORE[STATISTICS]])
    assert all(new > 2 * old for new, old in zip(costs[TRAINING], COSTS_BEFORE[TRAINING], strict=True))
    of_all = (await web.get("/data-centric/datasets/1/budget", headers=owner)).json()
    own = (await web.get("/data-centric/datasets/1/budget", headers=scientist)).json()
    assert (of_all["policy"]["epsilon"], own["your_cap"]) == (8.0, 4.0)
    spent = [sum(cost) for cost in zip(*costs.values(), strict=True)]
    shares = [spent[0] / divergence_within(8.0, 1e-6, 4), spent[1] / divergence_within(4.0, 1e-6, 7)]
    assert [of_all["spent"], own["yours"]] == pytest.approx([8.0 * shares[0], 4.0 * shares[1]])


async def assert_jobs_go_on(web: httpx.AsyncClient, owner: dict[str, str], scientist: dict[str, str]) -> None:
    """Results are there, the job that waited can be approved, and a new private one is charged."""
    for job in (STATISTICS, TRAINING, EXACT):
        answer = await web.get(f"/data-centric/jobs/{job}/result", headers=scientist)
        assert answer.status_code == 200, answer.text
        assert answer.content
    for state in ("waiting", "held"):
        job = await until_state(web, WAITING, owner, state)
        body = {"request_hash": job["request_hash"], "state": state}
        answer = await web.post(f"/data-centric/jobs/{WAITING}/approve", json=body, headers=owner)
        assert answer.status_code == 200, answer.text
    await until_state(web, WAITING, scientist, "released")
    before = (await web.get("/data-centric/datasets/1/budget", headers=scientist)).json()["yours"]
    asked = {
        "dataset": 1,
        "kind": "statistics",
        "reason": "after the upgrade",
        "statistics": [{"kind": "count"}],
        "privacy": {"epsilon": 0.5, "delta": 1e-6},
    }
    answer = await web.post("/data-centric/jobs", files={"config": json.dumps(asked).encode()}, headers=scientist)
    assert answer.status_code == 201, answer.text
    await until_state(web, answer.json()["id"], scientist, "released")
    assert (await web.get("/data-centric/datasets/1/budget", headers=scientist)).json()["yours"] > before
