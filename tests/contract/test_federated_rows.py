"""Rows of the parts of federated jobs, and of clients with names, on SQLite and on PostgreSQL.

Should happen: a part comes back as it was put and changed; the queue tells federated jobs from others; a draft is its
maker's. Should not happen: two parts of one number; two clients of one name, however many ask at once.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from test_job_rows import LATER, NOW, filled, new_job, put  # noqa: F401 - filled is a fixture

from pygrid.core import federated as rules
from pygrid.core.federated import PartState, RoundAttempt
from pygrid.core.jobs import JobState
from pygrid.errors import NotFound
from pygrid.ids import new_client_id
from pygrid.messages.jobs import FederationRequest
from pygrid.storage import cycles, drafts, federated
from pygrid.storage import jobs as rows
from pygrid.storage.processes import NewProcess, put_process
from pygrid.storage.sql.database import Database

FEDERATION = FederationRequest("http://127.0.0.1:5000", "é", "1", 3, "token")


def part(job_id: str, number: int = 1) -> RoundAttempt:
    return RoundAttempt(job_id, number, PartState.TRAINING, 7, "a" * 64, "client é", "key" * 100, NOW)


def test_parts_come_back_as_they_were_written(filled: Database) -> None:  # noqa: F811
    asked = new_job()
    job = put(filled, replace(asked, request=replace_federation(asked.request)))
    assert job.request.federation == FEDERATION
    first, second = part(job.id), part(job.id, 2)
    for one in (second, first):
        filled.write_now(lambda connection, one=one: federated.put_part(connection, one))
    read = lambda: filled.read_now(lambda connection: federated.list_parts(connection, job.id))  # noqa: E731
    assert read() == [first, second]
    kept = rules.trained(first, "b" * 64, {"num_calls": 3, "sandbox": ["x"]})
    lost = rules.failed(second, "why\nnot", LATER)
    for one in (kept, lost):
        filled.write_now(lambda connection, one=one: federated.update_part(connection, one))
    assert read() == [kept, lost]
    with pytest.raises(sa.exc.IntegrityError):
        filled.write_now(lambda connection: federated.put_part(connection, first))
    assert filled.read_now(lambda connection: federated.list_parts(connection, "0" * 32)) == []


def test_the_queue_tells_federated_jobs_from_others(filled: Database) -> None:  # noqa: F811
    asked = new_job(state=JobState.APPROVED)
    federated_job = put(filled, replace(asked, request=replace_federation(asked.request)))
    other = put(filled, new_job(state=JobState.APPROVED))
    assert filled.write_now(lambda connection: rows.find_next(connection, federated=True)) == federated_job
    assert filled.write_now(rows.find_next) == other


def test_one_subject_is_one_client_however_many_ask_at_once(filled: Database) -> None:  # noqa: F811
    process_id = filled.write_now(
        lambda connection: put_process(connection, NewProcess("p", "1", {}, {"cycle_length": None}, 1), NOW)
    )
    ready = threading.Barrier(8)

    def come() -> str:
        ready.wait()

        def transaction(connection: sa.Connection) -> str:
            cycles.lock_process(connection, process_id)
            if (found := cycles.find_client(connection, process_id, "alice")) is not None:
                return found
            client_id = new_client_id()
            cycles.put_client(connection, cycles.NewClient(client_id, process_id, "alice"), NOW)
            return client_id

        return filled.write_now(transaction)

    with ThreadPoolExecutor(8) as pool:
        assert len({future.result() for future in [pool.submit(come) for _ in range(8)]}) == 1


def replace_federation(request):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(request, federation=FEDERATION)


def test_a_draft_keeps_its_name_until_it_is_hosted(filled: Database) -> None:  # noqa: F811
    values: dict[str, Any] = {
        "created_by": 7,
        "name": "é",
        "version": "1",
        "client_config": {"a": 1},
        "server_config": {"cycle_length": None},
        "notes": {"to": ["ü", None, "\0"]},
        "files": (("model", "a" * 64, 2**40),),
        "created_at": NOW,
    }
    made = filled.write_now(lambda connection: drafts.put_draft(connection, **values))
    with pytest.raises(sa.exc.IntegrityError):
        filled.write_now(lambda connection: drafts.put_draft(connection, **{**values, "created_by": 8}))
    assert filled.read_now(lambda connection: drafts.list_drafts(connection, 7, name="é")) == [made]
    assert filled.read_now(lambda connection: drafts.list_drafts(connection, 8)) == []
    assert filled.read_now(lambda connection: drafts.list_files(connection)) == {"a" * 64}
    with pytest.raises(NotFound, match="you have no draft"):
        filled.read_now(lambda connection: drafts.get_draft(connection, made.id, 8))
    find = lambda: filled.read_now(lambda connection: drafts.find_reservation(connection, "é", "1"))  # noqa: E731
    assert find() == made.id

    def host(connection: sa.Connection) -> None:
        process = put_process(connection, NewProcess("é", "1", {}, {}, 1, created_by=7), NOW)
        drafts.set_hosted(connection, made.id, process)

    filled.write_now(host)
    assert (find(), filled.read_now(lambda connection: drafts.count_waiting(connection, 7))) == (None, 0)
    filled.write_now(lambda connection: drafts.delete_old(connection, LATER))
    hosted = filled.read_now(lambda connection: drafts.get_draft(connection, made.id, 7))
    assert (hosted.files, hosted.notes) == ((), values["notes"])
