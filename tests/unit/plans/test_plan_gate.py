"""The gate: what should pass, what should not, and how each attack that is known is refused.

Passes: a valid plan, in process and in a child, with an honest report.
Does not pass: each of the attacks below, with its own code and a sentence that names the place. No attack takes long.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pygrid.errors import InvalidPlan
from pygrid.plans import (
    DataPort,
    GateLimits,
    Hyper,
    NoisePort,
    Plan,
    Port,
    Runner,
    TestVector,
    build_archive,
    check,
    check_async,
)
from pygrid.plans import check_in_child as check_in_child_process
from pygrid.plans.archive import _write_members
from pygrid.plans.gate import ArraySpec
from pygrid.sandbox.process import ChildLimits
from support.plans.handmade import GraphBuilder, f32, logistic_graphs, logistic_manifest, logistic_plan
from support.plans.variants import PLAN, edited, make_plan, with_node, with_nodes
from support.thorough import examples


def refusal(data: bytes, limits: GateLimits | None = None) -> InvalidPlan:
    started = time.monotonic()
    with pytest.raises(InvalidPlan) as error:
        check(data, limits)
    assert time.monotonic() - started < 60
    return error.value


# ---- what passes --------------------------------------------------------------------------------------------------


def test_a_valid_plan_passes_with_an_honest_report():
    report = check(PLAN.data)
    assert report.plan_id == PLAN.id
    assert report.model_spec == {"bias": ArraySpec("float32", (3,)), "weight": ArraySpec("float32", (3, 4))}
    assert report.model_bytes == 4 * 15
    assert report.per_example_independent
    assert report.graphs["eval"].operators["LogSoftmax"] == 1
    # 4 features, 3 classes: the product alone costs 2 * 12 + 3 for each example
    assert report.graphs["eval"].flops_per_example >= 27
    assert report.graphs["train"].flops_per_example > report.graphs["grads"].flops_per_example


def test_the_child_gives_the_same_report():
    assert check_in_child_process(PLAN.data) == check(PLAN.data)


async def test_the_child_gives_the_same_refusal_without_blocking_the_loop():
    data = with_node("NonZero", "data/x")
    with pytest.raises(InvalidPlan) as error:
        await check_async(data)
    here = refusal(data)
    assert (error.value.code, error.value.detail, error.value.fields) == (here.code, here.detail, here.fields)


def test_noise_buffers_and_metrics_pass():
    g = GraphBuilder()
    kept = g.op("Mul", "data/x", g.op("Cast", g.op("Less", "noise/drop", "buffers/rate"), to=TensorProto.FLOAT))
    loss = g.op("ReduceMean", g.op("MatMul", kept, "params/w"), keepdims=0, out="metrics/loss")
    g.op("Sub", "params/w", loss, out="new/params/w")
    g.op("Identity", "buffers/rate", out="new/buffers/rate")
    inputs = (f32("params/w", 4), f32("buffers/rate", 4), f32("data/x", "batch", 4), f32("noise/drop", "batch", 4))
    outputs = (f32("new/params/w", 4), f32("new/buffers/rate", 4), f32("metrics/loss"))
    plan = make_plan({"train": (g, inputs, outputs)}, noise={"drop": NoisePort((4,))})
    report = check(plan)
    assert report.model_spec["rate"] == ArraySpec("float32", (4,))
    assert not report.per_example_independent
    assert report.independence_reason == "the plan has no grads graph"


# ---- attacks ------------------------------------------------------------------------------------------------------


def external(location: str) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return edit


@pytest.mark.parametrize("location", ["/etc/passwd", "../../etc/passwd", "weights.bin"])
def test_data_outside_the_file(location):
    error = refusal(edited(external(location)))
    assert error.code == "plan_external_data"


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand"])
def test_fourteen_gigabytes_from_twenty_bytes(op):
    def build(g):
        sizes = g.ints(60_000, 60_000)
        g.op(op, sizes) if op == "ConstantOfShape" else g.op(op, g.const(np.zeros(1, np.float32)), sizes)

    error = refusal(with_nodes(build))
    assert error.code == "plan_tensor_too_large"
    assert "14,400,000,000 bytes" in error.detail
    assert f"({op} '" in error.detail


def body(*nodes: onnx.NodeProto, inputs: Any = (), outputs: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs))


def control_flow() -> dict[str, bytes]:
    info = helper.make_tensor_value_info
    loop_body = body(
        helper.make_node("Identity", ["go"], ["still"]),
        inputs=[info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, [])],
        outputs=[info("still", TensorProto.BOOL, [])],
    )
    # A Scan whose body reads all examples of the outer graph instead of the one that it was given.
    capture = body(
        helper.make_node("ReduceSum", ["data/x"], ["all"]),
        inputs=[info("row", TensorProto.FLOAT, [4])],
        outputs=[info("all", TensorProto.FLOAT, [1, 1])],
    )
    branch = body(helper.make_node("Identity", ["data/x"], ["b"]), outputs=[info("b", TensorProto.FLOAT, ["batch", 4])])
    return {
        "Loop": with_node("Loop", "", "", outputs=0, body=loop_body),
        "Scan": with_node("Scan", "data/x", body=capture, num_scan_inputs=1),
        "If": with_node("If", "data/y", then_branch=branch, else_branch=branch),
    }


@pytest.mark.parametrize("op", ["Loop", "Scan", "If"])
def test_control_flow_and_what_it_could_capture(op):
    error = refusal(control_flow()[op])
    assert error.code == "plan_feature_forbidden"  # the subgraph is noticed before the operator
    assert "AttributeProto.g" in error.detail


def test_a_subgraph_on_an_innocent_operator():
    error = refusal(with_node("Identity", "data/x", body=body()))
    assert error.code == "plan_feature_forbidden"


def test_huge_products():
    """Three kernels of 5 * 10^11 multiply-adds each, which a runtime does not interrupt."""

    def build(g):
        square = g.op("Expand", g.const(np.ones((1, 1), np.float32)), g.ints(8_000, 8_000))
        for _ in range(3):
            g.op("MatMul", square, square)

    error = refusal(with_nodes(build))
    assert error.code == "plan_flops_too_large"
    assert "operations at the largest batch (1024)" in error.detail


def test_products_in_a_chain():
    def build(g):
        square = g.op("Expand", g.const(np.ones((1, 1), np.float32)), g.ints(4_000, 4_000))
        for _ in range(20):
            square = g.op("MatMul", square, square)

    error = refusal(with_nodes(build))
    assert error.code == "plan_flops_too_large"


def test_much_memory_in_pieces():
    def build(g):
        pieces = [g.op("ConstantOfShape", g.ints(50_000_000)) for _ in range(12)]
        g.op("Sum", *pieces)

    error = refusal(with_nodes(build))
    assert error.code == "plan_memory_too_large"


def test_a_large_model_may_be_held_several_times():
    """A table of 200 million numbers passes; tensors and memory that do not come from the model stay bounded."""
    large = logistic_plan(features=2_000_000, classes=100, max_batch_size=1)
    report = check(large.data)
    assert report.model_bytes == 4 * 200_000_100
    assert report.graphs["train"].peak_bytes > 2 * 1024**3
    assert refusal(large.data, GateLimits(max_model_bytes=1024**2)).code == "plan_tensor_too_large"
    assert refusal(
        large.data, GateLimits(max_model_bytes=400_000_000, max_tensor_bytes=2**30, max_peak_bytes=0)
    ).code == ("plan_memory_too_large")
    beyond = logistic_plan(features=8_000_000, classes=100, max_batch_size=1)
    assert refusal(beyond.data).code == "plan_tensor_too_large"


def test_growth_by_doubling():
    def build(g):
        value = g.op("Tile", "data/x", g.ints(2, 1))
        for _ in range(200):
            value = g.op("Concat", value, value, axis=0)

    assert refusal(with_nodes(build)).code == "plan_tensor_too_large"


def test_nested_functions_that_double():
    def edit(model):
        previous = helper.make_function("evil", "f0", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [OPSET_ID])
        model.functions.append(previous)
        for depth in range(1, 22):
            calls = [
                helper.make_node(f"f{depth - 1}", ["a"], ["m"], domain="evil"),
                helper.make_node(f"f{depth - 1}", ["m"], ["b"], domain="evil"),
            ]
            model.functions.append(helper.make_function("evil", f"f{depth}", ["a"], ["b"], calls, [OPSET_ID]))
        model.graph.node.append(helper.make_node("f21", ["data/x"], ["extra"], domain="evil"))
        model.opset_import.append(helper.make_opsetid("evil", 1))

    error = refusal(edited(edit))
    assert error.code == "plan_feature_forbidden"
    assert "ModelProto.functions" in error.detail


OPSET_ID = helper.make_opsetid("", 20)


def test_a_gather_out_of_range_is_left_to_the_runtime_which_refuses_it():
    """Indices are data; the runtime checks them, and says so instead of reading beyond the table."""
    plan = Plan.from_bytes(with_nodes(lambda g: g.op("Gather", "data/x", g.const(np.array([4])), axis=1)))
    check(plan.data)
    params = {"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(3, np.float32)}
    data = {"x": np.zeros((2, 4), np.float32), "y": np.zeros(2, np.int64)}
    # The extra node is used by nobody, so the runtime drops it: to run it, its output must reach a result.
    spoiled = edited(spoil)
    check(spoiled)
    with pytest.raises(InvalidPlan, match="out of data bounds") as error:
        Runner(Plan.from_bytes(spoiled)).train(params, data)
    assert error.value.code == "plan_run_failed"


def spoil(model: onnx.ModelProto) -> None:
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "metrics/loss")
    loss = model.graph.node[index]
    loss.output[0] = "true_loss"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(4), "four"))
    model.graph.node.insert(index + 1, helper.make_node("Gather", ["data/x", "four"], ["fifth"], axis=1, name="fifth"))
    model.graph.node.insert(index + 2, helper.make_node("ReduceMean", ["fifth"], ["mean"], keepdims=0, name="mean"))
    model.graph.node.insert(index + 3, helper.make_node("Add", ["true_loss", "mean"], ["metrics/loss"], name="sum"))


@pytest.mark.parametrize("op", ["Div", "Mod"])
@pytest.mark.parametrize("divisor", [0, -1])
def test_a_division_that_would_end_the_process(op, divisor):
    """The smallest integer by -1 is an exception of the processor (SIGFPE), which no runtime turns into an error."""
    error = refusal(with_nodes(lambda g: g.op(op, "data/y", g.const(np.array(divisor)))))
    assert error.code == "plan_shape_refused"
    assert "known and positive" in error.detail
    assert refusal(with_nodes(lambda g: g.op(op, "data/y", "data/y"))).code == "plan_shape_refused"


def test_constants_that_a_runtime_would_work_out_and_keep():
    """Each is freed at once if the nodes run in turn, but a runtime folds them when it loads the graph, and holds them
    all.
    """

    def build(g):
        total = "data/x"
        for _ in range(20):
            big = g.op("ConstantOfShape", g.ints(50_000_000))
            total = g.op("Add", total, g.op("ReduceSum", g.op("Mul", big, g.op("ReduceSum", "data/x")), keepdims=0))

    error = refusal(with_nodes(build))
    assert error.code == "plan_memory_too_large"


def test_empty_tensors():
    assert refusal(with_nodes(lambda g: g.op("ConstantOfShape", g.ints(0, 4)))).code == "plan_shape_refused"


def test_words_of_a_stranger_are_no_command_to_the_terminal():
    error = refusal(with_node("\x1b[2J", "data/x"))
    assert "\x1b" not in error.detail


def test_operators_of_another_domain():
    assert refusal(with_node("Gelu", "data/x", domain="com.microsoft")).code == "plan_domain_forbidden"

    def edit(model):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        model.graph.node.append(helper.make_node("FusedMatMul", ["data/x", "data/x"], ["e"], domain="com.microsoft"))

    assert refusal(edited(edit)).code == "plan_domain_forbidden"


def test_a_default_domain_that_is_spelled_differently():
    assert refusal(with_node("Exp", "data/x", domain="ai.onnx")).code == "plan_domain_forbidden"


@pytest.mark.parametrize(
    "op",
    [
        "RandomNormal",
        "RandomUniformLike",
        "Bernoulli",
        "NonZero",
        "Unique",
        "Optional",
        "SequenceEmpty",
        "StringNormalizer",
    ],
)
def test_operators_that_are_not_on_the_list(op):
    error = refusal(with_node(op, "data/x"))
    assert error.code == "plan_operator_forbidden"
    assert f"('{op}' 'extra'): operator '{op}' is not part of plans" in error.detail


def test_a_graph_nested_beyond_the_parser():
    """Forty nested If: building it in Python is refused by protobuf itself, so the bytes are made by hand."""

    def field(number: int, payload: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(payload)) + payload

    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    graph = b""
    for _ in range(2_000):  # GraphProto.node -> NodeProto.attribute -> AttributeProto.g
        graph = field(1, field(5, field(6, graph)))
    data = field(7, graph)
    manifest, graphs = logistic_manifest(logistic_graphs())
    entries = {**manifest.graphs}
    entries["train"] = replaced(entries["train"], sha256=hashlib.sha256(data).hexdigest())
    plan = build_archive(replaced(manifest, graphs=entries), {**graphs, "train": data}, "")
    assert refusal(plan).code == "plan_graph_invalid"


def replaced(struct: Any, **changes: Any) -> Any:
    return type(struct)(**{**{name: getattr(struct, name) for name in struct.__struct_fields__}, **changes})


FEATURES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "training_info": lambda m: m.training_info.add(),
    "metadata_props": lambda m: m.metadata_props.add(key="k", value="v" * 1000),
    "sparse_initializer": lambda m: m.graph.sparse_initializer.add(),
    "quantization_annotation": lambda m: m.graph.quantization_annotation.add(tensor_name="data/x"),
    "value_info": lambda m: m.graph.value_info.append(helper.make_tensor_value_info("v0", TensorProto.FLOAT, [1])),
    "string_data": lambda m: m.graph.initializer.append(
        TensorProto(name="s", data_type=TensorProto.STRING, string_data=[b"x"])
    ),
    "sequence_type": lambda m: m.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("params/weight", TensorProto.FLOAT, [3, 4])
    ),
    "ref_attr_name": lambda m: m.graph.node[0].attribute.add(name="a", ref_attr_name="b"),
    "strings": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("a", ["x", "y"])),
    "segment": lambda m: m.graph.initializer[0].segment.CopyFrom(TensorProto.Segment(begin=1, end=2)),
    "denotation": lambda m: m.graph.input[0].type.__setattr__("denotation", "IMAGE"),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_features_that_plans_do_not_use(feature):
    error = refusal(edited(FEATURES[feature]))
    assert error.code == "plan_feature_forbidden"
    assert feature in error.detail


def test_fields_that_this_version_of_onnx_does_not_know():
    """A later runtime might know them and do something else."""
    manifest, graphs = logistic_manifest(logistic_graphs())
    data = graphs["train"] + b"\xfa\x3e\x03abc"  # field 1007, length 3
    entries = {**manifest.graphs, "train": replaced(manifest.graphs["train"], sha256=hashlib.sha256(data).hexdigest())}
    error = refusal(build_archive(replaced(manifest, graphs=entries), {**graphs, "train": data}, ""))
    assert error.code == "plan_graph_invalid"
    assert "fields that ONNX does not know" in error.detail


@pytest.mark.parametrize(("field", "value"), [("ir_version", 3), ("ir_version", 99), ("opset", 13), ("opset", 25)])
def test_versions(field, value):
    def edit(model):
        if field == "ir_version":
            model.ir_version = value
        else:
            model.opset_import[0].version = value

    assert refusal(edited(edit)).code == "plan_version_unsupported"


def test_an_opset_in_the_manifest_that_is_not_supported():
    assert refusal(logistic_plan(opset=21).data).code == "plan_version_unsupported"


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int8])
def test_dtypes(dtype):
    error = refusal(
        edited(lambda model: model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, dtype), "extra")))
    )
    assert error.code == "plan_dtype_forbidden"
    assert "float32, int64, int32, bool" in error.detail


def test_constants_that_are_weights_in_disguise():
    big = np.zeros(300_000, np.float32)
    data = logistic_plan(
        edit=lambda models: [
            m.graph.initializer.append(onnx.numpy_helper.from_array(big, "big")) for m in models.values()
        ]
    ).data
    assert check(data, GateLimits(max_constant_bytes=4_000_000)).graphs["train"].constant_bytes > 1_200_000
    assert refusal(data, GateLimits(max_constant_bytes=3_000_000)).code == "plan_constants_too_large"


def test_too_many_nodes():
    assert refusal(PLAN.data, GateLimits(max_nodes=50)).code == "plan_too_many_nodes"


def test_twenty_thousand_nodes_do_not_take_long():
    def build(g):
        value = "data/x"
        for _ in range(19_900):
            value = g.op("Neg", value)

    started = time.monotonic()
    report = check(with_nodes(build))
    assert report.graphs["train"].operators["Neg"] > 19_000
    assert time.monotonic() - started < 60


def test_a_constant_whose_bytes_do_not_fit_its_shape():
    def edit(model):
        model.graph.initializer[0].dims[:] = [2**40]

    error = refusal(edited(edit))
    assert error.code == "plan_dtype_forbidden"
    assert "does not fit the shape" in error.detail


def test_nodes_in_an_order_in_which_they_can_not_run():
    def edit(model):
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend(reversed(nodes))

    assert refusal(edited(edit)).code == "plan_graph_invalid"


def test_a_name_that_is_made_twice():
    def edit(model):
        model.graph.node.append(helper.make_node("Neg", ["data/x"], [model.graph.node[0].output[0]]))

    assert refusal(edited(edit)).code == "plan_graph_invalid"


# ---- ports --------------------------------------------------------------------------------------------------------


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for side in (node.input, node.output):
            side[:] = [new if name == old else name for name in side]
    for info in (*model.graph.input, *model.graph.output):
        info.name = new if info.name == old else info.name


def test_ports_that_the_manifest_does_not_list():
    error = refusal(edited(lambda model: rename(model, "params/weight", "params/other")))
    assert error.code == "plan_ports_invalid"
    assert "'params/other' differs" in error.detail


def test_a_shape_that_is_not_what_the_graph_gives():
    """An output that claims to be a scalar and carries the data."""

    def edit(model):
        index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "metrics/loss")
        model.graph.node[index].output[0] = "true_loss"
        model.graph.node.insert(index + 1, helper.make_node("Identity", ["data/x"], ["metrics/loss"], name="leak"))

    error = refusal(edited(edit))
    assert error.code == "plan_ports_invalid"
    assert "computes 'metrics/loss' as float32 ['n', '4'], but declares float32 []" in error.detail


def changed_ports(graph: str, side: str, change: Callable[[list[Port]], list[Port]], **changes: Any) -> bytes:
    """A plan whose manifest and ONNX ports were both changed, without regard to what the nodes compute."""
    models = logistic_graphs()
    model, inputs, outputs = models[graph]
    ports = {"inputs": inputs, "outputs": outputs}
    ports[side] = tuple(change(list(ports[side])))
    infos = model.graph.input if side == "inputs" else model.graph.output
    del infos[:]
    rebuilt = GraphBuilder().model(ports["inputs"], ports["outputs"])
    infos.extend(rebuilt.graph.input if side == "inputs" else rebuilt.graph.output)
    models[graph] = (model, ports["inputs"], ports["outputs"])
    manifest, graphs = logistic_manifest(models, **changes)
    return build_archive(manifest, graphs, "")


def without(name: str) -> Callable[[list[Port]], list[Port]]:
    return lambda ports: [port for port in ports if port.name != name]


def instead(name: str, *new: Port) -> Callable[[list[Port]], list[Port]]:
    return lambda ports: [q for port in ports for q in (new if port.name == name else (port,))]


def more(*new: Port) -> Callable[[list[Port]], list[Port]]:
    return lambda ports: [*ports, *new]


PORTS: dict[str, tuple[bytes, str]] = {
    "a param that is not given back": (
        changed_ports("train", "outputs", without("new/params/bias")),
        "without new/params/bias",
    ),
    "a param from nowhere": (changed_ports("train", "outputs", more(f32("new/params/x"))), "without params/x"),
    "state from nowhere": (changed_ports("train", "outputs", more(f32("new/state/x"))), "without state/x"),
    "a param of another shape": (
        changed_ports("train", "outputs", instead("new/params/bias", f32("new/params/bias", 4))),
        "must be float32 [3]",
    ),
    "one name twice in a checkpoint": (
        changed_ports("train", "inputs", more(f32("buffers/bias", 3))),
        "both as params/ and",
    ),
    "params that differ between graphs": (
        changed_ports("grads", "inputs", instead("params/bias", f32("params/bias", 5))),
        "differs from 'params/bias' of another graph",
    ),
    "a batch of params": (
        changed_ports("train", "inputs", instead("params/bias", f32("params/bias", "batch"))),
        "fixed shape",
    ),
    "data that is not declared": (
        changed_ports("train", "inputs", more(f32("data/z", "batch"))),
        "data/z, which the manifest does",
    ),
    "data that is not taken": (changed_ports("eval", "inputs", without("data/y")), "does not take data/y"),
    "data of another dtype": (
        changed_ports("eval", "inputs", instead("data/y", Port("data/y", "int32", ("batch",)))),
        "must be int64",
    ),
    "hyper of another shape": (
        changed_ports("train", "inputs", instead("hyper/lr", f32("hyper/lr", 1))),
        "must be float32 []",
    ),
    "hyper that is not declared": (
        changed_ports("train", "inputs", more(f32("hyper/x"))),
        "hyper/x, which the manifest does not",
    ),
    "hyper that is not taken": (changed_ports("train", "inputs", without("hyper/lr")), "does not take hyper/lr"),
    "an unknown prefix": (changed_ports("eval", "inputs", more(f32("secret/x"))), "has a port 'secret/x'"),
    "state outside of train": (changed_ports("grads", "inputs", more(f32("state/x"))), "takes state/"),
    "no gradient": (changed_ports("grads", "outputs", without("grads/bias")), "has params/bias without grads/bias"),
    "no loss": (changed_ports("train", "outputs", without("metrics/loss")), "must output metrics/loss"),
    "a metric that is not declared": (
        changed_ports("eval", "outputs", more(f32("metrics/x"))),
        "metrics/x, which the manifest",
    ),
    "a metric with a shape": (
        changed_ports("eval", "outputs", instead("metrics/loss", f32("metrics/loss", "batch"))),
        "must be float32 []",
    ),
    "a port twice": (changed_ports("eval", "inputs", more(f32("params/bias", 3))), "lists a port twice"),
    "an unknown symbol": (changed_ports("eval", "inputs", instead("data/x", f32("data/x", "many", 4))), "size 'many'"),
    "a symbol inside": (
        changed_ports("eval", "inputs", instead("data/x", f32("data/x", 4, "batch"))),
        "only the first",
    ),
    "a name with a newline": (changed_ports("eval", "inputs", more(f32("params/\n"))), "names are words"),
    "a name with dots": (changed_ports("eval", "inputs", more(f32("params/../x"))), "names are words"),
    "data of another shape than declared": (
        logistic_plan(data={"x": DataPort("float32", (5,)), "y": DataPort("int64", ())}).data,
        "",
    ),
}


@pytest.mark.parametrize("name", PORTS)
def test_ports_that_break_the_scheme(name):
    data, reason = PORTS[name]
    error = refusal(data)
    assert error.code == "plan_ports_invalid"
    assert reason in error.detail


MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "hyper out of order": ({"hyper": {"lr": Hyper(2.0, 0.1, 1.0)}}, "must be finite and in this order"),
    "no batch": ({"max_batch_size": 0}, "max_batch_size is 0"),
    "a vast batch": ({"max_batch_size": 10**9}, "1 to 65536"),
    "float labels": (
        {"data": {"x": DataPort("float32", (4,), "", 3), "y": DataPort("int64", ())}},
        "labels need an integer dtype",
    ),
    "optional integers": (
        {"data": {"x": DataPort("float32", (4,)), "y": DataPort("int64", (), optional=True)}},
        "missing values need float32",
    ),
    "absent labels without classes": (
        {"data": {"x": DataPort("float32", (4,)), "y": DataPort("int64", (), ignore=255)}},
        "ignore must be a value of int64 that is not one of the classes",
    ),
    "an absent label that is a class": (
        {"data": {"x": DataPort("float32", (4,)), "y": DataPort("int64", (), "", 3, ignore=2)}},
        "ignore must be a value of int64 that is not one of the classes",
    ),
    "an absent label that the dtype cannot hold": (
        {"data": {"x": DataPort("float32", (4,)), "y": DataPort("int32", (), "", 3, ignore=2**40)}},
        "ignore must be a value of int32 that is not one of the classes",
    ),
    "an empty side": ({"data": {"x": DataPort("float32", (0,)), "y": DataPort("int64", ())}}, "empty or negative side"),
    "an empty side of noise": ({"noise": {"n": NoisePort((0,))}}, "empty or negative side"),
    "no data": ({"data": {}}, "at least one data port"),
    "a name that is none": ({"metrics": {"loss": "mean", "accuracy": "mean", "a b": "sum"}}, "'a b' is not a name"),
    "a test of too large a batch": ({"test_vector": TestVector(2000, 1.0)}, "a batch size that the plan takes"),
    "a novel": ({"description": "x" * 20_000}, "longer than"),
    "another kind": ({"kind": "averaging"}, "one graph 'average'"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_make_no_sense(name):
    changes, reason = MANIFESTS[name]
    error = refusal(logistic_plan(**changes).data)
    assert error.code == "plan_manifest_invalid"
    assert reason in error.detail


def test_infinity_can_not_be_written_in_a_manifest():
    document = PLAN.members["plan.json"].replace(b'"max": 1.0', b'"max": 1e999')
    with pytest.raises(InvalidPlan) as error:
        check(_write_members({**PLAN.members, "plan.json": document}))
    assert error.value.code in ("plan_malformed", "plan_manifest_invalid")


def test_a_plan_without_any_graph_to_train():
    manifest, graphs = logistic_manifest({"eval": logistic_graphs()["eval"]})
    assert refusal(build_archive(manifest, graphs, "")).code == "plan_manifest_invalid"


# ---- the child ----------------------------------------------------------------------------------------------------


@pytest.mark.fresh_processes
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ChildLimits(memory_bytes=2**31, cpu_s=20, wall_s=0.01, max_output_bytes=10**6), "longer than 0.01 s"),
        (ChildLimits(memory_bytes=2**31, cpu_s=20, wall_s=30, max_output_bytes=10), "answer is too long"),
        (
            ChildLimits(memory_bytes=30 * 2**20, cpu_s=20, wall_s=30, max_output_bytes=10**6),
            "ended with code|out of memory|signal",
        ),
        (ChildLimits(memory_bytes=2**31, cpu_s=0, wall_s=30, max_output_bytes=10**6), "signal"),
    ],
    ids=["time", "answer", "memory", "cpu"],
)
def test_a_child_that_does_not_end_well_is_a_refusal(limits, reason):
    never_asked = GateLimits(max_nodes=19_998)  # a plan that passed with these limits would need no child
    before = psutil.Process().children()
    with pytest.raises(InvalidPlan, match=reason) as error:
        check_in_child_process(PLAN.data, never_asked, child=limits)
    assert error.value.code == "plan_check_failed"
    assert psutil.Process().children() == before


def test_a_plan_that_passed_passes_again_without_a_child(monkeypatch):
    report = check_in_child_process(PLAN.data)
    monkeypatch.setattr("pygrid.plans.gate.run", None)
    assert check_in_child_process(PLAN.data) is report
    with pytest.raises(TypeError):  # other limits, other question: the child would be asked
        check_in_child_process(PLAN.data, GateLimits(max_nodes=19_999))


# ---- fuzz ---------------------------------------------------------------------------------------------------------


def outcome(function: Callable[[], Any]) -> tuple[str, Any]:
    """The code of the refusal, or the result."""
    try:
        return "", function()
    except InvalidPlan as error:
        return error.code, None


@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_a_graph_with_changed_bytes_is_refused_or_still_means_what_it_says(data):
    """The hash in the manifest is made to fit, so that the bytes reach the parser.

    What passes must load in the runtime, with the ports of the manifest: the gate and the runtime read the same graph.
    """
    graphs = {name: PLAN.graph(name) for name in PLAN.manifest.graphs}
    changed = bytearray(graphs["train"])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(changed) - 1))
        changed[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 7, 50]))
    graphs["train"] = bytes(changed[: len(changed) - cut])
    entry = replaced(PLAN.manifest.graphs["train"], sha256=hashlib.sha256(graphs["train"]).hexdigest())
    manifest = replaced(PLAN.manifest, graphs={**PLAN.manifest.graphs, "train": entry})
    archive = build_archive(manifest, graphs, "")
    code, report = outcome(lambda: check(archive))
    if report is None:
        assert code.startswith("plan_")
        return
    assert report.graphs["train"].num_nodes == entry.num_nodes
    params = {"weight": np.ones((3, 4), np.float32), "bias": np.ones(3, np.float32)}
    batch = {"x": np.ones((2, 4), np.float32), "y": np.ones(2, np.int64)}
    code, result = outcome(lambda: Runner(Plan.from_bytes(archive)).train(params, batch))
    if result is None:  # a failure that depends on data, such as an axis of GatherElements that leaves its table
        assert code == "plan_run_failed"
        return
    assert {name: array.shape for name, array in result.params.items()} == {"weight": (3, 4), "bias": (3,)}


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused(data):
    with pytest.raises(InvalidPlan):
        check(data)
