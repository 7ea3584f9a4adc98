"""A warm Worker that answers with one model: load, close the sandbox, then one answer for each question until the
Domain goes.

    python -I -m pygrid.compute.runtime.model_server DESCRIPTOR SETTINGS

``DESCRIPTOR`` is a connected stream socket, inherited from the Domain; messages are frames (`pygrid.core.job_spec`):

    here -> Domain   READY   the layers of the sandbox that hold, JSON; or OUTCOME
    Domain -> here   SPEC    arrays by the names of the model's inputs, safetensors
    here -> Domain   RESULT  arrays by the names of its outputs, safetensors; or OUTCOME: a `Failure`, JSON

The model is parsed behind the sandbox: it has passed a gate, and is hostile all the same.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import msgspec

from pygrid import sandbox
from pygrid.core.job_spec import (
    FRAME_HEADER_BYTES,
    OUTCOME,
    READY,
    RESULT,
    SPEC,
    Failure,
    FailureKind,
    InferenceSettings,
    frame_header,
    parse_frame_header,
)
from pygrid.errors import InvalidPlan, PygridError
from pygrid.plans.sessions import OnnxSession
from pygrid.tensors import decode, encode

_MAX_DETAIL = 2000
_CHUNK = 1024**2


class _Connection:
    """The stream, by reading and writing alone: the sandbox has no system calls of sockets."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def read(self, length: int) -> bytearray | None:
        """So many bytes; None if the Domain is gone."""
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            chunk = os.read(self._stream, min(len(rest), _CHUNK))
            if not chunk:
                return None
            rest[: len(chunk)] = chunk
            rest = rest[len(chunk) :]
        return data

    def send(self, kind: bytes, body: bytes) -> None:
        for data in (frame_header(kind, len(body)), body):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._stream, rest) :]


def _serve(connection: _Connection, session: OnnxSession, settings: InferenceSettings) -> None:
    while (header := connection.read(FRAME_HEADER_BYTES)) is not None:
        kind, length = parse_frame_header(bytes(header))
        if kind != SPEC or length > settings.max_request_bytes:
            return
        body = connection.read(length)
        if body is None:
            return
        try:
            arrays, _ = decode(body)
            outputs = session.run(settings.outputs, arrays)
            answer = encode(dict(zip(settings.outputs, outputs, strict=True)))
        except MemoryError:
            connection.send(
                OUTCOME, msgspec.json.encode(Failure("out_of_memory", "the model needs more memory than it may use"))
            )
        except PygridError as error:
            failed: FailureKind = "plan_failed" if isinstance(error, InvalidPlan) else "out_of_memory"
            connection.send(OUTCOME, msgspec.json.encode(Failure(failed, error.detail[:_MAX_DETAIL], error.code)))
        else:
            connection.send(RESULT, answer)


def main() -> None:
    """Read the model, lock up, load it, serve."""
    stream = int(sys.argv[1])
    settings = msgspec.json.decode(sys.argv[2], type=InferenceSettings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = _Connection(stream)
    try:
        model = Path(settings.model_path).read_bytes()
        layers = sandbox.apply(
            sandbox.Limits(settings.memory_bytes, settings.cpu_s),
            keep={stream},
            empty_root=settings.empty_root,
            allow_weak=settings.allow_weak_sandbox,
        )
        session = OnnxSession(model, name="model")
    except MemoryError:
        connection.send(
            OUTCOME, msgspec.json.encode(Failure("out_of_memory", "the model needs more memory than it may use"))
        )
        return
    except (PygridError, OSError) as error:
        connection.send(
            OUTCOME, msgspec.json.encode(Failure("refused", str(error)[:_MAX_DETAIL], getattr(error, "code", "")))
        )
        return
    del model
    gc.collect()
    connection.send(READY, msgspec.json.encode(layers.names))
    _serve(connection, session, settings)


if __name__ == "__main__":
    main()
