"""Workers on other machines, for those who manage the Domain."""

from __future__ import annotations

from collections.abc import Sequence

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn
from pygrid.client.listing import Listing
from pygrid.errors import NotFound
from pygrid.messages.workers import NewWorker, TokenRequest, WorkerInfo, WorkerList
from pygrid.transport import Request


class WorkerTable(Table[WorkerInfo]):
    """Workers on other machines."""

    def columns(self) -> Sequence[TableColumn[WorkerInfo]]:
        return (
            TableColumn("id", lambda item: item.id, weight=3, align="right"),
            TableColumn("name", lambda item: item.name, weight=5),
            TableColumn("last seen", _last_seen, min=19, weight=3),
            TableColumn("running", lambda item: item.num_running, weight=4, align="right"),
            TableColumn("waiting", lambda item: item.num_waiting, weight=2, align="right"),
        )


def _last_seen(worker: WorkerInfo) -> str:
    return f"{worker.last_seen_at:%Y-%m-%d %H:%M:%S}" if worker.last_seen_at else "never"


class Workers(Listing):
    """``domain.workers()`` lists the authorized Workers. Needs a role with can_manage_infrastructure."""

    def __call__(self) -> WorkerTable:
        """All authorized Workers, oldest first, and what each does at present."""
        return WorkerTable(self._api.get("/data-centric/workers/authorized", WorkerList).workers)

    def let_in(self, name: str) -> NewWorker:
        """Authorize a Worker; only this answer has its token.

        Raises:
            Conflict: there is a Worker of this name (``worker_exists``). Forbidden: you lack the permission.
        """
        return self._api.post("/data-centric/workers", NewWorker, json=TokenRequest(name), once=True)

    def revoke(self, worker: int | str) -> None:
        """Revoke the authorization of a Worker, by its id or name; it loses its running jobs at once.

        Raises:
            NotFound: there is no such Worker (``worker_not_found``). Forbidden: you lack the permission.
        """
        if isinstance(worker, str):
            found = next((known.id for known in self() if known.name == worker), None)
            if found is None:
                raise NotFound(f"there is no authorized Worker {worker!r}", code=codes.WORKER_NOT_FOUND)
            worker = found
        self._api.exchange(Request("DELETE", f"/data-centric/workers/{worker}"), lambda answer: answer.read(1024))
