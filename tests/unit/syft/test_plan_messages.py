"""Plan in protobuf.

Should happen: a plan comes back as it was written; its role has an id. Should not happen: a plan with pointers, two
values in one argument, nesting without a limit, or more actions than a list may have.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidInput
from pygrid.syft import Action, PlanMessage, Ref, read_plan, write_plan
from pygrid.syft.wire import WireReader, head_of, write_bytes, write_int, write_text

ARGUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32, allow_nan=False).filter(lambda value: not value.is_integer())
    | st.text(max_size=5)
    | st.builds(Ref, st.integers(0, 100) | st.text("abc", min_size=1, max_size=3)),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
ACTIONS = st.builds(
    Action,
    st.sampled_from(["tf.add", "tf.nn.relu", "__add__"]),
    st.lists(ARGUMENTS, max_size=3).map(tuple),
    st.integers(0, 2**40),
    st.none() | st.builds(Ref, st.integers(0, 9)),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), ARGUMENTS, max_size=2),
)


@given(st.lists(ACTIONS, min_size=1, max_size=3))
def test_a_plan_comes_back_as_it_was_written(actions):
    plan = PlanMessage("training_plan", (1, "x"), (3,), tuple(actions), base_framework="tfjs")
    assert read_plan(write_plan(plan)) == plan


def test_constants_and_torchscript_come_back():
    constants = {5: np.ones((2, 2), np.float32), 6: np.arange(3, dtype=np.int32)}
    found = read_plan(write_plan(PlanMessage("p", (1,), (2,), (Action("tf.neg", (Ref(1),), 2),), constants, b"TS")))
    assert found.torchscript == b"TS"
    assert list(found.constants) == [5, 6]
    np.testing.assert_array_equal(found.constants[6], [0, 1, 2])


def test_the_role_has_an_id():
    data = write_plan(PlanMessage("p", (1,), (2,), (Action("tf.neg", (Ref(1),), 2),)))
    reader = WireReader()
    (role,) = [field.content for field in reader.fields(memoryview(data)) if field.number == 2]
    assert any(field.number == 1 and field.content for field in reader.fields(role))


def role_with(action: bytes) -> bytes:
    return write_bytes(2, write_bytes(2, action))


RESULT = write_bytes(8, write_bytes(1, write_int(1, 9)))


def nested(depth: int) -> bytes:
    argument = write_int(2, 1)
    for _ in range(depth):
        argument = write_bytes(11, write_bytes(1, argument))
    return role_with(write_text(1, "tf.add") + write_bytes(5, argument) + RESULT)


WHOLE = write_plan(PlanMessage("p", (1,), (2,), (Action("tf.neg", (Ref(1),), 2),)))
BAD = {
    "truncated": WHOLE[:-1],
    "a length beyond the end": WHOLE + head_of(2, 1000) + b"abc",
    "an overlong integer": WHOLE + b"\x18" + b"\x80" * 10 + b"\x01",
    "an integer above 64 bits": WHOLE + b"\x18" + b"\xff" * 9 + b"\x7f",
    "a name that is not UTF-8": WHOLE + write_bytes(4, b"\xff\xfe"),
    "a pointer": role_with(write_text(1, "tf.add") + write_bytes(2, b"") + RESULT),
    "a pointer as an argument": role_with(write_text(1, "tf.add") + write_bytes(5, write_bytes(8, b"")) + RESULT),
    "two values in an argument": role_with(
        write_text(1, "tf.add") + write_bytes(5, write_int(1, 1) + write_int(2, 1)) + RESULT
    ),
    "no command": role_with(RESULT),
    "no result": role_with(write_text(1, "tf.add")),
    "two results": role_with(write_text(1, "tf.add") + RESULT + RESULT),
    "lists 500 deep": nested(500),
    "lists 10,000 deep": nested(10_000),
    "a million actions": write_bytes(2, b"\x12\x00" * 1_000_000),
    "too many arguments": role_with(write_text(1, "tf.add") + write_bytes(5, b"") * 65 + RESULT),
    "too many actions": write_bytes(2, write_bytes(2, write_text(1, "tf.add") + RESULT) * 20_001),
    "two roles": role_with(write_text(1, "a") + RESULT) * 2,
    "more than 8 MiB": write_bytes(7, b"x" * (8 * 1024 * 1024)),
    "a pickled constant": role_with(
        write_text(1, "tf.add") + write_bytes(5, write_bytes(6, write_bytes(3, b"\x80\x02."))) + RESULT
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_plans_are_refused(name):
    with pytest.raises(InvalidInput) as caught:
        read_plan(BAD[name])
    assert caught.value.code == "invalid_protobuf"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(InvalidInput):
        read_plan(data)
