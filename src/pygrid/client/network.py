"""The client of a Network, for searches and for its operators."""

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
from pygrid.transport.authorities import CaFile
from pygrid.transport.identity import IdentityKey
from pygrid.transport.known_domains import KnownDomains

Association = Literal["accepted", "pending", "denied", "revoked", "left", "all"]
_MAX_ANSWER_BYTES = 64 * 1024


def connect_network(
    url: str | None = None, token: str | None = None, *, transport: Transport | None = None, ca_file: CaFile = None
) -> NetworkClient:
    """A client of a Network; this sends no request. Searches need no account.

    Args:
        url: address of the Network; None: ``PYGRID_NETWORK_URL``, else the address of the last ``pygrid login``.
        token: token of a session; None: ``PYGRID_NETWORK_TOKEN``, else the one that ``pygrid login`` stored.
        transport: used instead of HTTP to ``url``; the caller closes it.
        ca_file: PEM file of an authority to trust in addition to the public ones, for the Network and its Domains;
            None: that of ``PYGRID_CA_FILE``.
    Raises:
        InvalidInput: there is no address, it is not valid, or the file is not (``ca_file_invalid``).
    """
    if transport is not None:
        return NetworkClient(transport, token=token)
    chosen = choose_network_url(url)
    if chosen.startswith("grid+"):
        raise InvalidInput(
            f"{chosen!r} is the address of a Domain behind a Network, not of a Network", code=codes.INVALID_URL
        )
    opened = open_transport(chosen, ca_file=ca_file)
    return NetworkClient(opened, token=token or find_network_token(opened.url), owns_transport=True, ca_file=ca_file)


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
    """A Network: searches all its Domains, and connects to them; `connect_network` returns one."""

    def __init__(
        self, transport: Transport, *, token: str | None = None, owns_transport: bool = False, ca_file: CaFile = None
    ) -> None:
        super().__init__(transport, token=token, owns_transport=owns_transport)
        self._ca_file = ca_file
        self._domains: dict[tuple[str, str | None], DomainClient] = {}

    def domains(self, association: Association = "accepted") -> DomainTable:
        """The Domains of the Network with their states, by name.

        Args:
            association: state of the association; only managers of the Network can list others than ``accepted``.
        Raises:
            Forbidden, Unauthenticated: you may not list these.
        """
        return DomainTable(self._api.get("/domains", DomainList, query={"association": association}).domains)

    def show(self, name: str) -> DomainInfo:
        """A Domain as the Network knows it. Raises NotFound: there is no such Domain (``domain_not_found``)."""
        return self._detail(name).domain

    def _detail(self, name: str) -> DomainDetail:
        return self._api.get(f"/domains/{quote(name, safe='')}", DomainDetail)

    def domain(self, name: str, identity: str | None = None) -> DomainClient:
        """A client of one of the Domains: at its own address if it has one, else through the relay.

        It has the session of ``pygrid login`` for its address, if there is one. Each call returns the same client.

        Args:
            identity: the expected identity; None: the one that had this name the first time, else the one that the
                Network reports.
        Raises:
            NotFound: the Network has no such Domain (``domain_not_found``).
            InvalidInput: ``identity`` is not valid.
            IdentityChanged: another Domain has this name, or the Domain has not signed its address
                (``wrong_identity``, ``identity_changed``, ``address_not_signed``).
        """
        info = self.show(name)
        state = "offline" if info.state == "unknown" else info.state
        address = info.address or str(RelayedAddress(self.url, info.name))
        return self.open_domain(DomainRef(info.name, state, address, info.identity or ""), identity)

    def open_domain(self, ref: DomainRef, identity: str | None = None) -> DomainClient:
        """A client of the Domain of a search hit; see `domain`."""
        address: str | RelayedAddress | None = parse_address(ref.address)
        if isinstance(address, str) and (address, identity) not in self._domains:
            address = self._find_direct(ref.name, address, identity)
        if not isinstance(address, str):
            address = self._relayed(ref, identity)
        key = (str(address), identity)
        if key not in self._domains:
            transport = open_transport(_spelled(address), relay_token=self._relay_token, ca_file=self._ca_file)
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
        """Search the published content of all Domains in parallel; ``missing`` lists Domains without an answer.

        Args:
            text: words that all occur in the description of a hit.
            tags: tags that a dataset has.
            column, dtype, meaning: a column of a dataset: its name, its dtype, a part of its meaning.
            model: the id of a model.
            kinds: only these kinds: ``dataset``, ``model``, ``process``.
            timeout_s: time limit for the answers of Domains, 0.01 to 10.
        Raises:
            InvalidInput: the search is not valid (``invalid_search``).
            TooManyRequests: there were too many searches; retry after ``retry_after_s``.
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
        """A public model; each prediction uses one of the Domains that serve it.

        Args:
            domain: name of a Domain that serves the model, if Domains serve different models under this id.
        Raises:
            NotFound: no Domain that answers serves it (``model_not_found``).
            InvalidInput: Domains serve different models under this id (``model_ambiguous``).
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
        """Serve a model on several Domains, so that it is available as long as one of them is.

        Args:
            replicas: number of Domains, from those that are online and where you are logged in.
            more: as for `DomainClient.serve`.
        Raises:
            Unavailable: you are logged in at fewer Domains, or too few accept it (``too_few_domains``); then no Domain
                serves it.
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
        """Accept a Domain into the Network; the Domain gets the reason. Needs a role with can_manage_nodes.

        Args:
            identity: the identity that the operator of the Domain gave you, as in ``domains("pending")``. Others can
                ask for the same name at any time, also just before this call. None: the only identity that asks.
        Raises:
            NotFound: there is no such Domain (``domain_not_found``).
            Conflict: no Domain of this name has this identity (``other_identity``), several ask for the name
                (``several_domains``), another Domain has it (``name_taken``), or this one has it (``wrong_state``).
            Forbidden, Unauthenticated: you lack the permission, or are not logged in.
        """
        return self._decide(name, "accept", reason, identity)

    def deny(self, name: str, reason: str = "", identity: str | None = None) -> DomainInfo:
        """Deny the request of a Domain. Raises: as `accept`."""
        return self._decide(name, "deny", reason, identity)

    def revoke(self, name: str, reason: str = "", identity: str | None = None) -> DomainInfo:
        """Remove a Domain from the Network; its key is refused until you accept it again. Raises: as `accept`."""
        return self._decide(name, "revoke", reason, identity)

    def forget(self, name: str, identity: str | None = None) -> None:
        """Delete a Domain and the decisions about it, so that it can ask again. Raises: as `accept`.

        Args:
            identity: None: all identities that have the name or ask for it.
        """
        query = {} if identity is None else {"identity": identity}
        request = Request("DELETE", f"/domains/{quote(name, safe='')}", query=query)
        self._api.exchange(request, lambda answer: answer.read(_MAX_ANSWER_BYTES))

    def invite(self, domain: str | None = None, *, max_uses: int = 1, expires_in_s: int = 7 * 86400) -> NewInvitation:
        """Create an invitation; a Domain with its token is accepted at once. Only this answer has the token.

        Args:
            domain: only a Domain of this name may use it; None: any Domain.
        Raises:
            Forbidden, Unauthenticated: you lack the permission, or are not logged in.
        """
        return self._api.post(
            "/invitations", NewInvitation, json=InvitationRequest(domain, max_uses, expires_in_s), once=True
        )

    def invitations(self) -> InvitationTable:
        """The invitations that were not withdrawn, without their tokens."""
        return InvitationTable(self._api.get("/invitations", InvitationList).invitations)

    def take_back(self, invitation_id: int) -> None:
        """Withdraw an invitation; Domains that were accepted with it stay.

        Raises:
            NotFound: there is no such invitation (``invitation_not_found``).
        """
        request = Request("DELETE", f"/invitations/{invitation_id}")
        self._api.exchange(request, lambda answer: answer.read(_MAX_ANSWER_BYTES))

    def _decide(self, name: str, act: str, reason: str, identity: str | None) -> DomainInfo:
        return self._api.post(
            f"/domains/{quote(name, safe='')}/{act}", DomainInfo, json=Decision(reason, identity), once=True
        )

    def close(self) -> None:
        """Close all connections, including those to Domains. Sessions stay valid."""
        for domain in self._domains.values():
            domain.close()
        self._domains.clear()
        super().close()

    def _relayed(self, ref: DomainRef, identity: str | None) -> RelayedAddress:
        """The address through the relay, with the expected identity.

        An identity that answered before has precedence over the one that the Network reports.
        """
        # The Network has the address that this client uses, not the one that it reports.
        address = RelayedAddress(self.url, ref.name)
        if identity is None and KnownDomains().find(address) is None:
            identity = ref.identity or None
        return RelayedAddress(self.url, ref.name, IdentityKey.parse(identity) if identity is not None else None)

    def _find_direct(self, name: str, address: str, identity: str | None) -> str | None:
        """The direct address that the Domain has signed; None: it has none, or the Network has not checked it.

        A node of 2020 cannot sign, so the address of the Network is used.

        Args:
            address: the address that the Network reported, now or earlier.
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
            # No trust in the Network is needed: through the relay, the Domain itself proves its identity.
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
    """Whether the key has signed the name and the address of the Domain."""
    try:
        signature = from_base64url(detail.entry_signature or "", SIGNATURE_BYTES, "entry_signature")
    except InvalidInput:
        return False
    said = (detail.entry.get("name"), str(detail.entry.get("address") or "").rstrip("/"))
    return said == (detail.domain.name, address) and key.verify(signature, "entry", canonical(detail.entry))


def _unsigned(name: str, address: str) -> IdentityChanged:
    return IdentityChanged(
        f"the Network reports the address {address} of {name!r} without a signature of the Domain. Do not log in "
        "there; ask the operator of the Domain for its address",
        code=codes.ADDRESS_NOT_SIGNED,
    )


def _spelled(address: str | RelayedAddress) -> str:
    if isinstance(address, RelayedAddress) and address.identity is not None:
        return f"{address}?identity={quote(str(address.identity), safe='')}"
    return str(address)


def _domain_token(url: str) -> str | None:
    """The stored token for an address. A token from the environment goes only to the address in the environment,
    because a Network, which reports this address, could report any."""
    token, home = os.environ.get(TOKEN_VARIABLE), os.environ.get(URL_VARIABLE)
    if token and home and plain_address(home) == url:
        return token
    return load_credentials().tokens.get(url)
