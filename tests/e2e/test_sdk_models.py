"""Served models through the SDK, against a Domain in this process, and the commands against one of its own.

Should happen: a model is served as exporters write it, asked with more than one batch, downloaded, withdrawn.
Should not happen: values that are changed on the way, a question that is cut where rows depend on each other, a
traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from pygrid.client import DomainClient, connect
from pygrid.errors import Conflict, Forbidden, InvalidInput, NotFound, ShapeMismatch
from support.plans.models import WEIGHT, centred, linear
from support.sdk import PASSWORD, owner_of, running_domain

X = np.random.default_rng(0).standard_normal((20, 4))


@pytest.fixture
def people(tmp_path: Path) -> Iterator[tuple[DomainClient, DomainClient, DomainClient]]:
    """The Owner, somebody with an account, somebody without."""
    with running_domain(tmp_path / "data") as transport:
        owner = owner_of(transport)
        other = connect(transport=transport)
        other.sign_up("other@example.org", PASSWORD)
        yield owner, other, connect(transport=transport)


def test_from_serving_to_deletion(people: tuple[DomainClient, DomainClient, DomainClient], tmp_path: Path) -> None:
    owner, other, stranger = people
    exported = onnx.load_from_string(linear())
    exported.graph.node[0].metadata_props.add(key="stack", value="somewhere")
    model = owner.serve("scores", exported, allow_remote_inference=True, max_batch_size=8)
    assert [one.id for one in other.models()] == ["scores"]
    answer = other.model("scores").predict({"x": X})
    assert answer["y"].dtype == np.float32
    np.testing.assert_allclose(answer["y"], X.astype(np.float32) @ WEIGHT, rtol=1e-5)
    with pytest.raises(Forbidden) as caught:
        other.model("scores").download()
    assert caught.value.code == "download_not_allowed"
    assert stranger.models() == [], "it is not public"
    path = model.download(tmp_path / "copy.onnx")
    assert path.read_bytes() == model.download()
    onnx.checker.check_model(onnx.load(path))
    with pytest.raises(Forbidden):
        other.model("scores").delete()
    with pytest.raises(Conflict):
        owner.serve("scores", linear())
    model.delete()
    with pytest.raises(NotFound):
        owner.model("scores")
    assert owner.models() == []


def test_weights_beside_the_file_come_along(
    people: tuple[DomainClient, DomainClient, DomainClient], tmp_path: Path
) -> None:
    owner, _, _ = people
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load_from_string(linear()), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").is_file()
    answer = owner.serve("scores", path).predict({"x": X[:3]})
    np.testing.assert_allclose(answer["y"], X[:3].astype(np.float32) @ WEIGHT, rtol=1e-5)


def test_mistakes_are_told_in_words(people: tuple[DomainClient, DomainClient, DomainClient], tmp_path: Path) -> None:
    owner, _, _ = people
    model = owner.serve("scores", linear())
    with pytest.raises(InvalidInput, match="has the inputs x, not y"):
        model.predict({"y": X})
    with pytest.raises(InvalidInput, match="complex128"):
        model.predict({"x": X + 1j})
    with pytest.raises(ShapeMismatch):
        model.predict({"x": X[:, :2]})
    mixing = owner.serve("centred", centred(), max_batch_size=8)
    with pytest.raises(InvalidInput, match="cannot be split"):
        mixing.predict({"x": X})
    with pytest.raises(InvalidInput, match="no model file"):
        owner.serve("other", tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(InvalidInput, match="can't be read as an ONNX model"):
        owner.serve("other", tmp_path / "text.onnx")
    with pytest.raises(InvalidInput, match="not an ONNX model"):
        owner.serve("other", 3)
    with pytest.raises(InvalidInput, match="opset 17") as caught:
        owner.serve("other", linear(17))
    assert caught.value.code == "plan_version_unsupported"
    for model_id in ("", "a/b", "a?b"):
        with pytest.raises(InvalidInput, match="not a valid id of a model"):
            owner.model(model_id)


def test_notebooks_show_tables(people: tuple[DomainClient, DomainClient, DomainClient]) -> None:
    owner, _, _ = people
    model = owner.serve("scores", linear(), description="<b>bold</b>")
    assert "<b>bold" not in model._repr_html_()
    assert "&lt;b&gt;bold" in owner.models()._repr_html_()
    assert "x: float32[batch, 4]" in model._repr_html_()
