"""What people do in the web console, without a browser: an upload, and a request with the picture of its plan.

Parts of admin.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import numpy as np

from pygrid.client import connect
from pygrid.client.domain import DomainClient
from pygrid.plans.archive import Plan
from pygrid.plans.operators.values import OPSET
from pygrid.plans.picture import DrawnGraph, GraphNode
from pygrid.plans.structure import parse_graph

PLANS = Path(__file__).parents[1] / "examples" / "plans"
PLAN, MODEL = PLANS / "digits_cnn.plan", PLANS / "digits_cnn.safetensors"


class _Fields(HTMLParser):
    """The fields of the forms of a page, as a browser sends them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        name = found.get("name")
        if tag == "input" and name and not name.startswith("join_"):
            self.values[name] = found.get("value") or ""


def _file_part(data: bytes, boundary: bytes) -> Iterator[bytes]:
    name = b'Content-Disposition: form-data; name="data"; filename="data.safetensors"'
    config = b'Content-Disposition: form-data; name="config"\r\n\r\n{}'
    yield b"--%b\r\n%b\r\n--%b\r\n%b\r\n\r\n" % (boundary, config, boundary, name)
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]
    yield b"\r\n--%b--\r\n" % boundary


def upload_by_pages(web: httpx.Client, name: str, data: bytes) -> tuple[float, float]:
    """Stage a file, and store it as a dataset by the form that describes it.

    Returns:
        The seconds until the page that describes it, and until it is stored.
    """
    began = time.perf_counter()
    boundary = b"a-boundary-of-the-benchmark"
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
    answer = web.post("/admin/datasets/staged", content=_file_part(data, boundary), headers=kind)
    _check(answer, 303)
    path = answer.headers["location"]
    form = _check(web.get(path), 200)
    described_s = time.perf_counter() - began
    fields = {**_Fields(form.text).values, "name": name, "visibility": "private", "act": "store"}
    _check(web.post(path, data=fields), 303)
    return described_s, time.perf_counter() - began


def request_with_a_plan(url: str, email: str, password: str) -> str:
    """The id of a job that waits for a decision; its plan has a picture."""
    owner: DomainClient = connect(url)
    owner.login(email, password)
    generator = np.random.default_rng(0)
    arrays = {"x": generator.random((64, 1, 8, 8), np.float32), "y": generator.integers(0, 10, 64)}
    owner.datasets.upload("images", arrays, visibility="listed", progress=False)
    asker = connect(url)
    asker.sign_up("bob@example.org", password)
    return asker.submit(PLAN, dataset="images", model=MODEL, reason="to measure a page").id


def drawn_graph(name: str) -> DrawnGraph:
    """A graph of the example with the largest plan, without its constants."""
    plan = Plan.from_bytes(PLAN.read_bytes())
    graph = parse_graph(name, plan.graph(name), range(OPSET, OPSET + 1)).graph
    constants = {tensor.name for tensor in graph.initializer}
    nodes = tuple(
        GraphNode(node.op_type, tuple(one for one in node.input if one and one not in constants), tuple(node.output))
        for node in graph.node
    )
    inputs = tuple(port.name for port in graph.input if port.name not in constants)
    return DrawnGraph(inputs, tuple(port.name for port in graph.output), nodes)


def _check(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code != status:
        raise RuntimeError(f"{answer.request.url}: status {answer.status_code}: {answer.text[-500:]}")
    return answer
