"""Messages of devices over the WebSocket of clients of 2020.

The types are ``model-centric/authenticate``, ``model-centric/cycle-request`` and ``model-centric/report``. They do the
same as the routes below ``/model-centric``, except that a cycle request is answered at once: ``wait_s`` only marks a
native client, whose answer has more fields. ``diff`` of a report is a State in base64, which may contain white space.
"""

from __future__ import annotations

import asyncio

import msgspec

from pygrid.features.cycles.clients import ClientRegistry
from pygrid.features.cycles.forms import read_members
from pygrid.features.cycles.published import PublishedDevices
from pygrid.features.cycles.service import CyclesService
from pygrid.legacy.websocket import ENVELOPE, Answer, Handler, LegacyCaller, Message, read_fields
from pygrid.messages.cycles import AuthenticateRequest, CycleRequest


def device_messages(clients: ClientRegistry, cycles: CyclesService, published: PublishedDevices) -> dict[str, Handler]:
    """Return the handlers of messages of devices."""

    async def authenticate(caller: LegacyCaller, message: Message) -> Answer:
        answer = await clients.authenticate(read_fields(message, AuthenticateRequest), caller.address)
        return _fields_of(answer)

    async def cycle_request(caller: LegacyCaller, message: Message) -> Answer:
        request = read_fields(message, CycleRequest)
        request.wait_s = None if request.wait_s is None else 0.0
        never = asyncio.Event()

        async def departed() -> None:
            await never.wait()

        return _fields_of(await cycles.request_cycle(request, caller.address, departed))

    async def report(_caller: LegacyCaller, message: Message) -> Answer:
        one = read_members(message)
        await published.take_report(one.request_key, one.worker_id, one.diff)
        return {"status": "success"}

    return {
        ENVELOPE + "authenticate": authenticate,
        ENVELOPE + "cycle-request": cycle_request,
        ENVELOPE + "report": report,
    }


def _fields_of(answer: msgspec.Struct) -> Answer:
    found: Answer = msgspec.to_builtins(answer)
    return found
