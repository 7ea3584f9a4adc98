"""Names a file by its first bytes: the formats that are read, and others with what to do about them."""

from __future__ import annotations

import re

from pygrid import codes
from pygrid.errors import InvalidDataset
from pygrid.messages.datasets import Format

NUM_BYTES = 1024
"""Bytes that tell the kind of a file."""
_TABLE = "save the table as CSV or Parquet"
_ARRAYS = "save the arrays with numpy.savez as NPZ, or as safetensors"
_SAS = f"{_TABLE}, for example with pandas.read_sas"
_STATA = f"{_TABLE}, for example with pandas.read_stata"
_PICTURES = "read the pictures into one array with a first axis for the record, and save it as NPZ"
_UNPACK = "unpack it, and upload the table in it; CSV files are read in gzip and zstd too"
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", "a NumPy array (NPY)", "save it under the name of its column: numpy.savez('data.npz', NAME=array)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _ARRAYS),
    (b"CDF\x01", "a NetCDF file", _ARRAYS),
    (b"CDF\x02", "a NetCDF file", _ARRAYS),
    (b"MATLAB 5.0", "a MATLAB file", _ARRAYS),
    (b"SQLite format 3\0", "an SQLite database", "save one table or the answer of a query as CSV or Parquet"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file, such as an Excel workbook (xls)", _TABLE),
    (b"%PDF-", "a PDF document", "a table in a document is not read; " + _TABLE),
    (b"\x89PNG\r\n", "a PNG picture", _PICTURES),
    (b"\xff\xd8\xff", "a JPEG picture", _PICTURES),
    (b"GIF8", "a GIF picture", _PICTURES),
    (b"II*\0", "a TIFF picture", _PICTURES),
    (b"MM\0*", "a TIFF picture", _PICTURES),
    (b"BM", "a BMP picture", _PICTURES),
    (b"RIFF", "a WebP, WAV or AVI file", "save its values as an array in an NPZ file"),
    (b"OggS", "an Ogg file", "save its values as an array in an NPZ file"),
    (b"ID3", "an MP3 file", "save its values as an array in an NPZ file"),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed with LZ4", _UNPACK),
    (b"\x1f\x9d", "compressed with compress (Z)", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"PARE", "an encrypted Parquet file", "save it without encryption; the connection to the Domain is encrypted"),
    (b"FEA1", "a Feather file of version 1", "save it as Arrow (Feather version 2) or Parquet"),
    (b"ORC", "an ORC file", "save the table as Parquet"),
    (b"Obj\x01", "an Avro file", "save the table as Parquet"),
    (b"RDX", "an R data file", "write the data frame with write.csv(..., row.names = FALSE)"),
    (b"RDA", "an R data file", "write the data frame with write.csv(..., row.names = FALSE)"),
    (b"<stata_dta>", "a Stata file", _STATA),
    (b"\x72\x02\x01\0", "a Stata file", _STATA),
    (b"\x73\x02\x01\0", "a Stata file", _STATA),
    (bytes.fromhex("000000000000000000000000c2ea8160b31411cfbd92080009c7318c181f1011"), "a SAS file", _SAS),
    (b"HEADER RECORD*****", "a SAS transport file", _SAS),
    (b"$FL2", "an SPSS file", f"{_TABLE}, for example with pandas.read_spss"),
    (b"\x7fELF", "a program", _TABLE),
)
_OFFICE = (b"[Content_Types].xml", b"docProps/", b"_rels/", b"xl/", b"word/", b"customXml/")


def detect_format(first: bytes) -> Format:
    """The format of a file by its first bytes (16 or more, or the whole file); CSV if no other format fits."""
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if first.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz"
    if first[8:9] == b"{" and first[5:8] == b"\0\0\0":
        return "safetensors"
    return "csv"


def detect_compression(first: bytes) -> str | None:
    """The compression of a text by its first bytes: gzip, zstd or None."""
    if first.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if first.startswith(b"\x28\xb5\x2f\xfd") else None


def check_kind(first: bytes, within: str = "") -> None:
    """Refuse a file of a kind that is not read.

    Args:
        first: its first `NUM_BYTES` bytes, or the whole file.
        within: the compression in which these bytes are.
    Raises:
        InvalidDataset: ``dataset_format_not_read``.
    """
    found = _kind(first)
    if within and (again := detect_compression(first)):
        found = f"compressed with {again}", "unpack it once"
    if found is None and within and (form := detect_format(first)) != "csv":
        found = (
            f"a file of the format {form}",
            f"upload it without {within}; it is compressed already or not read in it",
        )
    if found is not None:
        what, advice = found
        raise InvalidDataset(
            f"the file is {what}{f', in {within}' if within else ''}, which is not read: {advice}",
            code=codes.DATASET_FORMAT_NOT_READ,
        )


def _kind(first: bytes) -> tuple[str, str] | None:
    """What a file is, and what to do; None: it can be of a format that is read."""
    is_text = _is_text(first)
    for start, what, advice in _STARTS:
        if first.startswith(start) and (len(start) > 4 or not is_text):
            return what, advice
    if first.startswith(b"PK\x03\x04"):
        return _kind_of_zip(first)
    if first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "a pickle of Python objects",
            "pickles are never loaded; save the table as CSV or Parquet, or arrays as NPZ",
        )
    if not is_text and first[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if not is_text and first[128:132] == b"DICM":
        return "a DICOM image", _PICTURES
    if first[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI image", _ARRAYS
    if not is_text and first[4:8] == b"ftyp":
        return "a video or HEIC picture", _PICTURES
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:5].lower() == b"<?xml" or re.match(rb"<(!doctype|html|table|svg)\b", text[:16].lower()):
        return "an XML or HTML document", _TABLE
    if re.match(rb'[\[{]\s*(["\[{\]}]|-?\d)', text) and is_text:
        return "a JSON text", "save it as CSV or Parquet, for example with pandas.json_normalize"
    return None


def _kind_of_zip(first: bytes) -> tuple[str, str] | None:
    name = first[30 : 30 + int.from_bytes(first[26:28], "little")]
    if name.startswith(_OFFICE):
        return "an Office file, such as an Excel workbook (xlsx)", _TABLE
    if name == b"mimetype":
        return "an OpenDocument file, such as a LibreOffice table (ods)", _TABLE
    if name.endswith(b"data.pkl"):
        return "a file of torch.save", "save its tensors as safetensors"
    if name.lower().endswith(
        (b".csv", b".tsv", b".txt.csv", b".parquet", b".json", b".xlsx", b".png", b".jpg", b".jpeg")
    ):
        return "a zip archive", _UNPACK
    return None


def _is_text(first: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1a\x7f]", first)
