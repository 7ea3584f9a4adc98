"""Progress in a notebook whose kernel has no ipywidgets.

Should happen: one output for each view, replaced in place; its last state is in the saved notebook; objects show HTML.
Should not happen: text of others as HTML, a warning that ipywidgets are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SETUP = """
import sys
sys.modules["ipywidgets"] = None  # an import of it fails
sys.path[:0] = {path!r}
from test_client_jobs import Scripted, info, job_of
from test_training_view import cycle, process
from pygrid.client import Process
from pygrid.client.display.live import ProgressView
from pygrid.client.display.training_view import watch
from pygrid.transport import Api
"""
WAIT = """
running = info("running", detail="<script>")
job = job_of(Scripted(info("waiting", detail="<script>"), running, info("released")))
state = job.wait(timeout_s=60).state
job
"""
BAR = """
with ProgressView("<b>", None) as view:
    for done in range(1001):
        view.show("sending", done, 1000)
"""
WATCH = """
class Trained(Process):
    states = [process(cycle(1, "open", num_reports=4), num_cycles=2), process(cycle(2, "open"), num_cycles=2)]
    def info(self):
        return self.states.pop(0) if self.states else finished
    def cycles(self, after=0):
        return [one for one in (cycle(1), cycle(2)) if one.sequence > after]
finished = process(cycle(3), num_cycles=2)
finished.state = "finished"
watch(Trained(Api(Scripted()), finished), poll_s=0.0)
"""


SCHEMA = """
from pygrid.messages.datasets import Column, Schema
Schema((Column("<age>", "float32"),), 3)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The cells of a saved notebook, after a kernel ran it."""
    folder = tmp_path_factory.mktemp("notebook")
    tests = Path(__file__).parent
    setup = SETUP.format(path=[str(tests), str(tests.parents[1])])
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in (setup, WAIT, BAR, WATCH, SCHEMA)]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(folder / name.lower()))
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    nbformat.write(notebook, folder / "saved.ipynb")
    return list(nbformat.read(folder / "saved.ipynb", as_version=4).cells)


def shown(cell: Any) -> list[str]:
    assert [output.output_type for output in cell.outputs if output.output_type in ("stream", "error")] == []
    return [output.data["text/html"] for output in cell.outputs]


def test_a_job_is_followed_in_one_output_and_its_object_shows_a_table(cells: list[Any]) -> None:
    bar, job = shown(cells[1])
    assert bar.startswith("<div><b>train on iris</b> <progress value='1' max='1'></progress> released")
    assert "<th style='text-align:left'>state</th>" in job
    assert "<script>" not in bar + job


def test_many_changes_replace_one_output(cells: list[Any]) -> None:
    assert shown(cells[2]) == ["<div><b>&lt;b&gt;</b> <progress value='1000' max='1000'></progress> sending</div>"]


def test_a_training_is_watched_in_one_output(cells: list[Any]) -> None:
    (training,) = shown(cells[3])
    assert "<b>digits 1.0</b> finished" in training
    assert "<progress value='2' max='2'></progress>" in training
    assert training.count("<td style='text-align:right'>0.9375</td>") == 2
    assert "progress" not in training.partition("2 of 2")[2]


def test_a_schema_is_a_table(cells: list[Any]) -> None:
    (schema,) = shown(cells[4])
    assert schema.startswith("3 records<table>")
    assert "<td style='text-align:left'>&lt;age&gt;</td>" in schema
