"""The way back: the weights of a trained model into a PyTorch module."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pygrid import codes
from pygrid.durable import write_atomically
from pygrid.errors import InvalidInput, ShapeMismatch
from pygrid.tensors import decode, encode

Model = TypeVar("Model", bound=torch.nn.Module)
Weights = Mapping[str, Any] | str | os.PathLike[str]
"""Arrays or tensors by name, or the path of a safetensors file."""
_SHOWN = 10
"""Names in an error message, of each kind."""


def load_into(model: Model, params: Weights) -> Model:
    """The same model, with trained parameters and buffers copied into it.

    A layer that the model has under several names, and weights that layers share, need one of their names. Each array
    is converted to the dtype and device of its place. Counters of BatchNorm stay as they are, because plans do not
    train them.

    Args:
        params: a checkpoint, for example from `Process.download`; or a ``state_dict``.
    Raises:
        ShapeMismatch: names or shapes differ; the message lists them, and the model did not change.
        InvalidInput: this is not a model, or parts of it have no storage; or there is no such file.
    """
    plain = getattr(model, "_orig_mod", model)
    if not isinstance(plain, torch.nn.Module):
        raise InvalidInput(f"a {type(model).__name__} is not a torch.nn.Module", code=codes.NOT_A_MODEL)
    arrays = _arrays(params)
    places = _places(plain)
    _check(plain, places, arrays)
    with torch.no_grad():
        for name, array in arrays.items():
            places[name].copy_(_tensor(array))
    return model


def save_state(model: torch.nn.Module, path: Path) -> int:
    """Write the ``state_dict`` of a model, for `torch.load` (``.pt``, ``.pth``) or as safetensors; return its length.

    Raises:
        InvalidInput: the file has another suffix. InvalidTensors: safetensors cannot hold the dtype of an array.
    """
    state = model.state_dict()
    if path.suffix in (".pt", ".pth"):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
    elif path.suffix == ".safetensors":
        data = encode({name: _array(tensor) for name, tensor in state.items()})
    else:
        raise InvalidInput(f"{os.fspath(path)!r} must end in .pt, .pth or .safetensors")
    write_atomically(path, data, mode=0o666, sync=False)
    return len(state)


def _array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """The array of a tensor; float32 for a type that numpy does not have."""
    array: npt.NDArray[np.generic] = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy()
    return array


def _arrays(params: Weights) -> Mapping[str, Any]:
    if not isinstance(params, (str, os.PathLike)):
        return params
    path = Path(params)
    if not path.is_file():
        raise InvalidInput(f"there is no model file {os.fspath(path)!r}", code=codes.FILE_NOT_FOUND)
    return decode(path.read_bytes())[0]


def _tensor(array: Any) -> torch.Tensor:
    # A copy: arrays of a mapped file are read-only, which torch does not support.
    return array.detach() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))


def _places(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by each of their names."""
    places = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, tensor in places.items():
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise InvalidInput(
                f"{name} of this {type(model).__name__} is without a shape until the model is called: call it on a "
                "batch first",
                code=codes.NOT_A_MODEL,
            )
        if tensor.is_meta:
            raise InvalidInput(
                f"{name} of this {type(model).__name__} is on the meta device, without storage; call "
                "model.to_empty(device='cpu') first",
                code=codes.NOT_A_MODEL,
            )
    return places


def _check(model: torch.nn.Module, places: Mapping[str, torch.Tensor], arrays: Mapping[str, Any]) -> None:
    """Check that the arrays are those of the model: all of them, no others, of the same shapes."""
    saved = set(model.state_dict())
    given = {id(places[name]) for name in arrays if name in places}
    missing: dict[int, str] = {}
    for name, tensor in places.items():
        if name in saved and tensor.is_floating_point() and id(tensor) not in given:
            missing.setdefault(id(tensor), f"{name} {list(tensor.shape)}")
    unknown = [f"{name} {list(np.shape(array))}" for name, array in arrays.items() if name not in places]
    differing = [
        f"{name} is {list(places[name].shape)} in the model and {list(np.shape(array))} in the weights"
        for name, array in arrays.items()
        if name in places and np.shape(array) != tuple(places[name].shape)
    ]
    faults = [
        _list("the weights lack", missing.values()),
        _list("the model lacks", unknown),
        _list("shapes differ:", differing),
        _list("names of one tensor have different values:", () if differing else _contradictions(places, arrays)),
    ]
    if any(faults):
        raise ShapeMismatch(
            f"the weights do not fit this {type(model).__name__}: {'; '.join(filter(None, faults))}. Make the model "
            "as it was made for build()"
        )


def _contradictions(places: Mapping[str, torch.Tensor], arrays: Mapping[str, Any]) -> Iterable[str]:
    first: dict[int, str] = {}
    for name in arrays:
        if name in places:
            known = first.setdefault(id(places[name]), name)
            if known != name and not torch.equal(_tensor(arrays[known]), _tensor(arrays[name])):
                yield f"{known} and {name}"


def _list(what: str, names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{what} {', '.join(found[:_SHOWN])}{more}" if found else ""
