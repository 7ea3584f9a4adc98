"""What the SDK sends to change a policy: the version that it has read."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from pygrid.client.datasets import Dataset
from pygrid.errors import NotFound, PreconditionFailed, PygridError
from pygrid.messages.datasets import DatasetSummary
from pygrid.messages.jobs import PolicyInfo
from pygrid.messages.media import PROBLEM
from pygrid.transport import Api, Request, Response

POLICY = PolicyInfo(epsilon=8.0, delta=1e-6, epsilon_per_user=4.0)
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CHANGED = msgspec.structs.replace(POLICY, epsilon=9.0)


def answer(message: object, etag: str = "") -> Response:
    return Response(200, {"ETag": etag} if etag else {}, [msgspec.json.encode(message)], lambda: None)


def refusal(error: PygridError) -> Response:
    return Response(error.status, {"content-type": PROBLEM}, [msgspec.json.encode(error.to_problem())], lambda: None)


class Scripted:
    """A server that answers with one thing after the other."""

    url = "http://scripted"

    def __init__(self, *answers: Response) -> None:
        self.requests: list[Request] = []
        self._answers = list(answers)

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        return self._answers.pop(0)

    def close(self) -> None: ...


def dataset(server: Scripted) -> Dataset:
    info = DatasetSummary(
        id=1,
        name="points",
        description="",
        visibility="listed",
        tags=(),
        version=1,
        num_records=1,
        num_columns=1,
        size_bytes=1,
        created_at=NOW,
        updated_at=NOW,
        mine=True,
    )
    return Dataset(Api(server), info)


def test_a_change_names_the_version_that_was_read() -> None:
    server = Scripted(answer(POLICY, '"v1"'), answer(CHANGED, '"v2"'))
    assert dataset(server).policy(epsilon=9.0) == CHANGED
    assert server.requests[1].headers["If-Match"] == '"v1"'


def test_a_first_policy_is_set_only_if_there_is_none() -> None:
    server = Scripted(refusal(NotFound("none", code="policy_not_found")), answer(POLICY, '"v1"'))
    given: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-6, "epsilon_per_user": 4.0}
    assert dataset(server).policy(**given) == POLICY
    assert server.requests[1].headers["If-None-Match"] == "*"


def test_a_change_by_somebody_else_is_told() -> None:
    other = msgspec.structs.replace(POLICY, epsilon=1.0)
    server = Scripted(answer(POLICY, '"v1"'), refusal(PreconditionFailed("changed")), answer(other))
    with pytest.raises(PreconditionFailed):
        dataset(server).policy(epsilon=9.0)


def test_a_change_whose_answer_was_lost_is_not_told_as_a_conflict() -> None:
    server = Scripted(answer(POLICY, '"v1"'), refusal(PreconditionFailed("changed")), answer(CHANGED))
    assert dataset(server).policy(epsilon=9.0) == CHANGED
