"""Commands that list and show, against a Domain and a Network that give fixed answers.

``python -m support.commands`` (in ``tests``) writes the golden files of their output.
"""

from __future__ import annotations

import datetime as dt
import json
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

import pygrid.client
from pygrid.cli import app, output
from pygrid.cli.tables import AuditRow, AuditTable, BudgetRow, BudgetTable
from pygrid.client import DomainClient, NetworkClient
from pygrid.messages.accounts import PERMISSIONS
from pygrid.transport import Request, Response
from support.plans.handmade import logistic_plan

GOLDEN = Path(__file__).parents[1] / "unit" / "cli" / "golden"
WIDTHS = (80, 120)
COMMANDS = {
    "association-list": "association list",
    "budget-show": "budget show patients",
    "dataset-list": "dataset list",
    "dataset-search": "dataset search age",
    "dataset-show": "dataset show patients",
    "domains-invitations": "domains invitations",
    "domains-list": "domains list",
    "domains-show": "domains show hospital-a",
    "job-list": "job list",
    "job-show": "job show 4f1c09",
    "model-checkpoints": "model checkpoints digits",
    "model-served": "model served",
    "plan-inspect": "plan inspect digits.plan",
    "process-list": "process list",
    "process-cycles": "process cycles digits",
    "process-show": "process show digits",
    "request-list": "request list",
    "request-show": "request show 4f1c09",
    "role-list": "role list",
    "role-show": "role show 'Model Owner'",
    "search": "search age",
    "token-list": "token list",
    "user-invitations": "user invitations",
    "user-list": "user list",
    "worker-list": "worker list",
}
"""Name of the golden files -> command."""

_DAY, _LATER = "2026-03-01T09:30:00Z", "2026-03-01T09:31:12Z"
_HASH = "3f" * 32
_JOB = {
    "id": "4f1c09a2d3e84b5f96a7b8c9d0e1f203",
    "dataset": 3,
    "dataset_name": "patients",
    "version": 2,
    "kind": "train",
    "state": "waiting",
    "request_hash": _HASH,
    "requested_by": 2,
    "requested_by_email": "ann@example.org",
    "reason": "whether age and blood pressure predict a second visit within thirty days",
    "created_at": _DAY,
    "updated_at": _DAY,
    "privacy": {"epsilon": 0.35, "delta": 1e-6},
    "cost": {
        "epsilon": 0.35,
        "delta": 1e-6,
        "noise_multiplier": 1.2,
        "rounds": 40,
        "spent_before": 1.0,
        "spent_after": 1.35,
        "cap": 10.0,
        "yours_before": 0.0,
        "yours_after": 0.35,
        "your_cap": 5.0,
        "price": 0.35,
        "your_price": 0.35,
    },
    "detail": "",
    "progress": 0.0,
    "metrics": {"loss": 0.6931},
    "plan_id": _HASH,
    "plan_name": "risk",
    "result_bytes": None,
    "result_media_type": "",
    "decided_by": None,
    "waiting_beside": 2,
}
_STATISTICS = _JOB | {
    "id": "4f1cffffd3e84b5f96a7b8c9d0e1f203",
    "kind": "statistics",
    "state": "released",
    "reason": "size of the study",
    "plan_id": "",
    "plan_name": "",
    "privacy": None,
    "cost": None,
    "metrics": {},
    "decided_by": "owner@example.org",
}
_DATASET = {
    "id": 3,
    "name": "patients",
    "description": "Visits of the year 2025, one record for each patient of the two clinics in the city",
    "tags": ["oncology", "visits"],
    "visibility": "listed",
    "version": 2,
    "num_records": 12345,
    "num_columns": 3,
    "size_bytes": 987_654,
    "created_at": _DAY,
    "updated_at": _LATER,
    "mine": True,
}
_COLUMNS = [
    {"name": "age", "dtype": "float32", "unit": "years", "meaning": "age at the first visit", "min": 0, "max": 120},
    {"name": "ward", "dtype": "int32", "meaning": "where the patient stays", "num_categories": 7, "has_missing": True},
    {"name": "scan", "dtype": "float32", "shape": [32, 32], "description": "mean of all slices"},
]
_CYCLE = {
    "sequence": 1,
    "state": "completed",
    "attempt": 1,
    "checkpoint": 1,
    "num_assigned": 12,
    "num_reports": 10,
    "num_examples": 1437,
    "num_clipped": 0,
    "bytes_received": 152_000,
    "metrics": {"accuracy": 0.8125, "loss": 0.5},
    "created_at": _DAY,
    "opened_at": _DAY,
    "deadline_at": None,
    "completed_at": _LATER,
    "num_late": 2,
    "metric_spread": {"loss": {"min": 0.25, "median": 0.5, "max": 1.75, "num_reports": 10}},
}
_PROCESS = {
    "id": 1,
    "name": "digits",
    "version": "1.0",
    "state": "active",
    "created_at": _DAY,
    "num_parameters": 25_450,
    "model_bytes": 101_800,
    "num_checkpoints": 2,
    "plans": [{"id": 1, "name": "training_plan", "kind": "training", "plan_hash": _HASH, "size_bytes": 4_321}],
    "client_config": {"lr": 0.3, "epochs": 5},
    "server_config": {"num_cycles": 20, "min_diffs": 10, "authentication": {"endpoint": "https://id.example"}},
    "cycle": _CYCLE,
}
_PORT = {"name": "x", "dtype": "float32", "shape": ["batch", 64]}
_MODEL = {
    "id": "risk",
    "description": "Risk of a second visit",
    "model_size": "12 kB",
    "size_bytes": 12_345,
    "sha256": _HASH,
    "allow_download": False,
    "allow_remote_inference": True,
    "inputs": [_PORT],
    "outputs": [_PORT | {"name": "risk", "shape": ["batch"]}],
    "max_batch_size": 64,
    "num_parameters": 65,
    "flops_per_example": 130,
    "rows_independent": True,
    "created_at": _DAY,
    "mine": True,
}
_KEY = "ed25519:6Zu9WJ8mYp2m1iVQb5x4Yk3mX1tYy7cQ0n8uG2hJ5eE"
_DOMAIN = {
    "name": "hospital-a",
    "state": "online",
    "identity": _KEY,
    "version": "0.2.0",
    "address": "https://hospital-a.example",
    "counts": {"datasets": 3, "models": 1},
    "last_seen_at": _LATER,
    "joined_at": _DAY,
    "connected": True,
}
_REF = {"name": "hospital-a", "state": "online", "address": "https://hospital-a.example", "identity": _KEY}
_ASSOCIATION = {
    "id": 1,
    "network": "https://network.example",
    "name": "network",
    "identity": _KEY,
    "state": "accepted",
    "reason": "",
    "connected": True,
    "created_at": _DAY,
    "updated_at": _DAY,
}
_WORKER = {"id": 1, "name": "gpu-1", "created_at": _DAY, "last_seen_at": _LATER, "num_waiting": 1, "num_running": 2}

_FLAGS = dict.fromkeys((name for name in PERMISSIONS if name != "can_manage_nodes"), False)
_OWNER = {"id": 4, "name": "Owner"} | dict.fromkeys(_FLAGS, True)
_MODEL_OWNER = {"id": 5, "name": "Model Owner"} | _FLAGS | {"can_host_models": True}

ANSWERS: dict[str, Any] = {
    "/roles": {"success": True, "roles": [{"id": 1, "name": "User"} | _FLAGS, _OWNER, _MODEL_OWNER]},
    "/users/invitations": {
        "success": True,
        "invitations": [
            {
                "id": 1,
                "email": "carol@example.org",
                "role": "Model Owner",
                "invited_by": "ann@example.org",
                "expires_at": _LATER,
            }
        ],
    },
    "/users/me/tokens": {
        "success": True,
        "api_tokens": [
            {
                "id": 1,
                "name": "nightly",
                "scope": "read",
                "created_at": _DAY,
                "expires_at": _LATER,
                "last_used_at": _DAY,
            },
            {
                "id": 2,
                "name": "notebook",
                "scope": "all",
                "created_at": _DAY,
                "expires_at": _LATER,
                "last_used_at": None,
            },
        ],
    },
    "/users": {
        "success": True,
        "users": [
            {"id": 1, "email": "ann@example.org", "role": _OWNER, "groups": [{"id": 1, "name": "hospital"}]},
            {"id": 2, "email": "bob@example.org", "role": _MODEL_OWNER, "groups": []},
        ],
    },
    "/associations": {
        "associations": [
            _ASSOCIATION,
            _ASSOCIATION
            | {
                "id": 2,
                "network": "https://other.example",
                "name": None,
                "state": "denied",
                "connected": False,
                "reason": "the Network accepts only hospitals of the region",
            },
        ]
    },
    "/data-centric/datasets": {
        "datasets": [
            _DATASET,
            _DATASET | {"id": 4, "name": "wards", "description": "", "tags": [], "visibility": "private"},
        ]
    },
    "/data-centric/datasets/by-name": _DATASET | {"schema": None, "versions": []},
    "/data-centric/datasets/3/budget": {
        "dataset": 3,
        "policy": {"epsilon": 10.0, "delta": 1e-6, "epsilon_per_user": 5.0, "unit": "record"},
        "spent": 1.35,
        "left": 8.65,
        "yours": 0.35,
        "your_cap": 5.0,
        "your_left": 4.65,
        "users": {"ann@example.org": 0.35, "bob@example.org": 1.0},
    },
    "/data-centric/detailed-models-list": {"models": [_MODEL]},
    "/data-centric/jobs": {"jobs": [_JOB, _STATISTICS]},
    f"/data-centric/jobs/{_JOB['id']}": _JOB,
    "/data-centric/workers/authorized": {
        "workers": [_WORKER, _WORKER | {"id": 2, "name": "gpu-2", "last_seen_at": None, "num_running": 0}]
    },
    "/domains": {
        "domains": [
            _DOMAIN,
            _DOMAIN | {"name": "hospital-b", "state": "offline", "address": None, "connected": False, "identity": None},
        ]
    },
    "/domains/hospital-a": {"domain": _DOMAIN, "entry": {}, "entry_signature": None},
    "/invitations": {
        "invitations": [
            {"id": 1, "domain": None, "max_uses": 3, "num_uses": 1, "expires_at": _LATER, "created_at": _DAY},
            {"id": 2, "domain": "hospital-b", "max_uses": 1, "num_uses": 0, "expires_at": _LATER, "created_at": _DAY},
        ]
    },
    "/model-centric/processes": {"processes": [_PROCESS, _PROCESS | {"id": 2, "version": "0.9", "state": "finished"}]},
    "/model-centric/processes/1": _PROCESS,
    "/model-centric/processes/1/cycles": {
        "cycles": [
            _CYCLE,
            _CYCLE
            | {
                "sequence": 2,
                "state": "open",
                "num_reports": 3,
                "num_examples": 400,
                "metrics": {},
                "completed_at": None,
            },
        ]
    },
    "/model-centric/processes/1/checkpoints": {
        "checkpoints": [
            {"number": 1, "alias": "", "model_hash": "a1" * 32, "size_bytes": 101_800, "created_at": _DAY},
            {"number": 2, "alias": "latest", "model_hash": "b2" * 32, "size_bytes": 101_800, "created_at": _LATER},
        ]
    },
    "/network/search": {
        "datasets": [
            {
                "id": 3,
                "name": "patients",
                "description": _DATASET["description"],
                "tags": ["oncology"],
                "version": 2,
                "num_records": 12345,
                "num_columns": 3,
                "columns": [{"name": "age", "dtype": "float32"}, {"name": "ward", "dtype": "int32"}],
                "updated_at": _LATER,
                "domain": _REF,
            }
        ],
        "models": [
            {
                "id": "risk",
                "description": "Risk of a second visit",
                "inputs": [_PORT],
                "outputs": [],
                "allow_download": False,
                "allow_remote_inference": True,
                "num_parameters": 65,
                "size_bytes": 12_345,
                "sha256": _HASH,
                "domain": _REF,
            }
        ],
        "processes": [
            {
                "name": "digits",
                "version": "1.0",
                "state": "active",
                "num_parameters": 25_450,
                "created_at": _DAY,
                "domain": _REF,
            }
        ],
        "missing": [{"domain": "hospital-b", "reason": "offline"}],
        "num_domains": 2,
        "more": False,
    },
}
ANSWERS["/data-centric/datasets/by-name"] = ANSWERS["/data-centric/datasets/3"] = _DATASET | {
    "schema": {"columns": _COLUMNS, "num_records": 12345},
    "versions": [
        {
            "number": number,
            "note": note,
            "num_records": 12345,
            "size_bytes": 987_654,
            "mock": "drawn",
            "created_at": _DAY,
        }
        for number, note in ((2, "visits of December added, duplicates removed, wards renamed"), (1, ""))
    ],
}


class FixedAnswers:
    """A transport to a server that answers from `ANSWERS`."""

    url = "http://127.0.0.1:5000"

    def send(self, request: Request) -> Response:
        answer = ANSWERS[request.path]
        if state := dict(request.query).get("state"):
            answer = {"jobs": [job for job in answer["jobs"] if job["state"] == state]}
        body = json.dumps(answer).encode()
        return Response(200, {"content-type": "application/json"}, [body], lambda: None)

    def close(self) -> None:
        pass


TABLES: dict[str, AuditTable | BudgetTable] = {
    "audit-show": AuditTable(
        [
            AuditRow(1, dt.datetime(2026, 3, 1, 9, 30, tzinfo=dt.UTC), "the Domain", "started", {"version": "0.2.0"}),
            AuditRow(
                2,
                dt.datetime(2026, 3, 1, 9, 31, tzinfo=dt.UTC),
                "ann@example.org",
                "budget_reserved",
                {"dataset_id": 3, "job_id": "4f1c09a2d3e84b5f96a7b8c9d0e1f203", "epsilon": 0.35, "kind": "train"},
            ),
        ]
    ),
    "budget-show-folder": BudgetTable(
        [
            BudgetRow(3, "patients", None, "all users", 1.35, 8.65, 10.0, 1e-6, "record", 2),
            BudgetRow(3, "patients", 2, "ann@example.org", 0.35, 4.65, 5.0, 1e-6, "record", 1),
        ]
    ),
}
"""Tables of commands that read a data folder."""


@contextmanager
def fixed_servers() -> Iterator[None]:
    """Whatever address a command is given, it talks to `FixedAnswers`."""

    def opened(kind: type[Any]) -> Callable[..., Any]:
        return lambda url=None: kind(FixedAnswers(), token="token")

    with (
        mock.patch.object(pygrid.client, "connect", opened(DomainClient)),
        mock.patch.object(pygrid.client, "connect_network", opened(NetworkClient)),
    ):
        yield


def run(command: str, folder: Path, *options: str, width: int | None = None) -> str:
    """The output of a command, on a terminal of that width or (None) in a pipe."""
    logistic_plan().save(folder / "digits.plan")
    words = [str(folder / word) if word.endswith(".plan") else word for word in shlex.split(command)]
    with fixed_servers(), mock.patch.object(output, "is_terminal", return_value=width is not None):
        done = CliRunner(env={"COLUMNS": str(width or 80)}).invoke(app, [*words, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def write_golden_files() -> None:
    for name, table in TABLES.items():
        for width in WIDTHS:
            (GOLDEN / f"{name}-{width}.txt").write_text(table.text(width) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        for name, command in COMMANDS.items():
            for width in WIDTHS:
                (GOLDEN / f"{name}-{width}.txt").write_text(run(command, Path(folder), width=width))


if __name__ == "__main__":
    write_golden_files()
