"""A warm Worker of one model: enter the sandbox, load the model, then answer requests until the Domain ends.

The Domain starts `main` with `pygrid.sandbox.process.spawn`. Its descriptor is a connected stream socket; messages are
frames (`pygrid.sandbox.frames`):

    here -> Domain   READY   the layers of the sandbox that hold, JSON; or OUTCOME
    Domain -> here   SPEC    arrays by the names of the model's inputs, safetensors
    here -> Domain   RESULT  arrays by the names of its outputs, safetensors; or OUTCOME: a `Failure`, JSON

The model is parsed inside the sandbox: it has passed a gate, and can be hostile all the same.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pygrid import sandbox
from pygrid.core.job_spec import OUTCOME, READY, RESULT, SPEC, Failure, FailureKind, InferenceSettings
from pygrid.errors import InvalidPlan, PygridError
from pygrid.sandbox.frames import FRAME_HEADER_BYTES, frame_header, parse_frame_header
from pygrid.tensors import decode, encode

if TYPE_CHECKING:
    from pygrid.plans.sessions import OnnxSession

_MAX_DETAIL = 2000
_CHUNK = 1024**2


class _Connection:
    """The stream, by reads and writes only: the sandbox allows no system calls of sockets."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def read(self, length: int) -> bytearray | None:
        """Read ``length`` bytes; None: the Domain is gone."""
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
                OUTCOME, msgspec.json.encode(Failure("out_of_memory", "the model needs more memory than its limit"))
            )
        except PygridError as error:
            failed: FailureKind = "plan_failed" if isinstance(error, InvalidPlan) else "out_of_memory"
            connection.send(OUTCOME, msgspec.json.encode(Failure(failed, error.detail[:_MAX_DETAIL], error.code)))
        else:
            connection.send(RESULT, answer)


def main(stream: int, raw_settings: bytes) -> None:
    """Read the model, enter the sandbox, load the model, serve."""
    from pygrid.plans.sessions import OnnxSession  # ONNX Runtime, which the Domain never loads

    settings = msgspec.json.decode(raw_settings, type=InferenceSettings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = _Connection(stream)
    try:
        model = Path(settings.model_path).read_bytes()
        layers = sandbox.apply(
            sandbox.Limits(settings.memory_bytes, settings.cpu_s),
            keep={stream},
            empty=sandbox.open_empty_folder(),
            allow_weak=settings.allow_weak_sandbox,
        )
        session = OnnxSession(model, name="model")
    except MemoryError:
        connection.send(
            OUTCOME, msgspec.json.encode(Failure("out_of_memory", "the model needs more memory than its limit"))
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
