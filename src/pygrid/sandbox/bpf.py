"""The system calls that a sandboxed process keeps, as a program for the kernel's seccomp filter.

An allow-list: a call that is not named here fails with EPERM. No call on it opens, makes or looks up a file, makes a
socket or a process, runs a program, traces, changes credentials or namespaces, or talks to a device. The allowed calls
compute on memory that is already mapped and on descriptors that are already open.

A process that writes files also keeps the calls that open, look up and remove a file; the other layers restrict which
files.

Source: Linux, ``Documentation/userspace-api/seccomp_filter.rst``; numbers from ``asm/unistd.h`` of each machine.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16

_PROT_EXEC = 0x4
_DUPLICATE = 1030  # F_DUPFD_CLOEXEC
# VM, FS, FILES, SIGHAND, THREAD, SYSVSEM: together they make a thread, not a process.
_THREAD_FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, and CLONE_UNTRACED, CLONE_PTRACE, CLONE_VFORK.
_FORBIDDEN_CLONE = (
    0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x800000 | 0x2000 | 0x4000
)

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, operand."""


@dataclass(frozen=True)
class Machine:
    """A kind of processor: its AUDIT_ARCH number and its numbers of system calls."""

    audit_arch: int
    plain: dict[str, int]
    """Allowed with any arguments; frequent calls first, because the kernel compares in this order."""
    checked: dict[str, int]
    """Allowed with certain arguments only."""
    writing: dict[str, int]
    """Allowed to a process that writes files."""
    first_foreign: int | None
    """Numbers from here on belong to another calling convention."""


MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {
            "futex": 202, "read": 0, "write": 1, "munmap": 11, "madvise": 28, "brk": 12, "mremap": 25, "getrandom": 318,
            "clock_gettime": 228, "clock_nanosleep": 230, "nanosleep": 35, "clock_getres": 229, "gettimeofday": 96,
            "time": 201, "close": 3, "poll": 7, "ppoll": 271, "lseek": 8, "readv": 19, "writev": 20, "sched_yield": 24,
            "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131, "restart_syscall": 219,
            "getpid": 39, "gettid": 186, "getuid": 102, "getrusage": 98, "sched_getaffinity": 204, "getcpu": 309,
            "set_robust_list": 273, "rseq": 334, "membarrier": 324, "exit": 60, "exit_group": 231,
        },
        {"mmap": 9, "mprotect": 10, "clone": 56, "clone3": 435, "tgkill": 234, "prlimit64": 302, "fcntl": 72},
        {"openat": 257, "fstat": 5, "newfstatat": 262, "unlink": 87, "unlinkat": 263, "fadvise64": 221, "pread64": 17},
        0x40000000,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            "futex": 98, "read": 63, "write": 64, "munmap": 215, "madvise": 233, "brk": 214, "mremap": 216,
            "getrandom": 278,
            "clock_gettime": 113, "clock_nanosleep": 115, "nanosleep": 101, "clock_getres": 114, "gettimeofday": 169,
            "close": 57, "ppoll": 73, "lseek": 62, "readv": 65, "writev": 66, "sched_yield": 124,
            "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sigaltstack": 132, "restart_syscall": 128,
            "getpid": 172, "gettid": 178, "getuid": 174, "getrusage": 165, "sched_getaffinity": 123, "getcpu": 168,
            "set_robust_list": 99, "rseq": 293, "membarrier": 283, "exit": 93, "exit_group": 94,
        },
        {"mmap": 222, "mprotect": 226, "clone": 220, "clone3": 435, "tgkill": 131, "prlimit64": 261, "fcntl": 25},
        {"openat": 56, "fstat": 80, "newfstatat": 79, "unlinkat": 35, "fadvise64": 223, "pread64": 67},
        None,
    ),
}  # fmt: skip


def filter_program(machine: Machine, *, pid: int, threads: bool, writes: bool = False) -> bytes:
    """The filter as an array of ``struct sock_filter``.

    Args:
        pid: the process that will be filtered; it may signal itself, so that `abort` works.
        threads: whether it may start threads (never processes).
        writes: whether it may open, make and remove files, where the other layers allow it.
    """
    checked = machine.checked
    program: list[Instruction] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_EQUAL, 1, 0, machine.audit_arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine.first_foreign is not None:
        program += [(_JUMP_AT_LEAST, 0, 1, machine.first_foreign), (_RETURN, 0, 0, _KILL)]
    for number in (*machine.plain.values(), *(machine.writing.values() if writes else ())):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for name in ("mmap", "mprotect"):
        program += _when(
            checked[name], [_argument(2), (_JUMP_ANY_BIT, 0, 1, _PROT_EXEC), _refuse(errno.EPERM), _allow()]
        )
    program += _when(checked["tgkill"], [_argument(0), (_JUMP_EQUAL, 1, 0, pid), _refuse(errno.EPERM), _allow()])
    # The process may read its own limits, not set them: pid 0 and no new limit.
    program += _when(
        checked["prlimit64"], [*_is_zero(_argument(0)), *_is_zero(_argument(2)), *_is_zero(_high(2)), _allow()]
    )
    # The C library falls back to clone, whose flags a filter can see; those of clone3 lie in memory.
    program += _when(checked["clone3"], [_refuse(errno.ENOSYS)])
    if threads:
        program += _when(
            checked["clone"],
            [
                _argument(0),
                (_JUMP_ANY_BIT, 0, 1, _FORBIDDEN_CLONE),
                _refuse(errno.EPERM),
                (_AND, 0, 0, _THREAD_FLAGS),
                (_JUMP_EQUAL, 1, 0, _THREAD_FLAGS),
                _refuse(errno.EPERM),
                _allow(),
            ],
        )
    if writes:
        # Mapping an open file takes a second descriptor of it; no other operation of fcntl is allowed.
        program += _when(
            checked["fcntl"], [_argument(1), (_JUMP_EQUAL, 1, 0, _DUPLICATE), _refuse(errno.EPERM), _allow()]
        )
    program.append(_refuse(errno.EPERM))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _when(number: int, then: Sequence[Instruction]) -> list[Instruction]:
    """Instructions for one system call; each path through them ends with a return."""
    return [(_JUMP_EQUAL, 0, len(then), number), *then]


def _is_zero(load: Instruction) -> list[Instruction]:
    return [load, (_JUMP_EQUAL, 1, 0, 0), _refuse(errno.EPERM)]


def _argument(index: int) -> Instruction:
    """Load the low half of an argument (both machines are little-endian)."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _high(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index + 4)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)
