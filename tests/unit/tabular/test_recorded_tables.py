"""CSV files of every kind, and what version 0.1 made of them.

Should happen: the same schema and the same stored bytes, or a refusal with the same code and line. Since version 0.2
infinity is a number, spaces around a number are left out, and a first line that nothing tells from a record needs
``header``.
Should not happen: a file of this list is stored differently by another version of the reader.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pygrid.core.datasets import ColumnDeclaration
from pygrid.errors import PygridError
from pygrid.messages.datasets import CsvOptions
from pygrid.storage.columns import ColumnDraft
from pygrid.tabular.csv_reader import read
from pygrid.tabular.table_writer import TableDeclaration, TableWriter

TABLES = Path(__file__).parents[2] / "vectors" / "tables"
EXPECTED: dict[str, dict[str, Any]] = json.loads((TABLES / "expected.json").read_text(encoding="utf-8"))


def content_of(name: str) -> bytes:
    packed = TABLES / f"{name}.csv.gz"
    return gzip.decompress(packed.read_bytes()) if packed.exists() else (TABLES / f"{name}.csv").read_bytes()


def outcome_of(content: bytes, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    (folder / "file").write_bytes(content)
    (folder / "columns").mkdir()
    columns = msgspec.convert(options.get("columns", ()), tuple[ColumnDeclaration, ...])
    subject = options.get("subject"), options.get("max_records_per_subject")
    declared = TableDeclaration(columns, options.get("skip", ()), *subject)
    writer = TableWriter(ColumnDraft(folder / "columns"), declared, uploaded_bytes=len(content))
    try:
        with (folder / "file").open("rb") as file:
            read(file, writer, msgspec.convert(options.get("csv", {}), CsvOptions))
        schema = writer.finish()
    except PygridError as error:
        line = {"line": error.fields["line"]} if "line" in error.fields else {}
        return {"refusal": error.code, **line}
    finally:
        writer.close()
    stored = [shortened((folder / "columns" / f"{index}.bin").read_bytes()) for index in range(len(schema.columns))]
    return {"schema": json.loads(msgspec.json.encode(schema)), "columns": stored}


def shortened(stored: bytes) -> str:
    """Bytes in hexadecimal, or the SHA-256 of more than 64."""
    return stored.hex() if len(stored) <= 64 else f"sha256:{hashlib.sha256(stored).hexdigest()}"


def test_each_file_has_an_outcome() -> None:
    files = {path.name.removesuffix(".gz").removesuffix(".csv") for path in TABLES.iterdir()} - {"expected.json"}
    assert files == EXPECTED.keys()
    assert len(files) > 60


@pytest.mark.parametrize("name", EXPECTED)
def test_a_table_is_stored_as_recorded(name: str, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    options = expected.get("options", {})
    assert outcome_of(content_of(name), tmp_path, options) == {
        key: expected[key] for key in expected if key != "options"
    }
