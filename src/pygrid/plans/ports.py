"""Rules for the names, dtypes and shapes of the ports of a plan's graphs, and for the plan's manifest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from pygrid import codes
from pygrid.errors import InvalidPlan
from pygrid.plans.manifest import BATCH, NUM_DIFFS, DataPort, Manifest, Port
from pygrid.plans.tokenizers import is_tokenizer_name

MAX_BATCH_SIZE = 65_536
MAX_PORTS = 10_000
MAX_TEXT = 10_000
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}(/[A-Za-z0-9_.\-]{1,200})*")
_TRAINING_GRAPHS = ("train", "grads", "eval", "predict")
_INPUTS = ("params", "buffers", "state", "hyper", "data", "noise")
_OUTPUTS = {
    "train": ("new/params", "new/buffers", "new/state", "metrics"),
    "grads": ("grads", "metrics"),
    "eval": ("metrics",),
    "predict": ("predictions",),
}
_NUM = "num"

Ports = Mapping[str, Port]


def check_manifest(manifest: Manifest) -> None:
    """Check the manifest by itself: ranges, names, and that the ports of its graphs fit together.

    Raises:
        InvalidPlan: a value is out of range (``plan_manifest_invalid``), or ports break the scheme
            (``plan_ports_invalid``).
    """
    _check_values(manifest)
    for name, graph in manifest.graphs.items():
        for side in (graph.inputs, graph.outputs):
            if len(side) > MAX_PORTS:
                raise _ports(name, f"has {len(side)} ports; at most {MAX_PORTS} are allowed")
            if len({port.name for port in side}) != len(side):
                raise _ports(name, "lists a port twice")
            for port in side:
                _check_port(name, port)
    if manifest.kind == "averaging":
        _check_averaging(manifest)
    else:
        _check_training(manifest)


def _check_values(manifest: Manifest) -> None:
    for label, text in (("name", manifest.name), ("description", manifest.description), ("author", manifest.author)):
        if len(text) > MAX_TEXT:
            raise _invalid(f"{label} is longer than {MAX_TEXT} characters")
    if not 1 <= manifest.max_batch_size <= MAX_BATCH_SIZE:
        raise _invalid(f"max_batch_size is {manifest.max_batch_size}; 1 to {MAX_BATCH_SIZE} are allowed")
    for name in (*manifest.data, *manifest.noise, *manifest.hyper, *manifest.metrics):
        if not _NAME.fullmatch(name):
            raise _invalid(f"{name[:80]!r} is not a name; names are words of letters, digits, _ . - joined by /")
    for name, column in manifest.data.items():
        if min(column.shape, default=1) < 1:
            raise _invalid(f"data port {name!r} has an empty or negative side: {list(column.shape)}")
        if column.num_classes is not None and (column.num_classes < 1 or not column.dtype.startswith("int")):
            raise _invalid(
                f"data port {name!r} is {column.dtype} with {column.num_classes} classes; labels need an integer dtype "
                "and at least 1 class"
            )
        if isinstance(column.ignore, int) and (
            column.num_classes is None
            or 0 <= column.ignore < column.num_classes
            or not np.iinfo(column.dtype).min <= column.ignore <= np.iinfo(column.dtype).max
        ):
            raise _invalid(
                f"data port {name!r} has ignore {column.ignore} and num_classes {column.num_classes}; ignore must be a "
                f"value of {column.dtype} that is not one of the classes"
            )
        if isinstance(column.tokenizer, str):
            _check_tokenizer(name, column)
        if column.optional is True and column.dtype != "float32":
            raise _invalid(f"data port {name!r} is {column.dtype} and optional; missing values need float32 (NaN)")
    for name, noise in manifest.noise.items():
        if min(noise.shape, default=1) < 1:
            raise _invalid(f"noise port {name!r} has an empty or negative side: {list(noise.shape)}")
    for name, hyper in manifest.hyper.items():
        ordered = hyper.min <= hyper.default <= hyper.max
        if not ordered or not all(map(math.isfinite, (hyper.min, hyper.default, hyper.max))):
            raise _invalid(
                f"hyperparameter {name!r} has min {hyper.min}, default {hyper.default}, max {hyper.max}; all must be "
                "finite and in this order"
            )
    vector = manifest.test_vector
    if vector is not None and not (
        1 <= vector.batch_size <= manifest.max_batch_size and math.isfinite(vector.loss) and 0 < vector.tolerance <= 1
    ):
        raise _invalid("test_vector needs a batch size that the plan takes, a finite loss and a tolerance in (0, 1]")


def _check_tokenizer(name: str, column: DataPort) -> None:
    if not is_tokenizer_name(column.tokenizer if isinstance(column.tokenizer, str) else ""):
        raise _invalid(
            f"data port {name!r} has the tokenizer {str(column.tokenizer)[:80]!r}; use 'bytes', or 'words:' and the "
            "SHA-256 of the vocabulary"
        )
    if column.num_classes is None or len(column.shape) != 1:
        raise _invalid(f"data port {name!r} takes tokens; it needs a number of classes and one axis, the tokens")


def _check_port(graph: str, port: Port) -> None:
    if not _NAME.fullmatch(port.name) or any(part in (".", "..") for part in port.name.split("/")):
        raise _ports(
            graph, f"has a port named {port.name[:80]!r}; names are words of letters, digits, _ . - joined by /"
        )
    symbol = NUM_DIFFS if graph == "average" else BATCH
    for axis, size in enumerate(port.shape):
        symbolic = isinstance(size, str)
        if symbolic and (axis != 0 or size != symbol):
            raise _ports(
                graph, f"port {port.name!r} has size {str(size)[:40]!r}; only the first may be symbolic, {symbol!r}"
            )
        if not symbolic and int(size) < 0:
            raise _ports(graph, f"port {port.name!r} has a negative size")


def _check_training(manifest: Manifest) -> None:
    names = set(manifest.graphs)
    if not names & {"train", "grads"} or not names <= set(_TRAINING_GRAPHS):
        raise _invalid(
            f"a training plan has train or grads or both, and optionally eval and predict; this one has {sorted(names)}"
        )
    if not manifest.data:
        raise _invalid("a training plan needs at least one data port")
    spec: dict[str, Port] = {}
    for name, graph in manifest.graphs.items():
        inputs, outputs = _by_name(graph.inputs), _by_name(graph.outputs)
        _check_prefixes(name, inputs, _INPUTS)
        _check_prefixes(name, outputs, _OUTPUTS[name])
        _check_model(name, inputs, spec)
        _check_environment(manifest, name, inputs)
        if name == "predict":
            _check_predictions(inputs, outputs)
        else:
            _check_metrics(manifest, name, outputs)
        if name == "train":
            _check_loop(name, inputs, outputs)
        elif _under(inputs, "state"):
            raise _ports(name, "takes state/; only train does")
        if name == "grads":
            _check_pairs(name, _under(inputs, "params"), _under(outputs, "grads"), "params/", "grads/", all_of=True)


def _check_model(graph: str, inputs: Ports, spec: dict[str, Port]) -> None:
    """Check params and buffers: float32, fixed shapes, each bare name once, and equal in every graph."""
    params, buffers = _under(inputs, "params"), _under(inputs, "buffers")
    both = params.keys() & buffers.keys()
    if both:
        raise _ports(graph, f"has {min(both)!r} both as params/ and as buffers/; a checkpoint can hold only one")
    for bare, port in {**params, **buffers}.items():
        if port.dtype != "float32" or BATCH in port.shape:
            raise _ports(graph, f"port {port.name!r} must be float32 with a fixed shape")
        known = spec.setdefault(bare, port)
        if known != port:
            raise _ports(graph, f"port {port.name!r} differs from {known.name!r} of another graph in kind or shape")


def _check_environment(manifest: Manifest, graph: str, inputs: Ports) -> None:
    """Check that data, noise and hyperparameters are as the manifest declares them."""
    for prefix, declared in (("data", manifest.data), ("noise", manifest.noise), ("hyper", manifest.hyper)):
        found = _under(inputs, prefix)
        unknown = found.keys() - declared.keys()
        if unknown:
            raise _ports(graph, f"takes {prefix}/{min(unknown)}, which the manifest does not declare")
        must_take_all = (prefix == "data" and graph != "predict") or (prefix == "hyper" and graph == "train")
        missing = declared.keys() - found.keys()
        if missing and must_take_all:
            raise _ports(graph, f"does not take {prefix}/{min(missing)}, which the manifest declares")
    for bare, port in _under(inputs, "data").items():
        _equals(graph, port, Port(port.name, manifest.data[bare].dtype, (BATCH, *manifest.data[bare].shape)))
    for bare, port in _under(inputs, "noise").items():
        _equals(graph, port, Port(port.name, "float32", (BATCH, *manifest.noise[bare].shape)))
    for port in _under(inputs, "hyper").values():
        _equals(graph, port, Port(port.name, "float32", ()))


def _check_metrics(manifest: Manifest, graph: str, outputs: Ports) -> None:
    found = _under(outputs, "metrics")
    for bare, port in found.items():
        if bare not in manifest.metrics:
            raise _ports(graph, f"outputs metrics/{bare}, which the manifest does not declare")
        _equals(graph, port, Port(port.name, "float32", ()))
    if "loss" not in found:
        raise _ports(graph, "must output metrics/loss")


def _check_predictions(inputs: Ports, outputs: Ports) -> None:
    """Check that predict makes rows of outputs from rows of data, without noise."""
    if not _under(inputs, "data") or not outputs:
        raise _ports("predict", "must take data/ and output predictions/")
    for port in outputs.values():
        if port.shape[:1] != (BATCH,):
            raise _ports("predict", f"port {port.name!r} must have a row for each example: shape ['batch', ...]")
    if noise := _under(inputs, "noise"):
        raise _ports("predict", f"takes noise/{min(noise)}; predictions are without noise")


def _check_loop(graph: str, inputs: Ports, outputs: Ports) -> None:
    """Check that train outputs what it takes in the next run."""
    for prefix in ("params", "buffers", "state"):
        old, new = _under(inputs, prefix), _under(outputs, f"new/{prefix}")
        _check_pairs(graph, old, new, f"{prefix}/", f"new/{prefix}/", all_of=prefix != "buffers")
    for port in _under(inputs, "state").values():
        if port.dtype == "bool" or BATCH in port.shape:
            raise _ports(graph, f"port {port.name!r} must be a number with a fixed shape")


def _check_averaging(manifest: Manifest) -> None:
    if set(manifest.graphs) != {"average"}:
        raise _invalid(f"an averaging plan has the one graph 'average'; this one has {sorted(manifest.graphs)}")
    if manifest.data or manifest.noise or manifest.hyper or manifest.metrics or manifest.test_vector:
        raise _invalid("an averaging plan has no data, noise, hyperparameters, metrics or test vector")
    graph = manifest.graphs["average"]
    inputs, outputs = _by_name(graph.inputs), _by_name(graph.outputs)
    given, result = ("item", "new/avg") if manifest.iterative else ("diffs", "avg")
    if manifest.iterative:
        num = inputs.pop(_NUM, None)
        if num is not None:
            _equals("average", num, Port(_NUM, "float32", (1,)))
        _check_pairs("average", _under(inputs, "item"), _under(inputs, "avg"), "item/", "avg/", all_of=True)
    _check_prefixes("average", inputs, ("avg", "item") if manifest.iterative else ("diffs",))
    _check_prefixes("average", outputs, (result,))
    items = _under(inputs, given)
    if not items:
        raise _ports("average", f"takes no {given}/ inputs")
    lead: tuple[int | str, ...] = () if manifest.iterative else (NUM_DIFFS,)
    single: dict[str, Port] = {}
    for bare, port in items.items():
        if port.dtype != "float32" or port.shape[: len(lead)] != lead or NUM_DIFFS in port.shape[len(lead) :]:
            raise _ports("average", f"port {port.name!r} must be float32 with shape {[*lead, '...']}")
        single[bare] = Port(port.name, port.dtype, port.shape[len(lead) :])
    _check_pairs("average", single, _under(outputs, result), f"{given}/", f"{result}/", all_of=True)


def _check_pairs(graph: str, old: Ports, new: Ports, old_prefix: str, new_prefix: str, *, all_of: bool) -> None:
    for bare in new.keys() - old.keys():
        raise _ports(graph, f"has {new_prefix}{bare} without {old_prefix}{bare}")
    for bare, port in old.items():
        if bare not in new:
            if all_of:
                raise _ports(graph, f"has {old_prefix}{bare} without {new_prefix}{bare}")
            continue
        _equals(graph, new[bare], Port(new[bare].name, port.dtype, port.shape))


def _check_prefixes(graph: str, ports: Ports, prefixes: Iterable[str]) -> None:
    for name in ports:
        if not any(name.startswith(f"{prefix}/") for prefix in prefixes):
            raise _ports(graph, f"has a port {name!r}; allowed are {', '.join(f'{prefix}/...' for prefix in prefixes)}")


def _equals(graph: str, port: Port, expected: Port) -> None:
    if port != expected:
        raise _ports(
            graph,
            f"port {port.name!r} is {port.dtype} {list(port.shape)}; must be {expected.dtype} {list(expected.shape)}",
        )


def _by_name(ports: Iterable[Port]) -> dict[str, Port]:
    return {port.name: port for port in ports}


def _under(ports: Ports, prefix: str) -> dict[str, Port]:
    return {name.removeprefix(f"{prefix}/"): port for name, port in ports.items() if name.startswith(f"{prefix}/")}


def _invalid(detail: str) -> InvalidPlan:
    return InvalidPlan(f"the manifest is not valid: {detail}", code=codes.PLAN_MANIFEST_INVALID)


def _ports(graph: str, detail: str) -> InvalidPlan:
    return InvalidPlan(f"graph {graph!r} {detail}", code=codes.PLAN_PORTS_INVALID, graph=graph)
