"""The child process of `pygrid.features.datasets.conversion`: limits first, then the sandbox, then the file."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import BinaryIO

from pygrid.sandbox import Output
from pygrid.sandbox.child import EXIT_OUT_OF_MEMORY, limit_this_process, lock_in, read_parts, write_answer

_MAX_OPEN_FILES = 4096 + 256
"""One for each column, and some."""


def main() -> None:
    limit_this_process(sys.argv[1:], max_file_bytes=None, num_files=_MAX_OPEN_FILES)
    import msgspec

    from pygrid.errors import PygridError, StorageFull
    from pygrid.features.datasets.conversion import Conversion, Reply, convert

    (raw,) = read_parts()
    conversion = msgspec.json.decode(raw, type=Conversion)

    def lock_in_with(file: BinaryIO) -> Path:
        layers = lock_in(
            sys.argv[1:],
            keep={file.fileno()},
            threads=True,
            num_files=_MAX_OPEN_FILES,
            output=Output(conversion.folder, conversion.limits.max_total_bytes),
        )
        return Path("/" if layers is not None and layers.empty_root else conversion.folder)

    try:
        reply = Reply(schema=convert(conversion, lock_in_with))
    except PygridError as error:
        reply = Reply(problem=error.to_problem())
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        reply = Reply(
            problem=StorageFull("the disk of this Domain is full; nothing of the upload was kept").to_problem()
        )
    write_answer(msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
