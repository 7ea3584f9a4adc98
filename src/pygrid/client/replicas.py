"""One model on several Domains: it is available as long as one of them is."""

from __future__ import annotations

import html
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pygrid import codes
from pygrid.client.models import HostedModel, OnnxSource, get_served
from pygrid.client.search import OpenDomain
from pygrid.client.session import SessionApi
from pygrid.errors import Conflict, Forbidden, InvalidInput, NotFound, PygridError, Unauthenticated, Unavailable
from pygrid.messages.discovery import DomainRef, ModelHit
from pygrid.transport import NO_RETRIES

if TYPE_CHECKING:
    from pygrid.client.domain import DomainClient

FindHits = Callable[[str], list[ModelHit]]
"""Finds the Domains that serve a model id, without nodes of 2020, which do not answer predictions."""

logger = logging.getLogger(__name__)


class NetworkModel:
    """A model that several Domains serve; `NetworkClient.model` returns one."""

    def __init__(self, open_domain: OpenDomain, find_hits: FindHits, hits: Sequence[ModelHit]) -> None:
        self._open_domain, self._find_hits = open_domain, find_hits
        self.info = hits[0]
        """The public description of the model."""
        # In random order, so that the callers of a model spread over its Domains.
        self._refs = random.sample([hit.domain for hit in hits], len(hits))
        self._models: dict[str, HostedModel] = {}

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def domains(self) -> list[str]:
        """The names of the Domains that serve it, in the order of requests."""
        return [ref.name for ref in self._refs]

    def predict(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the model, as `HostedModel.predict`, from the first Domain that answers.

        If no Domain answers, the Network is searched for others.

        Raises:
            Unavailable: no Domain answers (``no_domain_answers``).
            Unauthenticated: you are not logged in at any Domain that answers.
            Forbidden: no Domain allows you to predict.
            As `HostedModel.predict`.
        """
        failures = self._try_all(inputs)
        if isinstance(failures, dict):
            return failures
        self._look_again()
        failures = self._try_all(inputs)
        if isinstance(failures, dict):
            return failures
        raise self._no_answer(failures)

    def _try_all(
        self, inputs: Mapping[str, npt.ArrayLike]
    ) -> dict[str, npt.NDArray[Any]] | list[tuple[str, PygridError]]:
        """The answer of the first Domain that has one, or the errors of all Domains."""
        failures: list[tuple[str, PygridError]] = []
        for ref in list(self._refs):
            try:
                return self._open(ref).predict(inputs)
            except (Unavailable, Unauthenticated, Forbidden, NotFound, Conflict) as error:
                logger.debug("next Domain: model=%s domain=%s code=%s", self.id, ref.name, error.code)
                failures.append((ref.name, error))
                self._models.pop(ref.name, None)
                # A Domain that has failed is the last one in the next round.
                self._refs.remove(ref)
                self._refs.append(ref)
        return failures

    def _open(self, ref: DomainRef) -> HostedModel:
        if ref.name not in self._models:
            model = get_served(_impatient(self._open_domain(ref)), self.id)
            if model.info.sha256 != self.info.sha256:
                raise NotFound(
                    f"another model is now served as {self.id!r} at {ref.name!r}",
                    code=codes.MODEL_NOT_FOUND,
                    domain=ref.name,
                )
            self._models[ref.name] = model
        return self._models[ref.name]

    def _look_again(self) -> None:
        hits = [hit for hit in self._find_hits(self.id) if hit.sha256 == self.info.sha256]
        known = {ref.name for ref in self._refs}
        self._refs = [hit.domain for hit in hits if hit.domain.name not in known] + self._refs

    def _no_answer(self, failures: list[tuple[str, PygridError]]) -> PygridError:
        reasons = "; ".join(f"{name}: {error.detail}" for name, error in failures)
        if failures and all(isinstance(error, Forbidden) for _, error in failures):
            return failures[0][1]
        for _, error in failures:
            if isinstance(error, Unauthenticated):
                return Unauthenticated(
                    f"no Domain answers for model {self.id!r} where you are logged in. Log in with "
                    f"network.domain(NAME).login(email, password). {reasons}",
                    code=error.code,
                )
        return Unavailable(
            f"no Domain answers for model {self.id!r}. {reasons}", code=codes.NO_DOMAIN_ANSWERS, model_id=self.id
        )

    def __repr__(self) -> str:
        return f"NetworkModel({self.id!r}, domains={self.domains})"

    def _repr_html_(self) -> str:
        return html.escape(repr(self))


def find_model(open_domain: OpenDomain, find_hits: FindHits, model_id: str, domain: str | None = None) -> NetworkModel:
    """See `NetworkClient.model`."""
    hits = find_hits(model_id)
    if domain is not None:
        of_domain = {hit.sha256 for hit in hits if hit.domain.name == domain}
        hits = [hit for hit in hits if hit.sha256 in of_domain]
    if not hits:
        where = "no Domain that answers serves" if domain is None else f"{domain} does not answer, or does not serve"
        raise NotFound(f"{where} a public model {model_id!r}", code=codes.MODEL_NOT_FOUND, model_id=model_id)
    if len({hit.sha256 for hit in hits}) > 1:
        names = ", ".join(sorted(hit.domain.name for hit in hits))
        raise InvalidInput(
            f"Domains serve different models as {model_id!r}: {names}. Name one of them: network.model({model_id!r}, "
            "domain=...)",
            code=codes.MODEL_AMBIGUOUS,
            model_id=model_id,
        )
    return NetworkModel(open_domain, find_hits, hits)


def serve_on(
    candidates: Sequence[tuple[str, DomainClient]],
    find: Callable[[], NetworkModel],
    model_id: str,
    onnx: OnnxSource,
    replicas: int,
    options: Mapping[str, Any],
) -> NetworkModel:
    """See `NetworkClient.serve`.

    Args:
        candidates: names of Domains that are online, and their logged-in clients.
        find: looks for the model after it is served; if this fails, the model is withdrawn.
    """
    if len(candidates) < replicas:
        there = ", ".join(name for name, _ in candidates) or "none"
        raise _too_few(
            f"you are logged in at {len(candidates)} Domains that are online ({there}), not at {replicas}", model_id
        )
    served: list[HostedModel] = []
    refused: list[str] = []
    try:
        for name, domain in random.sample(candidates, len(candidates)):
            try:
                served.append(domain.serve(model_id, onnx, **options))
            except (Unavailable, Conflict) as error:
                refused.append(f"{name}: {error.detail}")
            if len(served) == replicas:
                return find()
        raise _too_few(f"only {len(served)} Domains accepted it. {'; '.join(refused)}", model_id)
    except PygridError:
        for model in served:
            model.delete()
        raise


def _impatient(domain: DomainClient) -> SessionApi:
    """The same session without retries, because another Domain can answer sooner than this one recovers."""
    return SessionApi(domain.transport, token=domain.token, retries=NO_RETRIES)


def _too_few(why: str, model_id: str) -> Unavailable:
    return Unavailable(f"{why}. No Domain serves the model", code=codes.TOO_FEW_DOMAINS, model_id=model_id)
