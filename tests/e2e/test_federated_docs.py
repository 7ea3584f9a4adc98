"""The examples of docs/how-to/federate.md, run from top to bottom against three Domains.

Should happen: every block of Python and every command runs and succeeds; the sheet that an owner sees is the one that
is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_network_start import PASSWORD, App, running
from test_sdk_docs import ROOT, blocks, folder, run_command  # noqa: F401 - folder is a fixture

import cells_data
from pygrid.client import connect
from pygrid.client.credentials import remember_token

PORTS = {"hub": 5000, "alice": 5001, "bob": 5002}
POLICY = {"epsilon": 10.0, "delta": 1e-5, "epsilon_per_user": 8.0, "auto_approve": True, "use": "training"}


@pytest.fixture
def urls(folder: Path) -> Iterator[dict[str, str]]:  # noqa: F811
    """The three Domains by name; two have data, and a scientist with an account."""
    apps = {name: App("domain", folder / name, "--id", name) for name in PORTS}
    with running(*apps.values()):
        found = {name: app.start() for name, app in apps.items()}
        records, _ = cells_data.hold_out(cells_data.load())
        for part, name in enumerate(("alice", "bob")):
            owner, science = connect(found[name]), connect(found[name])
            owner.sign_up("owner@example.org", PASSWORD)
            cells = {"meaning": "measurements of cell nuclei, as published"}
            columns = {"measurements": cells, "malignant": "label 0..1"}
            shard = records.take(np.arange(part, len(records), 2))
            owner.datasets.upload(
                "cells", shard.columns(), visibility="listed", columns=columns, progress=False
            ).policy(**POLICY)
            science.sign_up("scientist@example.org", PASSWORD)
            assert science.token is not None
            remember_token(found[name], science.token)
        yield found


@pytest.mark.slow
def test_the_examples_run(urls: dict[str, str], tmp_path: Path) -> None:
    namespace: dict[str, object] = {"PASSWORD": PASSWORD}
    found = blocks("how-to/federate.md")
    assert len(found) >= 6
    for language, text in found:
        for name, port in PORTS.items():
            text = text.replace(f"http://127.0.0.1:{port}", urls[name])
        if language == "python":
            exec(compile(text, "federated.md", "exec"), namespace)
            continue
        hub = namespace.get("hub")
        if hub is not None:
            remember_token(urls["hub"], hub.token)  # type: ignore[attr-defined]
        for line in text.splitlines():
            assert line.startswith("$ ")
            if line != "$ pygrid domain":  # the fixture's
                run_command(line.removeprefix("$ "))
    assert Path("trained.safetensors").stat().st_size > 100
    run = namespace["run"]
    assert [domain.state for domain in run.domains] == ["released", "released"]  # type: ignore[attr-defined]
    assert [len(cycle.contributions) for cycle in run.history] == [2] * 5  # type: ignore[attr-defined]
    shown = (ROOT / "docs/how-to/federate.md").read_text()
    owner = connect(urls["alice"]).login("owner@example.org", PASSWORD)
    sheet = {line.split("  ")[0]: line for line in owner.jobs()[-1].sheet().splitlines()}
    for name in ("takes part in", "what leaves"):
        said = re.sub(r"\s+", " ", sheet[name]).replace(urls["hub"], "http://127.0.0.1:5000")
        assert said in re.sub(r"[ \t]+", " ", shown), said
