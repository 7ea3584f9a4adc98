"""The table of `examples/data/breast_cancer.csv`: what a data owner has, and what is kept aside to judge models by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

DATA_FILE = Path(__file__).parent / "data" / "breast_cancer.csv"
NUM_HELD_OUT = 114


@dataclass(frozen=True)
class Cells:
    """Measurements of cell nuclei and what they turned out to be, record for record.

    Attributes:
        measurements: float32 [num, 30], as published.
        malignant: int64 [num], 1 for malignant, 0 for benign.
    """

    measurements: npt.NDArray[np.float32]
    malignant: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.malignant)

    def take(self, rows: npt.NDArray[np.intp]) -> Cells:
        """The given records, copied."""
        return Cells(self.measurements[rows], self.malignant[rows])

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """By the names that they have as a dataset."""
        return {"measurements": self.measurements, "malignant": self.malignant}

    def ports(self) -> dict[str, npt.NDArray[np.generic]]:
        """By the names that the plan asks for."""
        return {"x": self.measurements, "y": self.malignant}


def load(path: Path = DATA_FILE) -> Cells:
    """All 569 records, in the order of the original file.

    Raises:
        FileNotFoundError, ValueError: the file is not there, or is not the one described in ``data/README.md``.
    """
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    if table.shape != (569, 31):
        raise ValueError(f"{path} is not the file described in {path.parent / 'README.md'}")
    return Cells(table[:, :30].astype(np.float32), table[:, 30].astype(np.int64))


def hold_out(cells: Cells, num: int = NUM_HELD_OUT, *, seed: int = 0) -> tuple[Cells, Cells]:
    """The records of the owner, and ``num`` others, drawn by chance, to judge models by."""
    order = np.random.default_rng(seed).permutation(len(cells))
    return cells.take(np.sort(order[num:])), cells.take(np.sort(order[:num]))
