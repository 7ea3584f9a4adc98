"""A sample dataset, with which a new Domain can be tried without data of one's own."""

from __future__ import annotations

from pathlib import Path

from litestar.datastructures import State

from pygrid.core.access import Principal
from pygrid.features.datasets.intake import UploadedFiles
from pygrid.features.datasets.uploads import UploadsService
from pygrid.messages.datasets import ColumnDeclaration, DatasetInfo, UploadRequest
from pygrid.web.services import service

FILE = Path(__file__).parent / "samples" / "cells.csv"
NAME = "cells"
_UPPER = {
    "radius": 60.0,
    "texture": 60.0,
    "perimeter": 400.0,
    "area": 6000.0,
    "smoothness": 1.0,
    "compactness": 2.0,
    "concavity": 2.0,
    "concave_points": 1.0,
    "symmetry": 1.0,
    "fractal_dimension": 1.0,
}
"""The largest value that each measurement can have; the smallest is 0."""


def sample_request() -> UploadRequest:
    """Return the description of the sample. Its bounds come from the meaning of the columns."""
    columns = [
        ColumnDeclaration(f"{part}_{name}", min=0.0, max=upper)
        for part in ("mean", "se", "worst")
        for name, upper in _UPPER.items()
    ]
    # Statistics ask for single measurements, models read all of them.
    together = ColumnDeclaration(
        "measurements",
        dtype="float32",
        meaning="measurements of cell nuclei, as published",
        source=("mean_*", "se_*", "worst_*"),
    )
    label = ColumnDeclaration(
        "malignant", dtype="int64", meaning="label 0..1", min=0.0, max=1.0, description="1: malignant"
    )
    return UploadRequest(
        name=NAME,
        description="Sample: cell nuclei of 569 biopsies with their diagnosis (Wolberg and others, CC BY 4.0).",
        tags=("sample",),
        visibility="listed",
        columns=(*columns, together, label),
    )


async def load_sample(state: State, principal: Principal) -> DatasetInfo:
    """Store the sample as a dataset of the principal. Raises as `UploadsService.upload`."""
    uploads = service(state, UploadsService)
    async with uploads.receive(principal, sample_request(), FILE.stat().st_size) as draft:
        return await uploads.upload(principal, draft, UploadedFiles(FILE, None))
