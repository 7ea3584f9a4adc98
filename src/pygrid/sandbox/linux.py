"""Takes all rights from this process that its work does not need; it cannot get them back.

It uses ctypes and the kernel. It needs no library and no privileges.

    namespaces    no network, no shared memory or host name of the machine (root, or where users may make namespaces)
    empty root    the file system is one empty folder, or the folder to write to (under the same condition)
    user          a process of root becomes nobody, and all capabilities go
    rlimits       address space, CPU time, no files to write, no core, no processes
    Landlock      no path can be opened, bound or connected; no signal or abstract socket leaves (if the kernel
                  supports it)
    seccomp       the allow-list of `pygrid.sandbox.bpf`

Each layer is independent of the others. The last two need no privileges, so an ordinary user in an ordinary container
has them. Work on untrusted bytes is safe if seccomp holds, and also Landlock or the empty root: system calls that could
open a file are refused, and a call that got past this refusal finds no file. Where the machine lacks these layers,
`apply` refuses, unless a weak sandbox is allowed.

There are two kinds of work. A process with `Limits` alone computes: its input is in memory or mapped, and it answers
through a descriptor. A process with an `Output` can also make, write and remove files in one folder. It reads its input
from descriptors that are already open, and keeps its user, who owns the folder.

Source: man 2 unshare, setrlimit, capset, seccomp; ``Documentation/userspace-api/landlock.rst``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import tempfile
from collections.abc import Collection
from dataclasses import dataclass

from pygrid import codes
from pygrid.errors import Unavailable
from pygrid.sandbox.bpf import MACHINES, filter_program

NOBODY = 65_534

_NEWUTS, _NEWIPC, _NEWUSER, _NEWNET = 0x04000000, 0x08000000, 0x10000000, 0x40000000
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1
_WRITE_FILE, _REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 1, 1 << 5, 1 << 8, 1 << 14
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522
_MAX_OPEN_FILES = 64
_SIGKILL = 9

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True)
class Limits:
    """Resources that the process can use in its sandbox."""

    memory_bytes: int
    """Address space in addition to the memory that is mapped when the process enters the sandbox."""
    cpu_s: int
    """CPU time since the start of the process."""
    threads: bool = False
    num_files: int = _MAX_OPEN_FILES
    """Descriptors open at once."""


@dataclass(frozen=True)
class Output:
    """The folder in which the process can make, write and remove files; it cannot read them."""

    folder: str
    max_file_bytes: int


@dataclass(frozen=True)
class Layers:
    """The layers of a sandbox that hold."""

    namespaces: bool
    empty_root: bool
    not_root: bool
    landlock_abi: int
    """0: the kernel has no Landlock."""
    seccomp: bool

    @property
    def sound(self) -> bool:
        """Whether the sandbox is enough to run an untrusted plan, or to read an untrusted file."""
        return self.seccomp and (self.landlock_abi > 0 or self.empty_root)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers that hold, for people and records."""
        held = (
            ("namespaces", self.namespaces),
            ("empty root", self.empty_root),
            ("not root", self.not_root),
            ("rlimits", True),
            (f"landlock {self.landlock_abi}", self.landlock_abi > 0),
            ("seccomp", self.seccomp),
        )
        return tuple(name for name, holds in held if holds)


def apply(
    limits: Limits,
    *,
    keep: Collection[int],
    empty: int | None = None,
    output: Output | None = None,
    allow_weak: bool = False,
) -> Layers:
    """Put this process into the sandbox. It must have one thread. This cannot be undone.

    Args:
        keep: descriptors that stay open; 0, 1 and 2 become /dev/null.
        empty: the descriptor of `open_empty_folder`, which becomes the root and is closed.
        output: the folder to write to, which becomes the root instead of ``empty``: if ``Layers.empty_root`` is
            true, its path is ``/`` from then on.
        allow_weak: go on even if too few layers hold.
    Returns:
        The layers that hold.
    Raises:
        Unavailable: ``sandbox_unavailable``; the process has lost some rights, and must not go on to a job.
    """
    mapped_bytes, is_root = _mapped_bytes(), os.getuid() == 0
    _check_alone()
    folder = None if output is None else os.open(output.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    close_descriptors({*keep, *(number for number in (folder, empty) if number is not None)})
    namespaces = _unshare()
    root = output.folder if output is not None else None if empty is None else f"/proc/self/fd/{empty}"
    root_is_empty = root is not None and _change_root(root)
    if empty is not None:
        os.close(empty)
    not_root = not is_root or (output is None and _become_nobody())
    _drop_capabilities()
    die_with_parent()
    _prctl(_SET_DUMPABLE, 0)
    _check(_prctl(_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    _limit(limits, mapped_bytes, 0 if output is None else output.max_file_bytes)
    abi = _landlock(folder)
    if folder is not None:
        os.close(folder)
    layers = Layers(namespaces, root_is_empty, not_root, abi, _seccomp(limits.threads, writes=output is not None))
    if not layers.sound and not allow_weak:
        raise Unavailable(
            f"this machine cannot sandbox an untrusted plan or file (layers that hold: {', '.join(layers.names)}). "
            "Needed are seccomp, and Landlock (Linux 5.13) or user namespaces. `pygrid worker doctor` shows what is "
            "missing",
            code=codes.SANDBOX_UNAVAILABLE,
        )
    return layers


def open_empty_folder() -> int | None:
    """A descriptor of an empty folder that was removed, so that it stays empty; None: no folder could be made.

    For the root of `apply`.
    """
    try:
        path = tempfile.mkdtemp(prefix="pygrid-empty-")
    except OSError:
        return None
    folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.rmdir(path)
    return folder


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends. A change of the user undoes this."""
    _check(_prctl(_SET_PDEATHSIG, _SIGKILL), "a tie to the parent")


def close_descriptors(keep: Collection[int]) -> None:
    """Close every descriptor except these; 0, 1 and 2 become /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        if number not in keep:
            os.dup2(null, number)
    last = 3
    for number in sorted({*keep, 1 << 20}):
        if number >= last:
            os.closerange(last, number)
            last = number + 1


def _check_alone() -> None:
    """Check that there is one thread: Landlock and seccomp hold for the calling thread and those that it starts."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise Unavailable("a process with several threads cannot enter the sandbox", code=codes.SANDBOX_UNAVAILABLE)


def _unshare() -> bool:
    flags = _NEWNET | _NEWIPC | _NEWUTS
    if _libc.unshare(flags) == 0:
        return True
    return bool(_libc.unshare(flags | _NEWUSER) == 0)


def _change_root(folder: str) -> bool:
    try:
        os.chroot(folder)
        os.chdir("/")
    except OSError:
        return False
    return True


def _become_nobody() -> bool:
    """Give up root. In a container that does not allow it, the later layers must suffice."""
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        return False
    return True


def _drop_capabilities() -> None:
    number = _CAPSET.get(platform.machine())
    if number is None:
        return
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.syscall(number, header, bytes(24)), "giving up capabilities")


def _mapped_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit(limits: Limits, mapped_bytes: int, max_file_bytes: int) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, mapped_bytes + limits.memory_bytes),
        (resource.RLIMIT_FSIZE, max_file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits.num_files),
        *(() if limits.threads else ((resource.RLIMIT_NPROC, 0),)),
    ):
        # Never above the present limit: an ordinary user cannot raise it, and it was set for a reason.
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or limits.cpu_s < most:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))


def _landlock(writable: int | None = None) -> int:
    """Refuse every access that this kernel's Landlock supports.

    Args:
        writable: a descriptor of the folder in which files can be made, written and removed.
    Returns:
        The version of its interface; 0 without Landlock.
    """
    abi = int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION))
    if abi < 1:
        return 0
    files = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # + refer, truncate, ioctl on devices
    network = 2 if abi >= 4 else 0  # bind and connect TCP
    scopes = 2 if abi >= 6 else 0  # abstract sockets, signals
    fields = [(1 << files) - 1, (1 << network) - 1, (1 << scopes) - 1]
    used = 1 + (abi >= 4) + (abi >= 6)
    attributes = struct.pack(f"<{used}Q", *fields[:used])
    ruleset = int(_libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
    if ruleset < 0:
        return 0
    if writable is not None:
        allowed = _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | (_TRUNCATE if abi >= 3 else 0)
        rule = struct.pack("<Qi", allowed, writable)
        if _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0) != 0:
            os.close(ruleset)
            return 0
    held = _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return abi if held else 0


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(threads: bool, *, writes: bool = False) -> bool:
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return False
    code = filter_program(machine, pid=os.getpid(), threads=threads, writes=writes)
    program = _Program(len(code) // 8, code)
    return _prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.addressof(program)) == 0


def _prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(option, *padded))


def _check(result: int, what: str) -> None:
    if result != 0:
        raise Unavailable(
            f"the kernel refused {what} to the sandbox: {os.strerror(ctypes.get_errno())}",
            code=codes.SANDBOX_UNAVAILABLE,
        )
