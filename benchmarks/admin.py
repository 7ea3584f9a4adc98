"""What the web console costs a Domain, and how quick its pages are with 10,000 rows.

    python benchmarks/admin.py [--only pages|files|screen|scroll|watched|streams|upload|picture|start]

Each part measures both sides in one run: a page beside the JSON with the same rows, the last page of a list beside the
first one, a training that is watched beside one that is not, an upload by pages beside one by the API, a Domain with
the console beside one without. ``screen`` and ``scroll`` need Chromium. CPU is that of the whole server process.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import sqlite3
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np

import pygrid
from console_acts import drawn_graph, request_with_a_plan, upload_by_pages
from console_browser import measure_delays, measure_scrolling
from figure import Figure, Measure, measure_parts
from loadgen import Address, Connection, Device, host, sign_up
from pygrid.client import connect
from pygrid.plans.picture import draw
from pygrid.tensors import encode
from pygrid.ui.session_limits import MAX_STREAMS
from pygrid.ui.svg import draw_plan
from server_process import ServerProcess
from vector_model import diff_bytes, model_bytes, plan_bytes

EMAIL, PASSWORD = "owner@example.org", "correct horse battery staple"
REPEATS = 3
NUM_REQUESTS = 40
NUM_CONSOLES = 20
STATIC = Path(pygrid.__file__).parent / "ui" / "static"


def start(folder: Path, *options: str) -> ServerProcess:
    """A Domain whose data lie in ``folder``."""
    command = [sys.executable, "-m", "pygrid", "domain", "--host", "127.0.0.1", "--port", "0", *options]
    return ServerProcess([*command, "--data-dir", str(folder)], folder, ready_path="/readyz")


class Visitor:
    """A connection with the cookie of a session."""

    def __init__(self, address: Address, cookie: str) -> None:
        self._address, self.cookie = address, cookie

    async def get(self, path: str) -> tuple[int, bytes, float]:
        """Status and body of a page, and the milliseconds that it took."""
        reader, writer = await asyncio.open_connection(*self._address)
        began = time.perf_counter()
        writer.write(self._head(path, "close"))
        answer = await reader.read()
        took_ms = (time.perf_counter() - began) * 1000
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body, took_ms

    async def follow(self, topics: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An open stream of changes, after its first line."""
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 20)
        writer.write(self._head(f"/admin/live?topics={topics}", "keep-alive"))
        await reader.readuntil(b": open")
        return reader, writer

    def _head(self, path: str, connection: str) -> bytes:
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self._address[1]}", f"Cookie: {self.cookie}"]
        return "\r\n".join([*lines, f"Connection: {connection}", "", ""]).encode()


async def sign_in(address: Address) -> Visitor:
    """Sign in by the form."""
    reader, writer = await asyncio.open_connection(*address)
    body = f"email={EMAIL.replace('@', '%40')}&password={PASSWORD.replace(' ', '+')}".encode()
    head = (
        f"POST /admin/login HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\nSec-Fetch-Site: same-origin\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    (cookie,) = [line.partition(": ")[2] for line in answer.split("\r\n") if line.lower().startswith("set-cookie: ")]
    return Visitor(address, cookie.partition(";")[0])


# ---- pages -----------------------------------------------------------------------------------------------------------


def fill(folder: Path, num_rows: int) -> None:
    """Copy the one process in the database until there are ``num_rows``; the Domain is stopped."""
    (path,) = folder.glob("*.db")
    with sqlite3.connect(path) as database:
        for table, key in (("processes", "id"), ("cycles", "process_id"), ("checkpoints", "process_id")):
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            row = dict(zip(names, database.execute(f"SELECT * FROM {table} WHERE {key} = 1").fetchone(), strict=True))
            rows = []
            for number in range(2, num_rows + 1):
                copy = row | {key: number, "state": "finished" if table == "processes" else "completed"}
                copy = {name: value for name, value in copy.items() if name in row}
                copy |= {"name": f"process-{number}"} if table == "processes" else {"id": 10 * number}
                rows.append([copy[name] for name in names])
            marks = ", ".join("?" * len(names))
            database.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)


async def _time(visit: Callable[[], Awaitable[tuple[int, bytes, float]]]) -> tuple[float, float, int]:
    """Median and 95th percentile of the milliseconds, and the bytes."""
    times, size = [], 0
    for _ in range(NUM_REQUESTS):
        status, body, took_ms = await visit()
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:200]!r}")
        times.append(took_ms)
        size = len(body)
    times = sorted(times[5:])
    return statistics.median(times), times[math.ceil(0.95 * len(times)) - 1], size


async def measure_pages(folder: Path, num_rows: int = 10_000) -> list[Figure]:
    """Times of the list of processes: the first page, the last page, and the JSON route with as many rows."""
    with start(folder) as domain:
        token = await sign_up(domain.address, EMAIL, PASSWORD)
        await host(domain.address, token, "first", model_bytes(100), plan_bytes(100), {"cycle_length": None})
    fill(folder, num_rows)
    with start(folder) as domain:
        token = (await _log_in(domain.address)).strip()
        visitor, rest = await sign_in(domain.address), await sign_in(domain.address)
        before = domain.cpu_s
        first = await _time(lambda: visitor.get("/admin/processes"))
        cpu_ms = (domain.cpu_s - before) * 1000 / NUM_REQUESTS
        rows = await _time(lambda: visitor.get("/admin/processes?format=json"))
        later = len(gzip.compress((await visitor.get("/admin/processes"))[1], 5))
        last = await _time(lambda: rest.get("/admin/processes?before=101"))
        connection = await Connection.open(domain.address)

        async def one() -> tuple[int, bytes, float]:
            began = time.perf_counter()
            answer = await connection.request(
                "GET", "/model-centric/processes?name=process-9&version=1.0", bearer=token
            )
            return answer.status, answer.body, (time.perf_counter() - began) * 1000

        single = await _time(one)
        page = await _time(lambda: rest.get("/admin/processes/1"))
        connection.close()
    return [
        Figure(
            f"list of processes, {num_rows:,} rows, first page, 95%",
            first[1],
            "ms",
            50.0,
            note=f"median {first[0]:.1f} ms, CPU {cpu_ms:.1f} ms",
        ),
        Figure(
            "the first page less 5 ms over the same rows as JSON, medians",
            (first[0] - 5) / rows[0],
            "x",
            3.0,
            note=f"{rows[0]:.1f} ms as JSON",
        ),
        Figure("a later page of 100 rows, gzip", later / 1000, "kB", 12.0),
        Figure("the last page over the first page, medians", last[0] / first[0], "x", 1.2, note=f"{last[0]:.1f} ms"),
        Figure("page of a process, 95%", page[1], "ms", 50.0, note=f"JSON of one process: {single[0]:.1f} ms"),
    ]


async def _log_in(address: Address) -> str:
    connection = await Connection.open(address)
    answer = await connection.post_json("/users/login", {"email": EMAIL, "password": PASSWORD})
    connection.close()
    token: str = answer.json()["token"]
    return token


# ---- files -----------------------------------------------------------------------------------------------------------


async def measure_files(_folder: Path) -> list[Figure]:
    """Bytes of all static files, compressed: the first visit."""
    sizes = {
        path.name: len(gzip.compress(path.read_bytes(), 9))
        for path in STATIC.rglob("*")
        if path.suffix in (".js", ".css", ".svg")
    }
    note = ", ".join(f"{name} {size / 1000:.1f}" for name, size in sorted(sizes.items()))
    return [Figure("all files of the first visit, gzip", sum(sizes.values()) / 1000, "kB", 60.0, note=note)]


# ---- in a browser ----------------------------------------------------------------------------------------------------


async def measure_screen(folder: Path) -> list[Figure]:
    """Times from a change in the store to another text in Chromium."""
    with start(folder) as domain:
        token = await sign_up(domain.address, EMAIL, PASSWORD)
        config = {"cycle_length": None, "max_diffs": 10_000}
        process = await host(domain.address, token, "seen", model_bytes(1000), plan_bytes(1000), config)
        visitor = await sign_in(domain.address)
        return await measure_delays(domain.address, visitor.cookie, token, process, diff_bytes(1000))


async def measure_scroll(folder: Path, num_rows: int = 10_000) -> list[Figure]:
    """Frames per second in Chromium while the list of processes scrolls."""
    with start(folder) as domain:
        token = await sign_up(domain.address, EMAIL, PASSWORD)
        await host(domain.address, token, "first", model_bytes(100), plan_bytes(100), {"cycle_length": None})
    fill(folder, num_rows)
    with start(folder) as domain:
        return await measure_scrolling(domain.address, (await sign_in(domain.address)).cookie)


# ---- a watched training ----------------------------------------------------------------------------------------------


async def _reports_per_s(domain: ServerProcess, token: str, name: str, num_consoles: int, num_reports: int) -> float:
    """Reports per second of 20 devices at once, while so many pages follow the training."""
    process = await host(
        domain.address,
        token,
        name,
        model_bytes(1000),
        plan_bytes(1000),
        {"cycle_length": None, "max_diffs": num_reports},
    )
    visitors = [await sign_in(domain.address) for _ in range(math.ceil(num_consoles / MAX_STREAMS))]
    streams = [await visitors[n // MAX_STREAMS].follow(f"process:{process.id}") for n in range(num_consoles)]
    received = 0

    async def read(reader: asyncio.StreamReader) -> None:
        nonlocal received
        while data := await reader.read(1 << 16):
            received += len(data)

    readers = [asyncio.create_task(read(reader)) for reader, _ in streams]
    body, left = diff_bytes(1000), iter(range(num_reports))

    async def work() -> None:
        device = Device(await Connection.open(domain.address), process)
        for _ in left:
            await device.authenticate()
            await device.report((await device.join())["request_key"], body)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(20)))
    took_s = time.perf_counter() - began
    for task, (_, writer) in zip(readers, streams, strict=True):
        task.cancel()
        writer.close()
    if num_consoles and not received:
        raise RuntimeError("no page has seen anything")
    return num_reports / took_s


async def measure_watched(folder: Path, num_reports: int = 1500) -> list[Figure]:
    """Reports per second of a training that 20 pages follow, over one that nobody follows, in turns."""
    ratios, rates = [], []
    with start(folder) as domain:
        token = await sign_up(domain.address, EMAIL, PASSWORD)
        await _reports_per_s(domain, token, "warm", 0, num_reports // 4)
        for repeat in range(REPEATS):
            alone = await _reports_per_s(domain, token, f"alone-{repeat}", 0, num_reports)
            watched = await _reports_per_s(domain, token, f"watched-{repeat}", NUM_CONSOLES, num_reports)
            ratios.append(watched / alone)
            rates.append(alone)
    note = f"{statistics.median(rates):.0f} /s alone; from {min(ratios):.2f} to {max(ratios):.2f}"
    ratio = statistics.median(ratios)
    return [Figure("reports/s with 20 pages open over none", ratio, "x", 0.97, at_least=True, note=note)]


# ---- streams ---------------------------------------------------------------------------------------------------------


async def measure_streams(folder: Path, num_streams: int = 1000) -> list[Figure]:
    """Memory and CPU of open streams in which nothing happens, of as many sessions as they need."""
    with start(folder) as domain:
        await sign_up(domain.address, EMAIL, PASSWORD)
        visitors = [await sign_in(domain.address) for _ in range(math.ceil(num_streams / MAX_STREAMS))]
        streams = [await visitors[0].follow("queue")]
        before = _memory(domain.pid)
        streams += [await visitors[n // MAX_STREAMS].follow("queue") for n in range(1, num_streams)]
        each_kb = (_memory(domain.pid) - before) / (num_streams - 1) / 1000
        cpu_before, began = domain.cpu_s, time.perf_counter()
        await asyncio.sleep(20)
        share = (domain.cpu_s - cpu_before) / (time.perf_counter() - began)
        for _, writer in streams:
            writer.close()
    return [
        Figure(f"memory of an idle stream, {num_streams:,} open", each_kb, "kB", 60.0),
        Figure(f"CPU of {num_streams:,} idle streams", 100 * share, "% of a core", 1.0),
    ]


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


# ---- upload and picture ----------------------------------------------------------------------------------------------


async def measure_upload(folder: Path, num_records: int = 3_000_000) -> list[Figure]:
    """Seconds and memory of a file that is staged, described and stored by pages, beside an upload by the API."""
    columns = {f"c{index}": np.random.default_rng(index).random(num_records, np.float32) for index in range(16)}
    data = encode(columns)
    ratios, peaks = list[tuple[float, float]](), list[float]()
    file = folder / "data.safetensors"
    file.write_bytes(data)
    with start(folder / "domain") as domain:
        await sign_up(domain.address, EMAIL, PASSWORD)
        url, visitor = f"http://127.0.0.1:{domain.address[1]}", await sign_in(domain.address)
        headers = {"Cookie": visitor.cookie, "Sec-Fetch-Site": "same-origin"}
        with connect(url) as client, httpx.Client(base_url=url, headers=headers, timeout=300) as pages:
            client.login(EMAIL, PASSWORD)
            idle = domain.peak_bytes
            for repeat in range(REPEATS + 1):
                described_s, stored_s = await asyncio.to_thread(upload_by_pages, pages, f"pages-{repeat}", data)
                peaks.append((domain.peak_bytes - idle) / 1e6)
                began = time.perf_counter()
                await asyncio.to_thread(client.datasets.upload, f"api-{repeat}", file, progress=False)
                took_s = time.perf_counter() - began
                ratios.append((took_s / described_s, took_s / stored_s))
    size = len(data) / 1e6
    described, stored = (statistics.median(found) for found in zip(*ratios[1:], strict=True))
    note = f"{size / described_s:.0f} MB/s; from {min(ratios[1:])[0]:.2f} to {max(ratios[1:])[0]:.2f}"
    return [
        Figure("upload by a page until it is described, over the API, speed", described, "x", 0.9, True, note),
        Figure("the same until it is stored by a second form", stored, "x", at_least=True),
        Figure(f"peak memory that {size:.0f} MB by pages add to the Domain", peaks[0], "MB", 0.5 * size),
    ]


async def measure_picture(folder: Path) -> list[Figure]:
    """Milliseconds in which the largest graph of the examples is drawn, and of a request page that has a picture."""
    graph, times = drawn_graph("train"), []
    for _ in range(NUM_REQUESTS):
        began = time.process_time()
        draw_plan(draw(graph, "train"))
        times.append((time.process_time() - began) * 1000)
    with start(folder) as domain:
        await sign_up(domain.address, EMAIL, PASSWORD)
        url = f"http://127.0.0.1:{domain.address[1]}"
        job = await asyncio.to_thread(request_with_a_plan, url, EMAIL, PASSWORD)
        visitor = await sign_in(domain.address)
        if b"<svg" not in (await visitor.get(f"/admin/jobs/{job}"))[1]:
            raise RuntimeError("the request page has no picture")
        before = domain.cpu_s
        page = await _time(lambda: visitor.get(f"/admin/jobs/{job}"))
        cpu_ms = (domain.cpu_s - before) * 1000 / NUM_REQUESTS
    drawn = statistics.median(times)
    what = f"CPU of the picture of a graph of {len(graph.nodes)} nodes, median"
    note = f"median {page[0]:.1f} ms, CPU {cpu_ms:.1f} ms"
    return [
        Figure(what, drawn, "ms", 10.0, note=f"{max(times):.1f} ms at most"),
        Figure("request page with the picture of its plan, 95%", page[1], "ms", 50.0, note=note),
    ]


# ---- start -----------------------------------------------------------------------------------------------------------


async def measure_start(folder: Path) -> list[Figure]:
    """Seconds until a Domain is ready, and its memory then, with the console and without, in turns; the least of each.

    Other programs of the machine can only add to a time.
    """
    found: dict[str, list[tuple[float, float, float]]] = {"--admin": [], "--no-admin": []}
    for repeat in range(REPEATS + 1):
        for option, measured in found.items():
            began = time.perf_counter()
            with start(folder / f"{option}-{repeat}", option) as domain:
                measured.append((time.perf_counter() - began, domain.cpu_s, _memory(domain.pid) / 1e6))
    (with_s, with_cpu, with_mb), (without_s, without_cpu, without_mb) = (
        tuple(map(min, zip(*measured[1:], strict=True))) for measured in found.values()
    )
    note = f"{without_s:.2f} s without; CPU {with_cpu - without_cpu:.2f} s in addition to {without_cpu:.2f} s"
    memory = with_mb - without_mb
    return [
        Figure("start with the console, in addition", with_s - without_s, "s", 0.3, note=note),
        Figure("memory with the console, in addition", memory, "MB", 15.0, note=f"{without_mb:.0f} MB without"),
    ]


PARTS: dict[str, Measure] = {
    "pages": measure_pages,
    "files": measure_files,
    "screen": measure_screen,
    "scroll": measure_scroll,
    "watched": measure_watched,
    "streams": measure_streams,
    "upload": measure_upload,
    "picture": measure_picture,
    "start": measure_start,
}


if __name__ == "__main__":
    sys.exit(measure_parts("Measure the web console of a Domain.", PARTS))
