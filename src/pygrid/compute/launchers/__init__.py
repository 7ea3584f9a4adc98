"""Launchers, which start Workers at an engine."""

from __future__ import annotations

from pygrid.compute.engines import Launcher
from pygrid.compute.pool_file import PoolConfig


def make_launcher(config: PoolConfig, domain: str) -> Launcher:
    """Return the launcher of a pool.

    Args:
        domain: address of the Domain as the machines of the engine reach it.
    """
    if config.driver == "ray":
        from pygrid.compute.launchers.ray import RayLauncher

        return RayLauncher(config, domain)
    if config.driver == "kubernetes":
        from pygrid.compute.launchers.kubernetes import KubernetesLauncher

        return KubernetesLauncher(config, domain)
    from pygrid.compute.launchers.slurm import SlurmLauncher

    return SlurmLauncher(config, domain)
