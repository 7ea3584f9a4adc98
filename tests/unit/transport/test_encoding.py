"""What the SDK sends as JSON. Should not happen: NaN or infinity that arrives as an absent value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pygrid.errors import InvalidInput
from pygrid.transport.encoding import json_body


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"client_config": {"lr": float("nan")}}, "client_config.lr is nan"),
        ({"metrics": [None, np.float32("inf")]}, r"metrics\[1\] is inf"),
        ({"values": np.array([1.0, -np.inf])}, r"values\[1\] is -inf"),
        (float("nan"), "the value is nan"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(value: Any, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name}, which cannot be sent"):
        json_body(value)


def test_absent_values_are_sent() -> None:
    assert b"".join(bytes(part) for part in json_body({"a": None, "b": [1.5]})) == b'{"a":null,"b":[1.5]}'
