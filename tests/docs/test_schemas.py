"""The JSON files of docs/reference, and the examples of messages that other SDKs read.

Should happen: a file equals what `scripts/schemas` writes now; an example decodes, and encodes to the same bytes.
Should not happen: a struct without an example; an example that leaves out a field.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference

VECTORS = Path(__file__).parents[1] / "vectors" / "messages"


@pytest.mark.parametrize("name", reference.SCHEMAS)
def test_a_file_is_what_the_code_makes(name: str) -> None:
    assert (reference.FOLDER / name).read_text() == reference.schema_text(name), "run scripts/schemas"


def test_every_message_has_a_schema_and_no_reference_is_broken() -> None:
    document = json.loads(reference.schema_text("messages.schema.json"))
    defined = document["$defs"]
    assert {struct.__name__ for struct in reference.structs()} <= defined.keys()

    def references(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(references, node))
        if not isinstance(node, dict):
            return set()
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))

    assert {f"#/$defs/{name}" for name in defined} >= references(document)


def test_every_message_has_an_example() -> None:
    assert {path.stem for path in VECTORS.glob("*.json")} == {struct.__name__ for struct in reference.structs()}


@pytest.mark.parametrize("struct", reference.structs(), ids=lambda struct: struct.__name__)
def test_an_example_has_all_fields_and_encodes_to_the_same_bytes(struct: type[msgspec.Struct]) -> None:
    example = (VECTORS / f"{struct.__name__}.json").read_bytes()
    assert set(struct.__struct_encode_fields__) <= json.loads(example).keys()
    assert msgspec.json.encode(msgspec.json.decode(example, type=struct)) == example
