"""Writes an example of each struct of `pygrid.messages` that has none: NAME.json, with every field present.

Other SDKs read the same files: an example decodes, and encodes to the same bytes. Run it after a struct is added:

    .venv/bin/python tests/vectors/messages/make.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec.json
from msgspec import inspect

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[2] / "scripts"))

from reference import structs  # noqa: E402

TEXTS = {
    "address": "https://domain.example",
    "coordinator": "https://hub.example",
    "description": "Handwritten digits",
    "email": "ann@example.org",
    "message": "done",
    "name": "digits",
    "network": "https://network.example",
    "reason": "to compare two hospitals",
    "sha256": "0f" * 32,
    "url": "https://domain.example",
    "version": "1.0",
}


def example(kind: inspect.Type, name: str = "") -> Any:
    """A value of a type, as JSON holds it; `name` is that of its field."""
    match kind:
        case inspect.Metadata():
            return example(kind.type, name)
        case inspect.UnionType():
            return example(next(one for one in kind.types if not isinstance(one, inspect.NoneType)), name)
        case inspect.NoneType():
            return None
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return max(kind.ge or 0, 1 if kind.gt is None else kind.gt + 1)
        case inspect.FloatType():
            return 0.5
        case inspect.StrType():
            return TEXTS.get(name, name or "text")[: kind.max_length].ljust(kind.min_length or 0, "-")
        case inspect.DateTimeType():
            return "2026-01-02T03:04:05Z"
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.TupleType():
            return [example(one, name) for one in kind.item_types]
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return [example(kind.item_type, name)]
        case inspect.DictType():
            return {example(kind.key_type, "name"): example(kind.value_type, name)}
        case inspect.StructType():
            tag = {} if kind.tag is None else {kind.tag_field: kind.tag}
            return tag | {field.encode_name: example(field.type, field.encode_name) for field in kind.fields}
        case _:
            return 1


def main() -> None:
    for struct in structs():
        path = FOLDER / f"{struct.__name__}.json"
        if not path.exists():
            path.write_bytes(msgspec.json.encode(example(inspect.type_info(struct))))


if __name__ == "__main__":
    main()
