"""Builds the specification of a job for a Worker, on the data or on the mock dataset."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.core.datasets import Schema, column_file
from pygrid.core.job_checks import read_optimizer, read_statistics, schema_for_mock, used_columns
from pygrid.core.job_review import ReviewThresholds
from pygrid.core.job_spec import ColumnRef, JobLimits, JobSpec, check_spec
from pygrid.core.jobs import JobRecord
from pygrid.core.metric_bounds import resolve_metric_bounds
from pygrid.core.mocks import draw_mock
from pygrid.core.predictions import chosen_outputs, count_records, max_result_bytes
from pygrid.errors import NotFound
from pygrid.messages.datasets import ITEM_BYTES
from pygrid.messages.jobs import JobRequest
from pygrid.plans.archive import Plan
from pygrid.plans.hyper import resolve_hyper
from pygrid.plans.serving import ServingReport
from pygrid.storage import datasets as dataset_rows
from pygrid.storage import jobs as rows
from pygrid.storage.columns import ColumnDraft, ColumnFiles, map_columns
from pygrid.storage.job_files import JobFiles, JobFolder
from pygrid.storage.jobs import JobDataset
from pygrid.storage.sql.database import Database

_MOCK_ROUNDS = 2
_NUM_MOCK_RECORDS = 100


@dataclass(frozen=True)
class RunLimits:
    """Limits of jobs on the resources of the machine."""

    memory_bytes: int
    wall_s: float
    mock_wall_s: float = 60.0
    max_json_bytes: int = 16 * 1024**2
    max_answers_bytes: int = 64 * 1024**2
    """Limit of a result with a row for each record."""
    max_federated: int = 8
    """Federated jobs of one user that have not ended."""
    review: ReviewThresholds = field(default_factory=ReviewThresholds)
    """From which values on a person who decides is warned."""

    def of(self, job: JobRecord, model_bytes: int, *, mock: bool) -> JobLimits:
        """Return the limits of one job; a trained model has the size of the submitted one, except its header."""
        wall_s = min(self.wall_s, self.mock_wall_s) if mock else self.wall_s
        is_model = job.request.kind == "train"
        most = int(model_bytes * 1.05) + 1024**2 if is_model else self.max_json_bytes
        return JobLimits(self.memory_bytes, int(wall_s) + 1, wall_s, most)


@dataclass(frozen=True)
class JobInputs:
    """The schema and the folders of a job's inputs."""

    schema: Schema
    folder: Path
    """Folder of the columns."""
    files: JobFolder

    def plan(self, job: JobRecord) -> Plan | None:
        """Return the plan of a job, if it has one."""
        has_plan = job.plan_id and job.request.kind != "predict"
        return Plan.load(self.files.path(job.plan_id)) if has_plan else None

    def report(self) -> ServingReport:
        """Return the gate's report on the ONNX model of a job. Raises as `JobFolder.read_report`."""
        return msgspec.json.decode(self.files.read_report(), type=ServingReport)


def make_spec(job: JobRecord, inputs: JobInputs, limits: RunLimits, *, mock: bool = False) -> JobSpec:
    """Return the specification of a job on the data in ``inputs``.

    Raises:
        InvalidInput: no Worker could run it. NotFound: a file is missing. OSError.
    """
    request, schema = job.request, inputs.schema
    plan = inputs.plan(job)
    model_path = inputs.files.path(job.model_hash) if job.model_hash else None
    lr = resolve_hyper(plan.manifest, request.hyper).get("lr", 1.0) if plan is not None else 1.0
    columns = {}
    for index, column in enumerate(schema.columns):
        if column.name in used_columns(request, schema):
            path = str(inputs.folder / column_file(index))
            columns[column.name] = ColumnRef(path, column.dtype, column.shape, schema.num_records)
    spec = JobSpec(
        id=f"{job.id}-mock" if mock else job.id,
        kind=request.kind,
        columns=columns,
        plan_path=str(inputs.files.path(job.plan_id)) if plan is not None else "",
        model_path=str(model_path) if model_path is not None else "",
        binding=request.binding,
        hyper=request.hyper,
        epochs=request.epochs,
        batch_size=request.batch_size,
        seed=request.seed,
        optimizer=read_optimizer(request, lr),
        statistics=read_statistics(request, schema),
        metric_bounds={} if plan is None else resolve_metric_bounds(request, plan.manifest),
        subject=schema.subject or "",
        privacy=job.terms,
        limits=limits.of(job, model_path.stat().st_size if model_path is not None else 0, mock=mock),
    )
    if request.kind == "predict":
        spec = _predicting(spec, request, inputs)
    check_spec(spec)
    return spec


def _predicting(spec: JobSpec, request: JobRequest, inputs: JobInputs) -> JobSpec:
    """Add the ports of the model, the number of records, and the size of the answers that results from them."""
    report, num_records = inputs.report(), count_records(request, inputs.schema)
    outputs = chosen_outputs(request, report)
    return msgspec.structs.replace(
        spec,
        columns={name: msgspec.structs.replace(one, num_records=num_records) for name, one in spec.columns.items()},
        inputs=report.inputs,
        outputs=outputs,
        limits=msgspec.structs.replace(spec.limits, max_result_bytes=max_result_bytes(outputs, num_records)),
    )


def data_bytes(spec: JobSpec) -> int:
    """Return the size in bytes of the columns that a job can read."""
    return sum(
        ITEM_BYTES[column.dtype] * math.prod(column.shape) * column.num_records for column in spec.columns.values()
    )


def check_files(spec: JobSpec) -> None:
    """Check that the files of a specification exist, without reading a record.

    Raises:
        NotFound: ``records_not_found``, ``job_file_not_found``: a file is missing, or shorter than specified.
    """
    for name, column in spec.columns.items():
        needed = column.offset + ITEM_BYTES[column.dtype] * math.prod(column.shape) * column.num_records
        if _file_bytes(column.path) < needed:
            raise NotFound(
                f"the records of column {name!r} are missing on this machine, or damaged", code=codes.RECORDS_NOT_FOUND
            )
    for path in filter(None, (spec.plan_path, spec.model_path)):
        if _file_bytes(path) < 1:
            raise NotFound("a file of the job is missing on this machine", code=codes.JOB_FILE_NOT_FOUND)


def _file_bytes(path: str) -> int:
    """Return the length of a file; -1 if it does not exist."""
    file = Path(path)
    return file.stat().st_size if file.is_file() else -1


def make_mock_specs(job: JobRecord, inputs: JobInputs, limits: RunLimits) -> list[JobSpec]:
    """Return the specifications of the dry run of a job on its mock dataset.

    One runs without privacy, so that errors are visible, if the plan has the graph for it. For a private job, another
    one runs with privacy, because that uses another graph in another way.
    """
    request, plan = job.request, inputs.plan(job)
    spec = make_spec(job, inputs, limits, mock=True)
    exact = msgspec.structs.replace(spec, privacy=None, epochs=1)
    if job.terms is None:
        return [exact]
    # A dry run: few rounds, over all of the few records.
    terms = msgspec.structs.replace(
        job.terms,
        rounds=min(job.terms.rounds, _MOCK_ROUNDS),
        sampling_rate=1.0,
        expected_size=max(1.0, float(inputs.schema.num_records)),
    )
    private = msgspec.structs.replace(spec, privacy=terms)
    if plan is None:
        return [private]
    exact = msgspec.structs.replace(exact, batch_size=min(exact.batch_size, plan.manifest.max_batch_size))
    can_run_exactly = request.kind == "evaluate" or "train" in plan.manifest.graphs
    return [exact, private] if can_run_exactly else [private]


class SpecBuilder:
    """Builds the specifications of jobs from the store."""

    def __init__(self, database: Database, columns: ColumnFiles, files: JobFiles, limits: RunLimits) -> None:
        self._database = database
        self._columns = columns
        self._files = files
        self.limits = limits

    async def spec(self, job: JobRecord, held: contextlib.ExitStack) -> JobSpec:
        """Return the specification on the data, whose files stay while ``held`` is open. Raises as `make_spec`."""
        dataset, schema = await self._load(job)
        inputs = JobInputs(schema, self._columns.locate(dataset.folder), self._files.inputs(job.id))
        held.enter_context(self._columns.hold(dataset.folder))
        held.enter_context(self._files.hold(job.id))
        spec = await asyncio.to_thread(make_spec, job, inputs, self.limits)
        used = [Path(column.path).name for column in spec.columns.values()]
        await asyncio.to_thread(self._columns.checked_path, dataset.folder, used)
        return spec

    async def find_pools(self, job: JobRecord) -> frozenset[str]:
        """Return the names of the pools in which a job may run now."""
        return await self._database.read(lambda connection: rows.find_pools(connection, job))

    async def of_mock(
        self, job: JobRecord, draft: ColumnDraft, held: contextlib.ExitStack
    ) -> tuple[int, list[JobSpec]]:
        """Return the number of records of the mock dataset, and the specifications on it. Raises as `make_spec`.

        Without an uploaded mock dataset, one is drawn for this job from the schema into ``draft``. The files stay while
        ``held`` is open.
        """
        dataset, schema = await self._load(job)
        files = self._files.inputs(job.id)
        held.enter_context(self._files.hold(job.id))

        def prepare() -> JobInputs:
            if dataset.mock == "uploaded" and dataset.mock_folder is not None:
                held.enter_context(self._columns.hold(dataset.mock_folder))
                folder = self._columns.checked_path(dataset.mock_folder)
                return JobInputs(map_columns(folder)[0], folder, files)
            plan = JobInputs(schema, draft.path, files).plan(job)
            wanted = schema_for_mock(schema, job.request, None if plan is None else plan.manifest)
            drawn, arrays = draw_mock(schema, _NUM_MOCK_RECORDS, seed=0, within=wanted)
            draft.put(drawn, arrays)
            return JobInputs(drawn, draft.path, files)

        inputs = await asyncio.to_thread(prepare)
        return inputs.schema.num_records, await asyncio.to_thread(make_mock_specs, job, inputs, self.limits)

    async def _load(self, job: JobRecord) -> tuple[JobDataset, Schema]:
        def load(connection: sa.Connection) -> tuple[JobDataset, Schema]:
            return rows.get_job_dataset(connection, job), dataset_rows.get_schema(connection, job.version_id)

        return await self._database.read(load)
