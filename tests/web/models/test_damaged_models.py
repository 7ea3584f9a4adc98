"""Served models whose bytes changed on the disk of a Domain.

Should happen: a download and a question are refused with the name of the file; the model answers once its bytes are
back. Should not: damaged bytes are sent, or computed with, also if the Worker has the model in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_models import Someone, X, owner  # noqa: F401 - a fixture

from pygrid.settings import DomainSettings
from pygrid.tensors import decode, encode
from support.plans.models import PATH, SERVE, WEIGHT, form, linear
from support.web import assert_problem, flip


@pytest.fixture
async def blob(owner: Someone, settings: DomainSettings) -> Path:  # noqa: F811
    """The file of a model that is served as ``scores``."""
    answer = await owner.web.post(SERVE, files=form(linear(), "scores"), headers=owner.headers)
    path: Path = settings.data_dir / "served-models" / answer.json()["model"]["sha256"]
    return path


async def test_a_damaged_model_is_not_downloaded(owner: Someone, blob: Path) -> None:  # noqa: F811
    flip(blob)
    for _ in range(2):
        problem = assert_problem(await owner.get("models/scores/download"), 503, "blob_damaged")
        assert problem["name"] == blob.name
        assert blob.name in problem["detail"]
    flip(blob)
    assert (await owner.get("models/scores/download")).content == linear()


@pytest.mark.parametrize("was_asked", [False, True], ids=["cold", "in memory"])
async def test_a_damaged_model_answers_nothing(owner: Someone, blob: Path, was_asked: bool) -> None:  # noqa: F811
    if was_asked:
        assert (await owner.ask(x=X)).status_code == 200
    flip(blob)
    assert assert_problem(await owner.ask(x=X), 503, "blob_damaged")["name"] == blob.name
    batch = {"content": encode({"x": X}), "headers": {**owner.headers, "If-Match": f'"{blob.name}"'}}
    assert_problem(await owner.web.post(f"{PATH}/scores/predict", **batch), 503, "blob_damaged")
    flip(blob)
    answer = await owner.ask(x=X)
    np.testing.assert_allclose(decode(answer.content)[0]["y"], X @ WEIGHT, rtol=1e-5)


async def test_a_damaged_model_can_be_deleted_and_served_again(owner: Someone, blob: Path) -> None:  # noqa: F811
    flip(blob)
    assert (await owner.web.delete(f"{PATH}/scores", headers=owner.headers)).status_code == 204
    assert (await owner.serve(linear())).status_code == 200
    assert (await owner.get("models/scores/download")).content == linear()


async def test_serving_the_same_bytes_again_mends_a_damaged_file(owner: Someone, blob: Path) -> None:  # noqa: F811
    flip(blob)
    assert (await owner.serve(linear(), "copy")).status_code == 200
    assert (await owner.get("models/scores/download")).content == linear()
