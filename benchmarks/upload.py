"""Uploads of datasets: how fast each format comes in, and how much memory the Domain needs for it.

    python benchmarks/upload.py [--megabytes 256] [--formats safetensors npz parquet arrow csv-...] [--folder FOLDER]

Each file is uploaded over HTTP to a Domain that runs as a process of its own, with its own child that reads the file;
the peak memory is that of the Domain and of the child. Beside it: a copy of the same file on the same disk, with fsync;
and for CSV the time in which pyarrow and, where it is installed, pandas read the file into memory, without a server,
checks or a disk.

The CSV files are ``csv-wide``: a label and 784 pixels, whole numbers, most of them zero; ``csv-pixels``: the same,
put together to one column of uint8; ``csv-narrow``: ten columns of random numbers; ``csv-text``: six columns of texts,
some of them quoted, a number and a count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil

from pygrid.client import connect
from pygrid.client.table_files import save_npz
from pygrid.tensors import encode
from server_process import ServerProcess, start_domain

COLUMNS = 16
CSV = ("csv-wide", "csv-pixels", "csv-narrow", "csv-text")
FORMATS = ("safetensors", "npz", "parquet", "arrow", *CSV)
PIXELS: dict[str, dict[str, object]] = {"image": {"dtype": "uint8", "source": ["pixel*"], "meaning": "image 1x28x28"}}


def make_files(folder: Path, megabytes: int, formats: tuple[str, ...]) -> dict[str, Path]:
    """A file of each format: random float32 columns, but for CSV."""
    num_records = megabytes * 1_000_000 // (4 * COLUMNS)
    generator = np.random.default_rng(0)
    columns = {f"c{index:02}": generator.random(num_records, np.float32) for index in range(COLUMNS)}
    paths = {form: folder / f"data.{form}" for form in formats}
    if "safetensors" in paths:
        paths["safetensors"].write_bytes(encode(columns))
    if "npz" in paths:
        save_npz(columns, paths["npz"])
    if {"parquet", "arrow"} & paths.keys():
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(columns)
        if "parquet" in paths:
            pq.write_table(table, paths["parquet"])
        if "arrow" in paths:
            with pa.ipc.new_file(paths["arrow"], table.schema) as writer:
                writer.write_table(table, max_chunksize=1_000_000)
    for form in CSV:
        if form in paths:
            write_csv(paths[form], form, megabytes * 1_000_000)
    return paths


def write_csv(path: Path, form: str, num_bytes: int) -> None:
    """A file of about that size; its lines repeat."""
    generator = np.random.default_rng(0)
    if form in ("csv-wide", "csv-pixels"):
        names = ["label", *(f"pixel{index}" for index in range(784))]
        values = generator.integers(0, 256, (600, 785)) * (generator.random((600, 785)) < 0.25)
        lines = [",".join(map(str, row)) for row in values.tolist()]
    elif form == "csv-narrow":
        names = [f"c{index}" for index in range(10)]
        lines = [",".join(f"{value:.9g}" for value in row) for row in generator.random((10_000, 10)).tolist()]
    else:
        names = ["id", *(f"text{index}" for index in range(6)), "x"]
        words = [
            f'"said ""{n}"", twice"' if n % 10 == 0 else f'"one, number {n}"' if n % 5 == 0 else f"word {n}"
            for n in range(2000)
        ]
        chosen = generator.integers(0, len(words), (10_000, 6)).tolist()
        lines = [f"{n},{','.join(words[index] for index in row)},{n / 7:.6f}" for n, row in enumerate(chosen)]
    block = ("\n".join(lines) + "\n").encode()
    with path.open("wb") as file:
        file.write((",".join(names) + "\n").encode())
        for _ in range(max(1, num_bytes // len(block))):
            file.write(block)


def read_by_others(path: Path) -> dict[str, float]:
    """Seconds that other readers take to have a CSV file in memory."""
    from pyarrow import csv

    taken = {"pyarrow": timed(lambda: csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True)))}
    if find_spec("pandas") is not None:
        import pandas

        taken["pandas"] = timed(lambda: pandas.read_csv(path))
    return taken


class Memory(threading.Thread):
    """Watches the resident memory of a process and its children, each apart."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(daemon=True)
        self._pid = server.pid
        self._ended = threading.Event()
        self.peaks: dict[str, int] = {"domain": 0, "child": 0}

    def run(self) -> None:
        process = psutil.Process(self._pid)
        while not self._ended.wait(0.01):
            self._note("domain", process)
            for child in process.children(recursive=True):
                self._note("child", child)

    def _note(self, name: str, process: psutil.Process) -> None:
        try:
            self.peaks[name] = max(self.peaks[name], process.memory_info().rss)
        except psutil.NoSuchProcess:
            return

    def stop(self) -> dict[str, int]:
        self._ended.set()
        self.join()
        return self.peaks


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def copy_durably(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    target.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast datasets are uploaded, and what memory that takes.")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument(
        "--folder", type=Path, default=None, help="on the disk to measure; default: the temporary folder"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        paths = make_files(folder, given.megabytes, tuple(given.formats))
        print(
            f"{'format':<12} {'MB':>6} {'MB/s':>7} {'copy MB/s':>10} {'ratio':>6} {'Domain MB':>10} {'child MB':>9}  "
            "others"
        )
        for form, path in paths.items():
            megabytes = path.stat().st_size / 1e6
            copy_s = timed(lambda path=path: copy_durably(path, folder / "copy"))  # type: ignore[misc]
            others = read_by_others(path) if form in CSV else {}
            with start_domain(folder / f"domain-{form}") as server:
                memory = Memory(server)
                with connect(f"http://127.0.0.1:{server.address[1]}") as domain:
                    domain.sign_up("owner@example.org", "correct horse battery staple")
                    columns = PIXELS if form == "csv-pixels" else {}
                    memory.start()
                    upload_s = timed(
                        lambda path=path, columns=columns: domain.datasets.upload(
                            "data", path, columns=columns, progress=False
                        )  # type: ignore[misc]
                    )
                peaks = memory.stop()
            shutil.rmtree(folder / f"domain-{form}")
            speeds = f"{megabytes / upload_s:>7.0f} {megabytes / copy_s:>10.0f} {upload_s / copy_s:>6.2f}"
            beside = ", ".join(f"{name} {megabytes / taken:.0f}" for name, taken in others.items())
            print(
                f"{form:<12} {megabytes:>6.0f} {speeds} {peaks['domain'] / 1e6:>10.0f} {peaks['child'] / 1e6:>9.0f}  "
                f"{beside}"
            )
            path.unlink()


if __name__ == "__main__":
    main()
