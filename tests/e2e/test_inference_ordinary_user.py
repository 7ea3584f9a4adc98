"""The warm Worker of a model as an ordinary user, without any rights; a process of root becomes nobody first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec

from pygrid.core.job_spec import InferenceSettings
from support.plans.models import linear

PROGRAM = """
import json, os, socket, sys
import numpy as np
from pygrid.core import job_spec as ex
from pygrid.sandbox import frames
from pygrid.compute.runtime import model_server as inference
from pygrid.tensors import decode, encode

ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    if os.getuid() == 0:
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    inference.main(theirs.fileno(), sys.argv[1].encode())
    os._exit(0)
theirs.close()
stream = ours.makefile("rb")
def receive():
    kind, length = frames.parse_frame_header(stream.read(frames.FRAME_HEADER_BYTES))
    return kind, stream.read(length)
kind, layers = receive()
assert kind == ex.READY, layers
answers = []
for rows in (1, 3):
    ours.sendall(frames.frame(ex.SPEC, encode({"x": np.ones((rows, 4), np.float32)})))
    kind, body = receive()
    answers.append([kind == ex.RESULT, list(decode(body)[0]["y"].shape)])
ours.shutdown(socket.SHUT_RDWR)
_, status = os.wait()
print(json.dumps([json.loads(layers), answers, status]))
"""


def test_it_answers_and_ends_without_rights(tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents):
        if each.owner() == tmp_path.owner() and str(each).startswith("/tmp/"):
            each.chmod(0o755)
    (tmp_path / "model").write_bytes(linear())
    settings = InferenceSettings(str(tmp_path / "model"), ("y",), 2**30, 60, 2**20)
    command = [sys.executable, "-c", PROGRAM, msgspec.json.encode(settings).decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    layers, answers, status = json.loads(done.stdout)
    assert {"seccomp", "rlimits"} <= set(layers)
    assert answers == [[True, [1, 3]], [True, [3, 3]]]
    assert status == 0
