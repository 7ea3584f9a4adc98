"""The client of a Domain, for model owners, data scientists and data owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from pygrid import codes
from pygrid.client.associations import Associations
from pygrid.client.configuration import ClientConfig, ServerConfig
from pygrid.client.credentials import choose_url, find_network_token, find_token
from pygrid.client.datasets import Dataset, Datasets
from pygrid.client.display.process_tables import ProcessTable
from pygrid.client.hosting import USUAL_PLAN, ModelSource, PlanSource, hosting_form
from pygrid.client.jobs import (
    Job,
    JobTable,
    Requests,
    find_jobs,
    get_job,
    privacy_terms,
    statistic_requests,
    submit_job,
)
from pygrid.client.models import HostedModel, ModelTable, OnnxSource, get_served, list_served, serve_model
from pygrid.client.predictions import request_predictions
from pygrid.client.process import Process
from pygrid.client.session import SessionClient
from pygrid.client.workers import Workers
from pygrid.errors import NotFound
from pygrid.messages.jobs import JobState, StatisticRequest, Unit
from pygrid.messages.models import ModelVisibility, ServeRequest
from pygrid.messages.processes import HostRequest, ProcessInfo
from pygrid.transport import Transport, open_transport


class _Processes(msgspec.Struct):
    processes: list[ProcessInfo]


def connect(url: str | None = None, token: str | None = None, *, transport: Transport | None = None) -> DomainClient:
    """A client of a Domain; this sends no request.

    Args:
        url: address of the Domain, ``http://HOST:PORT`` or, through a Network, ``grid+http://NETWORK:PORT/NAME``; None:
            ``PYGRID_URL``, else the address of the last ``pygrid login``.
        token: token of a session; None: ``PYGRID_TOKEN``, else the one that ``pygrid login`` stored for the address.
        transport: used instead of HTTP to ``url``; the caller closes it.
    Raises:
        InvalidInput: there is no address, or it is not valid.
    """
    if transport is not None:
        return DomainClient(transport, token=token)
    chosen = open_transport(choose_url(url), relay_token=find_network_token)
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
        version: str,
        *,
        model: ModelSource,
        plans: Mapping[str, PlanSource] | PlanSource,
        client_config: ClientConfig | Mapping[str, Any] | None = None,
        server_config: ServerConfig | Mapping[str, Any] | None = None,
        averaging_plan: PlanSource | None = None,
    ) -> Process:
        """Host a model and open its training.

        Args:
            name, version: a pair that the Domain does not have.
            model: float32 arrays by name, the path of a safetensors file, or a ``torch.nn.Module``.
            plans: by name, each a `Plan` or the path of a plan file; a single one is hosted as ``training_plan``.
            client_config: settings for devices: ``epochs``, ``batch_size``, ``max_updates``, hyperparameters of the
                plan, and any other keys.
            server_config: settings of the cycles: ``num_cycles``, ``cycle_length``, ``min_diffs``, and others.
            averaging_plan: used instead of the weighted mean.
        Raises:
            Conflict: the Domain has a process of that name and version (``process_exists``).
            Unauthenticated, Forbidden: you are not logged in, or may not host.
            InvalidInput and its subclasses: a part cannot be hosted; the message names it. Nothing was hosted.
        """
        by_name = plans if isinstance(plans, Mapping) else {USUAL_PLAN: plans}
        request = HostRequest({**(client_config or {}), "name": name, "version": version}, dict(server_config or {}))
        form = hosting_form(request, model, by_name, averaging_plan)
        headers = {"Content-Type": form.media_type}
        info = self._api.send_body("/model-centric/host-training", ProcessInfo, form, headers=headers, once=True)
        return Process(self._api, info)

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
            raise NotFound(f"{self.url} has no process {which}; {there}", code=codes.PROCESS_NOT_FOUND)
        return Process(self._api, found[0])

    def serve(
        self,
        model_id: str,
        onnx: OnnxSource,
        *,
        allow_remote_inference: bool = False,
        allow_download: bool = False,
        description: str = "",
        max_batch_size: int = 64,
        visibility: ModelVisibility = "listed",
    ) -> HostedModel:
        """Serve an ONNX model, so that users can predict with it at the Domain.

        Args:
            model_id: an id that the Domain does not have.
            onnx: its bytes, the path of its file, or an ``onnx.ModelProto``. Metadata that exporters add is removed
                before the model is sent.
            allow_remote_inference, allow_download: what other users may do; you and Owners may always do both.
            max_batch_size: largest number of examples in one request; the cost of the model is bounded for it.
            visibility: ``listed``: users with an account can see the model; ``public``: everybody can, and searches at
                the Networks of the Domain find it.
        Raises:
            Conflict: there is a model of that id (``model_exists``).
            InvalidInput: not an ONNX model, or the Domain does not run it (``plan_...``); the message has the reason.
            Unauthenticated, Forbidden: you are not logged in, or may not serve.
        """
        request = ServeRequest(
            model_id, description, allow_download, allow_remote_inference, max_batch_size, visibility
        )
        return serve_model(self._api, request, onnx)

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
        unit: Unit = "record",
        sampling_rate: float | None = None,
        version: int | None = None,
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
            unit: what is protected: one ``record``, all records of one ``subject``, or the whole ``domain``.
            sampling_rate: probability of each unit to take part in a round; None: derived from ``batch_size``.
        Raises:
            InvalidInput and its subclasses: the request is not valid; the message names the fault. Nothing was sent.
            NotFound: there is no such dataset. Unauthenticated: you are not logged in.
        """
        terms = privacy_terms(epsilon, delta, clip, unit, sampling_rate)
        values: dict[str, Any] = {"hyper": dict(hyper or {}), "epochs": epochs, "batch_size": batch_size, "seed": seed}
        values |= {"optimizer": dict(optimizer or {}), "metric_bounds": dict(metric_bounds or {})}
        return submit_job(
            self._api, dataset, kind, reason, terms, plan=plan, model=model, binding=binding, version=version, **values
        )

    def statistics(
        self,
        dataset: Dataset | str,
        asked: Sequence[StatisticRequest] | StatisticRequest,
        *,
        reason: str,
        epsilon: float | None = None,
        delta: float | None = None,
        unit: Unit = "record",
        version: int | None = None,
    ) -> Job:
        """Request statistics of a dataset: ``[count(), mean("age", lower=0, upper=120)]``.

        Args:
            asked: results of the functions of `pygrid.client.statistics`. One noisy sum answers all of them, so more
                statistics in one job make each less exact, but do not raise the privacy cost.
            reason, epsilon, delta, unit, version: as for `submit`.
        Raises:
            As `submit`.
        """
        terms = privacy_terms(epsilon, delta, 1.0, unit, None)
        return submit_job(
            self._api, dataset, "statistics", reason, terms, version=version, statistics=statistic_requests(asked)
        )

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
            reason, version: as for `submit`.
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
