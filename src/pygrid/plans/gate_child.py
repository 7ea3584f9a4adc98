"""The child process of `pygrid.plans.gate.check_in_child`: limits first, then the bytes."""

from __future__ import annotations

import sys

from pygrid.plans.child import EXIT_OUT_OF_MEMORY, limit_this_process, read_parts, write_answer


def main() -> None:
    limit_this_process(sys.argv[1:])
    import msgspec

    from pygrid.errors import InvalidPlan
    from pygrid.plans.gate import GateLimits, Reply, check

    raw_limits, data = read_parts()
    try:
        reply = Reply(report=check(data, msgspec.json.decode(raw_limits, type=GateLimits)))
    except InvalidPlan as error:
        reply = Reply(code=error.code, detail=error.detail, fields=error.fields)
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
    write_answer(msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
