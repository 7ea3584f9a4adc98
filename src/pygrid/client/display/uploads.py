"""The bar of an upload."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pygrid.client.display.live import ProgressView
from pygrid.transport import Body
from pygrid.units import size


class _CountedBody:
    """A body that reports the number of sent bytes."""

    def __init__(self, body: Body, on_progress: Callable[[int], object]) -> None:
        self._body = body
        self._on_progress = on_progress

    @property
    def num_bytes(self) -> int:
        return self._body.num_bytes

    def __iter__(self) -> Iterator[bytes | memoryview]:
        done = 0
        for piece in self._body:
            yield piece
            done += len(piece)
            self._on_progress(done)


@contextlib.contextmanager
def shown_upload(body: Body, progress: bool | None, outcome: str = "stored") -> Iterator[Body]:
    """The body, with a bar of the sent bytes, which ends with the outcome.

    Args:
        outcome: what has happened if the block ends without an error.
    """
    total = body.num_bytes
    with ProgressView("upload", progress) as view:

        def show(done: int) -> None:
            view.show(size(total) if done < total else f"{size(total)} sent, checking", done, total)

        try:
            yield _CountedBody(body, show) if view.is_shown else body
        except BaseException:
            # Without an answer, nobody here knows whether it is stored.
            view.show(f"{size(total)}, ended by an error", total, total)
            raise
        view.show(f"{size(total)} sent and {outcome}", total, total)
