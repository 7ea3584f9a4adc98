"""The rules of search: valid queries, matches, checks of untrusted answers, and ranking."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages.discovery import CatalogAnswer, CatalogSummary, Kind, SearchQuery

T = TypeVar("T")

MAX_WORDS = 20
MAX_ANSWER_BYTES = 256 * 1024
"""Bytes of the answer of one Domain."""
_ESCAPES = re.compile(rb"\\[bfru]")


def check_query(query: SearchQuery) -> SearchQuery:
    """The canonical form of a query: lower case, with sorted and unique words and tags.

    Raises:
        InvalidInput: ``invalid_search``: more than 20 words, or characters that are not printable.
    """
    words = sorted(set(query.text.casefold().split()))
    if len(words) > MAX_WORDS:
        raise _invalid("text", f"use at most {MAX_WORDS} words")
    tags = sorted({tag.strip().casefold() for tag in query.tags})
    fields = {
        "text": words,
        "tags": tags,
        "column": [query.column.strip().casefold()],
        "meaning": [query.meaning.strip().casefold()],
        "model": [query.model.strip()],
    }
    for name, texts in fields.items():
        if not all(text.isprintable() for text in texts):
            raise _invalid(name, "use printable characters")
    if not all(tags):
        raise _invalid("tags", "leave no tag empty")
    return SearchQuery(
        text=" ".join(words),
        tags=tuple(tags),
        column=fields["column"][0],
        dtype=query.dtype,
        meaning=fields["meaning"][0],
        model=fields["model"][0],
        kinds=tuple(sorted(set(query.kinds))),
    )


def asks_for(query: SearchQuery, kind: Kind) -> bool:
    """Whether items of this kind can match."""
    if query.kinds and kind not in query.kinds:
        return False
    of_datasets = bool(query.tags or query.column or query.dtype or query.meaning)
    return not (of_datasets and kind != "dataset") and not (query.model and kind != "model")


def mentions(said: Iterable[str], words: Sequence[str]) -> bool:
    """Whether the texts contain every word. The words are in lower case."""
    text = "\n".join(said).casefold()
    return all(word in text for word in words)


def relevance(words: Sequence[str], name: str, tags: Sequence[str] = ()) -> int:
    """The score of a match, from the words that are its name, one of its tags, or a part of its name."""
    name, known = name.casefold(), {tag.casefold() for tag in tags}
    score = 8 if words and name == " ".join(words) else 0
    for word in words:
        if word in name.split() or word == name:
            score += 4
        elif word in known:
            score += 3
        elif word in name:
            score += 2
    return score


def snippet(text: str, length: int) -> str:
    """The beginning of a text, with an ellipsis if the text is longer."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def check_foreign(answer: CatalogAnswer | CatalogSummary) -> int:
    """Check the size of an untrusted answer, and that it has no control characters.

    Returns:
        The bytes of the answer as JSON.
    Raises:
        InvalidInput: ``invalid_answer``.
    """
    encoded = msgspec.json.encode(answer)
    if len(encoded) > MAX_ANSWER_BYTES:
        raise _hidden(f"it has more than {MAX_ANSWER_BYTES:,} bytes")
    # JSON escapes control characters below U+0020. Escapes are rare, so only then each text is checked.
    if not encoded.decode().isprintable() or (
        _ESCAPES.search(encoded) and not _is_printable(msgspec.to_builtins(answer))
    ):
        raise _hidden("it has control characters")
    return len(encoded)


def _is_printable(value: Any) -> bool:
    """Whether all texts in a value are printable, except line breaks and tabs."""
    if isinstance(value, str):
        return value.replace("\n", "").replace("\t", "").isprintable()
    if isinstance(value, dict):
        return all(_is_printable(item) for item in value.values())
    return not isinstance(value, list | tuple) or all(_is_printable(item) for item in value)


def encoded_size(value: Any) -> int:
    """Bytes of a value as JSON."""
    return len(msgspec.json.encode(value))


class ByteLimit:
    """Takes items in order until their JSON has ``max_bytes`` or there are ``max_items``."""

    def __init__(self, max_bytes: int, max_items: int) -> None:
        self._bytes_left = max_bytes
        self._max_items = max_items
        self.is_full = False

    def take(self, items: Iterable[T]) -> tuple[T, ...]:
        """The items that fit. The number of items counts for each call, the bytes for all calls together."""
        taken: list[T] = []
        for item in items:
            self._bytes_left -= encoded_size(item) + 1
            if self._bytes_left < 0 or len(taken) == self._max_items:
                self.is_full = True
                break
            taken.append(item)
        return tuple(taken)


def _invalid(field: str, wanted: str) -> InvalidInput:
    return InvalidInput(f"{field} of a search: {wanted}", code=codes.INVALID_SEARCH, field=field)


def _hidden(why: str) -> InvalidInput:
    return InvalidInput(f"the answer is refused: {why}", code=codes.INVALID_ANSWER)
