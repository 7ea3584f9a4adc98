"""Diagonals, rotations and parts as arithmetic, for arrays whose axes can be the batch size; as in `functions`.

Torch makes them of strided views, which a graph does not have. Losses that compare each example of a batch with each
other one (InfoNCE, SimCLR) need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def places(rows: Any, columns: Any, offset: int) -> torch.Tensor:
    """True where ``column - row`` is the offset; [rows, columns]."""
    return torch.arange(columns).unsqueeze(0) - torch.arange(rows).unsqueeze(1) == offset


def _zero(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=x.dtype)


def diagonal(input: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """As `torch.diagonal`; a copy if its length depends on the batch size in another way than the array's."""
    rows, columns = input.shape[dim1], input.shape[dim2]
    if type(rows) is type(columns) and (offset == 0 or isinstance(rows, int)):
        return torch.ops.aten.diagonal.default(input, offset, dim1, dim2)
    return diagonal_copy(input, offset, dim1, dim2)


def diagonal_copy(input: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    x = input.movedim((dim1, dim2), (-2, -1))
    rows, columns = x.shape[-2:]
    by_row = torch.where(places(rows, columns, offset), x, _zero(x)).sum(-1, dtype=x.dtype)
    if offset == 0 and (rows is columns or rows == columns):
        return by_row
    first = max(-offset, 0)
    return by_row[..., first : first + max(min(rows - first, columns - max(offset, 0)), 0)]


def diag(input: torch.Tensor, diagonal: int = 0) -> torch.Tensor:
    """As `torch.diag`; the result is a copy."""
    return _diagonal_of(input, diagonal) if input.dim() == 2 else diag_embed(input, diagonal)


_diagonal_of = diagonal


def diag_embed(input: torch.Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> torch.Tensor:
    """As `torch.diag_embed`."""
    size = input.shape[-1] + abs(offset)
    # The row of element i is i - min(offset, 0): zeros come before it, or after the last one.
    rows = torch.nn.functional.pad(input, (max(-offset, 0), max(offset, 0))) if offset else input
    matrix = torch.where(places(size, size, offset), rows.unsqueeze(-1), _zero(input))
    return matrix.movedim((-2, -1), (dim1, dim2))


def fill_diagonal(input: torch.Tensor, fill_value: float, wrap: bool = False) -> torch.Tensor:
    """As `torch.Tensor.fill_diagonal_`, for matrices; in place."""
    return input.masked_fill_(places(input.shape[0], input.shape[1], 0), fill_value)


def roll(input: torch.Tensor, shifts: Any, dims: Any = ()) -> torch.Tensor:
    """As `torch.roll`, by look-up; an axis can be the batch."""
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    if not axes:
        return roll(input.reshape(-1), shifts, 0).reshape(input.shape)
    for axis, shift in zip(axes, shifts if isinstance(shifts, Sequence) else (shifts,), strict=True):
        size = input.shape[axis]
        input = input.index_select(axis, torch.remainder(torch.arange(size) - shift, size))
    return input


def chunk(input: torch.Tensor, chunks: int, dim: int = 0) -> Any:
    """As `torch.chunk`; an axis of several batches is cut into batches."""
    size = input.shape[dim]
    if isinstance(size, int):
        return split(input, -(-size // chunks), dim)
    return input.unflatten(dim, (chunks, size // chunks)).unbind(dim)


def split(tensor: torch.Tensor, split_size_or_sections: Any, dim: int = 0) -> Any:
    """As `torch.split`; an axis of several batches is cut into batches, or into sections."""
    size, part = tensor.shape[dim], split_size_or_sections
    if isinstance(part, Sequence):
        starts = [sum(part[:position]) for position in range(len(part))]
        return tuple(tensor.narrow(dim, start, length) for start, length in zip(starts, part, strict=True))
    if isinstance(size, int):
        return torch.ops.aten.split.Tensor(tensor, part, dim)
    return tensor.unflatten(dim, (size // part, part)).unbind(dim)


TRACED: dict[Any, Callable[..., Any]] = {
    torch.diagonal: diagonal,
    torch.Tensor.diagonal: diagonal,
    torch.diag: diag,
    torch.Tensor.diag: diag,
    torch.diag_embed: diag_embed,
    torch.Tensor.diag_embed: diag_embed,
    torch.Tensor.fill_diagonal_: fill_diagonal,
    torch.roll: roll,
    torch.Tensor.roll: roll,
    torch.chunk: chunk,
    torch.Tensor.chunk: chunk,
    torch.split: split,
    torch.Tensor.split: split,
}
"""Function of torch -> function with the same arguments."""
