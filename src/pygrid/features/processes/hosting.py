"""Hosts a process from its form: checks all of it, then stores it with its first cycle in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import Clock
from pygrid.configs import FieldFault, faults_of, invalid_config
from pygrid.configuration import ServerConfig, read_client_config, read_server_config
from pygrid.configuration.client import schedulable
from pygrid.configuration.evaluation import choose_plan
from pygrid.configuration.schedules import find_schedule_faults
from pygrid.core.cycles import Cycle
from pygrid.core.datasets import Schema
from pygrid.core.job_checks import check_binding
from pygrid.core.processes import ANY_BATCH, HostedVariant, check_fits
from pygrid.errors import Conflict, InvalidConfig, InvalidInput, InvalidPlan, NotFound
from pygrid.features.processes.presenter import describe_process
from pygrid.features.processes.traced import TracedForm, check_traced_form
from pygrid.messages.decoding import decode_json
from pygrid.messages.jobs import JobRequest
from pygrid.messages.processes import HostRequest, ProcessInfo
from pygrid.plans.archive import Plan
from pygrid.plans.gate import GateLimits, GateReport, check_async
from pygrid.plans.manifest import Manifest
from pygrid.plans.variants import read_variant
from pygrid.storage import cycles as rows
from pygrid.storage import datasets, drafts, processes
from pygrid.storage.blobs.protocol import BlobBatch, BlobWriter
from pygrid.storage.cycle_transitions import begin_cycle
from pygrid.storage.idempotency import once
from pygrid.storage.signals import notify_process
from pygrid.storage.store import Store
from pygrid.tensors.flat import num_values
from pygrid.tensors.safetensors import Layout

WatchCycle = Callable[[Cycle], None]
PLAN_PREFIX = "plan:"
"""The name of a part of the form that holds a training plan begins with it."""


def split_parts(parts: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[tuple[str, str], bytes]]:
    """The plans by name, and the variants by plan and dialect, of the parts of a form that begin with `PLAN_PREFIX`."""
    named = {name.removeprefix(PLAN_PREFIX): data for name, data in parts.items()}
    plans = {name: data for name, data in named.items() if ":" not in name}
    split = {tuple(name.split(":", 1)): data for name, data in named.items() if ":" in name}
    return plans, {(plan, dialect): data for (plan, dialect), data in split.items()}


@dataclass(frozen=True)
class HostForm:
    """The parts of the form. The model's bytes are in a blob writer, checked, not committed."""

    config: bytes
    plans: dict[str, bytes]
    averaging_plan: bytes | None
    model: Layout | None
    variants: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    """Plan and dialect -> variant of the plan for clients of 2020."""
    traced: TracedForm | None = None
    """In place of ``plans`` and ``averaging_plan``: plans of 2020."""


@dataclass(frozen=True)
class Candidate:
    """A process that passed all checks and is not stored."""

    process: processes.NewProcess
    """Without its host."""
    config: ServerConfig
    model: Layout
    plans: dict[str, bytes]
    averaging_plan: bytes | None
    variants: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    traced: Mapping[str, Mapping[str, bytes]] | None = None
    """Plan -> dialect -> what its clients get; only for plans of 2020."""

    def kind(self, of: str) -> str:
        """The kind of the plans, or of the averaging plan, in the store."""
        return of if self.traced is None else f"{of}_2020"


@dataclass(frozen=True)
class _Files:
    """Hashes of a candidate's files."""

    model: str
    plans: dict[str, str]
    averaging_plan: str | None
    variants: dict[str, list[HostedVariant]]
    """Plan -> its variants."""


def _put_files(blobs: BlobBatch, candidate: Candidate, model: BlobWriter) -> _Files:
    averaging = candidate.averaging_plan
    return _Files(
        blobs.commit(model),
        {name: blobs.put(data) for name, data in candidate.plans.items()},
        None if averaging is None else blobs.put(averaging),
        _put_variants(blobs, candidate),
    )


def _put_variants(blobs: BlobBatch, candidate: Candidate) -> dict[str, list[HostedVariant]]:
    found: dict[str, list[HostedVariant]] = {}
    for name, dialects in (candidate.traced or {}).items():
        found[name] = [HostedVariant(dialect, ANY_BATCH, blobs.put(data)) for dialect, data in dialects.items()]
    for (name, dialect), data in candidate.variants.items():
        for one in read_variant(data).plans:
            found.setdefault(name, []).append(HostedVariant(dialect, one.batch_size, blobs.put(one.plan)))
    return found


class Hosting:
    """Checks and hosts processes.

    Args:
        watch_cycle: called with each cycle that begins here, so that its deadline is kept.
    """

    def __init__(self, store: Store, watch_cycle: WatchCycle, clock: Clock) -> None:
        self._store = store
        self._watch_cycle = watch_cycle
        self._clock = clock

    async def check(self, form: HostForm, draft_id: int | None = None) -> Candidate:
        """Check a form, and return the process that it describes.

        Args:
            draft_id: id of the form's draft, which reserves its name.
        Raises:
            InvalidInput, InvalidConfig, InvalidPlan, ShapeMismatch: the form is not valid.
            Conflict: ``process_exists``: another process or draft has the name and version.
        """
        if not form.config or form.model is None or not (form.plans or form.traced):
            raise InvalidInput(
                "the form needs the parts config, model and at least one plan:NAME", code=codes.INVALID_FORM
            )
        try:
            raw = decode_json(form.config, may_hold_nul=form.traced is not None)  # short secrets are padded with it
            request = msgspec.convert(raw, HostRequest)
        except (InvalidInput, msgspec.ValidationError) as error:
            raise InvalidConfig(f"config must be JSON with client_config and server_config: {error}") from error
        name, version, config = _read_configs(request)
        new = processes.NewProcess(name, version, request.client_config, request.server_config, num_values(form.model))
        await self._store.database.read(lambda connection: check_free(connection, name, version, draft_id))
        if form.traced is not None:
            checked = await check_traced_form(form.traced, config, form.model)
            _check_with_averaging(config, request.server_config, bool(checked.averaging))
            plans, averaging = form.traced.originals, checked.averaging or None
            return Candidate(new, config, form.model, plans, averaging, traced=checked.plans)
        for plan_name, data in form.plans.items():
            report = await check_async(data)
            _check_kind(report, plan_name, "training")
            check_fits(form.model, _spec(report), plan_name)
        await _check_variants(form, request.client_config)
        _check_with_plans(request, config, {name: Plan.from_bytes(data).manifest for name, data in form.plans.items()})
        _check_with_averaging(config, request.server_config, form.averaging_plan is not None)
        if form.averaging_plan is not None:
            await _check_averaging(form.averaging_plan, config, form.model)
        plans, averaging = form.plans, form.averaging_plan
        return Candidate(new, config, form.model, plans, averaging, form.variants)

    async def host(
        self, candidate: Candidate, model: BlobWriter, user_id: int | None, draft_id: int | None = None
    ) -> ProcessInfo:
        """Store a process and begin its first cycle.

        Args:
            model: writer of the model's bytes in the store's blobs, not committed.
            draft_id: id of the process's draft, which is marked as hosted.
        Raises:
            Conflict: ``process_exists``; nothing was hosted.
        """
        await self._check_evaluation(candidate, user_id)
        with self._store.blobs.batch() as blobs:
            files = await asyncio.to_thread(_put_files, blobs, candidate, model)
            info, cycle = await self._put(candidate, files, user_id, draft_id)
        self._watch_cycle(cycle)
        notify_process(self._store.signals, info.id)
        if candidate.config.is_public:
            await self._store.public.changed()
        return info

    async def _check_evaluation(self, candidate: Candidate, user_id: int | None) -> None:
        """Check that a plan can evaluate the dataset of an ``evaluation``, and that it belongs to the host.

        Raises:
            InvalidConfig: it does not.
        """
        evaluation = candidate.config.evaluation
        if evaluation is None:
            return
        manifest = Plan.from_bytes(candidate.plans[choose_plan(candidate.plans)]).manifest
        if "eval" not in manifest.graphs:
            text = f"server_config.evaluation needs a plan with an eval graph; {manifest.name!r} has none"
            raise InvalidConfig(text, field="evaluation")

        def load(connection: sa.Connection) -> Schema:
            dataset = datasets.get_own_dataset(connection, user_id, evaluation.dataset)
            return datasets.get_schema(connection, datasets.get_version(connection, dataset.id).id)

        try:
            schema = await self._store.database.read(load)
            binding = evaluation.complete_binding(manifest.data)
            check_binding(JobRequest(1, "evaluate", "evaluation", binding=binding), manifest.data, schema)
        except (InvalidInput, NotFound) as error:
            raise InvalidConfig(f"server_config.evaluation: {error.detail}", field="evaluation") from error

    async def _put(
        self, candidate: Candidate, files: _Files, user_id: int | None, draft_id: int | None
    ) -> tuple[ProcessInfo, Cycle]:
        """Write the rows of a process with stored files."""

        def transaction(connection: sa.Connection) -> tuple[ProcessInfo, Cycle]:
            now = self._clock.now()
            new = replace(candidate.process, created_by=user_id)
            check_free(connection, new.name, new.version, draft_id)
            try:
                process_id = processes.put_process(connection, new, now)
            except sa.exc.IntegrityError:
                raise process_exists(new.name, new.version) from None
            for name, plan_hash in files.plans.items():
                size = len(candidate.plans[name])
                plan_id = processes.put_plan(connection, process_id, name, candidate.kind("training"), plan_hash, size)
                for one in files.variants.get(name, ()):
                    processes.put_variant(connection, plan_id, one.dialect, one.batch_size, one.blob_hash)
            if files.averaging_plan is not None and candidate.averaging_plan is not None:
                size = len(candidate.averaging_plan)
                kind = candidate.kind("averaging")
                processes.put_plan(connection, process_id, "averaging_plan", kind, files.averaging_plan, size)
            checkpoint = processes.Checkpoint(process_id, 1, files.model, candidate.model.total_bytes, {}, now)
            processes.put_checkpoint(connection, checkpoint)
            rows.put_event(connection, process_id, 1, "process_hosted", now)
            cycle = begin_cycle(connection, process_id, candidate.config, 1, 1, now)
            if draft_id is not None:
                drafts.set_hosted(connection, draft_id, process_id)
            return describe_process(connection, processes.get_process(connection, process_id)), cycle

        return await self._store.database.write(once(transaction, lambda found: found[0]))


def _read_configs(request: HostRequest) -> tuple[str, str, ServerConfig]:
    """Read both configurations: the name, the version and the configuration of the cycles.

    Raises:
        InvalidConfig: names the faults of both.
    """
    faults: list[FieldFault] = []
    try:
        name, version = read_client_config(request.client_config)
    except InvalidConfig as error:
        faults += faults_of(error)
    try:
        config = read_server_config(request.server_config)
    except InvalidConfig as error:
        faults += faults_of(error)
    if faults:
        raise invalid_config(faults)
    return name, version, config


def _check_with_plans(request: HostRequest, config: ServerConfig, plans: Mapping[str, Manifest]) -> None:
    """Compare the settings of devices and their schedules with the training plans.

    Raises:
        InvalidConfig: names the faults of both.
    """
    faults: list[FieldFault] = []
    try:
        read_client_config(request.client_config, plans)
    except InvalidConfig as error:
        faults += faults_of(error)
    ranges = schedulable(plans)
    faults += find_schedule_faults(config.schedules, config.num_cycles, request.client_config, ranges)
    if faults:
        raise invalid_config(faults)


def _check_with_averaging(config: ServerConfig, written: Mapping[str, Any], has_plan: bool) -> None:
    """Check that each field has an effect with, or without, an averaging plan.

    Args:
        written: the configuration as it was sent.
    """
    faults = []
    if config.iterative_plan and not has_plan:
        text = "server_config.iterative_plan has no effect: it needs an averaging plan"
        faults.append(FieldFault("iterative_plan", text))
    if has_plan:
        without = "has no effect with an averaging plan, which gets the diffs unweighted, after the bound of 'mean'"
        if config.aggregation is not None and config.aggregation.is_centred:
            faults.append(
                FieldFault("aggregation.name", f"server_config.aggregation.name 'centred_clipping' {without}")
            )
        for name in ("weights", "weight_cap"):
            if name in (written.get("aggregation") or {}):
                faults.append(FieldFault(f"aggregation.{name}", f"server_config.aggregation.{name} {without}"))
        if "max_weight" in written:
            faults.append(FieldFault("max_weight", f"server_config.max_weight {without}"))
    if faults:
        raise invalid_config(faults)


def check_free(connection: sa.Connection, name: str, version: str, draft_id: int | None = None) -> None:
    """Check that no process, and no other draft, has this name and version. Raises Conflict: ``process_exists``."""
    is_taken = bool(processes.list_processes(connection, name=name, version=version, limit=1))
    if is_taken or drafts.find_reservation(connection, name, version) not in (None, draft_id):
        raise process_exists(name, version)


def process_exists(name: str, version: str) -> Conflict:
    """Return the error for a name and version in use."""
    detail = f"FL Process already exists. {name!r} has a version {version!r}; choose another version or name."
    return Conflict(detail, code=codes.PROCESS_EXISTS, name=name, version=version)


def _spec(report: GateReport) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype, array.shape) for name, array in report.model_spec.items()}


async def _check_variants(form: HostForm, client_config: Mapping[str, Any]) -> None:
    """Check that each variant belongs to a plan of the form, computes what it does, and fits the batch size.

    Raises:
        InvalidPlan, InvalidConfig.
    """
    if not form.variants:
        return
    from pygrid.plans.dialects.check import check_async as check_variant  # most Domains have no clients of 2020

    for (name, dialect), data in form.variants.items():
        part = f"{PLAN_PREFIX}{name}:{dialect}"
        variant = read_variant(data)
        if name not in form.plans or variant.dialect != dialect:
            raise InvalidPlan(
                f"the part {part!r} belongs to no plan of the form, or holds the dialect {variant.dialect!r}",
                code=codes.PLAN_VARIANT_INVALID,
            )
        await check_variant(form.plans[name], data)
        wanted = client_config.get("batch_size")
        if wanted is not None and wanted not in variant.batch_sizes:
            sizes = ", ".join(map(str, variant.batch_sizes))
            text = f"client_config.batch_size is {wanted!r}; the variant {part!r} is for batches of {sizes}"
            raise InvalidConfig(text, field="batch_size")


def _check_kind(report: GateReport, name: str, kind: str) -> None:
    if report.kind != kind:
        raise InvalidPlan(
            f"plan {name!r} is of kind {report.kind!r}, expected {kind!r}", code=codes.PLAN_KIND, plan=name
        )


async def _check_averaging(data: bytes, config: ServerConfig, model: Layout) -> None:
    report = await check_async(data)
    _check_kind(report, "averaging_plan", "averaging")
    check_fits(model, _spec(report), "averaging_plan")
    iterative = Plan.from_bytes(data).manifest.iterative
    if iterative != config.iterative_plan:
        raise InvalidConfig(
            f"server_config.iterative_plan is {config.iterative_plan}, but the averaging plan has {iterative}",
            field="iterative_plan",
        )
    max_diffs = config.max_diffs if config.grace_s == 0 else None  # reports in the grace period come on top
    most = min(n for n in (max_diffs, config.max_workers, float("inf")) if n is not None)
    limit = GateLimits().max_diffs
    if not iterative and most > limit:
        raise InvalidConfig(
            "an averaging plan that takes all diffs at once needs max_workers, or max_diffs without grace_s, of at "
            f"most {limit}",
            field="max_diffs",
        )
