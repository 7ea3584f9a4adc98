"""A Domain in the hands of those who own models, ask for work on data, or hold data."""

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
    """A Domain to work with. Nothing is sent yet.

    Args:
        url: its address, ``http://HOST:PORT`` or, through a Network, ``grid+http://NETWORK:PORT/NAME``; None:
            ``PYGRID_URL``, else the one that ``pygrid login`` was used with last.
        token: of a session; None: ``PYGRID_TOKEN``, else the one that ``pygrid login`` keeps for that address.
        transport: in place of HTTP to ``url``; it stays the caller's to close.
    Raises:
        InvalidInput: no address is known, or it is not one.
    """
    if transport is not None:
        return DomainClient(transport, token=token)
    chosen = open_transport(choose_url(url), relay_token=find_network_token)
    return DomainClient(chosen, token=token or find_token(chosen.url), owns_transport=True)


class DomainClient(SessionClient):
    """Log in, host processes, find them again. `connect` gives one."""

    @property
    def datasets(self) -> Datasets:
        """The datasets of the Domain: upload, list, search, and one by its name."""
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
            name, version: together new to the Domain.
            model: float32 arrays by name, the path of a safetensors file, or a ``torch.nn.Module``.
            plans: by name, each a `Plan` or the path of a plan file; a single one is hosted as ``training_plan``.
            client_config: what devices read: ``epochs``, ``batch_size``, ``max_updates``, the plan's hyperparameters,
                anything.
            server_config: ``num_cycles``, ``cycle_length``, ``min_diffs``, ``max_diffs``, ``min_workers`` and so on.
            averaging_plan: in place of the weighted mean.
        Raises:
            Conflict: the Domain has a process of that name and version (``process_exists``).
            Unauthenticated, Forbidden: nobody is logged in, or may not host.
            InvalidInput and its subclasses: names what can't be hosted. Nothing was hosted.
        """
        by_name = plans if isinstance(plans, Mapping) else {USUAL_PLAN: plans}
        request = HostRequest({**(client_config or {}), "name": name, "version": version}, dict(server_config or {}))
        form = hosting_form(request, model, by_name, averaging_plan)
        headers = {"Content-Type": form.media_type}
        info = self._api.send_body("/model-centric/host-training", ProcessInfo, form, headers=headers, once=True)
        return Process(self._api, info)

    def processes(self, name: str | None = None, version: str | None = None) -> ProcessTable:
        """The processes on the Domain, newest first; only those of a name and version, if given."""
        query = {key: value for key, value in (("name", name), ("version", version)) if value is not None}
        return ProcessTable(self._api.get("/model-centric/processes", _Processes, query=query).processes)

    def process(self, name: str, version: str | None = None) -> Process:
        """A process by its name; ``version`` None: the newest.

        Raises:
            NotFound: there is none (``process_not_found``).
        """
        found = self.processes(name, version)
        if not found:
            which = f"{name!r}" if version is None else f"{name!r} in version {version!r}"
            others = sorted({info.name for info in self.processes()})
            there = f"it has: {', '.join(others[:20])}" if others else "it has none"
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
        """Serve an ONNX model, so that it answers questions at the Domain.

        Args:
            model_id: new to the Domain.
            onnx: its bytes, the path of its file, or an ``onnx.ModelProto``. What exporters add for people and tools is
                left out before it is sent.
            allow_remote_inference, allow_download: what others may do; you and Owners may do both anyway.
            max_batch_size: examples of one question at most; the model's costs are bounded at so many.
            visibility: who may know of it: ``listed``, everybody with an account; or ``public``, everybody, and a
                search at the Networks that the Domain belongs to finds it.
        Raises:
            Conflict: there is a model of that id (``model_exists``).
            InvalidInput: it is no ONNX model, or the Domain would not run it (``plan_...``); the message says why.
            Unauthenticated, Forbidden: nobody is logged in, or may not serve.
        """
        request = ServeRequest(
            model_id, description, allow_download, allow_remote_inference, max_batch_size, visibility
        )
        return serve_model(self._api, request, onnx)

    def models(self) -> ModelTable:
        """The models that the Domain serves, by id."""
        return list_served(self._api)

    def model(self, model_id: str) -> HostedModel:
        """A model that the Domain serves. Raises NotFound: there is none of that id (``model_not_found``)."""
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
        """Ask to run a plan on data that stays where it is. It is tried on the mock first, by itself.

        Args:
            plan: a `Plan`, or the path of a plan file.
            dataset: a `Dataset`, or its name; ``version`` None: the newest.
            model: as for `host`: what training begins with, or what is evaluated.
            kind: ``train`` or ``evaluate``.
            reason: what for, for those who decide.
            binding: the plan's data port -> column; left out, columns are found by name or meaning where only one fits.
            hyper: values of the plan's hyperparameters.
            epochs, batch_size, seed: of training; a private job takes its samples by chance, ``batch_size`` on average.
            optimizer: of private training, e.g. ``{"name": "adam", "learning_rate": 0.01}``; None: SGD with the plan's
                ``lr``.
            metric_bounds: of a private evaluation: metric -> (lower, upper), the bounds of its value for one unit.
                Defaults: 0 to 1 for accuracy and other shares, 0 to 10 for ``loss``; other metrics need bounds.
            epsilon, delta: the guarantee to run under, taken from the dataset's budget; neither: an exact job, which a
                person must approve, and whose result is held until a person lets it out.
            clip: each unit's gradient is scaled down to this L2 norm.
            unit: what is protected: one ``record``, all records of one ``subject``, or the whole ``domain``.
            sampling_rate: the chance of each unit to take part in a round; None: by ``batch_size``.
        Raises:
            InvalidInput and its subclasses: names what is wrong; nothing was asked.
            NotFound: no such dataset. Unauthenticated: nobody is logged in.
        """
        return submit_job(
            self._api,
            dataset,
            kind,
            reason,
            privacy_terms(epsilon, delta, clip, unit, sampling_rate),
            plan=plan,
            model=model,
            binding=binding,
            version=version,
            hyper=dict(hyper or {}),
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            optimizer=dict(optimizer or {}),
            metric_bounds=dict(metric_bounds or {}),
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
        """Ask for figures about a dataset: ``[count(), mean("age", lower=0, upper=120)]``.

        Args:
            asked: made by the functions of `pygrid.client.statistics`; one noisy sum answers them all, so that asking
                for much together makes each less exact, but costs no more.
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
        """Ask to have an ONNX model answer for each record of a dataset, where the data is.

        The result holds its outputs by name, in the order of the records. Such a job is always exact: a person approves
        it, and signs the result off.

        Args:
            onnx: as for `serve`; the first size of its inputs and outputs is the number of records.
            binding: the model's input -> column; left out, columns are found by name where only one fits.
            select: the outputs that are wanted; none given: all.
            max_records: only for the first so many records.
            batch_size: records that the model gets at once.
            reason, version: as for `submit`.
        Raises:
            InvalidInput and its subclasses: names what is wrong; nothing was asked. ``result_too_large``: ask for less
            at once.
            NotFound: no such dataset. Unauthenticated: nobody is logged in.
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
        """Your jobs, and those on datasets that you hold, newest first; ``mine``: only yours."""
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
        """What waits for a decision on datasets that you hold: ``domain.requests()`` lists, ``approve`` and
        ``deny`` decide.
        """
        return Requests(self._api)

    @property
    def associations(self) -> Associations:
        """The Networks of this Domain: ``domain.associations()`` lists, ``join`` asks one to let it in,
        ``leave`` parts.
        """
        return Associations(self._api)

    @property
    def workers(self) -> Workers:
        """Workers on other machines: ``domain.workers()`` lists, ``let_in`` makes a token, ``revoke`` takes it back."""
        return Workers(self._api)
