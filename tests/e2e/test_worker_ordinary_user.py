"""The fork server and its jobs as an ordinary user, without any rights; a process of root becomes nobody first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pygrid.core.job_spec import ColumnRef, JobLimits, JobSpec, PrivacyTerms
from pygrid.tensors import encode
from support.plans.handmade import logistic_data, logistic_params, logistic_plan

SIZE = 200

PROGRAM = """
import json, os, socket, sys
from pygrid.core import job_spec as ex
from pygrid.sandbox import frames
from pygrid.compute.runtime import job_process as child, forkserver

child.preload()
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if os.fork() == 0:
    ours.close()
    if os.getuid() == 0:
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    forkserver.ForkServer(theirs, forkserver.ServerSettings()).serve()
    os._exit(0)
theirs.close()
lines = [json.loads(ours.recv(65536))]
for spec in sys.argv[1:]:
    near, far = socket.socketpair()
    start = {"start": json.loads(spec)["id"], "limits": json.loads(spec)["limits"]}
    socket.send_fds(ours, [json.dumps(start).encode()], [far.fileno()])
    far.close()
    near.sendall(frames.frame(ex.SPEC, spec.encode()))
    stream, outcome, length = near.makefile("rb"), None, 0
    while header := stream.read(frames.FRAME_HEADER_BYTES):
        kind, size = frames.parse_frame_header(header)
        body = stream.read(size)
        if kind == ex.OUTCOME:
            outcome = json.loads(body)
        if kind == ex.RESULT:
            length = size
    lines.append({"outcome": outcome, "length": length, "ended": json.loads(ours.recv(65536))})
print(json.dumps(lines))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder that others may read, as nobody must here."""
    for each in (tmp_path, *tmp_path.parents):
        if each.owner() == tmp_path.owner() and str(each).startswith("/tmp/"):
            each.chmod(0o755)
    data = logistic_data(SIZE)
    data["x"].tofile(tmp_path / "0.bin")
    data["y"].astype(np.int64).tofile(tmp_path / "1.bin")
    (tmp_path / "plan").write_bytes(logistic_plan().data)
    (tmp_path / "model").write_bytes(encode(logistic_params()))
    return tmp_path


def test_jobs_run_and_end_without_rights(folder: Path) -> None:
    good = JobSpec(
        id="good",
        kind="train",
        columns={
            "x": ColumnRef(str(folder / "0.bin"), "float32", (4,), SIZE),
            "y": ColumnRef(str(folder / "1.bin"), "int64", (), SIZE),
        },
        plan_path=str(folder / "plan"),
        model_path=str(folder / "model"),
        binding={"x": "x", "y": "y"},
        limits=JobLimits(memory_bytes=2**29, wall_s=30.0),
    )
    private = msgspec.structs.replace(good, id="private", privacy=PrivacyTerms(1.0, 1.0, 2, 1e-5, SIZE))
    endless = msgspec.structs.replace(good, id="endless", epochs=10**7, limits=JobLimits(wall_s=0.5))
    specs = [msgspec.json.encode(spec).decode() for spec in (good, private, endless)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *specs], capture_output=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr.decode()
    ready, *jobs = json.loads(done.stdout)
    assert ready["sound"]
    assert {"seccomp", "not root"} <= set(ready["layers"])
    for job in jobs[:2]:
        assert job["outcome"]["failure"] is None
        assert job["length"] > 0
        assert job["ended"]["status"] == 0
        assert "seccomp" in job["outcome"]["facts"]["sandbox"]
    assert jobs[2]["outcome"] is None
    assert jobs[2]["ended"]["reason"] == "out_of_time"
    assert os.WTERMSIG(jobs[2]["ended"]["status"]) == 9
