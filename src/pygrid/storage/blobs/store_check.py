"""Whether a store of objects does what pygrid needs, and whether it is the one of this database."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from pygrid import codes
from pygrid.errors import InvalidConfig, PygridError, Unavailable
from pygrid.storage.app_state import STORE_ID, find_state, put_state
from pygrid.storage.blobs.objects import ObjectMissing, Objects
from pygrid.storage.blobs.s3 import MULTIPART_BYTES
from pygrid.storage.installation import find_installation, is_empty
from pygrid.storage.sql.database import Database

STORE_FILE = "store.json"
_NO_VERSION = '"00000000000000000000000000000000"'


class StoreMark(msgspec.Struct, frozen=True):
    """Content of ``store.json``: the id of the database whose files are in the store."""

    id: str


def probe_store(objects: Objects, large_file: Path | None = None) -> list[tuple[str, str]]:
    """What a store must be able to do, each with the reason why it is not; empty: it is.

    It writes and removes objects below ``probe/``.

    Args:
        large_file: path for a file of `MULTIPART_BYTES`, to try an upload in parts, too; None: it is not tried.
    """
    key = f"probe/{secrets.token_hex(16)}"
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("create an object (PUT with If-None-Match: *)", lambda: objects.create(key, b"first")),
        ("keep an object that is created again", lambda: not objects.create(key, b"second")),
        ("read an object after its write", lambda: objects.read(key) == b"first"),
        ("refuse to replace another version (PUT with If-Match)", lambda: not _replaces(objects, key, _NO_VERSION)),
        ("replace a known version (PUT with If-Match)", lambda: _replaces(objects, key, None)),
        ("read an object after its replacement", lambda: objects.read(key) == b"third"),
        ("read a range of bytes", lambda: objects.read(key, 1, 3) == b"hir"),
        ("list objects", lambda: [one.key for one in objects.list("probe/") if one.key == key] == [key]),
    ]
    if large_file is not None:
        checks.append(("take an upload in parts", lambda: _takes_parts(objects, f"{key}-large", large_file)))
    checks.append(("delete an object", lambda: _deletes(objects, key)))
    found = []
    for name, check in checks:
        try:
            found.append((name, "" if check() else "the answer is wrong"))
        except (PygridError, ObjectMissing, OSError) as error:
            found.append((name, _reason(error)))
            if isinstance(error, Unavailable):
                break  # the others would wait as long
    return found


def check_store(objects: Objects, url: str) -> None:
    """Refuse a store that cannot do what pygrid needs. Raises InvalidConfig: ``store_unfit``."""
    for name, reason in probe_store(objects):
        if reason:
            raise InvalidConfig(
                f"the store {url} cannot {name}: {reason}. Check PYGRID_STORE, PYGRID_S3_ENDPOINT and the credentials; "
                "`pygrid doctor store` tries each step",
                code=codes.STORE_UNFIT,
            )


def join_store(database: Database, objects: Objects, url: str) -> str:
    """The id that a database and its store share; a new pair gets it here. The database is migrated.

    Raises:
        InvalidConfig: ``wrong_store``: they do not belong together; nothing was changed.
    """
    own, kept, empty = database.read_now(
        lambda connection: (find_installation(connection), find_state(connection, STORE_ID), is_empty(connection))
    )
    assert own is not None
    mark = find_mark(objects)
    if kept is not None and (mark is None or mark.id != kept.decode()):
        state = "is empty" if mark is None else f"belongs to another database (its id is {mark.id})"
        raise _wrong(url, f"{state}, and this database keeps its files in a store with the id {kept.decode()}")
    if kept is not None:
        return own
    if not empty:
        raise _wrong(url, "lacks the files of this database: stop the Domain and run `pygrid store move`")
    if mark is None:
        objects.create(STORE_FILE, msgspec.json.encode(StoreMark(own)))
        mark = find_mark(objects)
    if mark is None or mark.id != own:
        raise _wrong(url, "belongs to another database: use an empty bucket or another prefix")
    database.write_now(lambda connection: put_state(connection, STORE_ID, own.encode()))
    return own


def find_mark(objects: Objects) -> StoreMark | None:
    """The mark of a store; None: it has none. Raises InvalidConfig: ``wrong_store``: it cannot be read."""
    try:
        return msgspec.json.decode(objects.read(STORE_FILE), type=StoreMark)
    except ObjectMissing:
        return None
    except msgspec.DecodeError as error:
        raise InvalidConfig(f"{STORE_FILE} of the store cannot be read: {error}", code=codes.WRONG_STORE) from error


def _replaces(objects: Objects, key: str, version: str | None) -> bool:
    known = objects.get_version(key)[1] if version is None else version
    return objects.replace(key, b"third", known)


def _takes_parts(objects: Objects, key: str, path: Path) -> bool:
    data = os.urandom(1024) * (MULTIPART_BYTES // 1024)
    path.write_bytes(data)
    try:
        objects.upload(key, path)
        return objects.read(key) == data
    finally:
        objects.delete([key])


def _deletes(objects: Objects, key: str) -> bool:
    objects.delete([key])
    return objects.find(key) is None


def _reason(error: Exception) -> str:
    """What the store answered, in one line: a code of S3 if there is one."""
    text = str(error if error.__cause__ is None else error.__cause__)
    code, message = (re.search(f"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message"))
    if code is not None:
        return f"{code[1]}: {message[1]}" if message is not None else code[1]
    return text.strip().split("\n")[0][:300] or type(error).__name__


def _wrong(url: str, why: str) -> InvalidConfig:
    return InvalidConfig(f"the store {url} {why}", code=codes.WRONG_STORE)
