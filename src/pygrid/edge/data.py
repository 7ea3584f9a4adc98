"""Local data from files: arrays by the name of the plan's data port."""

from __future__ import annotations

import mmap
import os
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput, InvalidTensors
from pygrid.tensors import decode


def load_data(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a ``.npz`` or ``.safetensors`` file; those of a safetensors file are memory-mapped.

    Raises:
        InvalidInput: the file is missing, of another kind, or damaged, or holds objects (pickles).
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInput(
            f"there is no data file {os.fspath(path)!r}", code=codes.FILE_NOT_FOUND, path=os.fspath(path)
        )
    if file.suffix == ".npz":
        return _load_npz(file)
    if file.suffix == ".safetensors":
        return _load_safetensors(file)
    raise InvalidInput(
        f"{file.name} is not a .npz or .safetensors file; write numpy.savez({file.stem + '.npz'!r}, x=..., y=...) or a "
        "safetensors file, with the plan's data ports as names",
        code=codes.FILE_UNKNOWN,
    )


def _load_npz(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{file.name} can't be read as a .npz file of plain arrays: {error}", code=codes.FILE_DAMAGED
        ) from error


def _load_safetensors(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with file.open("rb") as opened:
            arrays, _ = decode(memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)))
    except (ValueError, InvalidTensors) as error:  # ValueError: an empty file can't be mapped
        raise InvalidInput(
            f"{file.name} can't be read as a safetensors file: {error}", code=codes.FILE_DAMAGED
        ) from error
    return arrays
