"""The plan file: one content, one file; anything else is refused with words."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.errors import InvalidPlan
from pygrid.plans import MAX_PLAN_BYTES, Plan, build_archive
from pygrid.plans.archive import _write_members
from support.plans.handmade import logistic_graphs, logistic_manifest, logistic_plan
from support.thorough import examples

PLAN = logistic_plan()


def members() -> dict[str, bytes]:
    return dict(PLAN.members)


def with_manifest(**changes: Any) -> bytes:
    document = {**msgspec.json.decode(PLAN.members["plan.json"]), **changes}
    return _write_members({**members(), "plan.json": msgspec.json.encode(document)})


def test_the_same_content_is_the_same_file():
    assert logistic_plan().data == PLAN.data
    assert PLAN.id == hashlib.sha256(PLAN.data).hexdigest()
    assert logistic_plan(source="def loss(): pass\n").id != PLAN.id


def test_a_plan_reads_back(tmp_path):
    PLAN.save(tmp_path / "a.plan")
    loaded = Plan.load(tmp_path / "a.plan")
    assert loaded == PLAN
    assert loaded.manifest == PLAN.manifest
    assert loaded.source == "def loss(model, x, y): ...\n"
    assert hashlib.sha256(loaded.graph("train")).hexdigest() == loaded.manifest.graphs["train"].sha256
    assert list(tmp_path.iterdir()) == [tmp_path / "a.plan"]


def test_any_zip_program_can_read_a_plan():
    with zipfile.ZipFile(io.BytesIO(PLAN.data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["eval.onnx", "grads.onnx", "plan.json", "source.py.txt", "train.onnx"]
        assert archive.read("train.onnx") == PLAN.graph("train")


def test_a_graph_that_is_not_there_is_named():
    with pytest.raises(InvalidPlan, match="has no graph 'average'; it has train, grads, eval") as error:
        PLAN.graph("average")
    assert error.value.code == "plan_graph_missing"


def test_the_writer_refuses_graphs_that_the_manifest_does_not_describe():
    manifest, graphs = logistic_manifest(logistic_graphs())
    with pytest.raises(InvalidPlan, match="SHA-256 differs"):
        build_archive(manifest, {**graphs, "train": graphs["eval"]}, "")
    with pytest.raises(InvalidPlan, match="does not contain"):
        build_archive(manifest, {"train": graphs["train"]}, "")


def zipped(compression: int = zipfile.ZIP_STORED, **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in sorted({**members(), **extra}.items()):
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def swapped_size(data: bytes) -> bytes:
    """The first entry claims to be longer than it is."""
    return data[:18] + struct.pack("<II", 2**31, 2**31) + data[26:]


BROKEN = {
    "empty": (b"", "not a plan file"),
    "text": (b"hello", "not a plan file"),
    "compressed": (zipped(zipfile.ZIP_DEFLATED), "compressed"),
    "made by another zip program": (zipped(), "canonical form"),
    "an unknown member": (_write_members({**members(), "evil.py": b""}), "contains 'evil.py'"),
    "a path as member": (_write_members({**members(), "../plan.json": b""}), r"contains '\.\./plan.json'"),
    "no manifest": (_write_members({"source.py.txt": b""}), "no plan.json"),
    "no source": (_write_members({k: v for k, v in members().items() if k != "source.py.txt"}), r"no source.py.txt"),
    "a graph too many": (
        _write_members({**members(), "average.onnx": b""}),
        "average.onnx, which the manifest does not list",
    ),
    "a graph too few": (
        _write_members({k: v for k, v in members().items() if k != "eval.onnx"}),
        "'eval', which the plan file",
    ),
    "a huge source": (_write_members({**members(), "source.py.txt": b" " * 300_000}), "longer than"),
    "bytes after": (PLAN.data + b"\0", "canonical form"),
    "bytes before": (b"\0" + PLAN.data, "not a plan file"),
    "cut": (PLAN.data[:-1], "canonical form"),
    "cut in an entry": (PLAN.data[:100], "ends inside an entry"),
    "cut in a header": (PLAN.data[:20], "ends inside an entry's header"),
    "a size beyond the end": (swapped_size(PLAN.data), "ends inside an entry"),
    "no JSON": (_write_members({**members(), "plan.json": b"{"}), "not a valid manifest"),
    "deep JSON": (_write_members({**members(), "plan.json": b"[" * 100_000}), "not a valid manifest"),
    "an unknown field": (with_manifest(python="import os"), "not a valid manifest"),
    "a graph of an unknown name": (
        with_manifest(graphs={"evil": msgspec.to_builtins(PLAN.manifest.graphs["train"])}),
        "'evil'",
    ),
    "a wrong type": (with_manifest(max_batch_size="many"), "not a valid manifest"),
    "a key twice": (_write_members({**members(), "plan.json": b'{"format": 1, "format": 1}'}), "a key occurs twice"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_words(name):
    data, reason = BROKEN[name]
    with pytest.raises(InvalidPlan, match=reason) as error:
        Plan.from_bytes(data)
    assert error.value.code == "plan_malformed"


def test_a_file_that_is_too_large_is_refused_before_it_is_read():
    with pytest.raises(InvalidPlan, match="Weights belong in the checkpoint") as error:
        Plan.from_bytes(bytes(MAX_PLAN_BYTES + 1))
    assert error.value.code == "plan_too_large"


def test_a_later_format_is_refused_by_number():
    with pytest.raises(InvalidPlan, match="format 2; this version of pygrid reads format 1") as error:
        Plan.from_bytes(with_manifest(format=2))
    assert error.value.code == "plan_format_unknown"


def test_a_second_directory_entry_for_the_same_name_is_refused():
    """Two zip readers could each see another graph; here neither is seen."""
    twice = zipped()
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(buffer := io.BytesIO(twice), "a") as archive,
    ):
        archive.writestr("plan.json", b"{}")
    with pytest.raises(InvalidPlan):
        Plan.from_bytes(buffer.getvalue())


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(0, len(PLAN.data) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(position, change):
    data = bytearray(PLAN.data)
    data[position] ^= change
    with pytest.raises(InvalidPlan):
        Plan.from_bytes(data)


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(0, len(PLAN.data) - 1))
def test_no_byte_can_be_cut_off(length):
    with pytest.raises(InvalidPlan):
        Plan.from_bytes(PLAN.data[:length])


def test_checksums_are_checked_even_if_the_hash_is_not_involved():
    data = PLAN.data.replace(b"def loss", b"def miss")
    assert zlib.crc32(data) != zlib.crc32(PLAN.data)
    with pytest.raises(InvalidPlan, match="wrong checksum"):
        Plan.from_bytes(data)
