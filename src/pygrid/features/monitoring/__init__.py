"""Metrics of what a Domain holds and has room for: jobs, privacy budgets, Workers, disk."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from prometheus_client import Gauge

from pygrid.compute.leased import LeasedDriver
from pygrid.compute.pools import Pool, Pools
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.storage.measures import measure_store
from pygrid.storage.sql.database import Database

EVERY_S = 15.0
NEARLY_SPENT = 0.8
"""Part of a budget above which it counts as nearly spent."""
SPENT = 0.99


def build(app: AppContext, database: Database, pools: Pools, leased: LeasedDriver, data_dir: Path) -> Feature:
    """Build the feature. What is in the database is measured every `EVERY_S`, the rest when it is asked for."""
    registry = app.metrics.registry
    jobs = Gauge("pygrid_jobs", "Jobs by state, ended ones included.", ("state",), registry=registry)
    budgets = Gauge(
        "pygrid_budgets",
        "Privacy budgets: open, nearly_spent (above 80%) or spent (above 99%).",
        ("state",),
        registry=registry,
    )
    workers = Gauge("pygrid_workers_authorized", "Authorized Workers on other machines.", registry=registry)
    datasets = Gauge("pygrid_datasets", "Datasets.", registry=registry)
    dataset_bytes = Gauge("pygrid_dataset_bytes", "Bytes of all versions of all datasets.", registry=registry)

    async def measure() -> None:
        found = await database.read(measure_store)
        for state, number in found.num_jobs.items():
            jobs.labels(state.value).set(number)
        states = [budget_state(share) for share in found.budget_shares]
        for name in ("open", "nearly_spent", "spent"):
            budgets.labels(name).set(states.count(name))
        workers.set(found.num_workers)
        datasets.set(found.num_datasets)
        dataset_bytes.set(found.dataset_bytes)

    connected = Gauge(
        "pygrid_workers_connected", "Requests for jobs and leases of Workers on other machines.", registry=registry
    )
    connected.set_function(lambda: leased.capacity)
    held = Gauge("pygrid_job_places_held", "Jobs that hold a place, by pool.", ("pool",), registry=registry)
    free = Gauge("pygrid_job_places_free", "Places for jobs that are free, by pool.", ("pool",), registry=registry)
    for pool in pools.list_pools():
        held.labels(pool.name).set_function(partial(_count_held, pool))
        free.labels(pool.name).set_function(partial(_count_free, pool))
    disk = Gauge("pygrid_disk_bytes", "Size of the disk of the data folder.", registry=registry)
    disk.set_function(lambda: shutil.disk_usage(data_dir).total)
    disk_free = Gauge("pygrid_disk_free_bytes", "Free bytes on the disk of the data folder.", registry=registry)
    disk_free.set_function(lambda: shutil.disk_usage(data_dir).free)
    return Feature(tasks=(BackgroundTask.every(EVERY_S, "measure-store", measure),))


def _count_held(pool: Pool) -> int:
    return pool.held


def _count_free(pool: Pool) -> int:
    return max(0, pool.free)


def budget_state(share: float) -> str:
    """Return the state of a budget of which this part is spent."""
    return "spent" if share > SPENT else "nearly_spent" if share > NEARLY_SPENT else "open"
