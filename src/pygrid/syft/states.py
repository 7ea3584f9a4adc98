"""``execution.v1.State``: the arrays of a model or a diff, in the order of the model's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pygrid.syft.ids import write_id
from pygrid.syft.tensors import Array, read_tensor, tensor_pieces
from pygrid.syft.wire import Piece, WireReader, head_of, invalid, message_of, write_bytes, write_text

MAX_TENSORS = 10_000
FIELDS_PER_TENSOR = 40


def read_state(data: bytes | bytearray | memoryview) -> list[Array]:
    """The arrays of a State. Packed floats are views of ``data``, not copies.

    Raises:
        InvalidInput: ``invalid_protobuf``.
    """
    return read_state_in(WireReader(MAX_TENSORS * FIELDS_PER_TENSOR), memoryview(data).cast("B"), 0)


def read_state_in(reader: WireReader, data: memoryview, depth: int) -> list[Array]:
    """`read_state` of a State inside another message."""
    arrays: list[Array] = []
    for field in reader.fields(data, depth):
        if field.number == 2:
            if len(arrays) >= MAX_TENSORS:
                raise invalid(f"a State has more than {MAX_TENSORS:,} tensors")
            arrays.append(_read_state_tensor(reader, message_of(field), depth + 1))
    return arrays


def _read_state_tensor(reader: WireReader, data: memoryview, depth: int) -> Array:
    """The array of a StateTensor, which is a TorchTensor or a Parameter."""
    found: Array | None = None
    for field in reader.fields(data, depth):
        if field.number in (1, 2):
            if found is not None:
                raise invalid("an entry of a State has two tensors")
            inner = message_of(field)
            found = (
                read_tensor(reader, inner, depth + 1) if field.number == 1 else read_parameter(reader, inner, depth + 1)
            )
    if found is None:
        raise invalid("an entry of a State has no tensor")
    return found


def read_parameter(reader: WireReader, data: memoryview, depth: int) -> Array:
    """The array of a Parameter; its gradient is not read."""
    found: Array | None = None
    for field in reader.fields(data, depth):
        if field.number == 2:
            if found is not None:
                raise invalid("a parameter has two tensors")
            found = read_tensor(reader, message_of(field), depth + 1)
    if found is None:
        raise invalid("a parameter has no tensor")
    return found


def state_pieces(arrays: Sequence[Array]) -> list[Piece]:
    """The bytes of a State in pieces. Contiguous floats are not copied.

    Raises:
        InvalidInput: the dtype of an array is not supported.
    """
    pieces: list[Piece] = []
    for index in range(len(arrays)):
        placeholder = write_id(3, index) + write_text(4, f"#{index}") + write_text(4, f"#state-{index}")
        pieces.append(write_bytes(1, placeholder))
    for index, array in enumerate(arrays):
        inner = tensor_pieces(index, np.asarray(array))
        size = sum(map(len, inner))
        head = head_of(1, size)
        pieces += [head_of(2, len(head) + size) + head, *inner]
    return pieces


def write_state(arrays: Sequence[Array]) -> bytes:
    """The bytes of a State. Raises as `state_pieces`."""
    return b"".join(state_pieces(arrays))
