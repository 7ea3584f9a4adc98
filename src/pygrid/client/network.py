"""A Network in the hands of those who look for data, models and processes, and of those who run it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote

from pygrid import codes
from pygrid.client.credentials import (
    TOKEN_VARIABLE,
    URL_VARIABLE,
    choose_network_url,
    find_network_token,
    load_credentials,
)
from pygrid.client.display.tables import Table, TableColumn
from pygrid.client.domain import DomainClient
from pygrid.client.models import OnnxSource
from pygrid.client.replicas import NetworkModel, find_model, serve_on
from pygrid.client.search import SearchResults
from pygrid.client.session import SessionClient
from pygrid.errors import IdentityChanged, InvalidInput
from pygrid.messages.associations import (
    Decision,
    DomainDetail,
    DomainInfo,
    DomainList,
    InvitationInfo,
    InvitationList,
    InvitationRequest,
    NewInvitation,
    canonical,
)
from pygrid.messages.datasets import Dtype
from pygrid.messages.discovery import DEFAULT_TIMEOUT_S, DomainRef, Kind, ModelHit, SearchAnswer, SearchRequest
from pygrid.messages.identity import SIGNATURE_BYTES, from_base64url
from pygrid.transport import Request, Transport, open_transport
from pygrid.transport.address import RelayedAddress, parse_address, plain_address
from pygrid.transport.identity import IdentityKey
from pygrid.transport.known_domains import KnownDomains

Association = Literal["accepted", "pending", "denied", "revoked", "left", "all"]
_MAX_ANSWER_BYTES = 64 * 1024


def connect_network(
    url: str | None = None, token: str | None = None, *, transport: Transport | None = None
) -> NetworkClient:
    """A Network to work with. Nothing is sent yet; searching needs no account.

    Args:
        url: its address; None: ``PYGRID_NETWORK_URL``, else the one that ``pygrid login`` was used with last.
        token: of a session; None: ``PYGRID_NETWORK_TOKEN``, else the one that ``pygrid login`` keeps for that address.
        transport: in place of HTTP to ``url``; it stays the caller's to close.
    Raises:
        InvalidInput: no address is known, or it is not one.
    """
    if transport is not None:
        return NetworkClient(transport, token=token)
    chosen = choose_network_url(url)
    if chosen.startswith("grid+"):
        raise InvalidInput(
            f"{chosen!r} is the address of a Domain behind a Network, not of a Network", code=codes.INVALID_URL
        )
    opened = open_transport(chosen)
    return NetworkClient(opened, token=token or find_network_token(opened.url), owns_transport=True)


class DomainTable(Table[DomainInfo]):
    """The Domains of a Network."""

    def columns(self) -> Sequence[TableColumn[DomainInfo]]:
        # Domains that request the same name differ by their identity only.
        is_ambiguous = len({item.name for item in self}) < len(self)
        return (
            TableColumn("domain", lambda item: item.name, weight=5),
            TableColumn("state", _state, weight=4),
            TableColumn("reached", lambda item: item.address or "through the relay", weight=3),
            TableColumn("version", lambda item: item.version),
            TableColumn("last seen", _last_seen, min=19, weight=2),
            TableColumn("identity", lambda item: item.identity, weight=6 if is_ambiguous else 1),
        )


class InvitationTable(Table[InvitationInfo]):
    """Invitations to a Network, without their tokens."""

    def columns(self) -> Sequence[TableColumn[InvitationInfo]]:
        return (
            TableColumn("id", lambda item: item.id, weight=2, align="right"),
            TableColumn("for", lambda item: item.domain or "any", weight=2),
            TableColumn("used", lambda item: f"{item.num_uses} of {item.max_uses}"),
            TableColumn("until", lambda item: f"{item.expires_at:%Y-%m-%d %H:%M}", min=16),
        )


class NetworkClient(SessionClient):
    """Search all Domains of a Network, and reach them. `connect_network` gives one."""

    def __init__(self, transport: Transport, *, token: str | None = None, owns_transport: bool = False) -> None:
        super().__init__(transport, token=token, owns_transport=owns_transport)
        self._domains: dict[tuple[str, str | None], DomainClient] = {}

    def domains(self, association: Association = "accepted") -> DomainTable:
        """The Domains that belong to the Network, by name, and how they are.

        Args:
            association: others than ``accepted`` ones are for those who manage the Network; ``pending`` ones wait.
        Raises:
            Forbidden, Unauthenticated: others than accepted ones are not for you.
        """
        return DomainTable(self._api.get("/domains", DomainList, query={"association": association}).domains)

    def show(self, name: str) -> DomainInfo:
        """What the Network knows of a Domain. Raises NotFound: it has no such Domain (``domain_not_found``)."""
        return self._detail(name).domain

    def _detail(self, name: str) -> DomainDetail:
        return self._api.get(f"/domains/{quote(name, safe='')}", DomainDetail)

    def domain(self, name: str, identity: str | None = None) -> DomainClient:
        """One of the Domains, to work with: at its own address if it has one, else through the relay.

        It is logged in if ``pygrid login`` was used with its address; else ``login`` it. The same is given each time.

        Args:
            identity: whose Domain it is; None: who had this name the first time, else whom the Network names.
        Raises:
            NotFound: the Network has no such Domain (``domain_not_found``). InvalidInput: ``identity`` is none.
            IdentityChanged: it is another Domain that has this name, or its address is not what the Domain itself has
                signed (``wrong_identity``, ``identity_changed``, ``address_not_signed``).
        """
        info = self.show(name)
        state = "offline" if info.state == "unknown" else info.state
        address = info.address or str(RelayedAddress(self.url, info.name))
        return self.open_domain(DomainRef(info.name, state, address, info.identity or ""), identity)

    def open_domain(self, ref: DomainRef, identity: str | None = None) -> DomainClient:
        """As `domain`, for what a search has found."""
        address: str | RelayedAddress | None = parse_address(ref.address)
        if isinstance(address, str) and (address, identity) not in self._domains:
            address = self._find_direct(ref.name, address, identity)
        if not isinstance(address, str):
            address = self._relayed(ref, identity)
        key = (str(address), identity)
        if key not in self._domains:
            transport = open_transport(_spelled(address), relay_token=self._relay_token)
            self._domains[key] = DomainClient(transport, token=_domain_token(transport.url), owns_transport=True)
        return self._domains[key]

    def search(
        self,
        text: str = "",
        *,
        tags: Sequence[str] = (),
        column: str | None = None,
        dtype: Dtype | None = None,
        meaning: str | None = None,
        model: str | None = None,
        kinds: Sequence[Kind] | Kind = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> SearchResults:
        """What all Domains publish that fits. All are asked at once; who does not answer is in ``missing``.

        Args:
            text: words that all occur in what is said of the thing.
            tags: a dataset has all of them.
            column, dtype, meaning: a column that a dataset has: its name, what it holds, a part of what it means.
            model: the id of a model.
            kinds: only ``dataset``, ``model`` or ``process``, or some of them.
            timeout_s: when to go on with what has come, 0.01 to 10.
        Raises:
            InvalidInput: ``invalid_search``. TooManyRequests: too many searches; the error says when to try again.
        """
        request = SearchRequest(
            text=text,
            tags=tuple(tags),
            column=column or "",
            dtype=dtype,
            meaning=meaning or "",
            model=model or "",
            kinds=(kinds,) if isinstance(kinds, str) else tuple(kinds),
            timeout_s=timeout_s,
        )
        answer = self._api.post(
            "/network/search", SearchAnswer, json=request, idempotent=True, timeout_s=timeout_s + 30
        )
        return SearchResults(self.open_domain, answer)

    def model(self, model_id: str, *, domain: str | None = None) -> NetworkModel:
        """A public model that answers from whichever of the Domains that serve it is there.

        Args:
            domain: whose model is meant, where Domains serve different ones under this id.
        Raises:
            NotFound: no Domain that answers serves it (``model_not_found``).
            InvalidInput: ``model_ambiguous``: Domains serve different models under this id.
        """
        return find_model(self.open_domain, self._find_hits, model_id, domain)

    def serve(
        self,
        model_id: str,
        onnx: OnnxSource,
        *,
        replicas: int = 2,
        visibility: Literal["listed", "public"] = "public",
        **more: Any,
    ) -> NetworkModel:
        """Serve a model on several Domains, so that it answers as long as one of them does.

        Args:
            replicas: on so many of those that are online and where you are logged in.
            more: as for `DomainClient.serve`.
        Raises:
            Unavailable: ``too_few_domains``: you are logged in at fewer, or too few take it; it is served on none.
            As `DomainClient.serve`.
        """
        if replicas < 1:
            raise InvalidInput(f"replicas is {replicas}; it must be at least 1")
        options = {"visibility": visibility, **more}
        return serve_on(self._logged_in(), lambda: self.model(model_id), model_id, onnx, replicas, options)

    def _find_hits(self, model_id: str) -> list[ModelHit]:
        return [found.info for found in self.search(model=model_id, kinds="model").models if found.info.sha256]

    def _logged_in(self) -> list[tuple[str, DomainClient]]:
        """The Domains that are online and where the user is logged in."""
        online = [info.name for info in self.domains() if info.state == "online"]
        opened = [(name, self.domain(name)) for name in online]
        return [(name, domain) for name, domain in opened if domain.token is not None]

    def accept(self, name: str, reason: str = "", identity: str | None = None) -> DomainInfo:
        """Let a Domain belong to the Network; the Domain is told the reason. Needs a role with can_manage_nodes.

        Args:
            identity: the one that its owner told you, as in ``domains("pending")``: strangers may ask for the same
                name, also between your look and this call. None: the only one that asks for it.
        Raises:
            NotFound: there is no such Domain (``domain_not_found``).
            Conflict: none that has this name is this one (``other_identity``); several ask for the name
                (``several_domains``); it is another's (``name_taken``), or this one's already (``wrong_state``).
            Forbidden, Unauthenticated: you may not, or nobody is logged in.
        """
        return self._decide(name, "accept", reason, identity)

    def deny(self, name: str, reason: str = "", identity: str | None = None) -> DomainInfo:
        """Turn a Domain down that waits for a decision. Raises: as `accept`."""
        return self._decide(name, "deny", reason, identity)

    def revoke(self, name: str, reason: str = "", identity: str | None = None) -> DomainInfo:
        """Put a Domain out of the Network; its key gets in no more unless you accept it again. Raises: as `accept`."""
        return self._decide(name, "revoke", reason, identity)

    def forget(self, name: str, identity: str | None = None) -> None:
        """Forget a Domain and what was decided about it: it may ask again. Raises: as `accept`.

        Args:
            identity: None: all that are known by the name, or ask for it.
        """
        query = {} if identity is None else {"identity": identity}
        request = Request("DELETE", f"/domains/{quote(name, safe='')}", query=query)
        self._api.exchange(request, lambda answer: answer.read(_MAX_ANSWER_BYTES))

    def invite(self, domain: str | None = None, *, max_uses: int = 1, expires_in_s: int = 7 * 86400) -> NewInvitation:
        """An invitation: a Domain that has its token is accepted at once. The token is in this answer and never again.

        Args:
            domain: only a Domain of this name may use it.
        Raises:
            Forbidden, Unauthenticated: you may not, or nobody is logged in.
        """
        return self._api.post(
            "/invitations", NewInvitation, json=InvitationRequest(domain, max_uses, expires_in_s), once=True
        )

    def invitations(self) -> InvitationTable:
        """The invitations that were given and not taken back, without their tokens."""
        return InvitationTable(self._api.get("/invitations", InvitationList).invitations)

    def take_back(self, invitation_id: int) -> None:
        """Take an invitation back; Domains that came by it stay.

        Raises NotFound: there is none (``invitation_not_found``).
        """
        request = Request("DELETE", f"/invitations/{invitation_id}")
        self._api.exchange(request, lambda answer: answer.read(_MAX_ANSWER_BYTES))

    def _decide(self, name: str, act: str, reason: str, identity: str | None) -> DomainInfo:
        return self._api.post(
            f"/domains/{quote(name, safe='')}/{act}", DomainInfo, json=Decision(reason, identity), once=True
        )

    def close(self) -> None:
        """Close the connections, also those to Domains. Sessions go on."""
        for domain in self._domains.values():
            domain.close()
        self._domains.clear()
        super().close()

    def _relayed(self, ref: DomainRef, identity: str | None) -> RelayedAddress:
        """The way through the relay, with whom to expect.

        Who answered before counts for more than what the Network says.
        """
        # The Network is taken at the address by which it is known here, whatever it calls itself.
        address = RelayedAddress(self.url, ref.name)
        if identity is None and KnownDomains().find(address) is None:
            identity = ref.identity or None
        return RelayedAddress(self.url, ref.name, IdentityKey.parse(identity) if identity is not None else None)

    def _find_direct(self, name: str, address: str, identity: str | None) -> str | None:
        """The direct address that comes from the Domain itself; None: it has none now, or the Network is yet to check
        it.

        A node of 2020 has signed nothing, and nobody knows it better.

        Args:
            address: which the Network named, now or some time ago.
        Raises:
            IdentityChanged: see `domain`.
        """
        detail = self._detail(name)
        expected = RelayedAddress(
            self.url, detail.domain.name, IdentityKey.parse(identity) if identity is not None else None
        )
        named, known = detail.domain.identity, KnownDomains()
        if named is None and expected.identity is None and known.find(expected) is None:
            return address
        if named is not None and (detail.domain.address is None or not detail.entry):
            # Nothing need be believed of a Network that says no more: through the relay, the Domain itself proves who
            # it is.
            return None
        current = (detail.domain.address or address).rstrip("/")
        if named is None or not _is_signed(detail, IdentityKey.parse(named), current):
            raise _unsigned(name, current)
        known.check(expected, IdentityKey.parse(named))
        return current

    def _relay_token(self, _network_url: str) -> str | None:
        return self.token


def _state(domain: DomainInfo) -> str:
    return domain.state if domain.association == "accepted" else domain.association


def _last_seen(domain: DomainInfo) -> str:
    return f"{domain.last_seen_at:%Y-%m-%d %H:%M:%S}" if domain.last_seen_at else "never"


def _is_signed(detail: DomainDetail, key: IdentityKey, address: str) -> bool:
    """Whether the holder of the key has said that the Domain is called as it is, and is at the address."""
    try:
        signature = from_base64url(detail.entry_signature or "", SIGNATURE_BYTES, "entry_signature")
    except InvalidInput:
        return False
    said = (detail.entry.get("name"), str(detail.entry.get("address") or "").rstrip("/"))
    return said == (detail.domain.name, address) and key.verify(signature, "entry", canonical(detail.entry))


def _unsigned(name: str, address: str) -> IdentityChanged:
    return IdentityChanged(
        f"the Network says that {name!r} is at {address}, and shows no signature of the Domain for it. Do not log in "
        "there; ask those who run the Domain where it is",
        code=codes.ADDRESS_NOT_SIGNED,
    )


def _spelled(address: str | RelayedAddress) -> str:
    if isinstance(address, RelayedAddress) and address.identity is not None:
        return f"{address}?identity={quote(str(address.identity), safe='')}"
    return str(address)


def _domain_token(url: str) -> str | None:
    """The token kept for an address. One from the environment goes to the address there and nowhere else: this one a
    Network has named, and it could name anybody's."""
    token, home = os.environ.get(TOKEN_VARIABLE), os.environ.get(URL_VARIABLE)
    if token and home and plain_address(home) == url:
        return token
    return load_credentials().tokens.get(url)
