"""Pictures of the plans of a hosted process."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from pygrid.core.access import Principal, require
from pygrid.plans.picture import Picture
from pygrid.plans.pictures import PlanPictures
from pygrid.storage import processes
from pygrid.storage.store import Store


class ProcessPictures:
    """Draws the plans of processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pictures = PlanPictures()

    async def draw(self, principal: Principal, process_id: int) -> list[tuple[str, Picture]]:
        """Return the pictures of those plans that can be drawn, by name. Raises NotFound: ``process_not_found``."""
        require(principal)

        def load(connection: sa.Connection) -> list[processes.PlanRow]:
            processes.get_process(connection, process_id)
            return processes.list_plans(connection, process_id)

        plans = await self._store.database.read(load)
        drawn = [
            (plan.name, await self._pictures.get(plan.plan_hash, partial(self._store.blobs.read, plan.plan_hash)))
            for plan in plans
            if plan.kind not in processes.TRACED
        ]
        return [(name, picture) for name, picture in drawn if picture is not None]
