"""Wakes callers that wait for a change in the store. A signal is a hint: a caller that is woken looks at the store."""

from __future__ import annotations

import asyncio
from typing import Protocol


def job_topic(job_id: str) -> str:
    """Notified at every change of a job, including its progress."""
    return f"job/{job_id}"


def cycle_topic(process_id: int) -> str:
    """Notified when a process opens, reopens or completes a cycle, or is finished."""
    return f"cycle/{process_id}"


def event_topic(process_id: int) -> str:
    """Notified at every event of a process."""
    return f"event/{process_id}"


def progress_topic(process_id: int) -> str:
    """Notified at every admission and report of a process, accepted or refused."""
    return f"progress/{process_id}"


def processes_topic() -> str:
    """Notified when any process begins, moves to another cycle or ends."""
    return "processes"


def queue_topic() -> str:
    """Notified at every change of any job."""
    return "queue"


def audit_topic() -> str:
    """Notified at every new entry of the audit log."""
    return "audit"


def people_topic() -> str:
    """Notified at every change of an account, an invitation or a role, and at every sign-in."""
    return "people"


def datasets_topic() -> str:
    """Notified when any dataset is stored, changed or deleted."""
    return "datasets"


def budgets_topic() -> str:
    """Notified when any budget is opened, changed or spent."""
    return "budgets"


def domains_topic() -> str:
    """Notified when a Network's Domains, their links, the requests to join or the invitations change."""
    return "domains"


ELSEWHERE = "elsewhere"
"""Topic that is woken when another process has changed a cycle, and regularly in case that a signal was lost."""


class Signals(Protocol):
    """Topics that can be waited for."""

    def next(self, topic: str) -> asyncio.Future[None]:
        """Done at the next `notify` of this topic. Take it before looking at the store, so that no change is missed."""
        ...

    def notify(self, topic: str) -> None:
        """Wake everybody who waits for this topic, in all processes."""
        ...

    def wake(self, topic: str) -> None:
        """Wake everybody in this process who waits for this topic."""
        ...

    def notify_all(self) -> None:
        """Wake everybody in this process, for example because the app stops."""
        ...


class LocalSignals:
    """`Signals` within one process. Used from the event loop alone."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def next(self, topic: str) -> asyncio.Future[None]:
        future = self._waiting.get(topic)
        if future is None or future.done():
            future = self._waiting[topic] = asyncio.get_running_loop().create_future()
        return future

    def notify(self, topic: str) -> None:
        self.wake(topic)

    def wake(self, topic: str) -> None:
        future = self._waiting.pop(topic, None)
        if future is not None and not future.done():
            future.set_result(None)

    def notify_all(self) -> None:
        for topic in list(self._waiting):
            self.wake(topic)


async def wait_for_any(signals: list[asyncio.Future[None]], timeout_s: float) -> None:
    """Return when one of the signals comes, or after ``timeout_s``.

    Others may wait for the same, so none is cancelled.
    """
    await asyncio.wait(signals, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)


def notify_job(signals: Signals, job_id: str) -> None:
    """Wake everybody who follows this job, or all jobs."""
    signals.notify(job_topic(job_id))
    signals.notify(queue_topic())


def notify_process(signals: Signals, process_id: int) -> None:
    """Wake everybody who follows this process or its cycles, or all processes."""
    signals.notify(cycle_topic(process_id))
    signals.notify(event_topic(process_id))
    signals.notify(processes_topic())


def wake_process(signals: Signals, process_id: int) -> None:
    """`notify_process` in this process alone, about a change that another process has made."""
    signals.wake(cycle_topic(process_id))
    signals.wake(event_topic(process_id))
    signals.wake(processes_topic())
