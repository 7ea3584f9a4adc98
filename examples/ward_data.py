"""Visits to two hospitals as their systems export them: CSV files with an index, gaps, categories and dates.

python examples/ward_data.py north 2024 visits.csv
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import numpy as np

WARDS = ("geriatrics", "medicine", "surgery")
MAX_VISITS = 4
"""Visits of one patient in a year."""


def write(path: str | Path, hospital: str, year: int, num_patients: int = 500) -> Path:
    """Write the visits of a year: one line each, 1 to 4 lines for each patient.

    Older patients, those of geriatrics and those with inflammation (C-reactive protein) come back more often. A fifth
    of the laboratory values were not taken.
    """
    rng = np.random.default_rng([year, *hospital.encode()])
    lines = [",patient,born,seen,sex,ward,crp,readmitted"]
    for patient in range(num_patients):
        born = dt.date(int(rng.integers(year - 95, year - 20)), 1, 1) + dt.timedelta(int(rng.integers(365)))
        sex = rng.choice(["f", "m"])
        for _ in range(rng.choice([1, 2, 3, MAX_VISITS], p=[0.5, 0.3, 0.15, 0.05])):
            seen = dt.date(year, 1, 1) + dt.timedelta(int(rng.integers(365)))
            ward = rng.choice(WARDS, p=[0.2, 0.5, 0.3] if hospital == "north" else [0.4, 0.3, 0.3])
            crp = float(np.clip(rng.lognormal(2.5, 1.0), 0.5, 300.0))
            score = (year - born.year - 60) / 10 + 1.5 * (ward == "geriatrics") + np.log(crp / 12) - 0.5
            readmitted = "yes" if rng.random() < 1 / (1 + np.exp(-1.5 * score)) else "no"
            taken = f"{crp:.1f}" if rng.random() < 0.8 else ""
            lines.append(
                f"{len(lines) - 1},{hospital[0].upper()}{patient:04},{born},{seen},{sex},{ward},{taken},{readmitted}"
            )
    Path(path).write_text("\n".join(lines) + "\n")
    return Path(path)


if __name__ == "__main__":
    write(sys.argv[3], sys.argv[1], int(sys.argv[2]))
