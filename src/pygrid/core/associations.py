"""How a Domain and a Network come together and part: the states of an association, who may move it, how a Domain is
doing.

At the Network, of each key that came with a name:

               ask                accept
    (unknown) ─────> pending ──────────────> accepted ──revoke──> revoked ──accept──> accepted
        │               │                    ^  │  ^                   (by a manager)
        │               ├──deny──> denied ───┘  │  │ accept, or an invitation
        │               └──leave─> (unknown)    │  │
        └──ask, with an invitation──────────────┘  │
                                            leave──┴─> left ──ask──> pending

A name belongs to the key that was accepted with it, until that is forgotten (or has left and asks anew). Before, any
number of keys may ask for it, so that nobody can keep another out by being first; who decides says which key is meant.

At the Domain, of each of its Networks:

    joining ──> pending | accepted | denied | revoked | refused       whatever the Network answered last
       any  ──leave──> leaving ──(the Network was told)──> left ──join──> joining

Pure: states and times in, states and refusals out.
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
"""A Domain is online if it was heard of within so many intervals between heartbeats."""
DEGRADED_INTERVALS = 6.0
"""Later than that it is degraded, up to so many; then offline."""

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
RARE_RETRY_S = 600.0
"""How often a Domain asks that was denied, revoked or refused: a decision may change."""


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
"""In these states a Domain has its name to itself."""


class DomainHealth(enum.StrEnum):
    """How a Domain of a Network is doing."""

    ONLINE = "online"
    DEGRADED = "degraded"
    """It says so itself, or its heartbeats are late."""
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
    """The name, if a Domain can be known by it on a Network: part of addresses and commands, so plain.

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
    """What makes two names the same one: case does not count."""
    return name.casefold()


def move(state: AssociationState, act: Act, name: str) -> AssociationState:
    """The state after an act.

    Raises:
        Conflict: ``wrong_state``: the act does not lead on from here.
    """
    sources, target = _MOVES[act]
    if state not in sources:
        wanted = " or ".join(sorted(sources))
        raise Conflict(
            f"{name!r} is {state}; one can {act} what is {wanted}",
            code=codes.WRONG_STATE,
            domain=name,
            state=str(state),
        )
    return target


class Named(Protocol):
    """What a Network knows of one key under one name."""

    @property
    def identity(self) -> str | None:
        """None: a node of 2020, which proves nothing."""
        ...

    @property
    def state(self) -> AssociationState: ...


T = TypeVar("T", bound=Named)


def find_identity(named: Sequence[T], name: str, identity: str) -> T:
    """The one that is this Domain. Raises Conflict: ``other_identity``: none of them is."""
    for each in named:
        if each.identity == identity:
            return each
    raise Conflict(
        f"the Domain {identity} is not known by the name {name!r} (any more): look again who is",
        code=codes.OTHER_IDENTITY,
        domain=name,
    )


def choose(named: Sequence[T], act: Act, name: str, identity: str | None) -> T:
    """The one that a decision is meant for.

    Args:
        named: all that the Network knows under this name, at least one.
        identity: whom the person who decides has seen; None: whoever has the name, else the only one that asks for it,
            else the only one that was denied.
    Raises:
        Conflict: ``other_identity``: none of them is this one; ``several_domains``: it could be meant for several.
    """
    if identity is not None:
        return find_identity(named, name, identity)
    for states in (HOLDING, {AssociationState.PENDING}, {AssociationState.DENIED}):
        found = [each for each in named if each.state in states]
        if len(found) == 1:
            return found[0]
        if found:
            raise Conflict(
                f"{len(found)} Domains ask for the name {name!r}: say by its identity which one you {act}",
                code=codes.SEVERAL_DOMAINS,
                domain=name,
                identities=[each.identity for each in found],
            )
    raise AssertionError("one is in one of these states")


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """A Domain that is not let in, and why."""

    code: str
    detail: str


def arrive(
    name: str, before: AssociationState | None, *, is_taken: bool, is_invited: bool
) -> AssociationState | HandshakeRefusal:
    """The state of a Domain that has just proven its key, or that it is turned away.

    Args:
        before: the state of this key under this name; None: the Network has not heard of it.
        is_taken: whether another key holds the name.
        is_invited: whether it brought an invitation that is good for this name.
    """
    if is_taken:
        return HandshakeRefusal(
            "name_taken",
            f"another Domain is known by the name {name!r} on this Network: choose another one (--id), or ask those "
            "who run the Network to remove it",
        )
    if before is AssociationState.REVOKED:
        # An invitation that is good for many must not undo what was decided about one.
        return HandshakeRefusal("revoked", f"this Network has revoked the association of {name!r}")
    if before is AssociationState.ACCEPTED or is_invited:
        return AssociationState.ACCEPTED
    if before is AssociationState.DENIED:
        return HandshakeRefusal("denied", f"this Network has denied the request of {name!r} to join")
    return AssociationState.PENDING


def find_health(
    heard_at: dt.datetime | None, now: dt.datetime, interval_s: float, *, says_degraded: bool
) -> DomainHealth:
    """How a Domain is doing.

    Args:
        heard_at: when its last heartbeat came over the link that is open now; None: there is no link.
        interval_s: between heartbeats.
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
    """How long a Domain waits before it dials again: at random up to a bound that doubles (full jitter), so that those
    which were cut off together do not come back together; seldom if it was turned away.

    Args:
        num_failures: since a link last stood for a while, at least 1.
    """
    if state in (AssociationState.DENIED, AssociationState.REVOKED, AssociationState.REFUSED):
        return RARE_RETRY_S * (0.5 + draw.random())
    bound_s = min(MAX_RETRY_S, FIRST_RETRY_S * float(2 ** min(num_failures, 16)))
    return draw.random() * bound_s
