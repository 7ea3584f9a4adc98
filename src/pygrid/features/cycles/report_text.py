"""Reads the JSON report of a client of 2020 in pieces: the text of ``diff`` passes through, and the rest is kept.

``{"worker_id": "...", "request_key": "...", "diff": "BASE64"}``, with the members in any order.
"""

from __future__ import annotations

import binascii
import re
from typing import Any

from pygrid import codes
from pygrid.errors import InvalidInput, PayloadTooLarge
from pygrid.messages.decoding import decode_json, in_pythons_words

MAX_OTHER_BYTES = 4096
"""Length of a report without the text of its diff."""
_QUOTE, _BACKSLASH, _COLON = b'"\\:'
_SPACE = b" \t\r\n"
_CONTROLS = bytes(range(32))
_DIFF = b"diff"
_MAX_ESCAPE = 6
"""Length of the longest escape of JSON: a backslash, u and four digits."""
_BINARY = re.compile(rb"[\x00-\x08]")
_UNICODE_ESCAPE = re.compile(rb"\\u00([0-9a-fA-F]{2})")


class ReportText:
    """Splits the JSON of a report into the text of its ``diff`` and the rest, of which at most 4 KiB are kept.

    Args:
        message_type: the report is ``data`` of a message of this type; empty: it is the whole JSON.
    """

    def __init__(self, message_type: str = "") -> None:
        self.envelope: dict[str, Any] = {}
        """The members next to ``data``."""
        self._message_type = message_type
        self._diff_depth = 2 if message_type else 1
        self.has_diff = False
        """Whether the text of the diff has begun."""
        self._other = bytearray()
        """The JSON with an empty text for the diff."""
        self._num_before = 0
        """Bytes of it before that text ends."""
        self._is_inside = False
        """The next byte is one of the diff's text."""
        self._is_escaped = False
        """The last byte was a backslash in a text."""
        self._text_at = -1
        """Where the current text begins in `_other`; -1: the next byte is not in a text."""
        self._depth = 0
        self._name = b""
        """The last text of an object at `_diff_depth`, if only a colon came after it."""
        self._has_colon = False

    def add(self, data: bytes) -> bytes:
        """Return the part of the diff's text in the next bytes, with its escapes.

        Raises:
            PayloadTooLarge: the rest is too long. InvalidInput: ``duplicate_key``, or a quote is escaped in the diff.
        """
        found, position = b"", 0
        while position < len(data):
            if self._is_inside:
                end = data.find(_QUOTE, position)
                part = data[position : end if end >= 0 else len(data)]
                if len(part.translate(None, _CONTROLS)) < len(part):
                    raise InvalidInput("the text is not JSON: a text has a control character", code=codes.INVALID_JSON)
                if part:
                    self._is_escaped = part[-1] == _BACKSLASH
                if end >= 0:
                    if self._is_escaped:
                        raise not_base64("it has a quote or a backslash")
                    self._is_inside = False
                    self._other.append(_QUOTE)
                found, position = found + part, position + len(part) + (end >= 0)
            else:
                position = self._read_other(data, position)
        return found

    @property
    def is_binary(self) -> bool:
        """Whether the bytes so far are not text, for example those of a native report without its key."""
        return bool(_BINARY.search(self._other))

    def members_before_diff(self) -> dict[str, Any]:
        """Return the members before the diff. Empty before the diff begins. Raises as `finish`."""
        end = b'"' + b"}" * self._diff_depth
        return self._decode(bytes(self._other[: self._num_before]) + end) if self.has_diff else {}

    def finish(self) -> dict[str, Any]:
        """Return the members of the whole report; ``diff`` is empty if it was split off.

        Raises:
            InvalidInput: as `decode_json`, or the report is not an object.
        """
        if self._is_inside:
            raise InvalidInput("the text is not JSON: it ends inside the diff", code=codes.INVALID_JSON)
        members = self._decode(bytes(self._other))
        if self.envelope.get("type", "") != self._message_type:
            raise InvalidInput(f"a message with 'diff' needs the type {self._message_type!r}", code=codes.UNKNOWN_TYPE)
        return members

    def _decode(self, text: bytes) -> dict[str, Any]:
        try:
            value = decode_json(text)
        except InvalidInput as error:
            if error.code == "invalid_json" and (words := in_pythons_words(text.decode(errors="replace"))):
                raise InvalidInput(words, code=codes.INVALID_JSON) from None
            raise
        if not isinstance(value, dict):
            raise InvalidInput("the report is not a JSON object")
        if not self._message_type:
            return value
        members = value.pop("data", None)
        self.envelope = value
        if not isinstance(members, dict):
            raise InvalidInput("'data' must be an object with the fields of the message", field="data")
        return members

    def _read_other(self, data: bytes, position: int) -> int:
        """Read bytes up to the text of the diff, and return the position after them."""
        for at in range(position, min(len(data), position + MAX_OTHER_BYTES + 1)):
            byte = data[at]
            is_beginning = byte == _QUOTE and self._text_at < 0 and self._has_colon and self._name == _DIFF
            self._note(byte)
            self._other.append(byte)
            if is_beginning:
                if self.has_diff:
                    raise InvalidInput("the JSON has an object with two members of one name", code=codes.DUPLICATE_KEY)
                self.has_diff = self._is_inside = True
                self._num_before = len(self._other)
                self._text_at, self._name, self._has_colon, self._is_escaped = -1, b"", False, False
                return at + 1
        if len(self._other) > MAX_OTHER_BYTES:
            raise PayloadTooLarge(
                f"the report may have at most {MAX_OTHER_BYTES} bytes in addition to its diff",
                max_bytes=MAX_OTHER_BYTES,
            )
        return len(data)

    def _note(self, byte: int) -> None:
        """Note what a byte outside of the diff's text means for the structure."""
        if self._text_at >= 0:
            if self._is_escaped:
                self._is_escaped = False
            elif byte == _BACKSLASH:
                self._is_escaped = True
            elif byte == _QUOTE:
                self._name = bytes(self._other[self._text_at :]) if self._depth == self._diff_depth else b""
                self._text_at, self._has_colon = -1, False
        elif byte == _QUOTE:
            self._text_at = len(self._other) + 1
        elif byte == _COLON:
            self._has_colon = True
        elif byte not in _SPACE:
            self._name, self._has_colon = b"", False
            self._depth += (byte in b"{[") - (byte in b"}]")


class DiffText:
    """Decodes the text of a diff: base64 in JSON, whose lines may be separated by white space."""

    def __init__(self) -> None:
        self._escape = b""
        """The beginning of an escape."""
        self._digits = b""
        """Fewer than four digits."""
        self._is_padded = False

    def add(self, text: bytes) -> bytes:
        """Return the bytes of the next part of the text. Raises InvalidInput: it is not base64."""
        text = self._unescape(self._escape + text)
        for space in (b" ", b"\n", b"\r", b"\t"):
            if space in text:
                text = text.replace(space, b"")
        text = self._digits + text
        if not text:
            return b""
        if self._is_padded:
            raise not_base64("it goes on after its padding")
        length = len(text) // 4 * 4
        text, self._digits = text[:length], text[length:]
        self._is_padded = text.endswith(b"=")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise not_base64(str(error)) from None

    def finish(self) -> None:
        """Check that the text is complete. Raises InvalidInput."""
        if self._escape or self._digits:
            raise not_base64("Incorrect padding")

    def _unescape(self, text: bytes) -> bytes:
        self._escape = b""
        if b"\\" not in text:
            return text
        if b"\\\\" in text:
            raise not_base64("it has a backslash")
        # Each backslash begins an escape now, so what follows cannot make new ones.
        at = text.rfind(b"\\", -_MAX_ESCAPE + 1)
        if at >= 0 and (at + 1 == len(text) or (text[at + 1 : at + 2] == b"u" and len(text) - at < _MAX_ESCAPE)):
            text, self._escape = text[:at], text[at:]
        for escape, meaning in ((b"\\n", b""), (b"\\r", b""), (b"\\t", b""), (b"\\/", b"/")):
            text = text.replace(escape, meaning)
        if b"\\" in text:
            text = _UNICODE_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text)
        if b"\\" in text:
            raise not_base64("it has an unknown escape")
        return text


def not_base64(why: str) -> InvalidInput:
    """The error for a diff that is not base64."""
    return InvalidInput(f"'diff' is not base64: {why}", field="diff")
