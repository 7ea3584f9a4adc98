"""The client of a Domain, for model owners, data scientists and data owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import msgspec

from pygrid import codes
from pygrid.client.associations import Associations
from pygrid.client.credentials import choose_url, find_network_token, find_token
from pygrid.client.datasets import Dataset, Datasets
from pygrid.client.display.process_tables import ProcessTable
from pygrid.client.hosting import USUAL_PLAN, ModelSource, PlanSource, hosting_form, written
from pygrid.client.jobs import Job, JobTable, Requests, find_jobs, get_job, submit_job
from pygrid.client.models import (
    HostedModel,
    ModelTable,
    OnnxSource,
    ServingOptions,
    get_served,
    list_served,
    serve_model,
)
from pygrid.client.predictions import request_predictions
from pygrid.client.process import Process
from pygrid.client.session import SessionClient
from pygrid.client.terms import check_guarantee, privacy_terms, statistic_requests
from pygrid.client.workers import Workers
from pygrid.configs import did_you_mean
from pygrid.configuration import ClientConfig, ServerConfig
from pygrid.errors import NotFound
from pygrid.messages.jobs import JobState, StatisticRequest, Unit
from pygrid.messages.processes import HostRequest, ProcessInfo
from pygrid.transport import Transport, open_transport
from pygrid.transport.authorities import CaFile


class _Processes(msgspec.Struct):
    processes: list[ProcessInfo]


def connect(
    url: str | None = None, token: str | None = None, *, transport: Transport | None = None, ca_file: CaFile = None
) -> DomainClient:
    """A client of a Domain; this sends no request.

    Args:
        url: address of the Domain, ``http://HOST:PORT`` or, through a Network, ``grid+http://NETWORK:PORT/NAME``; None:
            ``PYGRID_URL``, else the address of the last ``pygrid login``.
        token: token of a session; None: ``PYGRID_TOKEN``, else the one that ``pygrid login`` stored for the address.
        transport: used instead of HTTP to ``url``; the caller closes it.
        ca_file: PEM file of an authority to trust in addition to the public ones; None: that of ``PYGRID_CA_FILE``.
    Raises:
        InvalidInput: there is no address, it is not valid, or the file is not (``ca_file_invalid``).
    """
    if transport is not None:
        return DomainClient(transport, token=token)
    chosen = open_transport(choose_url(url), relay_token=find_network_token, ca_file=ca_file)
    return DomainClient(chosen, token=token or find_token(chosen.url), owns_transport=True)


class DomainClient(SessionClient):
    """A Domain and the user's session on it; `connect` returns one."""

    @property
    def datasets(self) -> Datasets:
        """The datasets of the Domain: upload, list, search, or get one by its name."""
        return Datasets(self._api)

    def host(
        self,
        name: str,
        version: str | None = None,
        *,
        model: ModelSource,
        plans: Mapping[str, PlanSource] | PlanSource,
        client_config: ClientConfig | Mapping[str, Any] | None = None,
        server_config: ServerConfig | Mapping[str, Any] | None = None,
        averaging_plan: PlanSource | None = None,
    ) -> Process:
        """Host a model and open its training.

        Args:
            name, version: a pair that the Domain does not have. ``version`` None: the next whole number.
            model: float32 arrays by name, the path of a safetensors file, or a ``torch.nn.Module``.
            plans: by name, each a `Plan` or the path of a plan file; a single one is hosted as ``training_plan``.
            client_config: settings for devices: a `ClientConfig`, or a mapping with ``epochs``, ``batch_size``,
                ``max_updates``, the hyperparameters of the plan, and texts or objects for code of your own.
            server_config: settings of the cycles: a `ServerConfig`, or a mapping with its fields.
            averaging_plan: used instead of the Domain's rule.
        Raises:
            Conflict: the Domain has a process of that name and version (``process_exists``).
            Unauthenticated, Forbidden: you are not logged in, or may not host.
            InvalidInput and its subclasses: a part cannot be hosted; the message names it. Nothing was hosted.
        """
        by_name = plans if isinstance(plans, Mapping) else {USUAL_PLAN: plans}
        named = {"name": name, "version": self._next_version(name) if version is None else version}
        request = HostRequest({**written(client_config), **named}, written(server_config))
        form = hosting_form(request, model, by_name, averaging_plan)
        headers = {"Content-Type": form.media_type}
        info = self._api.send_body("/model-centric/host-training", ProcessInfo, form, headers=headers, once=True)
        return Process(self._api, info)

    def _next_version(self, name: str) -> str:
        """The whole number after the versions of a process that are whole numbers."""
        numbers = [int(info.version) for info in self.processes(name) if info.version.isdecimal()]
        return str(max(numbers, default=0) + 1)

    def processes(self, name: str | None = None, version: str | None = None) -> ProcessTable:
        """The processes on the Domain, newest first; with a name or a version, only those."""
        query = {key: value for key, value in (("name", name), ("version", version)) if value is not None}
        return ProcessTable(self._api.get("/model-centric/processes", _Processes, query=query).processes)

    def process(self, name: str, version: str | None = None) -> Process:
        """A process by its name; ``version`` None: the newest.

        Raises:
            NotFound: there is no such process (``process_not_found``).
        """
        found = self.processes(name, version)
        if not found:
            which = f"{name!r}" if version is None else f"{name!r} in version {version!r}"
            others = sorted({info.name for info in self.processes()})
            there = f"it has: {', '.join(others[:20])}" if others else "it has no processes"
            there += did_you_mean(name, others) if name not in others else ""
            raise NotFound(f"{self.url} has no process {which}; {there}", code=codes.PROCESS_NOT_FOUND)
        return Process(self._api, found[0])

    def serve(self, model_id: str, onnx: OnnxSource, **options: Unpack[ServingOptions]) -> HostedModel:
        """Serve an ONNX model, so that users can predict with it at the Domain.

        Args:
            model_id: an id that the Domain does not have.
            onnx: its bytes, the path of its file, or an ``onnx.ModelProto``. Metadata that exporters add is removed
                before the model is sent.
            options: keyword arguments, see `ServingOptions`: ``description``, ``allow_remote_inference``,
                ``allow_download``, ``max_batch_size``, ``visibility``.
        Raises:
            Conflict: there is a model of that id (``model_exists``).
            InvalidInput: not an ONNX model, or the Domain does not run it (``plan_...``); the message has the reason.
            Unauthenticated, Forbidden: you are not logged in, or may not serve.
        """
        return serve_model(self._api, model_id, onnx, options)

    def models(self) -> ModelTable:
        """The models that the Domain serves, ordered by id."""
        return list_served(self._api)

    def model(self, model_id: str) -> HostedModel:
        """A served model by its id. Raises NotFound: there is no such model (``model_not_found``)."""
        return get_served(self._api, model_id)

    def submit(
        self,
        plan: PlanSource,
        *,
        dataset: Dataset | str,
        model: ModelSource,
        kind: Literal["train", "evaluate"] = "train",
        reason: str,
        binding: Mapping[str, str] | None = None,
        hyper: Mapping[str, float] | None = None,
        epochs: int = 1,
        batch_size: int = 32,
        seed: int = 0,
        optimizer: Mapping[str, Any] | None = None,
        metric_bounds: Mapping[str, tuple[float, float]] | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
        clip: float = 1.0,
        unit: Unit | None = None,
        sampling_rate: float | None = None,
        version: int | None = None,
        pool: str = "",
    ) -> Job:
        """Request a job that runs a plan on data that stays on the Domain. It first runs on the mock dataset.

        Args:
            plan: a `Plan`, or the path of a plan file.
            dataset: a `Dataset`, or its name; ``version`` None: the newest.
            model: as for `host`; the start of the training, or the model to evaluate.
            kind: ``train`` or ``evaluate``.
            reason: purpose of the job, shown to the data owner.
            binding: data port of the plan -> column; for other ports, the only column that fits by name or meaning.
            hyper: values of the plan's hyperparameters.
            epochs, batch_size, seed: of training; a private job samples at random, ``batch_size`` units on average.
            optimizer: of private training, for example ``{"name": "adam", "learning_rate": 0.01}``; None: SGD with the
                plan's ``lr``.
            metric_bounds: of a private evaluation: metric -> (lower, upper), the bounds of its value for one unit.
                Defaults: 0 to 1 for accuracy and other shares, 0 to 10 for ``loss``; other metrics need bounds.
            epsilon, delta: the privacy guarantee, charged to the dataset's budget. With neither, the job is not
                private: a person must approve it, and its result is held until a person approves the release.
            clip: the gradient of each unit is scaled down to this L2 norm.
            unit: what is protected: one ``record``, all records of one ``subject``, or the whole ``domain``; None:
                ``subject`` if the dataset has a subject column, else ``record``.
            sampling_rate: probability of each unit to take part in a round; None: derived from ``batch_size``.
            pool: where the job runs; "": in the first pool with a free place that the data owner allows.
        Raises:
            InvalidInput and its subclasses: the request is not valid; the message names the fault. Nothing was sent.
            NotFound: there is no such dataset. Unauthenticated: you are not logged in.
        """
        check_guarantee(epsilon, delta)
        target = self._dataset(dataset)
        terms = privacy_terms(epsilon, delta, clip, unit or target, sampling_rate)
        values: dict[str, Any] = {"hyper": dict(hyper or {}), "epochs": epochs, "batch_size": batch_size, "seed": seed}
        values |= {"optimizer": dict(optimizer or {}), "metric_bounds": dict(metric_bounds or {}), "pool": pool}
        return submit_job(
            self._api, target, kind, reason, terms, plan=plan, model=model, binding=binding, version=version, **values
        )

    def statistics(
        self,
        dataset: Dataset | str,
        asked: Sequence[StatisticRequest] | StatisticRequest,
        *,
        reason: str,
        epsilon: float | None = None,
        delta: float | None = None,
        unit: Unit | None = None,
        version: int | None = None,
        pool: str = "",
    ) -> Job:
        """Request statistics of a dataset: ``[count(), mean("age", lower=0, upper=120)]``.

        Args:
            asked: results of the functions of `pygrid.client.statistics`. One noisy sum answers all of them, so more
                statistics in one job make each less exact, but do not raise the privacy cost.
            reason, epsilon, delta, unit, version, pool: as for `submit`.
        Raises:
            As `submit`.
        """
        check_guarantee(epsilon, delta)
        target = self._dataset(dataset)
        terms = privacy_terms(epsilon, delta, 1.0, unit or target, None)
        return submit_job(
            self._api,
            target,
            "statistics",
            reason,
            terms,
            version=version,
            statistics=statistic_requests(asked),
            pool=pool,
        )

    def _dataset(self, dataset: Dataset | str) -> Dataset:
        return self.datasets[dataset] if isinstance(dataset, str) else dataset

    def predict(
        self,
        onnx: OnnxSource,
        *,
        dataset: Dataset | str,
        reason: str,
        binding: Mapping[str, str] | None = None,
        select: Sequence[str] = (),
        max_records: int | None = None,
        batch_size: int = 64,
        version: int | None = None,
        pool: str = "",
    ) -> Job:
        """Request a job in which an ONNX model predicts for each record of a dataset, at the Domain.

        The result has the outputs by name, in the order of the records. The job is always non-private: a person
        approves it, and then the release of its result.

        Args:
            onnx: as for `serve`; the first dimension of its inputs and outputs is the number of records.
            binding: input of the model -> column; for other inputs, the only column that fits by name.
            select: names of the outputs to return; empty: all.
            max_records: predict for this number of records only, from the first.
            batch_size: number of records that the model gets at once.
            reason, version, pool: as for `submit`.
        Raises:
            InvalidInput and its subclasses: the request is not valid; the message names the fault. Nothing was sent.
                ``result_too_large``: request fewer records at once.
            NotFound: there is no such dataset. Unauthenticated: you are not logged in.
        """
        return request_predictions(
            self._api,
            onnx,
            dataset,
            binding=binding,
            reason=reason,
            select=tuple(select),
            max_records=max_records,
            batch_size=batch_size,
            version=version,
            pool=pool,
        )

    def jobs(self, dataset: str | None = None, *, state: JobState | None = None, mine: bool = False) -> JobTable:
        """Your jobs and those on your datasets, newest first; ``mine``: only your own."""
        return JobTable(self._api, find_jobs(self._api, dataset=dataset, state=state, mine=mine))

    def job(self, job_id: str) -> Job:
        """A job by its id, or by the first characters of it, 6 or more.

        Raises:
            NotFound: there is no such job, or you may not see it (``job_not_found``).
            InvalidInput: several ids begin with these characters; the message lists them (``ambiguous_id``).
        """
        return get_job(self._api, job_id)

    @property
    def requests(self) -> Requests:
        """The jobs on your datasets that wait for a decision: ``domain.requests()`` lists them."""
        return Requests(self._api)

    @property
    def associations(self) -> Associations:
        """The Networks of this Domain: ``domain.associations()`` lists them, ``join`` and ``leave`` change them."""
        return Associations(self._api)

    @property
    def workers(self) -> Workers:
        """Workers on other machines: ``domain.workers()`` lists, ``let_in`` authorizes, ``revoke`` ends it."""
        return Workers(self._api)
