"""Notices of changes to datasets: to pages that show them, and to caches of what the Domain publishes."""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.messages.datasets import Visibility
from pygrid.storage.public_content import PublicContent
from pygrid.storage.signals import Signals, datasets_topic


@dataclass(frozen=True, slots=True)
class DatasetChanges:
    """The parties to notify of a change to a dataset."""

    public: PublicContent
    signals: Signals

    async def notify(self, *visibilities: Visibility) -> None:
        """Notify of a change to a dataset that has, or had, one of these visibilities. Call it after the commit."""
        self.signals.notify(datasets_topic())
        if "public" in visibilities:
            await self.public.changed()
