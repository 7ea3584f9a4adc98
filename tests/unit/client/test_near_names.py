"""Names that do not exist: the message suggests one that the caller can see.

Should not happen: the name of a dataset that the caller cannot see.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pygrid.client import DomainClient
from pygrid.errors import NotFound
from support.sdk import PASSWORD, host, owner_of, running_domain


def refusal(find: object, *words: str) -> str:
    with pytest.raises(NotFound) as refused:
        find(*words)  # type: ignore[operator]
    return refused.value.detail


def test_the_nearest_name_is_suggested(tmp_path: Path) -> None:
    with running_domain(tmp_path) as site:
        owner = owner_of(site)
        owner.datasets.upload("patients", {"x": np.arange(3)})
        owner.tokens.make("nightly")
        host(owner, "digits")
        assert refusal(owner.datasets.__getitem__, "patient").endswith(
            "has no dataset 'patient' that you can see; did you mean 'patients'?"
        )
        assert refusal(owner.datasets.__getitem__, "zoo").endswith("that you can see")
        assert refusal(owner.tokens.revoke, "nightyl").endswith("; did you mean 'nightly'?")
        assert refusal(owner.process, "digit").endswith("it has: digits; did you mean 'digits'?")
        assert refusal(owner.job, "3").startswith("'3' is not the id of a job: pass its first 6 characters")
        assert refusal(owner.job, "3" * 40) == f"you can see no job whose id begins with {'3' * 40!r}"

        owner.users.add("bob@example.org", PASSWORD)
        with DomainClient(site) as other:
            other.login("bob@example.org", PASSWORD)
            assert "did you mean" not in refusal(other.datasets.__getitem__, "patient")
