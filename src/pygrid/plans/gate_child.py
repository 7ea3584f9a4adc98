"""The child process of `pygrid.plans.gate.check_in_child`: sets limits, enters the sandbox, parses."""

from __future__ import annotations

import sys

from pygrid.sandbox.child import EXIT_OUT_OF_MEMORY, limit_this_process, lock_in, read_parts, write_answer


def main() -> None:
    limit_this_process(sys.argv[1:])
    import msgspec

    # Everything that a check imports: inside the sandbox no file can be opened.
    import pygrid.plans.costs
    import pygrid.plans.independence
    import pygrid.plans.structure  # noqa: F401
    from pygrid.errors import InvalidPlan
    from pygrid.plans.gate import GateLimits, Reply, check

    raw_limits, data = read_parts()
    lock_in(sys.argv[1:])
    try:
        reply = Reply(report=check(data, msgspec.json.decode(raw_limits, type=GateLimits)))
    except InvalidPlan as error:
        reply = Reply(code=error.code, detail=error.detail, fields=error.fields)
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
    write_answer(msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
