"""The exported head of the audit log as an object, ``audit/head.json``."""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.storage.audit import Head
from pygrid.storage.blobs.objects import ObjectMissing, Objects, store_failed

KEY = "audit/head.json"
_ATTEMPTS = 5


class HeadObject:
    """The head in a store of objects; it only goes up."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._raised_to = 0

    def find(self) -> Head | None:
        """The head; None: there is none. Raises InvalidInput: ``invalid_audit_head``. Unavailable."""
        return self._find()[0]

    def raise_to(self, head: Head) -> None:
        """Replace the head by a later one; an earlier one changes nothing. Raises as `find`."""
        if head.number <= self._raised_to:
            return
        for _ in range(_ATTEMPTS):
            known, version = self._find()
            if known is not None and known.number >= head.number:
                break
            # A lost answer looks like a conflict; then the next look finds the head there.
            if self._objects.replace(KEY, msgspec.json.encode(asdict(head)) + b"\n", version):
                break
        else:
            raise store_failed("the audit head changes all the time")
        self._raised_to = head.number

    def _find(self) -> tuple[Head | None, str | None]:
        try:
            data, version = self._objects.get_version(KEY)
        except ObjectMissing:
            return None, None
        try:
            return msgspec.json.decode(data, type=Head), version
        except msgspec.DecodeError as error:
            raise InvalidInput(
                f"{KEY} in the store is not an exported head of an audit log: {error}", code=codes.INVALID_AUDIT_HEAD
            ) from error
