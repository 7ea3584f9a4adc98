"""Model owners host a process, directly or from a draft, watch it, download its checkpoints and finish it."""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.features.processes.comparison import CheckpointComparison
from pygrid.features.processes.draft_routes import router as drafts_router
from pygrid.features.processes.drafts import DraftsService
from pygrid.features.processes.evaluation_routes import router as evaluations_router
from pygrid.features.processes.evaluations import EvaluationsService
from pygrid.features.processes.hosting import Hosting, WatchCycle
from pygrid.features.processes.plan_pictures import ProcessPictures
from pygrid.features.processes.published import PublishedHosting
from pygrid.features.processes.routes import router
from pygrid.features.processes.service import BLOBS_S, ProcessesService
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class ProcessesFeature(Feature):
    service: ProcessesService
    published: PublishedHosting


def build(
    app: AppContext, store: Store, writes: AuditedWrites, watch_cycle: WatchCycle, *, is_open: bool
) -> ProcessesFeature:
    """Build the feature.

    Args:
        watch_cycle: called with each cycle that begins or closes here, so that its deadline is kept.
        is_open: callers without an account may host processes and download checkpoints.
    """
    hosting = Hosting(store, watch_cycle, app.clock)
    processes = ProcessesService(app, store, writes, hosting, watch_cycle, is_open=is_open)
    drafts = DraftsService(store, hosting, app.clock)
    published = PublishedHosting(processes, is_open=is_open)
    evaluations = EvaluationsService(store, app.clock)
    return ProcessesFeature(
        service=processes,
        published=published,
        services=(processes, drafts, evaluations, published, CheckpointComparison(store), ProcessPictures(store)),
        routes=(router, drafts_router, evaluations_router),
        tasks=(BackgroundTask.every(BLOBS_S, "remove-unused-files", processes.remove_blobs),),
        start=drafts.recover,
    )
