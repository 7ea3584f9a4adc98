"""The plan file: a canonical zip of ONNX graphs, a JSON manifest and the author's source.

    plan.json       the manifest (`pygrid.plans.manifest`)
    train.onnx      any of the graphs that the manifest lists: train, grads, eval, predict, average
    source.py.txt   the author's function, for a person to read; it is never run

Each content has exactly one file: the entries are stored in the order of their names, without timestamps, attributes,
comments or extra fields. So the SHA-256 of the file is the identity that an owner approves, and all zip readers agree
about the content.
Source of the layout: APPNOTE.TXT 6.3.3 (PKWARE), sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import binascii
import hashlib
import html
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import InvalidPlan
from pygrid.plans.manifest import FORMAT, Manifest
from pygrid.plans.overview import svg
from pygrid.plans.text import one_line
from pygrid.plans.variants import MAX_FILE_BYTES, SUFFIX, Variants, read_variants

MAX_PLAN_BYTES = 8 * 1024 * 1024
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_SOURCE_BYTES = 256 * 1024
MANIFEST_NAME = "plan.json"
SOURCE_NAME = "source.py.txt"
GRAPH_NAMES = ("train", "grads", "eval", "predict", "average")

_MEMBERS = frozenset({MANIFEST_NAME, SOURCE_NAME, *(f"{name}.onnx" for name in GRAPH_NAMES)})
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION = 20
_DATE = 0x21  # 1 January 1980, the earliest date that a zip file can store


@dataclass(frozen=True)
class Plan:
    """A parsed plan file, with its manifest. Build one with `from_bytes` or `load`.

    Reading checks the container: names, sizes, checksums, and that each graph has the SHA-256 of the manifest. It does
    not check the graphs: run `pygrid.plans.check` (the gate) on an untrusted plan before you run the plan.
    """

    data: bytes
    manifest: Manifest = field(compare=False)
    members: Mapping[str, bytes] = field(compare=False)
    variants: Variants | None = field(default=None, compare=False)
    """The plan for clients of 2020, if it was built for them; not part of the file."""

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Plan:
        """The plan in these bytes.

        Raises:
            InvalidPlan: the bytes are not a plan file, are too large (``plan_too_large``), or are inconsistent.
        """
        data = bytes(data) if len(data) <= MAX_PLAN_BYTES else _refuse_size(len(data))
        members = _read_members(data)
        for required in (MANIFEST_NAME, SOURCE_NAME):
            if required not in members:
                raise _malformed(f"the plan file has no {required}")
        manifest = _read_manifest(members[MANIFEST_NAME])
        if len(members[SOURCE_NAME]) > MAX_SOURCE_BYTES:
            raise _malformed(f"{SOURCE_NAME} is longer than {MAX_SOURCE_BYTES} bytes")
        _check_graphs(manifest, members)
        return cls(data, manifest, members)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """The plan in a file, with the variants in the file next to it.

        Raises:
            InvalidPlan: as `from_bytes`; or ``plan_variant_invalid``: the variants belong to another plan.
            OSError: the file cannot be read.
        """
        with Path(path).open("rb") as file:
            plan = cls.from_bytes(file.read(MAX_PLAN_BYTES + 1))
        beside = variants_path(path)
        if not beside.is_file():
            return plan
        with beside.open("rb") as file:
            return plan.with_variants(read_variants(file.read(MAX_FILE_BYTES + 1), plan.id))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file; an existing file is replaced completely or not at all.

        Variants are written to the file next to it, whose name ends with ``.variants``. One that is there without them
        belongs to another plan, and is removed.
        """
        write_atomically(Path(path), self.data, mode=0o666, sync=False)
        if self.variants is not None:
            write_atomically(variants_path(path), self.variants.to_bytes(), mode=0o666, sync=False)
        else:
            variants_path(path).unlink(missing_ok=True)

    def with_variants(self, variants: Variants) -> Plan:
        """The same plan with these variants."""
        return Plan(self.data, self.manifest, self.members, variants)

    @cached_property
    def id(self) -> str:
        """SHA-256 of the whole file, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def graph(self, name: str) -> bytes:
        """The ONNX bytes of a graph. Raises InvalidPlan: the plan has no such graph (``plan_graph_missing``)."""
        try:
            return self.members[f"{name}.onnx"]
        except KeyError:
            there = ", ".join(self.manifest.graphs) or "none"
            raise InvalidPlan(
                f"plan {self.manifest.name!r} has no graph {name!r}; it has {there}",
                code=codes.PLAN_GRAPH_MISSING,
                graph=name,
            ) from None

    @property
    def source(self) -> str:
        """The author's source. Bytes that are not UTF-8 are shown as U+FFFD."""
        return self.members[SOURCE_NAME].decode("utf-8", errors="replace")

    def __repr__(self) -> str:
        return f"Plan({self.manifest.name!r}, graphs={list(self.manifest.graphs)}, id={self.id[:12]}...)"

    def _repr_html_(self) -> str:
        manifest = self.manifest
        ports = [f"{name}: {port.dtype}{list(port.shape)} {port.meaning}" for name, port in manifest.data.items()]
        facts = {
            "plan": manifest.name,
            "kind": manifest.kind,
            "description": manifest.description,
            "graphs": ", ".join(manifest.graphs),
            "reads": "; ".join(ports),
            "hyperparameters": ", ".join(f"{name} {hyper.default:g}" for name, hyper in manifest.hyper.items()),
            "optimizer": manifest.optimizer,
            "SHA-256": self.id,
        }
        left = "style='text-align:left'"
        shown = [(name, html.escape(text)) for name, text in facts.items() if text]
        rows = (f"<tr><th {left}>{name}</th><td {left}>{text}</td></tr>" for name, text in shown)
        return f"<table>{''.join(rows)}</table>{svg(manifest)}"


def variants_path(path: str | os.PathLike[str]) -> Path:
    """The file with the variants of a plan file."""
    return Path(f"{os.fspath(path)}{SUFFIX}")


def build_archive(manifest: Manifest, graphs: Mapping[str, bytes], source: str) -> bytes:
    """The plan file of this content; equal content makes equal bytes.

    Raises:
        InvalidPlan: the content is not a valid plan, for example because a graph's hash differs from the manifest's.
    """
    members = {f"{name}.onnx": bytes(graph) for name, graph in graphs.items()}
    members[MANIFEST_NAME] = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    members[SOURCE_NAME] = source.encode()
    return Plan.from_bytes(_write_members(members)).data


def _malformed(detail: str) -> InvalidPlan:
    return InvalidPlan(detail, code=codes.PLAN_MALFORMED)


def _refuse_size(size: int) -> bytes:
    raise InvalidPlan(
        f"the plan file has {size:,} bytes or more; at most {MAX_PLAN_BYTES:,} are allowed. Weights belong in the "
        "checkpoint, not in the plan",
        code=codes.PLAN_TOO_LARGE,
    )


def _write_members(members: Mapping[str, bytes]) -> bytes:
    body, directory = bytearray(), bytearray()
    for name in sorted(members):
        content, encoded = members[name], name.encode("ascii")
        common = (_VERSION, 0, 0, 0, _DATE, binascii.crc32(content), len(content), len(content), len(encoded), 0)
        directory += _CENTRAL.pack(_CENTRAL_MAGIC, _VERSION, *common, 0, 0, 0, 0, len(body)) + encoded
        body += _LOCAL.pack(_LOCAL_MAGIC, *common) + encoded + content
    end = _END.pack(_END_MAGIC, 0, 0, len(members), len(members), len(directory), len(body), 0)
    return bytes(body + directory + end)


def _read_members(data: bytes) -> dict[str, bytes]:
    """Walk the local headers, then require that the file equals `_write_members` of the content, byte for byte.

    This comparison covers compression, encryption, duplicates, wrong checksums, comments, zip64 and hidden bytes.
    """
    members: dict[str, bytes] = {}
    position = 0
    while data[position : position + 4] == _LOCAL_MAGIC and len(members) < len(_MEMBERS):
        if position + _LOCAL.size > len(data):
            raise _malformed("the plan file ends inside an entry's header")
        _, _, _, method, _, _, _, packed, size, name_length, extra_length = _LOCAL.unpack_from(data, position)
        if method != 0 or packed != size or extra_length != 0:
            raise _malformed("the plan file is compressed or has extra fields; entries must be stored plainly")
        begin = position + _LOCAL.size + name_length
        if begin + size > len(data):
            raise _malformed("the plan file ends inside an entry")
        name = data[position + _LOCAL.size : begin].decode("latin-1")
        if name not in _MEMBERS:
            raise _malformed(f"the plan file contains {name[:80]!r}; only {', '.join(sorted(_MEMBERS))} are allowed")
        members[name] = data[begin : begin + size]
        position = begin + size
    if not members:
        raise _malformed("these bytes are not a plan file (no zip entry at the beginning)")
    if _write_members(members) != data:
        raise _malformed(
            "the plan file is not in canonical form (a wrong checksum, order, timestamp or attribute, or bytes before, "
            "between or after its entries); write it with pygrid, or as docs/reference/plan-format.md describes"
        )
    return members


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _read_manifest(data: bytes) -> Manifest:
    if len(data) > MAX_MANIFEST_BYTES:
        raise _malformed(f"{MANIFEST_NAME} is longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        # JSON parsers treat repeated keys differently, but the owner must read the same manifest as the machine.
        json.loads(data, object_pairs_hook=_unique_keys)
        manifest = msgspec.json.decode(data, type=Manifest)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{MANIFEST_NAME} is not a valid manifest: {one_line(str(error))}") from error
    if manifest.format != FORMAT:
        raise InvalidPlan(
            f"the plan is in format {manifest.format}; this version of pygrid reads format {FORMAT}",
            code=codes.PLAN_FORMAT_UNKNOWN,
        )
    return manifest


def _check_graphs(manifest: Manifest, members: Mapping[str, bytes]) -> None:
    for name in manifest.graphs:
        if name not in GRAPH_NAMES or f"{name}.onnx" not in members:
            raise _malformed(f"the manifest lists graph {name[:80]!r}, which the plan file does not contain")
        digest = hashlib.sha256(members[f"{name}.onnx"]).hexdigest()
        if digest != manifest.graphs[name].sha256:
            raise _malformed(f"graph {name!r} does not match the manifest: its SHA-256 differs")
    for member in members:
        if member.endswith(".onnx") and member.removesuffix(".onnx") not in manifest.graphs:
            raise _malformed(f"the plan file contains {member}, which the manifest does not list")
