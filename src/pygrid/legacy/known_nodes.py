"""The message ``connect-node`` of clients of 2020.

In 2020 a node then called tensors of the other one. Here, the Domain remembers id and address, and calls no one.
"""

from __future__ import annotations

from pygrid.core.access import Permission
from pygrid.core.known_nodes import KnownNodes
from pygrid.errors import InvalidInput
from pygrid.legacy.websocket import Answer, Handler, LegacyCaller, Message, text_field
from pygrid.transport.address import parse_address

MAX_CHARS = 300


def node_messages(nodes: KnownNodes, *, is_open: bool) -> dict[str, Handler]:
    """Return the handler of the message.

    Args:
        is_open: whether all callers may connect nodes, as in 2020.
    """

    async def connect_node(caller: LegacyCaller, message: Message) -> Answer:
        if not is_open:
            await caller.principal(message, Permission.MANAGE_INFRASTRUCTURE)
        name, address = text_field(message, "id"), text_field(message, "address")
        if not name or len(name) > MAX_CHARS or not name.isprintable():
            raise InvalidInput(f"'id' must have 1 to {MAX_CHARS} printable characters", field="id")
        if len(address) > MAX_CHARS:
            raise InvalidInput(f"'address' must have at most {MAX_CHARS} characters", field="address")
        parse_address(address.replace("ws", "http", 1) if address.startswith("ws") else address)
        nodes.put(name, address)
        return {"status": "Succesfully connected."}

    return {"connect-node": connect_node}
