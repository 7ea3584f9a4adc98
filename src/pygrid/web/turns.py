"""Shares an event loop between addresses: in each round one request or message of each begins, and few run at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Holder:
    waiting: deque[tuple[Callable[[], None], object | None]] = field(default_factory=deque)
    running: dict[object, float] = field(default_factory=dict)
    """Connection -> start time of its request; the oldest comes first."""
    has_had_turn: bool = False
    """Whether something began in this round."""
    timer: asyncio.TimerHandle | None = None


class Turns:
    """Decides when the requests of each address begin.

    A round is about one iteration of the event loop. In a round one request of each address begins, however many
    connections it has, so the number of addresses bounds the cost of an iteration. The number of running requests is
    bounded too, since they fill the queues of the threads behind the loop. A request that takes long mostly waits, so
    it is no longer counted.

    Args:
        max_running: requests of one address that run at once.
        counted_s: seconds after which a request is no longer counted.
        clock: monotonic seconds.
    """

    def __init__(self, max_running: int, counted_s: float, clock: Callable[[], float]) -> None:
        self._max_running = max_running
        self._counted_s = counted_s
        self._clock = clock
        self._holders: dict[str, _Holder] = {}
        self._due: dict[str, _Holder] = {}
        """Holders that the next round handles."""

    def __len__(self) -> int:
        """Number of addresses with something that runs, waits, or has just begun."""
        return len(self._holders)

    def take(self, name: str, begin: Callable[[], None], runner: object | None = None) -> bool:
        """Return whether something of the address ``name`` may begin now. If not, ``begin`` is called when it may.

        Args:
            runner: the connection, which counts as running until `end`; None: this is not counted.
        """
        holder = self._holders.setdefault(name, _Holder())
        if holder.has_had_turn or holder.waiting or self._is_full(holder):
            holder.waiting.append((begin, runner))
            self._make_due(name, holder)
            return False
        self._give_turn(name, holder, runner)
        return True

    def end(self, name: str, runner: object) -> None:
        """Note that the request of ``runner`` has ended. Does nothing if it has none."""
        if (holder := self._holders.get(name)) is not None:
            holder.running.pop(runner, None)
            self._make_due(name, holder)

    def _give_turn(self, name: str, holder: _Holder, runner: object | None) -> None:
        holder.has_had_turn = True
        if runner is not None:
            holder.running[runner] = self._clock()
        self._make_due(name, holder)

    def _make_due(self, name: str, holder: _Holder) -> None:
        if not self._due:
            asyncio.get_running_loop().call_soon(self._go_round)
        self._due[name] = holder

    def _go_round(self) -> None:
        due, self._due = self._due, {}
        for name, holder in due.items():
            holder.has_had_turn = False
            if holder.waiting and not self._is_full(holder):
                begin, runner = holder.waiting.popleft()
                self._give_turn(name, holder, runner)
                # As a callback of its own, so that an error in it ends no round.
                asyncio.get_running_loop().call_soon(begin)
            elif holder.waiting:
                self._look_again(name, holder)
            elif not holder.running:
                if holder.timer is not None:
                    holder.timer.cancel()
                del self._holders[name]

    def _is_full(self, holder: _Holder) -> bool:
        now = self._clock()
        while holder.running:
            oldest, since = next(iter(holder.running.items()))
            if now - since < self._counted_s:
                break
            del holder.running[oldest]
        return len(holder.running) >= self._max_running

    def _look_again(self, name: str, holder: _Holder) -> None:
        """Schedule a round for the holder when its oldest request is no longer counted."""

        def look() -> None:
            holder.timer = None
            self._make_due(name, holder)

        if holder.timer is None:
            since = next(iter(holder.running.values()))
            delay_s = max(0.0, since + self._counted_s - self._clock())
            holder.timer = asyncio.get_running_loop().call_later(delay_s, look)
