"""What docs/reference/plan-format.md says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pygrid.plans.gate as gate
from pygrid.plans.archive import MAX_MANIFEST_BYTES, MAX_PLAN_BYTES, MAX_SOURCE_BYTES
from pygrid.plans.manifest import DataPort, Graph, Hyper, Manifest, NoisePort, Port, TestVector
from pygrid.plans.operators import OPERATORS
from pygrid.plans.structure import IR_VERSIONS, OPSET

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "reference" / "plan-format.md").read_text()


def test_the_list_of_operators_is_the_one_of_the_code():
    section = TEXT.partition("### Operators")[2].partition("Restrictions")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", section)) == set(OPERATORS)


def test_every_field_of_the_manifest_is_explained():
    for struct in (Manifest, Graph, Port, DataPort, NoisePort, Hyper, TestVector):
        for name in struct.__struct_fields__:
            assert f"`{name}`" in TEXT or re.search(rf"`{{[^}}]*\b{name}\b[^}}]*}}`", TEXT), (struct.__name__, name)


def test_every_code_of_a_refusal_is_explained():
    sources = [path.read_text() for path in (ROOT / "src/pygrid/plans").glob("*.py")]
    names = {name for source in sources for name in re.findall(r'"(plan_[a-z_]+)"|\bcodes\.(PLAN_[A-Z_]+)', source)}
    used = {(literal or constant).lower() for literal, constant in names}
    elsewhere = {
        "plan_graph_missing",
        "plan_kind",
        "plan_load_failed",
        "plan_run_failed",
        "plan_variant_invalid",
    }  # raised by readers and runners
    table = TEXT.partition("## 6.")[2].partition("**Shapes.**")[0]
    assert set(re.findall(r"`(plan_[a-z_]+)`", table)) == used - elsewhere
    assert used - elsewhere <= set(re.findall(r"plan_[a-z_]+", gate.__doc__ or ""))


def test_the_limits_are_those_of_the_code():
    limits = gate.GateLimits()
    assert (MAX_PLAN_BYTES, MAX_MANIFEST_BYTES, MAX_SOURCE_BYTES) == (8 * 2**20, 2**20, 256 * 2**10)
    assert (limits.max_nodes, limits.max_constant_bytes) == (24_000, 4 * 2**20)
    assert (limits.max_tensor_bytes, limits.max_peak_bytes, limits.max_flops) == (256 * 2**20, 2 * 2**30, 2 * 10**12)
    assert (20, range(8, 11)) == (OPSET, IR_VERSIONS)
