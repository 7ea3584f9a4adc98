"""What the SDK makes of a table before it sends it, and of a dataset when it shows it."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygrid.client.datasets import DatasetTable, _request
from pygrid.client.display.uploads import shown_upload
from pygrid.client.table_files import arrays_of, body_of, save_npz
from pygrid.errors import InvalidInput
from pygrid.messages.datasets import ColumnDeclaration, DatasetSummary, UploadRequest
from pygrid.transport.base import BytesBody


class Frame:
    """What a data frame looks like from outside."""

    columns = ("a", "t")

    def __getitem__(self, name: str) -> Any:
        return {"a": [1, 2], "t": np.array(["x", "y"], dtype=object)}[name]


def test_mappings_and_frames_becomearrays_of() -> None:
    arrays = arrays_of(Frame())
    assert list(arrays) == ["a", "t"]
    assert arrays["t"].dtype.kind == "U"
    assert arrays_of({"z": [1.5], "a": ["x"]})["z"].tolist() == [1.5]


@pytest.mark.parametrize("source", [3, [1, 2], {"a": np.array([{}])}, {"a": np.array(["x", 1], dtype=object)}])
def test_what_is_no_table_is_refused(source: Any) -> None:
    with pytest.raises(InvalidInput):
        arrays_of(source)


def test_any_name_can_be_written(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "a b": np.array(["x", "y", "é"])}
    save_npz(arrays, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as read:
        assert {name: read[name].tolist() for name in read.files} == {"file": [0, 1, 2], "a b": ["x", "y", "é"]}


def test_arrays_are_sent_from_a_file_that_is_gone_afterwards() -> None:
    with contextlib.ExitStack() as stack:
        body = body_of({"a": np.arange(1000)}, stack)
        assert len(b"".join(bytes(piece) for piece in body)) == body.num_bytes > 8000
        path = body.path  # type: ignore[attr-defined]
        assert path.is_file()
    assert not path.exists()
    with contextlib.ExitStack() as stack, pytest.raises(InvalidInput, match="there is no file"):
        body_of("nowhere.csv", stack)


def test_columns_are_said_in_three_ways() -> None:
    declared = ColumnDeclaration("c", dtype="int32")
    for columns in ({"c": {"dtype": "int32"}}, [declared], [{"name": "c", "dtype": "int32"}]):
        assert _request(UploadRequest, {"columns": columns}, name="x").columns == (declared,)
    assert _request(UploadRequest, {"columns": {"c": "label 0..9"}}, name="x").columns[0].meaning == "label 0..9"
    with pytest.raises(InvalidInput, match="colums"):
        _request(UploadRequest, {"colums": {}}, name="x")


def test_progress_follows_the_bytes_and_changes_none(capsys: pytest.CaptureFixture[str]) -> None:
    data = bytes(range(256)) * 5000
    with shown_upload(BytesBody(data), True) as body:
        assert body.num_bytes == len(data)
        assert b"".join(bytes(piece) for piece in body) == data
        assert b"".join(bytes(piece) for piece in body) == data, "a retry sends it again"
    shown = capsys.readouterr().err.splitlines()
    assert shown[-2:] == ["1.28 MB sent, checking", "1.28 MB sent and stored"]
    with pytest.raises(InvalidInput), shown_upload(BytesBody(data), True):
        raise InvalidInput("a record has no number")
    assert capsys.readouterr().err == "1.28 MB, ended by an error\n"
    with shown_upload(BytesBody(data), False) as body:
        assert isinstance(body, BytesBody)


def test_a_table_in_a_notebook_runs_no_script() -> None:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    evil = "<script>x</script>"
    one = DatasetSummary(1, evil, evil, (evil,), "public", 1, 1000, 2, 3000, now, now, False)
    shown = DatasetTable([one])._repr_html_()
    assert "<script" not in shown
    assert "1,000" in shown
