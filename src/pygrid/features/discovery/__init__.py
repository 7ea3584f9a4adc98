"""Search over all Domains of a Network, and the hosts of a model."""

from __future__ import annotations

from pygrid.attempts import AttemptSketch
from pygrid.features.discovery.fanout import Fanout
from pygrid.features.discovery.registry import DomainRegistry
from pygrid.features.discovery.routes import SEARCH_WINDOW_S, router
from pygrid.features.discovery.service import DiscoveryService
from pygrid.lifecycle import AppContext, Feature


def build(app: AppContext, domains: DomainRegistry, num_replicas: int) -> Feature:
    discovery = DiscoveryService(domains, num_replicas, Fanout(app.metrics))
    searches = AttemptSketch(app.clock, SEARCH_WINDOW_S)
    return Feature(services=(discovery, searches), routes=(router,), close=discovery.close)
