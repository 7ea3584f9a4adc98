"""The rules of associations between Domains and Networks: states, decisions, health of Domains, retries.

At the Network, for each key under a name:

               ask                accept
    (unknown) ─────> pending ──────────────> accepted ──revoke──> revoked ──accept──> accepted
        │               │                    ^  │  ^                   (by a manager)
        │               ├──deny──> denied ───┘  │  │ accept, or an invitation
        │               └──leave─> (unknown)    │  │
        └──ask, with an invitation──────────────┘  │
                                            leave──┴─> left ──ask──> pending

A name belongs to the key that was accepted with it, until the Network removes the Domain, or the Domain has left and
requests again. Before that, any number of keys may request the name, so that the first request excludes nobody. The
decision names the key.

At the Domain, for each of its Networks:

    joining ──> pending | accepted | denied | revoked | refused       the last answer of the Network
       any  ──leave──> leaving ──(the Network was told)──> left ──join──> joining

All functions are pure: they take states and times, and return states and refusals.
"""

from __future__ import annotations

import datetime as dt
import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pygrid import codes
from pygrid.errors import Conflict, InvalidInput
from pygrid.settings import NETWORK_NAME

MAX_NAME = 100

ONLINE_INTERVALS = 2.5
"""A Domain is online if its last heartbeat is at most this many intervals old."""
DEGRADED_INTERVALS = 6.0
"""After `ONLINE_INTERVALS` it is degraded, after this many intervals it is offline."""

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
RARE_RETRY_S = 600.0
"""Retry interval of a Domain that was denied, revoked or refused: the decision may change."""


class AssociationState(enum.StrEnum):
    """See the diagrams at the top of this module."""

    JOINING = "joining"
    PENDING = "pending"
    ACCEPTED = "accepted"
    DENIED = "denied"
    REVOKED = "revoked"
    REFUSED = "refused"
    LEAVING = "leaving"
    LEFT = "left"


HOLDING = frozenset({AssociationState.ACCEPTED, AssociationState.REVOKED, AssociationState.LEFT})
"""In these states the name belongs to the Domain."""


class DomainHealth(enum.StrEnum):
    ONLINE = "online"
    DEGRADED = "degraded"
    """The Domain reports it, or its heartbeats are late."""
    OFFLINE = "offline"


class Act(enum.StrEnum):
    """What moves an association at the Network."""

    ACCEPT = "accept"
    DENY = "deny"
    REVOKE = "revoke"
    LEAVE = "leave"


_MOVES: dict[Act, tuple[frozenset[AssociationState], AssociationState]] = {
    Act.ACCEPT: (
        frozenset({AssociationState.PENDING, AssociationState.DENIED, AssociationState.REVOKED, AssociationState.LEFT}),
        AssociationState.ACCEPTED,
    ),
    Act.DENY: (frozenset({AssociationState.PENDING}), AssociationState.DENIED),
    Act.REVOKE: (frozenset({AssociationState.ACCEPTED}), AssociationState.REVOKED),
    Act.LEAVE: (frozenset({AssociationState.ACCEPTED}), AssociationState.LEFT),
}


def check_domain_name(name: str) -> str:
    """Check that a name can identify a Domain on a Network. It is part of addresses and commands.

    Raises:
        InvalidInput: ``invalid_name``.
    """
    if not NETWORK_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:MAX_NAME]!r} can't be the name of a Domain on a Network: use 1 to {MAX_NAME} of A-Z, a-z, 0-9, "
            "dot, dash and underscore, with a letter or digit at both ends (--id)",
            code=codes.INVALID_NAME,
        )
    return name


def name_key(name: str) -> str:
    """The key for comparing names: case does not count."""
    return name.casefold()


def move(state: AssociationState, act: Act, name: str) -> AssociationState:
    """The state after an act. Raises Conflict: ``wrong_state``: the act is not possible in this state."""
    sources, target = _MOVES[act]
    if state not in sources:
        wanted = " or ".join(sorted(sources))
        raise Conflict(
            f"{name!r} is {state}; only a Domain that is {wanted} can be the target of {act}",
            code=codes.WRONG_STATE,
            domain=name,
            state=str(state),
        )
    return target


class Named(Protocol):
    """A key under a name at a Network."""

    @property
    def identity(self) -> str | None:
        """None: a node of 2020, which has no key."""
        ...

    @property
    def state(self) -> AssociationState: ...


T = TypeVar("T", bound=Named)


def find_identity(named: Sequence[T], name: str, identity: str) -> T:
    """The entry with this identity. Raises Conflict: ``other_identity``: there is none."""
    for each in named:
        if each.identity == identity:
            return each
    raise Conflict(
        f"the Domain {identity} does not have the name {name!r}: list the Domains again",
        code=codes.OTHER_IDENTITY,
        domain=name,
    )


def choose(named: Sequence[T], act: Act, name: str, identity: str | None) -> T:
    """The entry that a decision is about.

    Args:
        named: all entries of this name, at least one.
        identity: the identity that the person saw. None: the entry that has the name, else the only one that requests
            it, else the only one that was denied.
    Raises:
        Conflict: ``other_identity``: no entry has this identity; ``several_domains``: the decision is ambiguous.
    """
    if identity is not None:
        return find_identity(named, name, identity)
    for states in (HOLDING, {AssociationState.PENDING}, {AssociationState.DENIED}):
        found = [each for each in named if each.state in states]
        if len(found) == 1:
            return found[0]
        if found:
            raise Conflict(
                f"{len(found)} Domains request the name {name!r}: name the identity of the one to {act}",
                code=codes.SEVERAL_DOMAINS,
                domain=name,
                identities=[each.identity for each in found],
            )
    raise AssertionError("every entry is in one of these states")


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """The Network refuses a Domain: code and reason."""

    code: str
    detail: str


def arrive(
    name: str, before: AssociationState | None, *, is_taken: bool, is_invited: bool
) -> AssociationState | HandshakeRefusal:
    """The state of a Domain that has just proven its key, or its refusal.

    Args:
        before: the state of this key under this name; None: the key is new.
        is_taken: whether the name belongs to another key.
        is_invited: whether the Domain has a valid invitation for this name.
    """
    if is_taken:
        return HandshakeRefusal(
            "name_taken",
            f"the name {name!r} belongs to another Domain on this Network: choose another one (--id), or ask the "
            "operators of the Network to remove it",
        )
    if before is AssociationState.REVOKED:
        # An invitation with several uses must not undo a decision about one Domain.
        return HandshakeRefusal("revoked", f"this Network has revoked the association of {name!r}")
    if before is AssociationState.ACCEPTED or is_invited:
        return AssociationState.ACCEPTED
    if before is AssociationState.DENIED:
        return HandshakeRefusal("denied", f"this Network has denied the request of {name!r} to join")
    return AssociationState.PENDING


def find_health(
    heard_at: dt.datetime | None, now: dt.datetime, interval_s: float, *, says_degraded: bool
) -> DomainHealth:
    """The health of a Domain.

    Args:
        heard_at: time of the last heartbeat over the open link; None: there is no link.
        interval_s: interval between heartbeats.
    """
    if heard_at is None:
        return DomainHealth.OFFLINE
    silent_s = (now - heard_at).total_seconds()
    if silent_s > DEGRADED_INTERVALS * interval_s:
        return DomainHealth.OFFLINE
    if silent_s > ONLINE_INTERVALS * interval_s or says_degraded:
        return DomainHealth.DEGRADED
    return DomainHealth.ONLINE


def retry_s(num_failures: int, state: AssociationState, draw: random.Random) -> float:
    """Seconds until a Domain connects again.

    The time is random up to a bound that doubles (full jitter), so that Domains that lost their links together do not
    reconnect together. A Domain that was refused retries at `RARE_RETRY_S`.

    Args:
        num_failures: failures since the last stable link, at least 1.
    """
    if state in (AssociationState.DENIED, AssociationState.REVOKED, AssociationState.REFUSED):
        return RARE_RETRY_S * (0.5 + draw.random())
    bound_s = min(MAX_RETRY_S, FIRST_RETRY_S * float(2 ** min(num_failures, 16)))
    return draw.random() * bound_s
