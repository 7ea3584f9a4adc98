"""The child process of `pygrid.plans.serving.check_model_in_child`: limits first, then the file."""

from __future__ import annotations

import sys

from pygrid.plans.child import EXIT_OUT_OF_MEMORY, limit_this_process, read_parts, write_answer


def main() -> None:
    limit_this_process(sys.argv[1:])
    from pathlib import Path

    import msgspec

    from pygrid.errors import InvalidPlan
    from pygrid.plans.serving import Reply, ServingLimits, check_model_file

    raw_limits, raw_question = read_parts()
    path, max_batch_size = msgspec.json.decode(raw_question, type=tuple[str, int])
    try:
        reply = Reply(check_model_file(Path(path), max_batch_size, msgspec.json.decode(raw_limits, type=ServingLimits)))
    except InvalidPlan as error:
        reply = Reply(code=error.code, detail=error.detail, fields=error.fields)
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
    write_answer(msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
