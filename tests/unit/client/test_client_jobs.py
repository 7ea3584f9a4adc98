"""What the SDK makes of a request before it is sent, and of a job's life as the Domain tells it.

Should happen: the right column for each port where there is only one; what travels is what was asked; changes that a
lost connection swallowed come all the same; a sheet says what an approver needs.
Should not: a guess between two columns; a request that is private by half; a result of a job that was not released;
control characters or markup of a stranger on the approver's screen.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

import pygrid.client
from pygrid.client import connect
from pygrid.client.binding import complete_binding
from pygrid.client.display.job_progress import in_words, shown
from pygrid.client.events import FollowTimings
from pygrid.client.jobs import Job, JobTable, get_job
from pygrid.client.terms import statistic_requests
from pygrid.errors import Conflict, InvalidInput, NotFound, PygridError, Unavailable
from pygrid.messages.datasets import Column, DatasetInfo, Schema
from pygrid.messages.jobs import JobCost, JobInfo, JobKind, JobList, JobRequest, PrivacyRequest, StatisticRequest
from pygrid.messages.media import PROBLEM
from pygrid.plans import DataPort
from pygrid.summaries.jobs import sheet
from pygrid.tensors import encode
from pygrid.transport import Api, Request, Response
from pygrid.transport.base import connection_lost
from support.plans.handmade import logistic_params, logistic_plan
from support.plans.models import linear

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PORTS = {"x": DataPort("float32", (4,), "four numbers"), "y": DataPort("int64", (), "label 0..2", 3)}
NUMBERS = Column("numbers", "float64", (4,), meaning="four numbers")
LABEL = Column("class", "uint8", meaning="label 0..2")
SCHEMA = Schema((NUMBERS, LABEL, Column("age", "int32")), num_records=50)
DATASET = DatasetInfo(3, "iris", "", (), "listed", 2, 50, 3, 1000, T0, T0, False, SCHEMA, [])


def info(state: str = "released", **changes: Any) -> JobInfo:
    made = JobInfo(
        id="j1",
        dataset=3,
        dataset_name="iris",
        version=2,
        kind="train",
        state=state,  # type: ignore[arg-type]
        request_hash="ab" * 32,
        requested_by=7,
        requested_by_email="bea@example.org",
        reason="a study",
        created_at=T0,
        updated_at=T0,
        privacy=None,
        cost=None,
        detail="",
        progress=0.0,
        metrics={},
        plan_id="cd" * 32,
        plan_name="logistic",
        result_bytes=None,
        result_media_type="",
        decided_by=None,
    )
    return msgspec.structs.replace(made, **changes)


class Scripted:
    """Answers with prepared jobs: each GET of a job takes the next one, the last stays; events are prepared streams."""

    url = "http://scripted"

    def __init__(self, *states: JobInfo, streams: tuple[list[JobInfo | None], ...] = (), result: bytes = b"") -> None:
        self.states, self.streams, self.result = list(states), list(streams), result
        self.etag = hashlib.sha256(result).hexdigest()
        self.sent: list[tuple[Request, bytes]] = []

    def send(self, request: Request) -> Response:
        self.sent.append((request, b"".join(bytes(piece) for piece in request.body or ())))
        if request.path.endswith("/events"):
            return Response(200, {}, self._events(self.streams.pop(0)), lambda: None)
        if request.path.endswith("/result"):
            if not self.result:
                problem = Conflict("not yet", code="result_not_released").to_problem()
                return Response(409, {"content-type": PROBLEM}, [msgspec.json.encode(problem)], lambda: None)
            return Response(200, {"etag": f'"{self.etag}"'}, [self.result], lambda: None)
        if "/datasets" in request.path:
            return Response(200, {}, [msgspec.json.encode(DATASET)], lambda: None)
        if request.path == "/data-centric/jobs" and request.method == "GET":
            return Response(200, {}, [msgspec.json.encode(JobList(self.states))], lambda: None)
        now = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Response(200, {}, [msgspec.json.encode(now)], lambda: None)

    def _events(self, stream: list[JobInfo | None]) -> Iterator[bytes]:
        for change in stream:
            if change is None:
                raise connection_lost(self.url, "the script says so")
            yield b"id: 1\nevent: %s\ndata: %s\n\n" % (change.state.encode(), msgspec.json.encode(change))

    def close(self) -> None: ...

    def request(self) -> JobRequest:
        """What the last form asked."""
        form = self.sent[-1][1]
        config = form.split(b"\r\n\r\n", 2)[1].partition(b"\r\n")[0]
        return msgspec.json.decode(config, type=JobRequest)


class Quick(Job):
    timings = FollowTimings(poll_s=0.0)


def job_of(server: Scripted) -> Job:
    return Quick(Api(server), server.states[0])


# Binding


def test_columns_are_found_by_meaning_and_by_name() -> None:
    assert complete_binding(PORTS, SCHEMA, {}) == {"x": "numbers", "y": "class"}
    by_name = Schema((NUMBERS, LABEL, Column("y", "int64")), 50)
    assert complete_binding(PORTS, by_name, {}) == {"x": "numbers", "y": "y"}


def test_what_is_given_is_taken_and_not_used_twice() -> None:
    two = Schema((NUMBERS, LABEL, Column("other", "uint8", meaning="label 0..2")), 50)
    assert complete_binding(PORTS, two, {"y": "other"}) == {"x": "numbers", "y": "other"}
    ports = {"a": DataPort("int64", (), "", 3), "b": DataPort("int64", (), "", 3)}
    assert complete_binding(ports, two, {"b": "class"}) == {"a": "other", "b": "class"}


def test_labels_that_can_be_absent_fit_a_port_that_takes_them() -> None:
    absent = Schema((NUMBERS, Column("mask", "uint8", meaning="label 0..2 or 255"), Column("other", "uint8")), 50)
    ports = {"y": DataPort("int64", (), "", 3, ignore=255)}
    assert complete_binding(ports, absent, {}) == {"y": "mask"}
    for port in (DataPort("int64", (), "", 3), DataPort("int64", (), "", 3, ignore=-100)):
        with pytest.raises(InvalidInput, match="these fit: mask, other"):
            complete_binding({"y": port}, absent, {})


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((NUMBERS, LABEL, Column("other", "uint8", meaning="label 0..2")), "these fit: class, other"),
        ((NUMBERS, Column("class", "uint8", meaning="label 0..9")), "these fit: class"),
        ((NUMBERS, Column("class", "text", meaning="label 0..2")), "these fit: none"),
        ((NUMBERS, Column("class", "float32", meaning="label 0..2")), "these fit: none"),
    ],
)
def test_no_guess_between_two_or_of_something_else(columns: tuple[Column, ...], said: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"which column is the plan's 'y' \(int64 number, label 0\.\.2\).*{said}"
    ) as caught:
        complete_binding(PORTS, Schema(columns, 50), {})
    assert caught.value.code == "binding_unclear"


def test_subjects_are_nothing_for_a_plan() -> None:
    with pytest.raises(InvalidInput, match="these fit: none"):
        complete_binding({"y": PORTS["y"]}, Schema((LABEL,), 50, subject="class"), {})


@pytest.mark.parametrize(
    ("given", "said"), [({"z": "class"}, "no data port 'z'"), ({"y": "klass"}, "no column 'klass'")]
)
def test_a_binding_to_nothing_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        complete_binding(PORTS, SCHEMA, given)


# Requests


def test_a_submission_says_all_that_was_asked() -> None:
    server = Scripted(info("checking"))
    job = connect(transport=server).submit(
        logistic_plan(),
        dataset="iris",
        model=logistic_params(),
        binding={"x": "numbers"},
        reason="a study",
        hyper={"lr": 0.5},
        epochs=3,
        epsilon=2.0,
        delta=1e-6,
    )
    assert job.id == "j1"
    asked = server.request()
    assert asked.binding == {"x": "numbers", "y": "class"}
    assert asked.privacy == PrivacyRequest(2.0, 1e-6)
    assert (asked.dataset, asked.version, asked.kind, asked.epochs, asked.hyper) == (3, 2, "train", 3, {"lr": 0.5})
    form = server.sent[-1][1]
    assert logistic_plan().data in form
    assert encode(logistic_params()) in form


def test_a_model_that_answers_for_each_record_needs_no_plan() -> None:
    server = Scripted(info("checking", kind="predict"))
    connect(transport=server).predict(
        linear(), dataset="iris", reason="r", select=["y"], binding={"x": "numbers"}, max_records=5
    )
    asked = server.request()
    assert (asked.kind, asked.version, asked.binding) == ("predict", 2, {"x": "numbers"})
    assert (asked.select, asked.max_records, asked.batch_size) == (("y",), 5, 64)
    form = server.sent[-1][1]
    assert form.index(b'name="config"') < form.index(b'name="model"')
    assert b'name="plan"' not in form


@pytest.mark.parametrize(
    ("model", "said"), [(linear(), "which column is the model's 'x'"), (b"no model", "not an ONNX model")]
)
def test_a_model_that_fits_nothing_is_refused_before_anything_is_sent(model: bytes, said: str) -> None:
    server = Scripted(info("checking", kind="predict"))
    with pytest.raises(InvalidInput, match=said):
        connect(transport=server).predict(model, dataset="iris", reason="r")
    assert all(request.method == "GET" for request, _ in server.sent)


def test_statistics_need_no_plan() -> None:
    server = Scripted(info("checking", kind="statistics"))
    asked = [pygrid.client.count(by="class", keys=[0, 1]), pygrid.client.mean("age", lower=0, upper=120)]
    connect(transport=server).statistics("iris", asked, reason="a study", epsilon=1.0, delta=1e-6)
    request = server.request()
    assert request.statistics == (
        StatisticRequest("count", by="class", keys=(0, 1)),
        StatisticRequest("mean", "age", 0, 120),
    )
    assert b'name="plan"' not in server.sent[-1][1]


@pytest.mark.parametrize("terms", [{"epsilon": 1.0}, {"delta": 1e-6}])
def test_half_a_guarantee_is_refused_before_anything_is_sent(terms: dict[str, float]) -> None:
    server = Scripted(info())
    with pytest.raises(InvalidInput, match="is missing: a private job needs both"):
        connect(transport=server).statistics("iris", pygrid.client.count(), reason="a study", **terms)
    assert server.sent == []


def test_values_of_another_kind_are_refused_in_words() -> None:
    with pytest.raises(InvalidInput, match=r"request for a job is not valid.*epochs"):
        connect(transport=Scripted(info())).submit(
            logistic_plan(),
            dataset="iris",
            model=logistic_params(),
            binding={"x": "numbers"},
            reason="a study",
            epochs="many",  # type: ignore[arg-type]
        )
    with pytest.raises(InvalidInput, match="'age' is not a statistic"):
        statistic_requests(["age"])  # type: ignore[list-item]


# Waiting


def test_changes_go_on_after_a_lost_connection() -> None:
    server = Scripted(
        info("checking"),
        streams=([info("waiting"), None], [info("waiting"), info("running"), info("released")]),
    )
    assert [change.state for change in job_of(server).changes()] == ["checking", "waiting", "running", "released"]


def test_waiting_ends_in_the_state_that_was_wanted() -> None:
    server = Scripted(info("checking"), info("waiting"), streams=([info("waiting"), info("released")],))
    assert job_of(server).wait("waiting").state == "waiting"
    failed = info("rejected", detail="it failed")
    server = Scripted(info("checking"), failed, streams=([failed],))
    assert job_of(server).wait(["waiting"]).info().detail == "it failed"


def test_patience_can_have_an_end() -> None:
    with pytest.raises(Unavailable, match=r"after 0\.0 s the job is waiting") as caught:
        job_of(Scripted(info("waiting"))).wait(timeout_s=0.0)
    assert caught.value.code == "wait_timeout"


def test_each_change_is_a_line_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=200)
    with shown("train on iris", True, console) as show:
        for change in (
            info("running"),
            info("running"),
            info("running", progress=0.5),
            info("failed", detail="no [bold]"),
        ):
            show(change)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["running", "running, 50%", "failed: no [bold]"]


def test_a_terminal_shows_a_bar() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with shown("train on iris", None, console) as show:
        show(info("running", progress=0.25))
        show(info("released"))
    assert isinstance(console.file, io.StringIO)
    assert "train on iris" in console.file.getvalue()


def test_words_of_strangers_are_harmless_in_a_line() -> None:
    assert "\x1b" not in in_words(info("denied", detail="\x1b[2Jgone"))


# Results


def test_a_released_model_is_arrays_and_a_file(tmp_path: Any) -> None:
    data = encode(logistic_params())
    found = job_of(Scripted(info(), result=data)).result(tmp_path / "m.safetensors")
    assert found.keys() == logistic_params().keys()
    np.testing.assert_array_equal(found["weight"], logistic_params()["weight"])
    assert (tmp_path / "m.safetensors").read_bytes() == data


def test_figures_are_a_dict() -> None:
    assert job_of(Scripted(info(kind="statistics"), result=b'{"answers":[]}')).result() == {"answers": []}


def test_a_result_is_also_there_with_its_type(tmp_path: Any) -> None:
    data = encode(logistic_params())
    found = job_of(Scripted(info(), result=data)).wait().params(tmp_path / "m.safetensors")
    assert found.keys() == logistic_params().keys()
    assert (tmp_path / "m.safetensors").read_bytes() == data
    answer = {
        "kind": "histogram",
        "column": "age",
        "by": "sex",
        "groups": [["f", [1, 2]], ["m", None]],
        "counts": [3.5, 0],
    }
    content = msgspec.json.encode({"answers": [answer, {"kind": "count", "column": "", "value": 7, "noise_std": 0.5}]})
    groups, number = job_of(Scripted(info(kind="statistics"), result=content)).answers()
    assert groups["groups"] == [("f", [1, 2]), ("m", None)]
    assert number == {"kind": "count", "column": "", "value": 7, "noise_std": 0.5}
    with pytest.raises(InvalidInput, match="job of kind statistics has no arrays"):
        job_of(Scripted(info(kind="statistics"))).params()
    with pytest.raises(InvalidInput, match="job of kind train has no answers"):
        job_of(Scripted(info())).answers()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("waiting", "waits for the decision of the data owner"),
        ("held", "held until the data owner approves the release"),
        ("denied", "it was denied: too few"),
    ],
)
def test_a_result_that_was_not_released_is_an_error_in_words(state: str, said: str) -> None:
    with pytest.raises(Conflict, match=said) as caught:
        job_of(Scripted(info(state, detail="too few" if state == "denied" else ""))).result()
    assert caught.value.code == "result_not_released"


def test_a_result_that_was_cut_is_noticed() -> None:
    server = Scripted(info(kind="evaluate"), result=b"{}")
    server.etag = "00" * 32
    with pytest.raises(PygridError, match="another SHA-256 than the Domain announced"):
        job_of(server).result()


# Decisions


def test_a_decision_names_what_was_seen() -> None:
    server = Scripted(info("waiting"), info("waiting", request_hash="ff" * 32))
    job = connect(transport=server).job("j1")
    job.approve("fine")
    request, body = server.sent[-1]
    assert request.path == "/data-centric/jobs/j1/approve"
    assert msgspec.json.decode(body) == {"request_hash": "ab" * 32, "comment": "fine", "state": "waiting"}


def test_what_was_waited_for_was_seen() -> None:
    server = Scripted(info("waiting"), streams=([info("running"), info("held")],))
    job = job_of(server)
    job.wait("held")
    job.deny()
    assert msgspec.json.decode(server.sent[-1][1])["state"] == "held"


def test_what_was_not_seen_waiting_is_not_decided_on() -> None:
    server = Scripted(info("running"), info("held"))
    job = job_of(server)
    with pytest.raises(Conflict, match="the job is running, so there is nothing to decide"):
        job.approve()
    assert server.sent == []


def test_the_sheet_says_what_an_approver_needs() -> None:
    cost = JobCost(2.0, 1e-6, 1.5, 90, 3.0, 4.4, 10.0, 0.0, 2.0, 8.0, fits=False, certainty=0.88)
    summary = "For a model of 15 parameters: trains.\nEach record is computed by itself."
    request = JobRequest(3, "train", "a study", binding={"x": "numbers"}, hyper={"lr": 0.5}, epochs=3)
    terms = PrivacyRequest(2.0, 1e-6)
    asked = info("waiting", privacy=terms, cost=cost, plan_summary=summary, request=request)
    text = Job(Api(Scripted(asked)), asked).sheet()
    for said in (
        "bea@example.org",
        "a study",
        "train a model on iris, version 2",
        "cd" * 32,
        "For a model of 15 parameters",
        "epsilon 2, delta 0.000001 for each record; contributions clipped to 1",
        "numbers as x",
        "3 epochs in batches of 32, lr 0.5",
        "NO: the budget would refuse it",
        "90 rounds with noise of 1.5 times",
        "3 before, 4.4 after of 10",
        "0 before, 2 after of 8",
        "can become at most 88% sure",
        "only sums with noise",
    ):
        assert said in text, said


@pytest.mark.parametrize("kind", ["evaluate", "statistics"])
def test_the_sheet_names_clipping_only_where_something_is_clipped(kind: JobKind) -> None:
    cost = JobCost(2.0, 1e-6, 1.5, 1)
    rows = dict(sheet(info("waiting", kind=kind, privacy=PrivacyRequest(2.0, 1e-6), cost=cost)))
    assert rows["privacy"] == "epsilon 2, delta 0.000001 for each record"
    assert rows["cost"] == "epsilon 2: 1 round with noise of 1.5 times the bound on one unit"


def test_the_sheet_warns_of_results_as_large_as_the_data() -> None:
    facts = {
        "num_records": 300,
        "num_zeroed": 0,
        "wall_s": 0.02331,
        "sandbox": ["namespaces", "rlimits"],
        "bytes_in": 5000,
    }
    warned = dict(sheet(info("held", result_bytes=4_000, bytes_out_ratio=0.8, waiting_beside=2, facts=facts)))
    assert warned["what leaves"] == "a trained model, 4 kB (0.8 times the data). IT IS LARGE ENOUGH TO HOLD RECORDS"
    assert warned["also waiting"] == "2 other requests on this dataset"
    assert warned["the Worker saw"] == "300 records, 0.0233 seconds, namespaces + rlimits around it"
    small = dict(sheet(info("held", result_bytes=40, bytes_out_ratio=0.008)))
    assert "RECORDS" not in small["what leaves"]


def test_the_sheet_of_a_models_answers_always_warns() -> None:
    request = JobRequest(3, "predict", "r", binding={"x": "numbers"}, select=("y",), max_records=5)
    waiting = info(
        "waiting", kind="predict", plan_name="", plan_summary="An ONNX model", leaves="'y' for 5", request=request
    )
    rows = dict(sheet(waiting))
    assert rows["model"] == f"SHA-256 {'cd' * 32}"
    assert rows["the model"] == "An ONNX model"
    assert rows["of its outputs"] == "y"
    assert rows["only for"] == "the first 5 records"
    assert rows["what leaves"] == "'y' for 5. IT REVEALS SOMETHING ABOUT EACH SINGLE RECORD"
    held = msgspec.structs.replace(waiting, state="held", bytes_out_ratio=1.0, result_bytes=80)
    assert dict(sheet(held))["what leaves"].endswith("SINGLE RECORD AND IS LARGE ENOUGH TO HOLD THEM")
    asker = dict(sheet(info("waiting", kind="predict")))
    assert asker["what leaves"] == "an answer for each record. IT REVEALS SOMETHING ABOUT EACH SINGLE RECORD"


def test_words_of_strangers_are_harmless_on_a_sheet_and_in_a_notebook() -> None:
    evil = info("waiting", reason="\x1b[2J<script>alert(1)</script>")
    server = Scripted(evil)
    assert "\x1b" not in job_of(server).sheet()
    for page in (job_of(server)._repr_html_(), JobTable(Api(server), [evil])._repr_html_()):
        assert "<script>" not in page
        assert "&lt;script&gt;" in page


def test_requests_are_those_that_wait_and_those_that_are_held() -> None:
    server = Scripted(info("waiting", id="theirs", waiting_beside=0), info("waiting", id="mine-on-their-data"))
    found = connect(transport=server).requests()
    assert [request.query["state"] for request, _ in server.sent] == ["waiting", "held"]
    assert [job.id for job in found] == ["theirs", "theirs"]


def test_a_job_is_found_by_the_beginning_of_its_id() -> None:
    server = Scripted(info(id="abcdef1" + "0" * 25), info(id="abcdef2" + "0" * 25), info(id="c" * 32))
    assert get_job(Api(server), "cccccc").id == "c" * 32
    assert get_job(Api(server), "abcdef2").id == "abcdef2" + "0" * 25
    with pytest.raises(InvalidInput, match="begin") as caught:
        get_job(Api(server), "abcdef")
    assert caught.value.code == "ambiguous_id"
    assert all(f"abcdef{number}{'0' * 25}" in caught.value.detail for number in (1, 2))
    with pytest.raises(NotFound, match="no job whose id begins with 'dddddd'"):
        get_job(Api(server), "dddddd")


@pytest.mark.parametrize("job_id", ["c" * 32, "c" * 5])
def test_a_whole_id_and_one_that_is_too_short_are_left_to_the_domain(job_id: str) -> None:
    server = Scripted(info())
    get_job(Api(server), job_id)
    assert [request.path for request, _ in server.sent] == [f"/data-centric/jobs/{job_id}"]


def test_long_lists_come_in_pages() -> None:
    pages = [[info(id=f"a{number}") for number in range(100)], [info(id="b")]]

    class Paged(Scripted):
        def send(self, request: Request) -> Response:
            self.states = pages[bool(request.query.get("before"))]
            return super().send(request)

    server = Paged(info())
    assert len(connect(transport=server).jobs(mine=True)) == 101
    assert [request.query.get("before") for request, _ in server.sent] == [None, "a99"]
