"""The coordinator: a process at another Domain, of which this Domain is a client.

The coordinator is untrusted, and can be malicious.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, TypeVar, cast

import numpy as np

from pygrid import codes
from pygrid.durable import ContentCache, content_mismatch, map_file
from pygrid.errors import NonFinite, PayloadTooLarge, PygridError, ShapeMismatch
from pygrid.messages.cycles import CycleAccepted, CycleRejected
from pygrid.messages.jobs import FederationRequest
from pygrid.tensors import Params
from pygrid.tensors.safetensors import Layout
from pygrid.transport import Body
from pygrid.transport.base import CHUNK_BYTES

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_ID_CHARS = 500
MODEL_SLACK_BYTES = 64 * 1024
"""Bytes by which a model may exceed the approved one, because another writer's header can be longer."""


class Coordinator(Protocol):
    """A client of the process, such as `pygrid.edge.EdgeClient`. Its calls block; one thread at a time makes them."""

    client_id: str | None
    assignment: CycleAccepted | None

    def authenticate(self) -> str: ...
    def request_cycle(self, wait_s: float = ...) -> CycleAccepted | CycleRejected: ...
    def fetch_model(self) -> Params: ...
    def send_report(self, body: Body) -> None: ...
    def leave(self) -> None: ...
    def close(self) -> None:
        """Close all connections, in any thread."""


class Connect(Protocol):
    """Returns a client of the process in a request, before anything is sent."""

    def __call__(
        self,
        federation: FederationRequest,
        *,
        client_id: str | None,
        cache: ModelFiles,
        is_guarded: bool,
        sleep: Callable[[float], None],
    ) -> Coordinator:
        """
        Args:
            client_id: id of an earlier client, to continue as the same one.
            cache: stores models.
            is_guarded: allow only addresses that untrusted parties may supply, because no person has reviewed this one.
            sleep: waits between two attempts; raises to give up.
        """


class Stopped(Exception):
    """The job has ended, so nothing more may be sent."""


class CoordinatorConnection:
    """Makes the calls to one coordinator, in a thread of ``executor``; a cancelled call closes the connection."""

    def __init__(self, make: Callable[[Callable[[float], None]], Coordinator], executor: Executor) -> None:
        self._stopped = threading.Event()
        self._executor = executor
        self.client = make(self._sleep)

    async def call(self, function: Callable[[], T]) -> T:
        """Return the result of ``function``.

        Raises:
            PygridError: as ``function``; ``unexpected_answer``: the coordinator's answer cannot be handled.
            OSError: an error of this machine.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._stopped.set()
            self.client.close()
            with contextlib.suppress(Exception):
                await future
            raise
        except (PygridError, OSError):
            raise
        except Exception as error:
            logger.warning("coordinator's answer not handled", exc_info=True)
            raise _unexpected(f"an answer that cannot be handled ({type(error).__name__})") from error

    def body(self, path: Path) -> Body:
        """Return a file as the body of a report; nothing of it is sent after the connection is closed."""
        return _StoppableFile(path, self._stopped)

    def close(self) -> None:
        self._stopped.set()
        self.client.close()

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise Stopped


class _StoppableFile:
    def __init__(self, path: Path, stopped: threading.Event) -> None:
        self._path, self._stopped = path, stopped

    @property
    def num_bytes(self) -> int:
        return self._path.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                if self._stopped.is_set():
                    raise Stopped
                yield chunk


class ModelFiles:
    """The model of the present cycle as a file in ``folder``; a `pygrid.edge.Cache` of one entry.

    Args:
        max_bytes: a longer model is refused while it arrives.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        # Shared, because the lock of the data folder already keeps other processes away.
        self._files = ContentCache(folder, max_bytes=0, is_shared=True)
        self._max_bytes = max_bytes

    def path(self, digest: str) -> Path:
        return self._files.path(digest)

    def check(self, digest: str) -> None:
        """Check that a fetched model is undamaged; a damaged one is removed.

        Raises:
            PygridError: ``content_mismatch``: the file is damaged.
        """
        if self._files.find(digest) is None:
            raise content_mismatch(digest)

    def get(self, digest: str, fetch: Callable[[BinaryIO], None]) -> memoryview:
        """Return the model with this SHA-256: the stored one, or the one that ``fetch`` writes.

        Raises:
            PygridError: ``content_mismatch``: the fetched file has another hash. PayloadTooLarge: it is too long.
        """
        path = self._files.find(digest)
        if path is None:
            self._files.make_space()
            path = self._files.receive(digest, lambda file: fetch(cast(BinaryIO, _Bounded(file, self._max_bytes))))
        return map_file(path)

    def note(self, digest: str, text: str) -> None:
        """Drop the note: the client notes verdicts on plans, and here are models only."""

    def find_note(self, digest: str) -> str | None:
        return None


class _Bounded:
    """A file with a limit on its size."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > self._max_bytes:
            raise PayloadTooLarge(
                f"the coordinator sends more than {self._max_bytes:,} bytes, the limit of its model",
                max_bytes=self._max_bytes,
            )
        return self._file.write(data)

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self) -> int:
        return self._file.truncate()


def check_offered(model: Params, approved: Layout) -> None:
    """Check that a model has the arrays of the approved one, and only finite values.

    Raises:
        ShapeMismatch: an array differs. NonFinite: an array has NaN or infinity. Both name the first such array.
    """
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        entry.name: (entry.dtype, entry.shape) for entry in approved.entries
    }
    for name, array in model.items():
        if wanted.pop(name, None) != (array.dtype, array.shape):
            raise ShapeMismatch(
                f"array {name[:100]!r} of the coordinator's model differs from the job's model", array=name[:100]
            )
        if not np.isfinite(array).all():
            raise NonFinite(f"array {name!r} of the coordinator's model has NaN or infinity", array=name)
    for name in wanted:
        raise ShapeMismatch(f"the coordinator's model lacks array {name!r}", array=name)


def check_accepted(accepted: CycleAccepted, client_id: str | None) -> None:
    """Check that an admission can be recorded. Raises PygridError: ``unexpected_answer``."""
    number, digest = accepted.cycle, accepted.model_hash
    if not isinstance(number, int) or not 1 <= number < 2**31:
        raise _unexpected("a cycle without a number of 1 or more")
    if not isinstance(digest, str) or not _is_digest(digest):
        raise _unexpected("a model without a SHA-256")
    for name, text in (("id", client_id), ("request key", accepted.request_key)):
        if text is None or not text.isprintable() or not 1 <= len(text) <= _MAX_ID_CHARS:
            raise _unexpected(f"a {name} that is not a printable text of 1 to {_MAX_ID_CHARS} characters")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _unexpected(what: str) -> PygridError:
    return PygridError(f"the coordinator sent {what}", code=codes.UNEXPECTED_ANSWER)
