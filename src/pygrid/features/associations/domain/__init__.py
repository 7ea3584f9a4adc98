"""The Domain's half of associations.

service.py     joins and leaves Networks
connector.py   keeps the link to a Network"""

from __future__ import annotations

from collections.abc import Callable, Collection

import pygrid
from pygrid.features.associations.domain.connector import Connectors, DomainSide, HandlersFor
from pygrid.features.associations.domain.routes import association_routes
from pygrid.features.associations.domain.service import DomainAssociations, DomainTerms, HeartbeatSource
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.messages.associations import Entry
from pygrid.settings import DomainSettings
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.store import Store
from pygrid.transport.identity import Identity


def make_side(
    store: Store,
    settings: DomainSettings,
    identity: Identity,
    failing: Callable[[], Collection[str]],
    handlers: HandlersFor,
) -> DomainSide:
    """What a Domain shows its Networks.

    Args:
        failing: returns the names of the tasks that fail now.
    """
    return DomainSide(
        identity,
        Entry(settings.id, pygrid.__version__, settings.address or None),
        HeartbeatSource(store.database, settings.published_counts, lambda: store.public.version, failing),
        handlers,
    )


def build(
    app: AppContext,
    store: Store,
    writes: AuditedWrites,
    settings: DomainSettings,
    side: DomainSide,
    connectors: Connectors,
) -> Feature:
    """Build the feature.

    Args:
        side: what the Domain shows its Networks.
        connectors: empty; those of its Networks are kept here.
    """
    terms = DomainTerms(
        settings.network,
        settings.invitation,
        only_loopback=settings.is_loopback and (settings.open_signup or settings.legacy_open),
    )
    associations = DomainAssociations(app, store.database, writes, terms, side, connectors)
    return Feature(
        services=(associations,),
        routes=tuple(association_routes),
        tasks=(BackgroundTask("keep-associations", associations.run),),
        start=associations.recover,
    )
