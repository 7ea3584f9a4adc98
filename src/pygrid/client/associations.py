"""The Networks of a Domain, for those who manage the Domain."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pygrid import codes
from pygrid.client.display.tables import Table, TableColumn
from pygrid.client.listing import Listing
from pygrid.errors import NotFound
from pygrid.messages.associations import AssociationInfo, AssociationList, JoinRequest
from pygrid.transport import Request

_MAX_ANSWER_BYTES = 64 * 1024


class AssociationTable(Table[AssociationInfo]):
    """The Networks of a Domain."""

    def columns(self) -> Sequence[TableColumn[AssociationInfo]]:
        return (
            TableColumn("id", lambda item: item.id, weight=3, align="right"),
            TableColumn("network", lambda item: item.network, weight=4),
            TableColumn("name", lambda item: item.name, weight=2),
            TableColumn("state", lambda item: item.state, weight=4),
            TableColumn("connected", lambda item: "yes" if item.connected else "no", weight=3),
            TableColumn("reason", lambda item: item.reason, min=20),
        )


class Associations(Listing):
    """``domain.associations()`` lists the Networks of the Domain. Needs a role with can_manage_infrastructure."""

    def __call__(self) -> AssociationTable:
        """All Networks that the Domain has joined, left, or asked to join, oldest first."""
        return AssociationTable(self._api.get("/associations", AssociationList).associations)

    def get(self, association_id: int) -> AssociationInfo:
        """One association of the Domain. Raises NotFound: there is no such one (``association_not_found``)."""
        return self._api.get(f"/associations/{association_id}", AssociationInfo)

    def join(self, network: str, invitation: str | None = None) -> AssociationInfo:
        """Ask a Network to accept the Domain; ``state`` holds the outcome.

        The Domain opens the connection, so it needs no open port.

        Args:
            network: address of the Network.
            invitation: with a valid one, the Domain is accepted at once.
        Raises:
            InvalidInput: not an address.
            Conflict: anonymous callers may do things on this Domain that must stay on its machine (``domain_is_open``).
            Forbidden: you lack the permission.
        """
        return self._api.post("/associations", AssociationInfo, json=JoinRequest(network, invitation), once=True)

    def leave(self, association: int | str) -> AssociationInfo:
        """Leave a Network, by the association's id or the Network's address or name.

        A Network that the Domain has left already is removed from the list.

        Raises:
            NotFound: there is no such association (``association_not_found``). Forbidden: you lack the permission.
        """
        if isinstance(association, str):
            wanted = association.rstrip("/")
            found = [known.id for known in self() if wanted in (known.network, known.name)]
            if len(found) != 1:
                raise NotFound(
                    f"{len(found)} of the Domain's Networks have the address or name {association!r}",
                    code=codes.ASSOCIATION_NOT_FOUND,
                )
            association = found[0]
        request = Request("DELETE", f"/associations/{association}")
        # A second request would remove the decision, and a Domain with this Network in its settings would join again.
        body = self._api.exchange(request, lambda answer: answer.read(_MAX_ANSWER_BYTES), idempotent=False)
        return msgspec.json.decode(body, type=AssociationInfo)
