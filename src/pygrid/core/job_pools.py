"""The pools in which jobs run: this machine, authorized Workers on other machines, and engines by their names.

A data owner allows pools by name for each dataset. A job names one of them, or runs in the first that has a place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pygrid import codes
from pygrid.errors import Conflict, InvalidConfig, InvalidInput

LOCAL, LEASED = "local", "leased"
BUILT_IN = (LOCAL, LEASED)
"""Pools that always exist."""


def read_allowed(pools: Sequence[str] | None, allow_remote_workers: bool, known: Collection[str]) -> tuple[str, ...]:
    """Return the pools that a policy allows, ``local`` first.

    Args:
        pools: names of the policy. None: ``local``, and ``leased`` if ``allow_remote_workers``.
        known: names of the pools of this Domain.
    Raises:
        InvalidConfig: ``invalid_policy``: there is none, or ``allow_remote_workers`` says otherwise.
        InvalidInput: ``pool_unknown``.
    """
    if pools is None:
        return BUILT_IN if allow_remote_workers else (LOCAL,)
    for name in pools:
        _check_known(name, known)
    if not pools:
        raise InvalidConfig("pools is empty; name at least one, for example local", code=codes.INVALID_POLICY)
    if (LEASED in pools) != allow_remote_workers:
        raise InvalidConfig(
            f"allow_remote_workers is {str(allow_remote_workers).lower()}, but pools "
            f"{'has' if LEASED in pools else 'lacks'} {LEASED!r}; make both agree",
            code=codes.INVALID_POLICY,
        )
    return tuple(sorted(set(pools), key=lambda name: (name not in BUILT_IN, name != LOCAL, name)))


def check_asked(pool: str, allowed: Collection[str], known: Collection[str], *, is_federated: bool) -> None:
    """Refuse a job that names a pool in which it cannot run.

    Args:
        pool: "" if the job names none.
        allowed: pools that the policy of the dataset allows.
        known: names of the pools of this Domain.
    Raises:
        InvalidInput: ``pool_unknown``. Conflict: ``pool_not_allowed``.
    """
    if pool:
        _check_known(pool, known)
    if is_federated:
        allowed = [name for name in allowed if name in BUILT_IN]
    if pool in allowed or (not pool and allowed):
        return
    if is_federated:
        raise Conflict(
            "a federated job runs in the pools local and leased only, and the data owner allows none of them for it",
            code=codes.POOL_NOT_ALLOWED,
        )
    raise Conflict(
        f"the data owner does not allow the pool {pool!r} for this dataset; allowed are {', '.join(allowed)}",
        code=codes.POOL_NOT_ALLOWED,
        pools=list(allowed),
    )


def _check_known(name: str, known: Collection[str]) -> None:
    if name not in known:
        raise InvalidInput(
            f"there is no pool {name[:40]!r}; the pools of this Domain are {', '.join(known)}",
            code=codes.POOL_UNKNOWN,
            pools=list(known),
        )
