"""The interfaces of 2020 and 2021, for the clients of that time."""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.clock import Clock
from pygrid.core.known_nodes import KnownNodes
from pygrid.features.accounts.service import AccountService
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.cycles import CyclesFeature
from pygrid.features.models.service import ModelsService
from pygrid.features.processes.published import PublishedHosting
from pygrid.legacy.accounts import GROUP_TYPES, AccountMessages, authentication_messages
from pygrid.legacy.association_requests import association_request_routes
from pygrid.legacy.data_routes import data_routes
from pygrid.legacy.devices import LargeReports, device_messages
from pygrid.legacy.hosting import hosting_messages
from pygrid.legacy.known_nodes import node_messages
from pygrid.legacy.models import model_messages
from pygrid.legacy.node_routes import published_node_routes
from pygrid.legacy.nodes import LegacyNodes
from pygrid.legacy.search_routes import router as published_router
from pygrid.legacy.websocket import Published, converse, domain_messages, ping
from pygrid.lifecycle import Feature
from pygrid.settings import DomainSettings, NetworkSettings
from pygrid.storage.sql.database import Database
from pygrid.web.message_memory import MessageMemory


@dataclass(frozen=True)
class DomainServices:
    """The services of a Domain that clients of 2020 use."""

    accounts: AccountService
    models: ModelsService
    training: CyclesFeature
    hosting: PublishedHosting


def domain_feature(services: DomainServices, settings: DomainSettings) -> Feature:
    """The WebSocket and the data-centric routes of 2020, and the association requests of 2021."""
    accounts, nodes, memory = services.accounts, KnownNodes(), MessageMemory()
    messages = {
        **domain_messages(settings.id),
        **authentication_messages(accounts, settings.id),
        **node_messages(nodes, is_open=settings.legacy_open),
        **AccountMessages(accounts).of_domain(),
        **model_messages(services.models),
        **hosting_messages(services.hosting),
    }
    training = services.training
    of_devices = {**device_messages(training.clients, training.cycles, training.published), "socket-ping": ping}
    streams = LargeReports(training.published, memory)
    published = Published(messages, of_devices, memory=memory, streams=streams, as_text=GROUP_TYPES)
    return Feature(
        services=(memory, nodes, published),
        routes=(*association_request_routes, *data_routes, converse),
        open_sockets=("/",),
    )


def network_feature(
    database: Database,
    accounts: AccountService,
    associations: NetworkAssociations,
    clock: Clock,
    settings: NetworkSettings,
) -> Feature:
    """The nodes of 2020, the association requests of 2021, the searches of both, and accounts over the WebSocket."""
    nodes = LegacyNodes(
        database, associations, clock, allow_private=settings.allow_private_addresses, is_open=settings.legacy_open
    )
    messages = {"socket-ping": ping, **AccountMessages(accounts).of_network()}
    return Feature(
        services=(nodes, Published(messages, invalid={"status": "error", "message": "Invalid request format!"})),
        routes=(*published_node_routes, published_router, converse),
    )
