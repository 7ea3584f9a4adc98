"""The interfaces of 2020 and 2021, for the clients of that time."""

from __future__ import annotations

from pygrid.clock import Clock
from pygrid.features.accounts.service import AccountService
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.models.service import ModelsService
from pygrid.legacy.accounts import account_messages
from pygrid.legacy.association_requests import association_request_routes
from pygrid.legacy.models import model_messages
from pygrid.legacy.node_routes import published_node_routes
from pygrid.legacy.nodes import LegacyNodes
from pygrid.legacy.search_routes import router as published_router
from pygrid.legacy.tag_search import router as tag_search_router
from pygrid.legacy.websocket import Published, converse, domain_messages
from pygrid.lifecycle import Feature
from pygrid.settings import NetworkSettings
from pygrid.storage.sql.database import Database


def domain_feature(accounts: AccountService, models: ModelsService, domain_id: str) -> Feature:
    """The WebSocket of 2020, the search by tags, and the association requests of 2021."""
    messages = {**domain_messages(domain_id), **account_messages(accounts, domain_id), **model_messages(models)}
    return Feature(services=(Published(messages),), routes=(*association_request_routes, tag_search_router, converse))


def network_feature(
    database: Database, associations: NetworkAssociations, clock: Clock, settings: NetworkSettings
) -> Feature:
    """The nodes of 2020, the association requests of 2021, and the searches of both."""
    nodes = LegacyNodes(
        database,
        associations,
        clock,
        allow_private=settings.allow_private_addresses,
        is_open=settings.legacy_open,
    )
    return Feature(services=(nodes,), routes=(*published_node_routes, published_router))
