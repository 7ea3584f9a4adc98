"""The inputs of a job: columns, plan and model, mapped or read before the process enters the sandbox."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.core.datasets import STORED_DTYPES
from pygrid.core.job_spec import ColumnRef, JobSpec
from pygrid.errors import InvalidInput

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MappedColumns:
    """What a job works on, in memory or mapped."""

    columns: Mapping[str, Array]
    plan: bytes
    model: bytes


def open_inputs(spec: JobSpec) -> MappedColumns:
    """Map the columns, and read plan and model, without looking at their content.

    Raises:
        InvalidInput: a column's file is shorter than the data set says.
        OSError: a file is not there or can't be read.
    """
    columns = {name: _map(name, column) for name, column in spec.columns.items()}
    plan = Path(spec.plan_path).read_bytes() if spec.plan_path else b""
    model = Path(spec.model_path).read_bytes() if spec.model_path else b""
    return MappedColumns(columns, plan, model)


def _map(name: str, column: ColumnRef) -> Array:
    dtype = np.dtype(STORED_DTYPES[column.dtype])
    shape = (column.num_records, *column.shape)
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.zeros(shape, dtype)
    with open(column.path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < column.offset + count * dtype.itemsize:
            raise InvalidInput(f"the file of column {name!r} has {size:,} bytes, fewer than its {count:,} values need")
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
    return np.frombuffer(mapped, dtype, count, column.offset).reshape(shape)
