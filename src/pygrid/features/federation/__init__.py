"""Jobs that take part in a training across Domains: this Domain is a client of a process at another one."""

from __future__ import annotations

from pygrid.features.federation.coordinator import Connect, Coordinator, ModelFiles
from pygrid.features.federation.service import Federation, Services
from pygrid.features.federation.ways import Ways

__all__ = ["Connect", "Coordinator", "Federation", "ModelFiles", "Services", "Ways"]
