"""Opens the text of a CSV file as UTF-8, whatever its encoding and compression."""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa

from pygrid import codes
from pygrid.core.datasets import DatasetLimits
from pygrid.errors import InvalidDataset, PayloadTooLarge
from pygrid.messages.datasets import CsvOptions
from pygrid.tabular.csv_faults import TextFile
from pygrid.tabular.file_kinds import NUM_BYTES, check_kind, detect_compression

PIECE_BYTES = 1024**2
_KEPT_BYTES = 4 * 1024**2
"""Bytes before the last position that a `ConvertedText` keeps, because the reader goes back by the rest of a block."""
_CODECS = {"latin-1": "latin-1", "windows-1252": "cp1252", "utf-16": "utf-16"}
for _codec in ("utf-8", *_CODECS.values()):
    codecs.getincrementaldecoder(_codec)  # it cannot be imported inside the sandbox

Pieces = Callable[[], Iterator[bytes]]
"""Reads a text from its beginning, each time it is called."""


def open_text(file: BinaryIO, options: CsvOptions, limits: DatasetLimits) -> TextFile:
    """The text of a file, as UTF-8. It is unpacked and converted while it is read, in bounded memory.

    Raises:
        InvalidDataset: ``dataset_encoding``, ``dataset_malformed``, ``dataset_format_not_read``; also later, while the
            text is read. PayloadTooLarge: ``dataset_too_large``: it unpacks to more than its limit.
    """
    file.seek(0)
    compression = detect_compression(file.read(NUM_BYTES))
    codec = _CODECS.get(options.encoding)
    if codec is None and compression is None:
        return file

    def pieces() -> Iterator[bytes]:
        made = iter(lambda: file.read(PIECE_BYTES), b"")
        file.seek(0)
        if compression is not None:
            unpacked = _gunzip(made) if compression == "gzip" else _unzstd(file)
            made = _bounded(unpacked, limits.max_unpacked_bytes(os.fstat(file.fileno()).st_size))
        return made if codec is None else _recoded(made, codec, options.encoding)

    if compression is not None:
        check_kind(ConvertedText(pieces).read(NUM_BYTES), compression)
    return ConvertedText(pieces, is_unpacked=compression is not None)


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The text of one or more gzip members."""
    unpacker = zlib.decompressobj(31)
    for piece in pieces:
        while piece:
            if unpacker.eof:
                unpacker = zlib.decompressobj(31)
            try:
                unpacked = unpacker.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise InvalidDataset("the gzip file is damaged; send it again", code=codes.DATASET_MALFORMED) from error
            piece = unpacker.unused_data.lstrip(b"\0") if unpacker.eof else unpacker.unconsumed_tail
            while unpacked:
                yield unpacked
                # What is pending without further input.
                unpacked = b"" if piece or unpacker.eof else unpacker.decompress(b"", PIECE_BYTES)
    if not unpacker.eof:
        raise InvalidDataset("the gzip file is cut off; send it again", code=codes.DATASET_MALFORMED)


class _Unclosed:
    """A file that pyarrow does not close."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, num_bytes: int) -> bytes:
        return self._file.read(num_bytes)

    def close(self) -> None: ...


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    stream = pa.CompressedInputStream(pa.PythonFile(_Unclosed(file), "r"), "zstd")
    try:
        while piece := stream.read(PIECE_BYTES):
            yield piece
    except (OSError, pa.ArrowException) as error:
        raise InvalidDataset(f"the zstd file is damaged or cut off: {error}", code=codes.DATASET_MALFORMED) from error


def _bounded(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    num_bytes = 0
    for piece in pieces:
        num_bytes += len(piece)
        if num_bytes > max_bytes:
            raise PayloadTooLarge(
                f"the file unpacks to more than {max_bytes:,} bytes; send it uncompressed or in parts, or as Parquet",
                code=codes.DATASET_TOO_LARGE,
            )
        yield piece


def _recoded(pieces: Iterator[bytes], codec: str, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(codec)()
    num_lines = 0
    try:
        for piece in pieces:
            text = decoder.decode(piece)
            num_lines += text.count("\n")
            yield text.encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise InvalidDataset(
            f"the file is not {encoding} after line {num_lines}: {getattr(error, 'reason', error)}",
            code=codes.DATASET_ENCODING,
        ) from error


class ConvertedText:
    """A text that is made while it is read; going back far begins again from its beginning."""

    def __init__(self, pieces: Pieces, *, is_unpacked: bool = False) -> None:
        self.is_unpacked = is_unpacked
        self._make = pieces
        self._pieces = pieces()
        self._kept = bytearray()
        self._begin = 0
        """Position of the first kept byte."""
        self._position = 0

    def seek(self, position: int, /) -> int:
        """Go to a position; returns it."""
        if position < self._begin:
            self._pieces, self._kept, self._begin = self._make(), bytearray(), 0
        self._position = position
        return position

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def read(self, num_bytes: int, /) -> bytes:
        """The next bytes; fewer only at the end."""
        while self._begin + len(self._kept) < self._position + num_bytes:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._kept += piece
            if (surplus := self._position - self._begin - _KEPT_BYTES) > PIECE_BYTES:
                surplus = min(surplus, len(self._kept))
                del self._kept[:surplus]
                self._begin += surplus
        begin = self._position - self._begin
        data = bytes(self._kept[begin : begin + num_bytes])
        self._position += len(data)
        return data
