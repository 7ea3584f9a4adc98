"""The child of `pygrid.plans.serving.check_model_in_child`: sets limits, reads the file, enters the sandbox, parses."""

from __future__ import annotations

import sys

from pygrid.sandbox.child import EXIT_OUT_OF_MEMORY, limit_this_process, lock_in, read_parts, write_answer


def main() -> None:
    limit_this_process(sys.argv[1:])
    from pathlib import Path

    import msgspec

    # Everything that a check imports: inside the sandbox no file can be opened.
    import pygrid.plans.costs
    import pygrid.plans.independence
    import pygrid.plans.sizes
    import pygrid.plans.structure  # noqa: F401
    from pygrid.errors import InvalidPlan
    from pygrid.plans.serving import Reply, ServingLimits, check_model, read_model

    raw_limits, raw_question = read_parts()
    path, max_batch_size = msgspec.json.decode(raw_question, type=tuple[str, int])
    limits = msgspec.json.decode(raw_limits, type=ServingLimits)
    try:
        data = read_model(Path(path), limits)
        lock_in(sys.argv[1:])
        reply = Reply(check_model(data, max_batch_size, limits))
    except InvalidPlan as error:
        reply = Reply(code=error.code, detail=error.detail, fields=error.fields)
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
    write_answer(msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
