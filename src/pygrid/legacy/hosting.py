"""The message ``model-centric/host-training``: hosts a process with its files as hexadecimal text."""

from __future__ import annotations

from pygrid.features.processes.forms import HostMessage
from pygrid.features.processes.published import PublishedHosting
from pygrid.legacy.websocket import ENVELOPE, Answer, Handler, LegacyCaller, Message, read_fields


def hosting_messages(hosting: PublishedHosting) -> dict[str, Handler]:
    async def host_training(caller: LegacyCaller, message: Message) -> Answer:
        is_anonymous = hosting.is_open and not message.get("token") and caller.token is None
        principal = None if is_anonymous else await caller.principal(message)
        await hosting.host(principal, read_fields(message, HostMessage))
        return {"status": "success"}

    return {ENVELOPE + "host-training": host_training}
