"""The sandbox, seen from inside.

Should happen: everything that the probes try is refused, as root and as an ordinary user; computing goes on.
Should not happen: a probe that could not succeed anywhere, so that its refusal would mean nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pygrid.sandbox.bpf import MACHINES, filter_program
from pygrid.sandbox.linux import Layers
from pygrid.sandbox.probes import Examination, examine

USERS = [pytest.param(False, id="this user")]
if os.getuid() == 0:
    USERS.append(pytest.param(True, id="nobody"))

NEEDS_MORE_RIGHTS = {
    "mount",
    "make a namespace",
    "use io_uring",
    "load a BPF program",
    "handle page faults",
    "read the keyring",
}
"""What some users of some machines may not do in any case."""


@pytest.mark.parametrize("as_nobody", USERS)
@pytest.mark.parametrize("writes", [False, True])
def test_every_probe_is_refused(as_nobody: bool, writes: bool) -> None:
    examination = examine(as_nobody=as_nobody, writes=writes)
    assert examination.trouble == ""
    assert {finding.name: finding.detail for finding in examination.findings if finding.allowed} == {}
    assert len(examination.findings) > 25
    assert examination.layers is not None
    assert examination.layers.seccomp
    assert examination.sound


def test_without_a_sandbox_the_probes_come_through() -> None:
    examination = examine(sandboxed=False)
    refused = {finding.name for finding in examination.findings if not finding.allowed}
    assert examination.trouble == ""
    assert len(examination.findings) > 25
    assert refused <= NEEDS_MORE_RIGHTS


def test_only_enough_layers_are_sound() -> None:
    def layers(**held: bool | int) -> Layers:
        none = {"namespaces": False, "empty_root": False, "not_root": False, "landlock_abi": 0, "seccomp": False}
        return Layers(**(none | held))  # type: ignore[arg-type]

    assert not layers(landlock_abi=7, empty_root=True, namespaces=True, not_root=True).sound
    assert not layers(seccomp=True, namespaces=True, not_root=True).sound
    assert layers(seccomp=True, landlock_abi=1).sound
    assert layers(seccomp=True, empty_root=True).sound


def test_a_sound_sandbox_that_lets_something_through_is_not_trusted() -> None:
    good = examine()
    broken = [*good.findings[1:], type(good.findings[0])("connect by TCP", True, "allowed")]
    assert not Examination(good.layers, tuple(broken)).sound


def inside(
    code: str, *, threads: bool = False, memory_bytes: int = 2**28, cpu_s: int = 20
) -> subprocess.CompletedProcess[bytes]:
    """Run code in a process that closed its sandbox; what it writes to descriptor ``out`` comes back."""
    program = (
        "import os, threading, numpy as np\n"
        "from pygrid import sandbox\n"
        "out = os.dup(1)\n"
        f"sandbox.apply(sandbox.Limits({memory_bytes}, {cpu_s}, {threads}), keep={{out}})\n" + code
    )
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=180, check=False)


def test_computing_goes_on() -> None:
    done = inside("os.write(out, b'%d' % (np.ones((200, 200)) @ np.ones((200, 200))).sum())")
    assert done.stdout == b"8000000"


def test_threads_only_where_they_are_wanted() -> None:
    code = "t = threading.Thread(target=lambda: os.write(out, b'thread'))\nt.start(); t.join()"
    assert inside(code, threads=True).stdout == b"thread"
    assert inside(code).stdout == b""
    fork = "try:\n  os.fork()\nexcept OSError:\n  os.write(out, b'refused')"
    assert inside(fork, threads=True).stdout == b"refused"


@pytest.mark.parametrize("allowed", [False, True])
def test_too_few_layers_are_refused_unless_the_operator_allows_it(allowed: bool) -> None:
    """On a kind of processor whose system calls are not known, there is no seccomp filter."""
    program = (
        "import os\nfrom pygrid import sandbox\nfrom pygrid.sandbox import linux\nfrom pygrid.errors import "
        "Unavailable\nout = os.dup(1)\nlinux.MACHINES.clear()\n"
        f"try:\n  held = sandbox.apply(sandbox.Limits(2**28, 20), keep={{out}}, allow_weak={allowed})\n"
        "  os.write(out, b'weak' if not held.sound and not held.seccomp else b'sound')\n"
        "except Unavailable as error:\n  os.write(out, error.code.encode())"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=180, check=True)
    assert done.stdout == (b"weak" if allowed else b"sandbox_unavailable")


def test_memory_beyond_the_limit_is_refused() -> None:
    code = "try:\n  np.ones({}, np.uint8)\n  os.write(out, b'given')\nexcept MemoryError:\n  os.write(out, b'refused')"
    assert inside(code.format(2**26)).stdout == b"given"
    assert inside(code.format(2**36)).stdout == b"refused"


def test_other_descriptors_are_closed(tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    program = (
        "import os\nfrom pygrid import sandbox\n"
        f"leak, out = os.open({str(secret)!r}, os.O_RDONLY), os.dup(1)\n"
        "sandbox.apply(sandbox.Limits(2**28, 20), keep={out})\n"
        "try:\n  os.read(leak, 10)\n  os.write(out, b'read')\nexcept OSError:\n  os.write(out, b'closed')\n"
        "os.write(out, b'%d' % len(os.read(0, 10)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], input=b"words", capture_output=True, timeout=180, check=True
    )
    assert done.stdout == b"closed0"


def test_landlock_holds_by_itself() -> None:
    """A hole in the list of system calls would still find no file and no address."""
    program = (
        "import os, socket\nfrom pygrid.sandbox import linux\n"
        "linux._prctl(linux._SET_NO_NEW_PRIVS, 1)\nabi = linux._landlock()\nrefused = 0\n"
        "for attempt in (lambda: os.open('/etc/passwd', os.O_RDONLY), lambda: os.listdir('/'),"
        " lambda: os.mkdir('/tmp/pygrid-x'), lambda: socket.socket().connect(('127.0.0.1', 9))):\n"
        "  try:\n    attempt()\n  except PermissionError:\n    refused += 1\n  except OSError:\n    pass\n"
        "print(abi, refused)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=180, check=True)
    abi, refused = map(int, done.stdout.split())
    assert refused == (0 if abi == 0 else 3 if abi < 4 else 4)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_filters_are_whole_on_each_machine(machine: str, threads: bool, writes: bool) -> None:
    """Each instruction has eight bytes, jumps stay inside the program, and it ends in a return."""
    code = filter_program(MACHINES[machine], pid=1, threads=threads, writes=writes)
    instructions = [code[i : i + 8] for i in range(0, len(code), 8)]
    assert len(code) % 8 == 0
    assert len(instructions) < 4096
    for index, instruction in enumerate(instructions):
        kind, if_true, if_false = int.from_bytes(instruction[:2], "little"), instruction[2], instruction[3]
        if kind & 7 == 5:
            assert index + 1 + max(if_true, if_false) < len(instructions)
    assert int.from_bytes(instructions[-1][:2], "little") == 6
    assert len(set(MACHINES[machine].plain.values())) == len(MACHINES[machine].plain)
    assert not set(MACHINES[machine].plain.values()) & set(MACHINES[machine].checked.values())
    assert not set(MACHINES[machine].writing.values()) & {
        *MACHINES[machine].plain.values(),
        *MACHINES[machine].checked.values(),
    }


@pytest.mark.parametrize("as_nobody", USERS)
def test_a_writer_makes_files_in_its_folder_and_nowhere_else(tmp_path, as_nobody: bool) -> None:
    """With Landlock alone as well, which is what an ordinary user has: then the folder is not the root."""
    for each in (tmp_path, *tmp_path.parents):
        if str(each).startswith("/tmp/"):
            each.chmod(0o755)
    draft, other = tmp_path / "draft", tmp_path / "other"
    for folder in (draft, other):
        folder.mkdir()
        folder.chmod(0o777)
    (draft / "old").write_text("secret")
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom pygrid import sandbox\nfrom pygrid.sandbox import linux\n"
        "out, draft, other, change_root = os.dup(1), sys.argv[1], sys.argv[2], sys.argv[3] == '1'\n"
        "if sys.argv[4] == '1':\n  os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, "
        "65534)\nif not change_root:\n  linux._change_root = lambda folder: False\n"
        "held = sandbox.apply(sandbox.Limits(2**28, 20), keep={out}, output=sandbox.Output(draft, 100))\n"
        "here = Path('/' if held.empty_root else draft)\n"
        "def tried(action):\n  try:\n    action()\n    return 'done'\n  except OSError as error:\n"
        "    return type(error).__name__\n"
        "found = [tried(lambda: (here / 'a').write_bytes(b'x' * 100)), tried(lambda: (here / 'b').write_bytes(b'x' * "
        "101)), tried(lambda: (here / 'a').read_bytes()), tried(lambda: (here / 'old').read_bytes()),"
        " tried(lambda: (here / 'b').unlink()), tried(lambda: (here / 'd').mkdir()),"
        " tried(lambda: (here / 'l').symlink_to('/')), tried(lambda: os.link(here / 'a', here / 'm')),"
        " tried(lambda: os.rename(here / 'a', here / 'm')), tried(lambda: os.listdir(here)),"
        " tried(lambda: Path(other, 'a').write_bytes(b'')), tried(lambda: (here / '../other/a').write_bytes(b''))]\n"
        "os.write(out, ' '.join(found).encode())"
    )
    for change_root in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, str(draft), str(other), change_root, str(int(as_nobody))],
            capture_output=True,
            timeout=180,
            check=True,
        )
        found = done.stdout.decode().split()
        assert found[:2] == ["done", "OSError"], "as large as is allowed, and no larger"
        assert found[4] == "done"
        assert {*found[2:4], *found[5:]} <= {"PermissionError", "FileNotFoundError"}
        assert sorted(path.name for path in draft.iterdir()) == ["a", "old"]
        assert list(other.iterdir()) == []
        (draft / "a").unlink()
