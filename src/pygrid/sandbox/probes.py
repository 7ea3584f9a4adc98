"""Tries everything that a sandbox must refuse, from inside; for `pygrid worker doctor` and the tests.

`examine` runs the probes in a child process, with or without the sandbox, and returns a finding for each.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pygrid import sandbox
from pygrid.errors import PygridError

_MEMORY_BYTES = 1024**3
_TOO_MUCH_BYTES = 6 * 1024**3
_CPU_S = 20
_NORESERVE = 0x4000  # a later Python has a name for it

# memfd_create, io_uring_setup, ptrace, unshare, keyctl, userfaultfd, bpf, setuid, mount, process_vm_readv
_NUMBERS = {
    "x86_64": (319, 425, 101, 272, 250, 323, 321, 105, 165, 310),
    "aarch64": (279, 425, 117, 97, 219, 282, 280, 146, 40, 270),
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True)
class Finding:
    """The outcome of one probe."""

    name: str
    allowed: bool
    detail: str


@dataclass(frozen=True)
class Examination:
    """The outcome of all probes."""

    layers: sandbox.Layers | None
    """None: without a sandbox, or the process could not enter it."""
    findings: tuple[Finding, ...]
    trouble: str = ""

    @property
    def sound(self) -> bool:
        """Whether the layers are enough and no probe succeeded."""
        return self.layers is not None and self.layers.sound and not any(finding.allowed for finding in self.findings)


def examine(*, sandboxed: bool = True, as_nobody: bool = False, writes: bool = False) -> Examination:
    """Run every probe in a new process.

    Args:
        sandboxed: False shows what the probes can do without a sandbox.
        as_nobody: become an ordinary user first (needs root).
        writes: use the sandbox of a reader of files, which writes to one folder.
    """
    command = [sys.executable, "-I", "-m", __name__, *(str(int(flag)) for flag in (sandboxed, as_nobody, writes))]
    with tempfile.TemporaryDirectory(prefix="pygrid-probes-") as folder:
        os.chmod(folder, 0o755)
        Path(folder, "secret").write_text("secret")
        Path(folder, "draft").mkdir()
        Path(folder, "draft").chmod(0o777)
        done = subprocess.run([*command, folder], capture_output=True, timeout=60, check=False)
    if done.returncode != 0:
        return Examination(None, (), f"the probes did not finish: {done.stderr.decode(errors='replace')[-500:]}")
    answer = json.loads(done.stdout)
    layers = None if answer["layers"] is None else sandbox.Layers(**answer["layers"])
    return Examination(layers, tuple(Finding(**finding) for finding in answer["findings"]), answer["trouble"])


def probes(secret: str) -> dict[str, Callable[[], object]]:
    """`name -> probe`; a probe raises OSError if it is refused."""
    parent = os.getppid()
    memfd, ring, ptrace, unshare, keyctl, faults, bpf, setuid, mount, vm_read = _NUMBERS[platform.machine()]
    return {
        "connect by TCP": lambda: socket.socket().connect(("127.0.0.1", 9)),
        "send by UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
        "make a local socket": lambda: socket.socket(socket.AF_UNIX),
        "make a pair of sockets": socket.socketpair,
        "read /etc/passwd": lambda: Path("/etc/passwd").read_bytes(),
        "read a file of the user": lambda: Path(secret).read_bytes(),
        "look up a file": lambda: Path("/etc/passwd").stat(),
        "list a folder": lambda: os.listdir("/"),
        "write to /tmp": lambda: _write(f"/tmp/pygrid-probe-{os.getpid()}"),
        "write to /dev/shm": lambda: _write(f"/dev/shm/pygrid-probe-{os.getpid()}"),
        "read /proc/self/maps": lambda: Path("/proc/self/maps").read_bytes(),
        "read the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "run a program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "become a program": _execute,
        "make a process": _fork,
        "signal the parent": lambda: os.kill(parent, 0),
        "map memory for code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "take 6 GiB of memory": _take_memory,
        "make a file in memory": lambda: _call(memfd, b"x", 0),
        "use io_uring": lambda: _call(ring, 1, ctypes.create_string_buffer(256)),
        "trace a process": lambda: _call(ptrace, 0, 0, 0, 0),
        "make a namespace": lambda: _call(unshare, 0x10000000),
        "read the keyring": lambda: _call(keyctl, 0, -3, 1),
        "handle page faults": lambda: _call(faults, 1),
        "load a BPF program": lambda: _call(bpf, 0, ctypes.create_string_buffer(128), 128),
        "change the user": lambda: _call(setuid, 0 if os.getuid() else 1),
        "mount": lambda: _call(mount, b"none", b"/tmp", b"tmpfs", 0, 0),
        "read another's memory": lambda: _call(vm_read, parent, 0, 0, 0, 0, 0),
        "raise a limit": _raise_limit,
    }


def try_all(secret: str, *, writes: bool = False) -> list[Finding]:
    """Try every probe in this process. An error other than a refusal counts as allowed: the kernel began the work.

    Args:
        writes: the process may make files in one folder. It may then look up names too, and a file that it does not
            find, because its root is that folder, counts as refused.
    """
    findings = []
    refusals = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOMEM, *((errno.ENOENT,) if writes else ())}
    for name, probe in probes(secret).items():
        if writes and name == "look up a file":
            continue
        try:
            probe()
        except OSError as error:
            refused = error.errno in refusals
            findings.append(Finding(name, not refused, os.strerror(error.errno or 0)))
        else:
            findings.append(Finding(name, True, "allowed"))
    return findings


def _write(path: str) -> None:
    Path(path).write_text("x")
    Path(path).unlink()


def _execute() -> None:
    # No kernel accepts this argument list, so that a success would show as an error other than a refusal.
    if _libc.execve(b"/bin/true", ctypes.c_void_p(1), None) != 0 and ctypes.get_errno() != 14:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _call(number: int, *arguments: object) -> None:
    if _libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _take_memory() -> None:
    # The address space is never touched: the request itself is refused.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    mmap.mmap(-1, _TOO_MUCH_BYTES, flags=flags).close()


def _raise_limit() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    except ValueError as error:  # Python raises this for EPERM here
        raise PermissionError(errno.EPERM, str(error)) from error


def main() -> None:
    """The child: enter the sandbox if told to, try everything, answer on standard output."""
    sandboxed, as_nobody, writes = (flag == "1" for flag in sys.argv[1:4])
    folder = sys.argv[4]
    answer_to = os.dup(1)
    if as_nobody:
        os.setgroups([])
        os.setresgid(sandbox.NOBODY, sandbox.NOBODY, sandbox.NOBODY)
        os.setresuid(sandbox.NOBODY, sandbox.NOBODY, sandbox.NOBODY)
    layers, trouble = None, ""
    if sandboxed:
        try:
            layers = sandbox.apply(
                sandbox.Limits(_MEMORY_BYTES, _CPU_S, threads=writes),
                keep={answer_to},
                empty=sandbox.open_empty_folder(),
                output=sandbox.Output(f"{folder}/draft", 1024) if writes else None,
                allow_weak=True,
            )
        except PygridError as error:
            trouble = error.detail
    findings = try_all(f"{folder}/secret", writes=writes) if not trouble else []
    answer = {
        "layers": None if layers is None else layers.__dict__,
        "findings": [finding.__dict__ for finding in findings],
        "trouble": trouble,
    }
    os.write(answer_to, json.dumps(answer).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
