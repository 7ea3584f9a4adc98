"""The audit log for people who supervise an app: its entries, and whether all of them are unmodified."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pygrid import codes
from pygrid.core.access import Permission, Principal, require
from pygrid.errors import InvalidInput, TooManyRequests
from pygrid.storage import audit
from pygrid.storage.accounts import find_emails, find_user_id, list_emails
from pygrid.storage.audit import AuditEntry, Head
from pygrid.storage.sql.database import Database

MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class AuditLine:
    """An entry, and the names of whom and what it is about."""

    entry: AuditEntry
    actor: str
    """E-mail; empty: the app itself."""
    names: dict[str, str]
    """Present names by the key of the data: of ``dataset_id`` if the reader may see the dataset, and of ``user_id``."""


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """The outcome of a verification."""

    head: Head
    fault: str
    """Empty: all entries are unmodified."""
    known: int | None
    """Number of the exported entry that the chain was compared with; None: there is none."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted; an empty text allows all."""

    action: str = ""
    person: str = ""
    """E-mail of whom did it, or to whom it was done."""
    about: str = ""
    """Name or number of a dataset, or at least the first 8 characters of the id of a job."""
    day: str = ""
    """Day in UTC, such as 2026-12-01."""


class AuditService:
    """Use cases of the audit log.

    Args:
        head_file: the exported head of the log.
        permission: needed to see the log.
    """

    def __init__(self, database: Database, head_file: Path, permission: Permission) -> None:
        self._database = database
        self._head_file = head_file
        self._permission = permission
        self._verifying = asyncio.Lock()

    async def list_entries(
        self, principal: Principal, *, before: int | None = None, limit: int = 100, wanted: AuditFilter = AuditFilter()
    ) -> list[AuditLine]:
        """Return entries, newest first.

        Args:
            before: only entries with a smaller number.
        Raises:
            InvalidInput: ``invalid_input``, with ``field``: an action or a day is not written as one.
        """
        require(principal, self._permission)
        _check(wanted)

        def load(connection: sa.Connection) -> list[AuditLine]:
            texts = _texts(connection, principal, wanted)
            found = audit.list_newest(connection, before=before, limit=min(limit, MAX_LIMIT), texts=texts)
            emails = list_emails(connection, {one.actor for one in found if one.actor is not None})
            named = {"user_id": find_emails(connection, _ids(found, "user_id"))}
            if of_datasets := _ids(found, "dataset_id"):  # a Network has none
                from pygrid.storage.datasets import list_names

                named["dataset_id"] = list_names(connection, principal, of_datasets)
            return [
                AuditLine(
                    one,
                    "" if one.actor is None else emails[one.actor],
                    {key: names[one.data[key]] for key, names in named.items() if one.data.get(key) in names},
                )
                for one in found
            ]

        return await self._database.read(load)

    async def verify(self, principal: Principal) -> AuditCheck:
        """Check the whole chain, and that it contains the exported head.

        Raises:
            TooManyRequests: ``busy``: another verification runs.
        """
        require(principal, self._permission)
        if self._verifying.locked():
            raise TooManyRequests("the log is being verified: wait for the result", code=codes.BUSY)
        async with self._verifying:
            known = await asyncio.to_thread(self._known)

            def check(connection: sa.Connection) -> AuditCheck:
                fault = audit.verify(connection, known)
                words = "" if fault is None else f"entry {fault.number}: {fault.reason}"
                return AuditCheck(audit.get_head(connection), words, None if known is None else known.number)

            return await self._database.read(check)

    def _known(self) -> Head | None:
        return audit.read_head(self._head_file) if self._head_file.exists() else None


def _check(wanted: AuditFilter) -> None:
    if wanted.action and not wanted.action.replace("_", "").isalnum():
        raise InvalidInput("an action is a name such as job_approved", code=codes.INVALID_INPUT, field="action")
    if wanted.day and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", wanted.day):
        raise InvalidInput(
            f"day is {wanted.day[:80]!r}: write it like 2026-12-01", code=codes.INVALID_INPUT, field="day"
        )


def _texts(connection: sa.Connection, principal: Principal, wanted: AuditFilter) -> list[tuple[str, ...]]:
    """Return what the JSON of the wanted entries contains. Texts of others have their quotes escaped there."""
    texts: list[tuple[str, ...]] = []
    if wanted.action:
        texts.append((f'"action":"{wanted.action}"',))
    if wanted.day:
        texts.append((f'"at":"{wanted.day}T',))
    if wanted.person:
        user_id = find_user_id(connection, wanted.person)
        texts.append((f'"actor":{user_id or -1},', *_field("user_id", user_id)))
    if re.fullmatch(r"[0-9a-f]{8,32}", wanted.about):
        texts.append((f'"job_id":"{wanted.about}',))
    elif wanted.about:
        from pygrid.storage.datasets import find_dataset_by_name

        number = int(wanted.about) if wanted.about.isdecimal() else None
        found = find_dataset_by_name(connection, principal, wanted.about) if number is None else None
        texts.append(_field("dataset_id", number if found is None else found.id))
    return texts


def _field(name: str, value: int | None) -> tuple[str, str]:
    """Return the field in JSON, before another field and as the last; None: as no entry has it."""
    start = f'"{name}":{-1 if value is None else value}'
    return f"{start},", f"{start}}}"


def _ids(entries: Sequence[AuditEntry], key: str) -> set[int]:
    return {value for one in entries if isinstance(value := one.data.get(key), int)}
