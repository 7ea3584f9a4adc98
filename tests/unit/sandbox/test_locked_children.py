"""The real child processes that read untrusted bytes, taken over at the place where they parse: what can they still
do?

Should happen: every probe is refused in each of them, as root and as an ordinary user; where the machine offers too
little, the child goes on and its parent warns, once.
Should not happen: a module is imported inside the sandbox, where no file can be opened.
"""

from __future__ import annotations

import json
import logging
import os
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

from pygrid.core.datasets import DatasetLimits, Schema
from pygrid.errors import InvalidPlan, PygridError
from pygrid.features.datasets.conversion import Conversion, convert, convert_in_child, convert_parts
from pygrid.plans.averaging_child import average_parts
from pygrid.plans.gate import GateLimits, check_in_child, check_parts
from pygrid.plans.serving import ServingLimits
from pygrid.plans.serving import check_parts as check_model_parts
from pygrid.sandbox import process
from pygrid.sandbox.child import PART, PROBLEM, SOUND, ChildSandbox
from pygrid.sandbox.frames import frame, split_frames
from pygrid.tensors import encode
from support.plans.averaging import PLANS, diffs
from support.plans.variants import PLAN, with_node

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
LIMITS = ("run", str(2 * 1024**3), "20", "4352", "-1")
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
    (_, state), (kind, problem) = split_frames(run_program(TAKEN_OVER, flags, main, parts))
    assert kind == PROBLEM
    return state == SOUND, json.loads(json.loads(problem)["detail"])


def run_program(program: str, arguments: Sequence[str], main: Main, parts: Sequence[bytes]) -> bytes:
    """The output of a program that ends in the real child."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments, main.__module__, main.__name__, *LIMITS],
        input=b"".join(frame(PART, part) for part in parts),
        capture_output=True,
        timeout=60,
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
    monkeypatch.setattr(process, "_warned", set())


@pytest.mark.usefixtures("without_seccomp")
def test_a_child_that_cannot_be_locked_in_goes_on_and_its_parent_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with caplog.at_level(logging.WARNING), pytest.raises(InvalidPlan) as refused:
            check_in_child(b"no plan")
        assert refused.value.code == "plan_malformed"
    assert [record.getMessage() for record in caplog.records] == [
        "a process that reads untrusted bytes is protected by limits only; pygrid worker doctor shows why"
    ]


def test_a_child_that_is_locked_in_causes_no_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_warned", set())
    with pytest.raises(InvalidPlan):
        check_in_child(b"no plan")
    assert caplog.records == []


IMPORTS = """
import sys
from pygrid.sandbox import child
before = set()

def noting(self, **more):  # in place of the sandbox, inside which an import fails without a word
    before.update(sys.modules)

child.ChildSandbox.enter = noting
child.main()
missed = " ".join(sorted(set(sys.modules) - before))
if missed:
    sys.exit(f"imported inside the sandbox: {missed}")
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


@pytest.mark.parametrize("plan", plans())
def test_nothing_is_imported_inside_the_sandbox(plan: bytes, tmp_path: Path) -> None:
    assert_nothing_imported(check_parts, [msgspec.json.encode(GateLimits()), plan])
    (tmp_path / "model").write_bytes(plan)
    parts = [msgspec.json.encode(ServingLimits()), msgspec.json.encode([str(tmp_path / "model"), 1])]
    assert_nothing_imported(check_model_parts, parts)


def test_nothing_is_imported_while_diffs_are_averaged(tmp_path: Path) -> None:
    for name, plan in PLANS.items():
        refs = []
        for index, diff in enumerate(diffs()):
            (tmp_path / f"{name}{index}").write_bytes(encode(diff))
            refs.append([str(tmp_path / f"{name}{index}"), 0, None])
        assert_nothing_imported(average_parts, [msgspec.json.encode({"refs": refs}), plan.data])


def uploads(folder: Path) -> Iterator[bytes]:
    """Files of all formats, good and bad, small and large."""
    values, texts = np.arange(200_000.0), np.array(["x", "yy", "ü"])
    for save, arrays in (
        (np.savez, {"a": values, "t": texts[np.arange(200_000) % 3]}),
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
    rows = b"".join(b'%d,1.5,"word %d",true,NA\n' % (n, n % 5) for n in range(100_000))
    for tail in (b"", b"x,y,z,\xff,1\n", b"1,2\n", b'1,2,3,4,"5', b"1,+1e400,\xc3\xbc,5,5\n"):
        yield b"a,b,c,d,e\n" + rows[:1000] + tail
        yield b"a,b,c,d,e\n" + rows + tail
    plain = b"a,b,c,d,e\n" + b"".join(b"%d,1.5,word %d,true,NA\n" % (n, n % 5) for n in range(100_000))
    for tail in (b"", b"007,+1.5, x,true,1\n", b"+5,1e400,x,no,2\n", b'5,5,5" pipe,1,-\n'):
        yield plain + tail
    table = pa.table({"a": values, "t": texts[np.arange(200_000) % 3], "n": pa.array([None, 1.5] * 100_000)})
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
    with pa.ipc.new_stream(folder / "x.arrows", table.schema) as writer:
        writer.write_table(table)
    yield (folder / "x.arrows").read_bytes()
    yield (folder / "x.arrows").read_bytes()[:-500_000]


@pytest.mark.slow
def test_nothing_is_imported_while_an_upload_is_read(tmp_path: Path) -> None:
    for number, content in enumerate(uploads(tmp_path)):
        (tmp_path / "file").write_bytes(content)
        draft = tmp_path / f"draft{number}"
        draft.mkdir()
        assert_nothing_imported(convert_parts, [conversion_of(tmp_path / "file", draft)])


@pytest.mark.slow
def test_an_upload_is_read_behind_the_sandbox_as_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_warned", set())

    def outcome(read: Callable[[Conversion], Schema], draft: Path) -> tuple[object, dict[str, bytes]]:
        draft.mkdir()
        try:
            schema: object = read(
                Conversion(str(tmp_path / "file"), str(draft), None, (), (), None, None, DatasetLimits())
            )
        except PygridError as error:
            return (error.code, error.detail), {}
        return schema, {path.name: path.read_bytes() for path in draft.iterdir()}

    for number, content in enumerate(uploads(tmp_path)):
        (tmp_path / "file").write_bytes(content)
        behind = outcome(convert_in_child, tmp_path / f"behind{number}")
        assert behind == outcome(convert, tmp_path / f"before{number}")
    assert process._warned == set()


def assert_nothing_imported(main: Main, parts: list[bytes]) -> None:
    run_program(IMPORTS, [], main, parts)
