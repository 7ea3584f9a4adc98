"""Data owners upload, describe and version datasets; other users find them and test programs on their mock datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pygrid.clock import Clock
    from pygrid.lifecycle import Feature
    from pygrid.settings import DomainSettings
    from pygrid.storage.audit import AuditedWrites
    from pygrid.storage.store import Store


def build(clock: Clock, store: Store, writes: AuditedWrites, settings: DomainSettings) -> Feature:
    # Not at the top: the child process that converts files imports this package, and needs none of them.
    from pygrid.core.datasets import DatasetLimits
    from pygrid.features.datasets.changes import DatasetChanges
    from pygrid.features.datasets.previews import PreviewsService
    from pygrid.features.datasets.routes import router
    from pygrid.features.datasets.service import DatasetsService
    from pygrid.features.datasets.staging import SWEEP_S, StagingService
    from pygrid.features.datasets.uploads import UploadsService
    from pygrid.lifecycle import BackgroundTask, Feature
    from pygrid.storage.staged_files import StagedFiles

    limits = DatasetLimits.from_mb(
        max_upload_mb=settings.max_upload_mb,
        max_datasets_mb=settings.max_datasets_mb,
        max_columns=settings.max_columns,
        min_free_mb=settings.min_free_mb,
    )
    changes = DatasetChanges(store, writes, clock)
    datasets = DatasetsService(store, changes, clock)
    uploads = UploadsService(store, changes, clock, limits)
    staging = StagingService(StagedFiles(settings.data_dir / "staged"), uploads, clock)

    async def recover() -> None:
        await datasets.recover()
        await staging.recover()

    return Feature(
        services=(datasets, uploads, staging, PreviewsService(store.database, store.columns)),
        routes=(router,),
        tasks=(BackgroundTask.every(SWEEP_S, "remove-staged-uploads", staging.remove_old),),
        start=recover,
    )
