"""Uploads of datasets: how fast each format comes in, and how much memory the Domain needs for it.

    python benchmarks/upload.py [--megabytes 256] [--formats safetensors npz parquet arrow csv] [--folder FOLDER]

Each file is uploaded over HTTP to a Domain that runs as a process of its own, with its own child that reads the file; the peak
memory is that of the Domain and of the child. The baseline is a copy of the same file on the same disk, with fsync.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from pygrid.client import connect
from pygrid.client.datasets import save_npz
from pygrid.tensors import encode
from server_process import ServerProcess, start_domain

COLUMNS = 16
FORMATS = ("safetensors", "npz", "parquet", "arrow", "csv")
CSV_SHARE = 8
"""CSV is read an order of magnitude slower, so its file is that much smaller."""


def make_files(folder: Path, megabytes: int, formats: tuple[str, ...]) -> dict[str, Path]:
    """A file of each format with random float32 columns."""
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
    if "csv" in paths:
        few = num_records // CSV_SHARE // 2
        text = np.stack([column[:few] for column in columns.values()], axis=1)
        np.savetxt(paths["csv"], text, fmt="%.7g", delimiter=",", header=",".join(columns), comments="")
    return paths


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
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: the temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        paths = make_files(folder, given.megabytes, tuple(given.formats))
        print(f"{'format':<12} {'MB':>6} {'MB/s':>7} {'copy MB/s':>10} {'ratio':>6} {'Domain MB':>10} {'child MB':>9}")
        for form, path in paths.items():
            megabytes = path.stat().st_size / 1e6
            copy_s = timed(lambda path=path: copy_durably(path, folder / "copy"))  # type: ignore[misc]
            with start_domain(folder / f"domain-{form}") as server:
                memory = Memory(server)
                with connect(f"http://127.0.0.1:{server.address[1]}") as domain:
                    domain.sign_up("owner@example.org", "correct horse battery staple")
                    memory.start()
                    upload_s = timed(lambda path=path: domain.datasets.upload("data", path, progress=False))  # type: ignore[misc]
                peaks = memory.stop()
            shutil.rmtree(folder / f"domain-{form}")
            speeds = f"{megabytes / upload_s:>7.0f} {megabytes / copy_s:>10.0f} {upload_s / copy_s:>6.2f}"
            print(f"{form:<12} {megabytes:>6.0f} {speeds} {peaks['domain'] / 1e6:>10.0f} {peaks['child'] / 1e6:>9.0f}")
            path.unlink()


if __name__ == "__main__":
    main()
