"""The real child processes that read untrusted bytes, taken over at the place where they parse: what can they still
do?

Should happen: every probe is refused in each of them, as root and as an ordinary user; where the machine offers too
little, the child goes on and its parent warns, once.
Should not happen: a module is imported inside the sandbox, where no file can be opened.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pygrid.core.datasets import DatasetLimits
from pygrid.errors import InvalidPlan, PygridError
from pygrid.features.datasets.conversion import Conversion, convert, convert_parts
from pygrid.plans.averaging_child import average_parts
from pygrid.plans.gate import GateLimits, check_in_child, check_parts
from pygrid.plans.serving import ServingLimits
from pygrid.plans.serving import check_parts as check_model_parts
from pygrid.sandbox import process
from pygrid.sandbox.child import PART, PROBLEM, SOUND, VALUE, ChildSandbox
from pygrid.sandbox.frames import frame, split_frames
from pygrid.tabular.file_kinds import detect_format
from pygrid.tensors import encode
from support.plans.averaging import PLANS, diffs
from support.plans.variants import PLAN, with_node

pytestmark = pytest.mark.fresh_processes

USERS = [pytest.param(False, id="this user")]
if os.getuid() == 0:
    USERS.append(pytest.param(True, id="nobody"))

# The real child, in which the parser is replaced by what took it over.
TAKEN_OVER = """
import json, os, pkgutil, sys
import numpy
from pygrid.errors import InvalidPlan
from pygrid.sandbox import child
from pygrid.sandbox.probes import try_all
patched, secret, writes, as_nobody = sys.argv[1:5]
enter = child.ChildSandbox.enter
holder, _, name = patched.rpartition(".")
holder = pkgutil.resolve_name(holder)

def taken_over(*_):
    found = try_all(secret, writes=writes == "1")
    allowed = {one.name: one.detail for one in found if one.allowed}
    raise InvalidPlan(json.dumps(allowed | {"tried": len(found)}), code="x")

setattr(holder, name, taken_over)

def enter_as_user(self, **more):
    if as_nobody == "1":  # only now, as this user may not read where Python is installed
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    return enter(self, **more)

child.ChildSandbox.enter = enter_as_user
del sys.argv[1:5]
child.main()
"""
LIMITS = ("run", str(2 * 1024**3), "100", "4352", "-1")
Main = Callable[[list[bytes], ChildSandbox], bytes]


def gate(_: Path) -> tuple[Main, str, list[bytes]]:
    return check_parts, "pygrid.plans.gate.check", [msgspec.json.encode(GateLimits()), b"bytes"]


def serving(folder: Path) -> tuple[Main, str, list[bytes]]:
    (folder / "model").write_bytes(b"bytes")
    parts = [msgspec.json.encode(ServingLimits()), msgspec.json.encode([str(folder / "model"), 1])]
    return check_model_parts, "pygrid.plans.serving.check_model", parts


def averaging(folder: Path) -> tuple[Main, str, list[bytes]]:
    (folder / "diff").write_bytes(encode({"w": np.zeros(3, np.float32)}))
    parts = [msgspec.json.encode({"refs": [[str(folder / "diff"), 0, None]]}), b"plan"]
    return average_parts, "pygrid.plans.averaging_child:Plan.from_bytes", parts


def converting(folder: Path) -> tuple[Main, str, list[bytes]]:
    (folder / "file").write_bytes(b"a\n1\n")
    (folder / "draft").mkdir()
    (folder / "draft").chmod(0o777)
    return convert_parts, "pygrid.tabular:Reader.read", [conversion_of(folder / "file", folder / "draft")]


def conversion_of(source: Path, draft: Path) -> bytes:
    asked = Conversion(str(source), str(draft), None, (), (), None, None, DatasetLimits())
    return msgspec.json.encode(asked)


def in_taken_over_child(
    which: Callable[[Path], tuple[Main, str, list[bytes]]], folder: Path, *, writes: bool, as_nobody: bool
) -> tuple[bool, dict[str, Any]]:
    """Whether the child reports a sound sandbox, and the probes that succeeded."""
    main, patched, parts = which(folder)
    secret = folder / "secret"
    secret.write_text("secret")
    for each in (folder, *folder.parents):
        if str(each).startswith("/tmp/"):
            each.chmod(0o755)
    flags = [patched, str(secret), str(int(writes)), str(int(as_nobody))]
    framed = b"".join(frame(PART, part) for part in parts)
    (_, state), (kind, problem) = split_frames(run_program(TAKEN_OVER, flags, main, framed))
    assert kind == PROBLEM
    return state == SOUND, json.loads(json.loads(problem)["detail"])


def run_program(program: str, arguments: Sequence[str], main: Main, standard_input: bytes) -> bytes:
    """The output of a program that ends in the real child."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments, main.__module__, main.__name__, *LIMITS],
        input=standard_input,
        capture_output=True,
        timeout=120,
        check=False,
        env=process.ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("as_nobody", USERS)
@pytest.mark.parametrize("which", [gate, serving, averaging, converting])
def test_a_child_that_was_taken_over_reaches_nothing(
    tmp_path: Path, which: Callable[[Path], tuple[Main, str, list[bytes]]], as_nobody: bool
) -> None:
    is_sound, came_through = in_taken_over_child(which, tmp_path, writes=which is converting, as_nobody=as_nobody)
    assert is_sound
    assert came_through.pop("tried") > 25
    assert came_through == {}


WITHOUT_SECCOMP = """#!{python} -I
# Stands for Python on a kind of processor whose system calls are not known: there is no seccomp filter.
import runpy, sys
from pygrid.sandbox import linux
linux.MACHINES.clear()
sys.argv = sys.argv[3:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def without_seccomp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text(WITHOUT_SECCOMP.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    process.warn_once.cache_clear()


@pytest.mark.usefixtures("without_seccomp")
def test_a_child_that_cannot_be_locked_in_goes_on_and_its_parent_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with caplog.at_level(logging.WARNING), pytest.raises(InvalidPlan) as refused:
            check_in_child(b"no plan")
        assert refused.value.code == "plan_malformed"
    assert [record.getMessage() for record in caplog.records] == [
        "a process that reads untrusted bytes is protected by limits only; pygrid worker doctor shows why"
    ]


def test_a_child_that_is_locked_in_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    process.warn_once.cache_clear()
    with pytest.raises(InvalidPlan):
        check_in_child(b"no plan")
    assert caplog.records == []


IMPORTS = """
import io, msgspec, sys
from pygrid.sandbox import child
before = set()

def noting(self, **more):  # in place of the sandbox, inside which an import fails without a word
    before.update(sys.modules)

child.ChildSandbox.enter = noting
for number, parts in enumerate(msgspec.json.decode(sys.stdin.buffer.read(), type=list[bytes])):
    sys.stdin = io.TextIOWrapper(io.BytesIO(parts))
    before.clear()
    child.main()
    missed = " ".join(sorted(set(sys.modules) - before))
    if missed:
        sys.exit(f"input {number}: imported inside the sandbox: {missed}")
"""


def plans() -> list[bytes]:
    averaging = PLANS["iterative"].data
    return [
        PLAN.data,
        with_node("NonZero", "data/x"),
        with_node("If", "data/x"),
        PLAN.data[:-30],
        b"PK\x03\x04",
        averaging,
    ]


def test_nothing_is_imported_inside_the_sandbox(tmp_path: Path) -> None:
    assert_nothing_imported(check_parts, [[msgspec.json.encode(GateLimits()), plan] for plan in plans()])
    models = []
    for number, plan in enumerate(plans()):
        (tmp_path / f"model{number}").write_bytes(plan)
        models.append(msgspec.json.encode([str(tmp_path / f"model{number}"), 1]))
    assert_nothing_imported(check_model_parts, [[msgspec.json.encode(ServingLimits()), model] for model in models])


def test_nothing_is_imported_while_diffs_are_averaged(tmp_path: Path) -> None:
    for name, plan in PLANS.items():
        refs = []
        for index, diff in enumerate(diffs()):
            (tmp_path / f"{name}{index}").write_bytes(encode(diff))
            refs.append([str(tmp_path / f"{name}{index}"), 0, None])
        assert_nothing_imported(average_parts, [[msgspec.json.encode({"refs": refs}), plan.data]])


def uploads(folder: Path) -> Iterator[bytes]:
    """Files of all formats, good and bad, small and large: two blocks of text, two batches of Arrow."""
    values, texts = np.arange(100_000.0), np.array(["x", "yy", "ü"])
    for save, arrays in (
        (np.savez, {"a": values, "t": texts[np.arange(100_000) % 3]}),
        (np.savez_compressed, {"a": values}),
        (np.savez, {"a": np.asfortranarray(np.ones((3, 4)))}),
        (np.savez, {"a": np.array([None, 1], dtype=object)}),
    ):
        save(folder / "x.npz", **arrays)  # type: ignore[operator]
        yield (folder / "x.npz").read_bytes()
        yield (folder / "x.npz").read_bytes()[:-100]
    with zipfile.ZipFile(folder / "z.zip", "w") as archive:
        archive.writestr("\N{GREEK SMALL LETTER ALPHA}.npy", b"\x93NUMPY\x02\x00" + b"x" * 100)
    yield (folder / "z.zip").read_bytes()
    yield encode({"a": values})
    yield encode({"a": values})[:-1]
    rows = b"".join(b'%d,1.5,"word %d",true,NA\n' % (n, n % 5) for n in range(80_000))
    for tail in (b"", b"x,y,z,\xff,1\n", b"1,2\n", b'1,2,3,4,"5', b"1,+1e400,\xc3\xbc,5,5\n"):
        yield b"a,b,c,d,e\n" + rows[:1000] + tail
        yield b"a,b,c,d,e\n" + rows + tail
    plain = b"a,b,c,d,e\n" + b"".join(b"%d,1.5,word %d,true,NA\n" % (n, n % 5) for n in range(80_000))
    for tail in (b"", b"007,+1.5, x,true,1\n", b"+5,1e400,x,no,2\n", b'5,5,5" pipe,1,-\n'):
        yield plain + tail
    table = pa.table({"a": values, "t": texts[np.arange(100_000) % 3], "n": pa.array([None, 1.5] * 50_000)})
    for codec in ("snappy", "zstd", "gzip", "none"):
        pq.write_table(table, folder / "x.parquet", compression=codec)
        yield (folder / "x.parquet").read_bytes()
    yield (folder / "x.parquet").read_bytes()[:-50]
    for codec in (None, "zstd", "lz4"):
        with pa.ipc.new_file(
            folder / "x.arrow", table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)
        ) as writer:
            writer.write_table(table)
        yield (folder / "x.arrow").read_bytes()
    yield typed_table(folder)
    np.savez(folder / "x.npz", d=np.array(["2020-01-01", "NaT"], "M8[D]"), t=np.array(["2020-01-01", "NaT"], "M8[ns]"))
    yield (folder / "x.npz").read_bytes()
    with pa.ipc.new_stream(folder / "x.arrows", table.schema) as writer:
        writer.write_table(table)
    yield (folder / "x.arrows").read_bytes()
    yield (folder / "x.arrows").read_bytes()[:-500_000]


def typed_table(folder: Path) -> bytes:
    """A Parquet file with a column of each type that is converted."""
    zone = pa.timestamp("ns", "Europe/Berlin")
    columns = {
        "date": pa.array([dt.date(2020, 1, 1), None]),
        "old": pa.array([dt.date(2020, 1, 1), None], pa.date64()),
        "time": pa.array([dt.datetime(2020, 1, 1, 5), None], zone),
        "money": pa.array([decimal.Decimal("1.25"), None], pa.decimal128(38, 18)),
        "id": pa.array([decimal.Decimal(7), None], pa.decimal128(9, 0)),
        "gaps": pa.array([1, None]),
        "is": pa.array([True, None]),
        "word": pa.array(["a", None]).dictionary_encode(),
        "code": pa.array([5, None]).dictionary_encode(),
        "list": pa.array([[[1.0, None]], [[2.0, 3.0]]]),
        "none": pa.nulls(2),
    }
    pq.write_table(pa.table(columns), folder / "typed.parquet")
    return (folder / "typed.parquet").read_bytes()


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of `uploads`."""
    folder = tmp_path_factory.mktemp("uploads")
    paths = []
    for number, content in enumerate(uploads(folder)):
        paths.append(folder / f"file{number}")
        paths[-1].write_bytes(content)
    return paths


@pytest.mark.slow
def test_nothing_is_imported_while_an_upload_is_read(tmp_path: Path, uploaded: list[Path]) -> None:
    """One process for each format: each imports before its sandbox what that format needs, and no more."""
    inputs: dict[str, list[list[bytes]]] = {}
    for number, path in enumerate(uploaded):
        draft = tmp_path / f"draft{number}"
        draft.mkdir()
        inputs.setdefault(detect_format(path.read_bytes()[:16]), []).append([conversion_of(path, draft)])
    assert len(inputs) == 5
    for of_one_format in inputs.values():
        assert_nothing_imported(convert_parts, of_one_format)


# Starting one process for each upload would take most of the time. Its children import nothing more.
FORKS = """
import io, msgspec, os, sys
import pygrid.features.datasets.conversion
from pygrid.sandbox import child
from pygrid.tabular import arrow_files, csv_reader, npz, safetensors_files

for parts, answer in msgspec.json.decode(sys.stdin.buffer.read(), type=list[tuple[bytes, str]]):
    if os.fork():
        _, status = os.wait()
        if status:
            sys.exit(f"{answer}: {status}")
    else:
        sys.stdin = io.TextIOWrapper(io.BytesIO(parts))
        os.dup2(os.open(answer, os.O_WRONLY | os.O_CREAT), 1)
        child.main()
        os._exit(0)
"""


@pytest.mark.slow
def test_an_upload_is_read_behind_the_sandbox_as_before_it(tmp_path: Path, uploaded: list[Path]) -> None:
    jobs = []
    for number, path in enumerate(uploaded):
        (tmp_path / f"behind{number}").mkdir()
        parts = frame(PART, conversion_of(path, tmp_path / f"behind{number}"))
        jobs.append((parts, str(tmp_path / f"answer{number}")))
    run_program(FORKS, [], convert_parts, msgspec.json.encode(jobs))
    for number, path in enumerate(uploaded):
        (_, state), (kind, body) = split_frames((tmp_path / f"answer{number}").read_bytes())
        assert state == SOUND
        before = tmp_path / "before"
        before.mkdir()
        try:
            wanted = (
                VALUE,
                msgspec.json.encode(convert(msgspec.json.decode(conversion_of(path, before), type=Conversion))),
            )
        except PygridError as error:
            wanted = PROBLEM, msgspec.json.encode(error.to_problem())
        assert (kind, body) == wanted
        behind = tmp_path / f"behind{number}"
        if kind == VALUE:
            assert contents(behind) == contents(before)
        shutil.rmtree(behind)
        shutil.rmtree(before)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_nothing_imported(main: Main, inputs: Sequence[list[bytes]]) -> None:
    """The first of some inputs during which something is imported inside the sandbox is detected there."""
    framed = [b"".join(frame(PART, part) for part in parts) for parts in inputs]
    run_program(IMPORTS, [], main, msgspec.json.encode(framed))
