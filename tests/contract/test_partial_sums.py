"""The partial sums of two replicas, on both databases.

Should happen: the mean has the bits of the mean of one process; a report that a partial sum covers is not read.
Should not happen: a damaged, missing or late partial sum changes the mean; a sum with reports of others is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pygrid.aggregation.precisions import Expected
from pygrid.aggregation.rules import Aggregation, History, weigh
from pygrid.configuration import ServerConfig
from pygrid.core.cycles import CycleState
from pygrid.core.processes import HostedProcess
from pygrid.features.cycles.accumulator import CycleSums, vote_of
from pygrid.features.cycles.partials import PartialLimits, PartialSums
from pygrid.storage import cycles as rows
from pygrid.storage.diffs import DiffFiles
from pygrid.storage.partials import PartialRow, delete_partials, list_partials
from pygrid.storage.reports import Report
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate
from pygrid.tensors.safetensors import encode, read_layout
from support.cycle_rows import put_process
from support.eventually import eventually_blocking
from support.memory_objects import MemoryObjects

SIZE = 8
LAYOUT = read_layout(encode({"w": np.zeros(SIZE, np.float32)}))
PROCESS = HostedProcess(1, "digits", "1.0", ServerConfig(cycle_length=None), {}, LAYOUT, (), None)


class CountedDiffs(DiffFiles):
    """Reports on the disk, with the ids of those that were read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read: list[int] = []

    @contextmanager
    def local(self, report: Report) -> Iterator[Path]:
        self.read.append(report.id)
        with super().local(report) as path:
            yield path


class Replica:
    """The sums of one process."""

    def __init__(self, database: Database, objects: MemoryObjects | None, folder: Path) -> None:
        self.diffs = CountedDiffs(folder)
        self.partials = None if objects is None else PartialSums(database, objects, PartialLimits(1, 1))
        self.sums = CycleSums(self.diffs, lambda _process_id: Expected(math.inf, 8.0, 6), self.partials)

    def mean(self, cycle_id: int, reports: list[Report]) -> bytes:
        """The bits of the mean of these reports."""
        self.diffs.read.clear()
        weighed = weigh(Aggregation(), [vote_of(report) for report in reports], History(), lambda: 1.0)
        return self.sums.reconcile(PROCESS, cycle_id, reports, weighed)(0, SIZE, None).tobytes()


class Site:
    """A cycle with six reports, and two replicas, each with its own connections."""

    def __init__(self, database: Database, url: str, folder: Path) -> None:
        migrate(database)
        self.database, self.url, self.folder = database, url, folder
        self.others: list[Database] = []
        self.objects = MemoryObjects()
        self.cycle = database.write_now(lambda connection: put_process(connection, "digits", {}))[1]
        generator = np.random.default_rng(5)
        self.reports: list[Report] = []
        diffs = DiffFiles(folder)
        for number in range(1, 7):
            # The radius is between two of them, so it is not known before the end on which side of it they are.
            values = (generator.normal(size=SIZE) * (1 + number / 10)).astype(np.float32)
            data, norm = encode({"w": values}), float(np.linalg.norm(values.astype(np.float64)))
            log = diffs.log(1)
            self.reports.append(
                Report(number, self.cycle.id, log.name, log.append(data), len(data), 1, 1, norm, None, {})
            )
        self.expected = Replica(database, None, folder).mean(self.cycle.id, self.reports)

    def replica(self) -> Replica:
        self.others.append(Database(self.url))
        return Replica(self.others[-1], self.objects, self.folder)

    def fold(self, replica: Replica, *numbers: int) -> None:
        """Fold reports and wait until the sum is stored."""
        for number in numbers:
            replica.sums.fold(PROCESS, self.reports[number], None)
            ids = {self.reports[one].id for one in numbers[: numbers.index(number) + 1]}
            eventually_blocking(lambda ids=ids: any(len(row.covered) >= 8 * len(ids) for row in self.rows()))

    def rows(self) -> list[PartialRow]:
        return self.database.read_now(lambda connection: list_partials(connection, self.cycle.id))


@pytest.fixture
def site(database: Database, database_url: str, tmp_path: Path) -> Iterator[Site]:
    opened = Site(database, database_url, tmp_path / "diffs")
    yield opened
    for other in opened.others:
        other.close()


def test_the_one_that_closes_reads_what_no_sum_covers(site: Site) -> None:
    """Only those whose side of the radius was not known are read again, whoever has folded them."""
    one, other = site.replica(), site.replica()
    site.fold(other, 3, 4)
    for number in (0, 1):
        one.sums.fold(PROCESS, site.reports[number], None)
    assert one.mean(site.cycle.id, site.reports) == site.expected
    alone = Replica(site.database, None, site.folder)
    for number in (0, 1, 3, 4):
        alone.sums.fold(PROCESS, site.reports[number], None)
    assert alone.mean(site.cycle.id, site.reports) == site.expected
    assert one.diffs.read == alone.diffs.read
    assert {site.reports[2].id, site.reports[5].id} <= set(one.diffs.read) < {report.id for report in site.reports}


def test_an_instance_has_one_partial_sum_of_all_that_it_folded(site: Site) -> None:
    other = site.replica()
    site.fold(other, 0, 2, 5)
    [row] = site.rows()
    assert len(row.covered) == 3 * 8
    third = site.replica()
    assert third.mean(site.cycle.id, site.reports) == site.expected


@pytest.mark.parametrize("fault", ["missing", "damaged", "of another sum", "of a report that is damaged"])
def test_a_partial_sum_that_is_no_good_is_made_up_for(site: Site, fault: str) -> None:
    other, reports, expected = site.replica(), site.reports, site.expected
    site.fold(other, 0, 1, 2)
    [row] = site.rows()
    data = site.objects.read(row.key)
    if fault == "missing":
        site.objects.delete([row.key])
    elif fault == "damaged":
        site.objects.put(row.key, data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "of another sum":
        site.objects.put(row.key, site.objects.read(row.key)[: len(data) // 2])
    else:  # a completion leaves a damaged report out, also if it is in a partial sum
        reports = reports[1:]
        expected = Replica(site.database, None, site.folder).mean(site.cycle.id, reports)
    one = site.replica()
    assert one.mean(site.cycle.id, reports) == expected
    assert set(one.diffs.read) == {report.id for report in reports}


def test_a_sum_with_reports_of_others_is_not_stored(site: Site) -> None:
    """A completion that failed leaves it behind, and a late report is folded into it."""
    one, other = site.replica(), site.replica()
    site.fold(other, 0, 1)
    before = site.rows()
    one.mean(site.cycle.id, site.reports[:5])
    one.sums.fold(PROCESS, site.reports[5], None)
    assert one.partials is not None
    one.partials.close()
    assert site.rows() == before


def test_a_completed_cycle_takes_no_partial_sum(site: Site) -> None:
    """A replica that was paused stores its sum after the cycle has ended."""
    other = site.replica()
    site.fold(other, 0)

    def complete(connection):
        delete_partials(connection, site.cycle.id)
        rows.update_cycle(connection, replace(site.cycle, state=CycleState.COMPLETED))

    site.database.write_now(complete)
    num_objects = len(list(site.objects.list("diffs/")))
    other.sums.fold(PROCESS, site.reports[1], None)
    eventually_blocking(lambda: len(list(site.objects.list("diffs/"))) > num_objects)
    site.others[0].close()  # runs what waits
    assert site.rows() == []


@pytest.mark.parametrize(
    ("mib_folded", "mib_of_sum", "num_left", "is_due"),
    [
        (63, 1, None, False),
        (64, 1, None, True),
        (79, 20, 50, False),
        (80, 20, 50, True),
        (20, 20, 4, True),
        (20, 20, 5, False),
        (19, 20, 0, False),
        (7, 1, 0, False),
        (8, 1, 0, True),
        (1000, 129, 0, False),
    ],
)
def test_a_sum_is_stored_when_it_saves_work(
    mib_folded: int, mib_of_sum: int, num_left: int | None, is_due: bool
) -> None:
    """Its bytes are at most a quarter of those of its reports, except near the end, which others would have to read."""
    assert PartialLimits().are_reached(mib_folded * 2**20, mib_of_sum * 2**20, num_left) == is_due
