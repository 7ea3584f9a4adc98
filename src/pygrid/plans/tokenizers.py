"""Turns texts into tokens: whole numbers that a plan can take.

    bytes          the bytes of the text in UTF-8; 0 is padding                                       256 tokens
    words:SHA256   numbers of words of a vocabulary from 2; 1 is any other word, 0 is padding     words + 2 tokens

A text has a fixed number of tokens: the rest of a longer one is cut, and a shorter one is padded at its end. The name
of a tokenizer stands in the manifest of a plan and in the schema of a dataset, so that both mean the same tokens.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BYTES = "bytes"
NUM_BYTES = 256
MAX_LENGTH = 8192
"""Tokens of a text."""
MAX_WORDS = 100_000
MAX_WORD = 100
_WORD = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"bytes|words:[0-9a-f]{64}")


@dataclass(frozen=True)
class Tokenizer:
    """Texts to tokens.

    Args:
        words: the vocabulary, in the order of its numbers; None: the tokens are bytes.
    Raises:
        ValueError: a word is empty, repeated, too long, or could not occur; or there are too many.
    """

    words: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.words is None:
            return
        if not 1 <= len(self.words) <= MAX_WORDS or len(self._numbers) != len(self.words):
            raise ValueError(f"a vocabulary has 1 to {MAX_WORDS:,} words, each of them once")
        for word in self.words:
            if len(word) > MAX_WORD or _WORD.fullmatch(word) is None or word != word.lower():
                raise ValueError(
                    f"{word[:MAX_WORD]!r} is not a word of a vocabulary; a word is in lower case, and is letters, "
                    "digits and _ or a single other character"
                )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words or (), 2)}

    @cached_property
    def name(self) -> str:
        """The name that manifests and schemas have."""
        if self.words is None:
            return BYTES
        return f"words:{hashlib.sha256(chr(10).join(self.words).encode()).hexdigest()}"

    @property
    def num_tokens(self) -> int:
        """Number of different tokens."""
        return NUM_BYTES if self.words is None else len(self.words) + 2

    def encode(self, texts: Sequence[str], length: int) -> npt.NDArray[Any]:
        """The tokens of each text: uint8 (bytes) or int32 ``[len(texts), length]``."""
        tokens = np.zeros((len(texts), length), np.uint8 if self.words is None else np.int32)
        for row, text in enumerate(texts):
            if self.words is None:
                found: Any = np.frombuffer(text.encode()[:length], np.uint8)
            else:
                found = [self._numbers.get(word, 1) for word in _WORD.findall(text.lower())[:length]]
            tokens[row, : len(found)] = found
        return tokens


def read_vocabulary(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The words of a vocabulary file: UTF-8, one word in each line. Raises ValueError: the file cannot be read."""
    try:
        return tuple(Path(path).read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the vocabulary {path} cannot be read: {error}") from error


def is_tokenizer_name(name: str) -> bool:
    """Whether a manifest can have this name."""
    return _NAME.fullmatch(name) is not None


def tokenize(
    texts: Sequence[str], length: int, vocabulary: str | os.PathLike[str] | Sequence[str] | None = None
) -> npt.NDArray[np.int64]:
    """The tokens of texts, as a plan with ``pygrid.Text(length, vocabulary)`` takes them; int64.

    Args:
        length: tokens of each text.
        vocabulary: words, or a file with one word in each line; None: the tokens are bytes.
    Returns:
        ``[len(texts), length]``.
    Raises:
        ValueError: the vocabulary is not valid.
    """
    return tokenizer_of(vocabulary).encode(list(texts), length).astype(np.int64)


def tokenizer_of(vocabulary: str | os.PathLike[str] | Sequence[str] | None) -> Tokenizer:
    """The tokenizer of words, of a file of words, or of bytes. Raises ValueError: the vocabulary is not valid."""
    if vocabulary is None:
        return Tokenizer()
    is_path = isinstance(vocabulary, (str, os.PathLike))
    return Tokenizer(read_vocabulary(vocabulary) if is_path else tuple(vocabulary))  # type: ignore[arg-type]
