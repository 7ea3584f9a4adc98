"""Options of the commands that serve a model."""

from __future__ import annotations

from typing import Annotated

import typer

AllowInferenceOption = Annotated[bool, typer.Option("--allow-inference", help="Allow others to predict with it.")]
AllowDownloadOption = Annotated[bool, typer.Option("--allow-download", help="Allow others to download the file.")]
DescriptionOption = Annotated[str, typer.Option(metavar="TEXT", help="Purpose of the model.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, metavar="N", help="Largest number of examples of a request.")]
PublicOption = Annotated[bool, typer.Option("--public", help="Show it to anonymous callers and in searches.")]
CheckpointOption = Annotated[str, typer.Option(metavar="N", help="Number of the checkpoint, latest or best.")]
