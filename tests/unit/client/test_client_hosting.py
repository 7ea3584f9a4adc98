"""The upload that hosts a process, read back by an independent parser."""

from __future__ import annotations

import email.parser
import email.policy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygrid.client.hosting import FileBody, FormBody, hosting_form, load_plan, model_body
from pygrid.errors import InvalidInput, InvalidPlan, InvalidTensors, PygridError
from pygrid.messages.processes import HostRequest
from pygrid.tensors import decode, encode
from support.plans.handmade import logistic_params, logistic_plan

REQUEST = HostRequest({"name": "n", "version": "1"}, {"num_cycles": 2})


def parts(form: FormBody) -> dict[str, bytes]:
    """The fields of a form, as the parser of the standard library reads them."""
    data = b"".join(form)
    assert len(data) == form.num_bytes
    head = f"Content-Type: {form.media_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + data)
    found: dict[str, bytes] = {}
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found[str(part.get_param("name", header="content-disposition"))] = content
    return found


def test_the_form_has_all_parts() -> None:
    plan = logistic_plan()
    found = parts(hosting_form(REQUEST, logistic_params(), {"training_plan": plan}, plan))
    assert list(found) == ["config", "model", "plan:training_plan", "averaging_plan"]
    assert json.loads(found["config"]) == {
        "client_config": {"name": "n", "version": "1"},
        "server_config": {"num_cycles": 2},
    }
    assert found["model"] == encode(logistic_params())
    assert found["plan:training_plan"] == found["averaging_plan"] == plan.data


def test_files_are_streamed_as_they_are(tmp_path: Path) -> None:
    logistic_plan().save(tmp_path / "a.plan")
    content = encode({"w": np.arange(300_000, dtype=np.float32)})
    (tmp_path / "m.safetensors").write_bytes(content)
    form = hosting_form(REQUEST, tmp_path / "m.safetensors", {"p": str(tmp_path / "a.plan")}, None)
    assert parts(form)["model"] == content
    assert parts(form)["plan:p"] == logistic_plan().data
    assert isinstance(model_body(tmp_path / "m.safetensors"), FileBody)


class Tensor:
    """Like one of PyTorch, as far as hosting looks at it."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, np.float32)

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


def test_a_state_dict_of_tensors_is_a_model() -> None:
    arrays, _ = decode(b"".join(bytes(piece) for piece in model_body({"w": Tensor([1, 2])})))
    np.testing.assert_array_equal(arrays["w"], np.array([1, 2], np.float32))


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ({"w": np.zeros(2)}, InvalidTensors, "array 'w' of the model is float64"),
        ({"n": np.int64(3)}, InvalidTensors, "array 'n' of the model is int64"),
        ("missing.safetensors", InvalidInput, "no model file 'missing.safetensors'"),
        ([1, 2], InvalidInput, "a list is not a model"),
    ],
)
def test_what_is_no_model_is_explained(model: Any, error: type[PygridError], words: str) -> None:
    with pytest.raises(error, match=words):
        model_body(model)


@pytest.mark.parametrize("content", [b"", b"not it", bytes(100)])
def test_a_file_that_is_no_model_is_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(InvalidTensors, match="is not a safetensors file"):
        model_body(tmp_path / "m.safetensors")


class Unbuilt:
    """Like a decorated loss whose author forgot ``build``."""

    def build(self) -> None: ...


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        ("missing.plan", InvalidInput, "no plan file 'missing.plan'"),
        (Unbuilt(), InvalidInput, "call its build"),
        (3, InvalidInput, "an? int is not a plan"),
        (__file__, InvalidPlan, "not a plan file"),
    ],
)
def test_what_is_no_plan_is_explained(plan: Any, error: type[PygridError], words: str) -> None:
    with pytest.raises(error, match=words):
        load_plan(plan)


@pytest.mark.parametrize("name", ["", "a b", 'x"; filename="y', "x\r\ny", "ü"])
def test_the_name_of_a_plan_can_not_break_the_form(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a valid name of a plan"):
        hosting_form(REQUEST, logistic_params(), {name: logistic_plan()}, None)
