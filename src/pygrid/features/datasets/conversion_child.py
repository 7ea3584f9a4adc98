"""The child process of `pygrid.features.datasets.conversion`: limits first, then the file."""

from __future__ import annotations

import errno
import resource
import sys

from pygrid.plans.child import EXIT_OUT_OF_MEMORY, read_parts, write_answer

_MAX_OPEN_FILES = 4096 + 256
"""One for each column, and some."""


def _limit(memory_bytes: int, cpu_s: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(_MAX_OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))


def main() -> None:
    _limit(int(sys.argv[1]), int(sys.argv[2]))
    import msgspec

    from pygrid.errors import PygridError, Unavailable
    from pygrid.features.datasets.conversion import Conversion, Reply, convert

    (raw,) = read_parts()
    conversion = msgspec.json.decode(raw, type=Conversion)
    largest = conversion.limits.max_total_bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        reply = Reply(schema=convert(conversion))
    except PygridError as error:
        reply = Reply(problem=error.to_problem())
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = Unavailable("the disk of this Domain is full; nothing of the upload was kept", code="storage_full")
        reply = Reply(problem=full.to_problem())
    write_answer(msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
