"""The Network's half of associations.

service.py     keeps the links of Domains, and applies decisions about them
handshake.py   authenticates Domains       registry.py           the present state of the Domains
decisions.py   changes rows by decisions   direct_addresses.py   checks addresses for direct calls"""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.features.associations.network.direct_addresses import DirectAddresses
from pygrid.features.associations.network.handshake import Handshake, NetworkTerms
from pygrid.features.associations.network.registry import ConnectedDomains
from pygrid.features.associations.network.routes import network_routes
from pygrid.features.associations.network.service import DomainListeners, NetworkAssociations, OnParted
from pygrid.ids import hash_secret
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.settings import NetworkSettings
from pygrid.storage.signals import Signals, domains_topic
from pygrid.storage.sql.database import Database
from pygrid.transport.identity import Identity
from pygrid.transport.links import Links

NOTE_SEEN_S = 60.0
REQUEST_SWEEP_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class AssociationsFeature(Feature):
    """The Domains of a Network."""

    service: NetworkAssociations


def build(
    app: AppContext,
    database: Database,
    settings: NetworkSettings,
    identity: Identity,
    on_parted: OnParted,
    signals: Signals,
) -> AssociationsFeature:
    """Build the feature.

    Args:
        on_parted: called when a Domain has left or was removed.
        signals: topics of the lists of Domains and invitations.
    """
    domains = ConnectedDomains(Links(), app.clock, settings.heartbeat_s, app.metrics)
    invitation_hash = hash_secret(settings.invitation) if settings.invitation else None
    terms = NetworkTerms(settings.id, settings.heartbeat_s, invitation_hash)
    handshake = Handshake(database, identity, app.clock, app.metrics, terms)
    direct = DirectAddresses(database, domains, app.clock, allow_private=settings.allow_private_addresses)
    listeners = DomainListeners(direct.wake, on_parted, lambda: signals.notify(domains_topic()))
    associations = NetworkAssociations(app, database, handshake, domains, listeners)

    async def close_links() -> None:
        await app.stopping.wait()
        await associations.close()

    async def close() -> None:
        await associations.close()
        await associations.note_seen()

    return AssociationsFeature(
        service=associations,
        services=(domains, associations, direct),
        routes=tuple(network_routes),
        tasks=(
            BackgroundTask("close-links", close_links),
            BackgroundTask("check-addresses", direct.run),
            BackgroundTask.every(NOTE_SEEN_S, "note-seen", associations.note_seen),
            BackgroundTask.every(REQUEST_SWEEP_S, "forget-stale-requests", associations.forget_stale),
        ),
        start=associations.load,
        close=close,
    )
