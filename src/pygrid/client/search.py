"""The hits of a search over all Domains of a Network, as tables; each hit can be opened at its Domain."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn
from pygrid.client.models import ports_in_words
from pygrid.errors import InvalidInput
from pygrid.messages.discovery import DatasetHit, DomainRef, Missing, ModelHit, ProcessHit, SearchAnswer

if TYPE_CHECKING:
    from pygrid.client.datasets import Dataset
    from pygrid.client.domain import DomainClient
    from pygrid.client.models import HostedModel
    from pygrid.client.process import Process

OpenDomain: TypeAlias = "Callable[[DomainRef], DomainClient]"
"""Opens a Domain that a search has found; `NetworkClient.open_domain`."""

H = TypeVar("H", bound=DatasetHit | ModelHit | ProcessHit)

_REASONS = {"timeout": "did not answer in time", "offline": "is offline", "error": "sent an answer that is not valid"}


class _PublicItem(Generic[H]):
    """A hit of a search; ``info`` is its public description."""

    def __init__(self, open_domain: OpenDomain, info: H) -> None:
        self._open_domain = open_domain
        self.info: H = info

    @property
    def domain(self) -> DomainRef:
        """Where it is."""
        return self.info.domain


class PublicDataset(_PublicItem[DatasetHit]):
    """A public dataset on one of the Domains; ``info`` is its public description."""

    @property
    def name(self) -> str:
        return self.info.name

    def open(self) -> Dataset:
        """The dataset at its Domain, for the user who is logged in there.

        Raises:
            InvalidInput: it is on a node of 2020, which has no datasets to open (``legacy_node``).
            NotFound: it no longer exists. Unavailable: the Domain cannot be reached.
        """
        if not self.info.id:
            raise InvalidInput(
                f"{self.domain.name!r} is a node of 2020: it publishes tags only", code=codes.LEGACY_NODE
            )
        return self._open_domain(self.domain).datasets.by_id(self.info.id)

    def __repr__(self) -> str:
        return f"FoundDataset({self.name!r}, domain={self.domain.name!r})"


class PublicModel(_PublicItem[ModelHit]):
    """A public model that one of the Domains serves."""

    @property
    def name(self) -> str:
        """Its id."""
        return self.info.id

    def open(self) -> HostedModel:
        """The model at its Domain, for the user who is logged in there.

        Raises:
            Unauthenticated: you are not logged in there. NotFound: it is no longer served.
            Unavailable: the Domain cannot be reached.
        """
        return self._open_domain(self.domain).model(self.info.id)

    def __repr__(self) -> str:
        return f"FoundModel({self.name!r}, domain={self.domain.name!r})"


class PublicProcess(_PublicItem[ProcessHit]):
    """A process that one of the Domains hosts."""

    @property
    def name(self) -> str:
        return self.info.name

    def open(self) -> Process:
        """The process at its Domain, for the user who is logged in there.

        Raises:
            Unauthenticated: you are not logged in there. Unavailable: the Domain cannot be reached.
        """
        return self._open_domain(self.domain).process(self.info.name, self.info.version)

    def __repr__(self) -> str:
        return f"FoundProcess({self.name!r}, version={self.info.version!r}, domain={self.domain.name!r})"


class FoundDatasets(Table[PublicDataset]):
    def columns(self) -> Sequence[TableColumn[PublicDataset]]:
        return (
            TableColumn("dataset", lambda item: item.name, weight=5),
            TableColumn("domain", lambda item: item.domain.name, weight=5),
            TableColumn("description", lambda item: item.info.description, min=20),
            TableColumn("tags", lambda item: ", ".join(item.info.tags), weight=2),
            TableColumn("records", lambda item: f"{item.info.num_records:,}", weight=4, align="right"),
            TableColumn("columns", lambda item: ", ".join(column.name for column in item.info.columns), weight=3),
        )


class FoundModels(Table[PublicModel]):
    def columns(self) -> Sequence[TableColumn[PublicModel]]:
        return (
            TableColumn("model", lambda item: item.name, weight=5),
            TableColumn("domain", lambda item: item.domain.name, weight=5),
            TableColumn("description", lambda item: item.info.description, min=20),
            TableColumn("inputs", lambda item: ports_in_words(item.info.inputs), weight=3),
            TableColumn("outputs", lambda item: ports_in_words(item.info.outputs), weight=2),
            TableColumn("others may", lambda item: _allowed(item.info), weight=4),
        )


class FoundProcesses(Table[PublicProcess]):
    def columns(self) -> Sequence[TableColumn[PublicProcess]]:
        return (
            TableColumn("process", lambda item: item.name, weight=5),
            TableColumn("version", lambda item: item.info.version, weight=4),
            TableColumn("domain", lambda item: item.domain.name, weight=5),
            TableColumn("state", lambda item: item.info.state, weight=3),
            TableColumn("parameters", lambda item: f"{item.info.num_parameters:,}", align="right"),
        )


class SearchResults:
    """The hits, best first, and the Domains that did not answer."""

    def __init__(self, open_domain: OpenDomain, answer: SearchAnswer) -> None:
        self.datasets = FoundDatasets(PublicDataset(open_domain, hit) for hit in answer.datasets)
        self.models = FoundModels(PublicModel(open_domain, hit) for hit in answer.models)
        self.processes = FoundProcesses(PublicProcess(open_domain, hit) for hit in answer.processes)
        self.missing: tuple[Missing, ...] = answer.missing
        self.num_domains = answer.num_domains
        self.more = answer.more
        """Whether there are more hits than these."""

    def __len__(self) -> int:
        return len(self.datasets) + len(self.models) + len(self.processes)

    def __bool__(self) -> bool:
        return len(self) > 0

    @property
    def _tables(self) -> Sequence[Table[PublicDataset] | Table[PublicModel] | Table[PublicProcess]]:
        return [table for table in (self.datasets, self.models, self.processes) if table]

    def remarks(self) -> list[str]:
        """Remarks on the result, in sentences."""
        said = [f"{one.domain} {_REASONS[one.reason]}" for one in self.missing]
        if not self:
            said.insert(0, f"no hits on {self.num_domains - len(self.missing)} of {self.num_domains} Domains")
        if self.more:
            said.append("there are more hits than shown: narrow the search")
        return said

    def __repr__(self) -> str:
        return "\n\n".join([*(repr(table) for table in self._tables), "\n".join(self.remarks())]).strip()

    def _repr_html_(self) -> str:
        remarks = "<br>".join(html.escape(text) for text in self.remarks())
        return "".join(table._repr_html_() for table in self._tables) + remarks


def _allowed(model: ModelHit) -> str:
    may = [what for what, yes in (("predict", model.allow_remote_inference), ("download", model.allow_download)) if yes]
    return " and ".join(may) or "not use it"
