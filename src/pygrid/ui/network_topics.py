"""What pages of a Network can follow live."""

from __future__ import annotations

from litestar.datastructures import State

from pygrid.core.access import Permission, Principal
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.relay.network.service import Relay
from pygrid.storage.signals import LocalSignals, Signals, domains_topic
from pygrid.ui.common_topics import find_common_topic
from pygrid.ui.feed import Topic
from pygrid.web.services import service


def signals_of(state: State) -> Signals:
    return service(state, LocalSignals)


async def find_topic(state: State, principal: Principal, name: str) -> Topic | None:
    """Return a topic of a Network; None: it is unknown, or not for this principal."""
    if name not in ("domains", "invitations", "relay"):
        return find_common_topic(state, principal, name)
    if not principal.may(Permission.MANAGE_NODES):
        return None
    members, pipes = service(state, NetworkAssociations).domains, service(state, Relay)

    def look_at_domains() -> object:
        return [(one.name, one.state, one.heartbeat.load, one.heartbeat.counts) for one in members]

    def look_at_relay() -> object:
        use = [(one.name, pipes.pipes.list_callers(one.name), pipes.pipes.carried_bytes(one.name)) for one in members]
        return use, dict(pipes.refusals)

    look = {"domains": look_at_domains, "relay": look_at_relay}.get(name)
    return Topic((domains_topic(),), look=look)
