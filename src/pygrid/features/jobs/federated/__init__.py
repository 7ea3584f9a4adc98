"""Jobs that take part in a training across Domains: this Domain is a client of a process at another one."""

from __future__ import annotations

from pygrid.features.jobs.federated.connections import Ways
from pygrid.features.jobs.federated.coordinator import Connect, Coordinator, ModelFiles
from pygrid.features.jobs.federated.service import FederatedService, FederationServices

__all__ = ["Connect", "Coordinator", "FederatedService", "FederationServices", "ModelFiles", "Ways"]
