"""Workers on other machines, in the hands of whoever runs the Domain."""

from __future__ import annotations

from pygrid import codes
from pygrid.errors import NotFound
from pygrid.messages.workers import NewWorker, TokenRequest, WorkerInfo, WorkerList
from pygrid.transport import Api, Request


class Workers:
    """``domain.workers()`` lists the Workers that are let in. Needs a role with can_manage_infrastructure."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __call__(self) -> list[WorkerInfo]:
        """All that are let in, oldest first, and what each does now."""
        return self._api.get("/data-centric/workers", WorkerList).workers

    def let_in(self, name: str) -> NewWorker:
        """Let a Worker in; its token is in this answer and never again.

        Raises:
            Conflict: there is one of this name (``worker_exists``). Forbidden: you may not.
        """
        return self._api.post("/data-centric/workers", NewWorker, json=TokenRequest(name), once=True)

    def revoke(self, worker: int | str) -> None:
        """Let a Worker in no more, by its id or name; what it runs is lost to it at once.

        Raises:
            NotFound: there is none (``worker_not_found``). Forbidden: you may not.
        """
        if isinstance(worker, str):
            found = next((known.id for known in self() if known.name == worker), None)
            if found is None:
                raise NotFound(f"no Worker {worker!r} is let in", code=codes.WORKER_NOT_FOUND)
            worker = found
        self._api.exchange(Request("DELETE", f"/data-centric/workers/{worker}"), lambda answer: answer.read(1024))
