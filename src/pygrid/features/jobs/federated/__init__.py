"""Federated jobs: with them, this Domain is a client of a process at another Domain."""

from __future__ import annotations

from pygrid.features.jobs.federated.connections import CoordinatorConnections
from pygrid.features.jobs.federated.coordinator import Connect, Coordinator, ModelFiles
from pygrid.features.jobs.federated.participation import ParticipationTimings
from pygrid.features.jobs.federated.service import FederatedService, FederationServices

__all__ = [
    "Connect",
    "Coordinator",
    "CoordinatorConnections",
    "FederatedService",
    "FederationServices",
    "ModelFiles",
    "ParticipationTimings",
]
