"""The services of devices of a real Domain under a schedule: on SQLite and files in memory, in virtual time.

The event loop draws the order of what is ready. The Domain crashes before and after commits, its commits fail, their
answers are lost, and devices stop waiting. One process runs at a time, as the services of today require.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import json
import logging
import secrets
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import sqlalchemy as sa

from pygrid import codes
from pygrid.configuration import read_server_config
from pygrid.core.cycles import AssignmentState, CycleState
from pygrid.errors import PygridError, Unavailable
from pygrid.features.cycles.accumulator import CycleSums, find_expected
from pygrid.features.cycles.admission import Admissions
from pygrid.features.cycles.completion import Completion
from pygrid.features.cycles.cycle_metrics import CycleCounts
from pygrid.features.cycles.quotas import DeviceLimits, DeviceQuotas
from pygrid.features.cycles.scheduler import CycleScheduler
from pygrid.features.cycles.service import CyclesService
from pygrid.ids import hash_secret
from pygrid.lifecycle import Stopping
from pygrid.messages.cycles import CycleAccepted, CycleRejected, CycleRequest
from pygrid.metrics import Metrics
from pygrid.storage import cycles as rows
from pygrid.storage import processes, reports
from pygrid.storage.blobs.files import BlobFiles
from pygrid.storage.cycle_transitions import begin_cycle
from pygrid.storage.public_content import PublicContent
from pygrid.storage.sql import failures
from pygrid.storage.sql.database import _INSTANCE, Database
from pygrid.storage.sql.lanes import Batch, Lane
from pygrid.storage.sql.migrations import migrate
from pygrid.storage.store import Store
from pygrid.tensors import decode, encode
from schedules.kernel import START, Broken, Draw

CLIENTS = [f"client-{number}" for number in range(3)]
MEAN = {"name": "mean", "weights": "equal", "bound": None}
CONFIGS = [
    {"cycle_length": 60, "num_cycles": 1, "aggregation": MEAN, **fields}
    for fields in (
        {"max_diffs": 2, "max_workers": 2, "num_cycles": 2},
        {"min_diffs": 2, "max_diffs": 3},
        {"max_diffs": 2, "grace_s": 5},
        {"max_workers": 2, "min_workers": 2},
        {"max_diffs": 1, "cycle_length": None, "num_cycles": 3},
    )
]
MAX_TURNS = 4000
"""A schedule that takes more turns of the event loop does not end."""


class Crash(Exception):
    """The process ends here."""


class SeededLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time. What is ready runs in an order that is drawn."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self._selector = self
        self._draw = draw
        self._now_s = 0.0
        self._num_turns = 0

    def time(self) -> float:
        return self._now_s

    def now(self) -> dt.datetime:
        """The time, as a `Clock`."""
        return START + dt.timedelta(seconds=self._now_s)

    def pass_time(self, seconds: float) -> None:
        """Let time pass while something is ready."""
        self._now_s += seconds

    def select(self, timeout_s: float | None) -> list[Any]:
        """Stand in for the selector: wait for the next timer, and shuffle what is ready."""
        self._num_turns += 1
        if timeout_s is None or self._num_turns > MAX_TURNS:
            raise Broken("everything ends", f"after {self._num_turns} turns")
        self._now_s += timeout_s
        ready: deque[asyncio.Handle] = self._ready
        for _ in range(len(ready) - 1):
            ready.rotate(int(self._draw() * 2))
            if self._draw() > 0.5:
                first, second = ready.popleft(), ready.popleft()
                ready.extendleft((first, second))
        return []

    def after(self, seconds: float) -> asyncio.Future[None]:
        """Done after some virtual time; 0: when others have had their turn."""
        future: asyncio.Future[None] = self.create_future()

        def end() -> None:
            if not future.done():
                future.set_result(None)

        if seconds > 0.0:
            self.call_later(seconds, end)
        else:
            self.call_soon(end)
        return future

    def finish(self) -> None:
        """End what is left of a schedule that did not end."""
        self._num_turns = 0
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.wait(left))
        self.close()

    def _process_events(self, _events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


async def _turn() -> None:
    """Let others run."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SeededLoop)
    await loop.after(0.0)


class InlineExecutor(Executor):
    """The one thread that folds and completes: its work runs in the event loop, in the order of submission."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, partial(fn, *args, **kwargs)))
        self._loop.call_soon(self._run)
        return future

    def _run(self) -> None:
        future, work = self._waiting.popleft()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)


class InlineDatabase(Database):
    """A database that commits in the event loop, each unit by itself; the adversary acts before and after.

    All lives of all schedules use one engine, which has compiled the statements.
    """

    _act: Callable[[bool], None]
    lies: Draw | None = None
    """A mutant: it answers some writes without a commit."""

    def begin(self, act: Callable[[bool], None]) -> None:
        """Begin a life: no connection is left of the one before."""
        self._act = act
        self.instance = secrets.token_hex(16)
        self._writing = self.engine.execution_options(pygrid_writes=True, **{_INSTANCE: self.instance})
        if self._lookups is not None:
            self._lookups.close()
            self._lookups = None
        self.engine.dispose()

    async def write(self, fn: Callable[[sa.Connection], Any], lane: Lane = Lane.REST) -> Any:
        await _turn()
        return self._commit_one(fn)

    async def write_all(self, kind: Batch[Any, Any], item: Any, group: int | None = None) -> Any:
        await _turn()
        return self._commit_item(kind, item)

    async def write_all_with_bytes(self, kind: Batch[Any, Any], make: Any, log: Any, data: Any) -> Any:
        await _turn()
        self._act(False)
        offset = log.append(data)
        log.sync()
        return self._commit_item(kind, make(offset))

    def _commit_item(self, kind: Batch[Any, Any], item: Any) -> Any:
        (answer,) = self._commit_one(lambda connection: kind.run(connection, [item]))
        if isinstance(answer, PygridError):
            raise answer
        return answer

    async def read(self, fn: Callable[[sa.Connection], Any]) -> Any:
        await _turn()
        return self.read_now(fn)

    def write_now(self, fn: Callable[[sa.Connection], Any]) -> Any:
        return self._commit_one(fn)

    def write_later(
        self, fn: Callable[[sa.Connection], object], lane: Lane = Lane.REST, *, is_alone: bool = False
    ) -> None:
        with contextlib.suppress(Crash, PygridError):
            self._commit_one(fn)

    def _commit_one(self, fn: Callable[[sa.Connection], Any]) -> Any:
        self._act(False)
        with self._writing.connect() as connection, connection.begin() as transaction:
            result = fn(connection)
            if self.lies is not None and self.lies() > 0.9:
                transaction.rollback()
        self._act(True)
        return result


METRICS = Metrics()
COUNTS = CycleCounts(METRICS)


class Server:
    """One life of a Domain, on the files of the earlier lives."""

    def __init__(self, place: Place, loop: SeededLoop, act: Callable[[bool], None]) -> None:
        place.database.begin(act)
        self.store = Store.open(place.database, place.folder, PublicContent())
        executor = InlineExecutor(loop)
        sums = CycleSums(self.store.diffs, partial(find_expected, self.store.database))
        quotas = DeviceQuotas(DeviceLimits(), loop, "secret")
        completion = Completion(self.store, sums, loop, loop.time)
        self.scheduler = CycleScheduler(self.store, completion, loop, executor, METRICS, COUNTS)
        admissions = Admissions(self.store, self.scheduler, loop, Stopping(), quotas)
        self.cycles = CyclesService(self.store, admissions, sums, self.scheduler, loop, executor, COUNTS, quotas)
        self.dead: asyncio.Future[None] = loop.create_future()
        self.tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Recover and work until it is dead."""
        with contextlib.suppress(Crash, asyncio.CancelledError):
            await self.scheduler.recover()
            await self.scheduler.run()

    def close(self) -> None:
        """Close the files."""
        self.cycles.close()
        self.store.close()


class RealCycles:
    """A Domain, its devices and an adversary."""

    def __init__(self, draw: Draw, place: Place, loop: SeededLoop, config: dict[str, Any]) -> None:
        self._draw, self._place, self._loop = draw, place, loop
        self._config = read_server_config(config)
        self._crashes = {int(draw() * 80) for _ in range(int(draw() * 4))}
        self._failures = (0.0, 0.05)[int(draw() * 2)]
        self._is_impatient = draw() > 0.5
        self._num_acts = 0
        self._lives: list[Server] = []
        self._server: Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._accepted: set[str] = set()
        self._refused: set[str] = set()

    # -- the adversary -------------------------------------------------------------------------------------------------

    def _act_for(self, life: int, is_committed: bool) -> None:
        """Called before (False) and after (True) each commit of a life."""
        if life != len(self._lives) or self._server is None:
            raise Crash  # what is left of a dead process reaches nothing
        self._num_acts += 1
        if self._num_acts in self._crashes:
            server, self._server = self._server, None
            server.dead.set_result(None)
            raise Crash
        if self._failures and self._draw() > 1.0 - self._failures:
            if is_committed:
                self._place.database.num_unknown += 1
                raise failures.outcome_unknown()
            raise Unavailable("the database could not store this; nothing was changed", code=codes.STORAGE_FAILED)

    async def _keep_running(self) -> None:
        """Start the Domain again after each crash."""
        while True:
            life = len(self._lives) + 1
            server = Server(self._place, self._loop, partial(self._act_for, life))
            self._lives.append(server)
            self._server = server
            running = asyncio.create_task(server.run())
            server.tasks.add(running)
            await asyncio.wait([running, server.dead], return_when=asyncio.FIRST_COMPLETED)
            self._server = None
            for task in server.tasks:
                task.cancel()
            await self._loop.after(self._draw() * 10.0)

    async def _call(self, use: Callable[[CyclesService], Awaitable[Any]]) -> Any:
        """Call the Domain as a device does; None: no answer, or one that asks to come back."""
        server = self._server
        if server is None:
            await self._loop.after(1.0)
            return None
        task = asyncio.ensure_future(_outcome(use(server.cycles)))
        server.tasks.add(task)
        patience_s = 5.0 * self._draw() if self._is_impatient and self._draw() > 0.7 else None
        await asyncio.wait([task, server.dead], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or task.cancelled() or isinstance(task.result(), Crash):
            await self._loop.after(0.5)
            return None
        return task.result()

    # -- devices -------------------------------------------------------------------------------------------------------

    async def _device(self, client: str) -> None:
        request = CycleRequest(client, "model", "1.0", wait_s=10.0)
        while True:
            answer = await self._call(
                lambda cycles: cycles.request_cycle(request, "127.0.0.1", asyncio.Event().wait)  # type: ignore[arg-type]
            )
            if isinstance(answer, CycleAccepted):
                if self._draw() > 0.05:
                    await self._report(client, answer.request_key)
                else:
                    await self._loop.after(90.0)
            elif isinstance(answer, CycleRejected) and answer.timeout is msgspec.UNSET:
                return  # the training has ended
            else:
                await self._loop.after(1.0)
            if self._draw() > 0.95:
                self._loop.pass_time(40.0 * self._draw())

    async def _report(self, client: str, key: str) -> None:
        data = encode({"w": np.eye(len(CLIENTS), dtype=np.float32)[CLIENTS.index(client)]}, {})

        async def read(_max_bytes: int) -> AsyncIterator[bytes]:
            yield data[:20]
            await _turn()
            yield data[20:]

        async def send(cycles: CyclesService) -> int:
            await cycles.take_report(key, client, read)
            return 200

        while True:
            answer = await self._call(send)
            if answer == 200:
                self._accepted.add(key)
                return
            if isinstance(answer, PygridError) and answer.status < 500:
                if answer.status == 410:
                    self._refused.add(key)
                return
            await self._loop.after(0.5)

    async def run(self) -> None:
        """Run until all devices know that the process has finished, then check."""
        keeping = asyncio.create_task(self._keep_running())
        await asyncio.gather(*(self._device(client) for client in CLIENTS))
        keeping.cancel()
        self._crashes.clear()
        if self._server is not None:
            self._server.dead.set_result(None)
        tasks = [task for server in self._lives for task in server.tasks]
        for task in (keeping, *tasks):
            task.cancel()
        await asyncio.gather(keeping, *tasks, return_exceptions=True)

    # -- invariants ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all files. What is left of the processes can store nothing."""
        self._server = None
        for server in self._lives:
            server.close()

    def check(self) -> None:
        """Check what the database and the checkpoints say at the end."""
        self._place.database.read_now(self._check)

    def _check(self, connection: sa.Connection) -> None:
        blobs = BlobFiles(self._place.folder / "blobs")
        events = rows.list_events(connection, 1, 0, 1000)
        counted: dict[int, set[str]] = {}
        for cycle in rows.list_cycles(connection, 1, 0, 100):
            if cycle.state is not CycleState.COMPLETED:
                raise Broken("everything ends", f"{cycle}")
            ended = [event for event in events if (event.cycle, event.kind) == (cycle.sequence, "cycle_completed")]
            if len(ended) != 1:
                raise Broken("one checkpoint a cycle", f"{ended}")
            accepted = _clients_of(connection, cycle.id)
            counted[cycle.id] = set(accepted)
            num = len(accepted)
            if self._config.max_workers is not None and num > self._config.max_workers:
                raise Broken("max_workers is kept", f"{cycle}")
            before, after = (
                _model(blobs, connection, number) for number in (cycle.checkpoint, ended[0].data["checkpoint"])
            )
            expected = sum((np.eye(len(CLIENTS))[CLIENTS.index(client)] for client in accepted), np.zeros(len(CLIENTS)))
            # The model is float32: three reports are a third each.
            if num and not np.allclose((before - after) * num, expected, atol=1e-5):
                raise Broken("each report is in the checkpoint once", f"{(before - after) * num}, not {expected}")
        for key in self._accepted:
            found = rows_of(connection, key)
            if found is None or found[0] is not AssignmentState.REPORTED or found[2] not in counted[found[1]]:
                raise Broken("each 200 is in exactly one checkpoint", f"{found}")
        for key in self._refused:
            found = rows_of(connection, key)
            if found is not None and found[0] is AssignmentState.REPORTED:
                raise Broken("each 410 is in no checkpoint", f"{found}")


def rows_of(connection: sa.Connection, key: str) -> tuple[AssignmentState, int, str] | None:
    """State, cycle and client of the assignment of a request key."""
    found = reports.find_by_key(connection, hash_secret(key))
    return None if found is None else (found[0].state, found[1].id, found[0].client_id)


def _clients_of(connection: sa.Connection, cycle_id: int) -> list[str]:
    statement = (
        sa.select(reports.assignments.c.client_id)
        .join(reports.reports, reports.reports.c.id == reports.assignments.c.id)
        .where(reports.reports.c.cycle_id == cycle_id)
    )
    return list(connection.execute(statement).scalars())


def _model(blobs: BlobFiles, connection: sa.Connection, number: int) -> Any:
    model_hash = processes.get_checkpoint(connection, 1, number).model_hash
    return decode(blobs.read(model_hash))[0]["w"].astype(np.float64)


async def _outcome(call: Awaitable[Any]) -> Any:
    """What a call returned or raised."""
    try:
        return await call
    except (PygridError, Crash) as error:
        return error


class Place:
    """The data folder of all schedules, in memory, and its database."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "domain"
        self.database = InlineDatabase(f"sqlite:///{self.folder}/domain.sqlite")

    def restore(self, config: dict[str, Any]) -> None:
        """Bring the folder to the state of a new process."""
        template = self._root / hashlib.sha256(json.dumps(config).encode()).hexdigest()
        if not template.exists():
            _make_template(template, config)
        self.database.begin(lambda _is_committed: None)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(template, self.folder)

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def _make_template(folder: Path, config: dict[str, Any]) -> None:
    database = Database(f"sqlite:///{folder}/domain.sqlite")
    migrate(database)
    model = encode({"w": np.zeros(len(CLIENTS), np.float32)}, {})
    model_hash = BlobFiles(folder / "blobs").put(model)

    def host(connection: sa.Connection) -> None:
        new = processes.NewProcess("model", "1.0", {"name": "model", "version": "1.0"}, config, len(CLIENTS))
        process_id = processes.put_process(connection, new, START)
        processes.put_checkpoint(connection, processes.Checkpoint(process_id, 1, model_hash, len(model), {}, START))
        for client in CLIENTS:
            rows.put_client(connection, rows.NewClient(client, process_id), START)
        begin_cycle(connection, process_id, read_server_config(config), 1, 1, START)

    database.write_now(host)
    database.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The services log each crash."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def play_domain(draw: Draw, place: Place) -> None:
    """Run one schedule of the real services. Raises Broken."""
    config = CONFIGS[int(draw() * len(CONFIGS))]
    place.restore(config)
    loop = SeededLoop(draw)
    world = RealCycles(draw, place, loop, config)
    with _quiet():
        try:
            loop.run_until_complete(world.run())
            world.check()
        finally:
            world.close()
            loop.finish()
