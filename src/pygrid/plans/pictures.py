"""Pictures of plans that several pages show: each is drawn once."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from pygrid.errors import InvalidPlan, NotFound, Unavailable
from pygrid.plans.picture import Picture, draw_in_child

logger = logging.getLogger(__name__)

MAX_PICTURES = 100


class PlanPictures:
    """The last pictures, by the hash of their plans."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Picture | None] = OrderedDict()

    async def get(self, plan_hash: str, read: Callable[[], bytes]) -> Picture | None:
        """Return the picture of a plan; None: it cannot be drawn, or its file is not there.

        Args:
            read: returns the bytes of the plan; blocks.
        """
        if plan_hash not in self._kept:
            try:
                data = await asyncio.to_thread(read)
            except (NotFound, Unavailable, OSError):
                return None
            try:
                drawn = await asyncio.to_thread(draw_in_child, data)
            except InvalidPlan as error:
                logger.warning("plan not drawn", extra={"plan": plan_hash, "reason": error.detail})
                drawn = None
            self._kept[plan_hash] = drawn
            while len(self._kept) > MAX_PICTURES:
                self._kept.popitem(last=False)
            return drawn
        self._kept.move_to_end(plan_hash)
        return self._kept[plan_hash]
