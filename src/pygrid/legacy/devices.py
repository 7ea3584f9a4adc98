"""Messages of devices over the WebSocket of clients of 2020.

The types are ``model-centric/authenticate``, ``model-centric/cycle-request`` and ``model-centric/report``. They do the
same as the routes below ``/model-centric``, except that a cycle request is answered at once: ``wait_s`` only marks a
native client, whose answer has more fields. ``diff`` of a report is a State in base64, which may contain white space.
A report of more than 64 KiB is read as a stream.
"""

from __future__ import annotations

import asyncio
import contextlib

from pygrid.errors import PygridError
from pygrid.features.cycles.clients import ClientRegistry
from pygrid.features.cycles.forms import read_members
from pygrid.features.cycles.published import PublishedDevices, diff_parts
from pygrid.features.cycles.report_text import ReportText
from pygrid.features.cycles.service import CyclesService
from pygrid.legacy.websocket import (
    ENVELOPE,
    Answer,
    Handler,
    LegacyCaller,
    Message,
    answer_of,
    read_fields,
    refusal,
    unexpected,
)
from pygrid.messages.cycles import AuthenticateRequest, CycleRequest
from pygrid.transport.links import SocketClosed
from pygrid.web.message_memory import MessageMemory
from pygrid.web.published import Area
from pygrid.web.sockets import MessageParts

REPORT = ENVELOPE + "report"
MAX_SKIPPED_BYTES = 64 * 1024 * 1024


class LargeReports:
    """Takes reports over the WebSocket while they arrive."""

    def __init__(self, published: PublishedDevices, memory: MessageMemory) -> None:
        self._published = published
        self._memory = memory

    @staticmethod
    def begins_report(start: bytes) -> bool:
        """Return whether a message is a report, by its first bytes."""
        text = ReportText(REPORT)
        with contextlib.suppress(PygridError):
            text.add(start)
        return text.has_diff

    async def take(self, caller: LegacyCaller, message: MessageParts) -> Answer:
        """Return the answer to a report. After a refusal, up to 64 MiB of it are skipped, so its last members count."""
        text = ReportText(REPORT)
        found: Answer = {"status": "success"}
        try:
            with self._memory.hold() as held:
                begun = b""
                while not text.has_diff:
                    begun += text.add(await anext(message))
                parts = diff_parts(text, begun, message)
                await self._published.take_begun(text, parts, None, caller.address, held)
        except (SocketClosed, TimeoutError):
            raise
        except Exception as error:
            said = refusal(error, Area.DEVICES) if isinstance(error, PygridError) else unexpected(error)
            found = {"error": said["error"]}
            with contextlib.suppress(PygridError):
                left = MAX_SKIPPED_BYTES
                while not message.is_over and left > 0:
                    part = await anext(message)
                    left -= len(part)
                    text.add(part)
                text.finish()
            await message.skip(MAX_SKIPPED_BYTES)
        echoed = {name: value for name, value in text.envelope.items() if name == "request_id"}
        return {"type": REPORT, **echoed, "data": found}


def device_messages(clients: ClientRegistry, cycles: CyclesService, published: PublishedDevices) -> dict[str, Handler]:
    async def authenticate(caller: LegacyCaller, message: Message) -> Answer:
        answer = await clients.authenticate(read_fields(message, AuthenticateRequest), caller.address)
        return answer_of(answer)

    async def cycle_request(caller: LegacyCaller, message: Message) -> Answer:
        request = read_fields(message, CycleRequest)
        request.wait_s = None if request.wait_s is None else 0.0
        never = asyncio.Event()

        async def departed() -> None:
            await never.wait()

        return answer_of(await cycles.request_cycle(request, caller.address, departed))

    async def report(_caller: LegacyCaller, message: Message) -> Answer:
        one = read_members(message)
        await published.take_report(one.request_key, one.worker_id, one.diff)
        return {"status": "success"}

    return {ENVELOPE + "authenticate": authenticate, ENVELOPE + "cycle-request": cycle_request, REPORT: report}
