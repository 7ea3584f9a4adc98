"""Faults that are put into the design on purpose, each of which the schedules must find."""

from __future__ import annotations

import enum


class Mutant(enum.Enum):
    """One fault. The value is what `scripts/schedules --mutant` takes."""

    NO_LOCK_AT_ACCEPT = "no-lock-at-accept"
    """A report is decided on the cycle as it was read, without its row lock."""
    NO_LOCK_AT_ADMIT = "no-lock-at-admit"
    """An admission is decided on the cycle as it was read, without its row lock."""
    NO_FENCE = "no-fence"
    """A checkpoint is stored without a look at the state and the fence of its cycle."""
    ONE_NAME_PER_FLUSH = "one-name-per-flush"
    """Each flush of a process writes its whole sum under the same name."""
    FOLD_BEFORE_COMMIT = "fold-before-commit"
    """A report is added to the sum before its transaction is committed."""
    EVENT_BY_ID = "event-by-id"
    """Events have the ids of a sequence, which are assigned before the commit."""
    RENEW_BY_ID = "renew-by-id"
    """A lease is renewed by the id of its job, without holder and fence."""
    RESULT_WITHOUT_FENCE = "result-without-fence"
    """Results of all attempts of a job have the same name."""
    NO_LOCK_AT_DEBIT = "no-lock-at-debit"
    """A job is debited without the lock of the audit log, which all debits share."""
    CLOCK_OF_THE_MACHINE = "clock-of-the-machine"
    """Leases are compared with the clock of the machine that claims."""
    GC_WITHOUT_AGE = "gc-without-24-h"
    """Bytes without a row are deleted, however young they are."""
    PUT_WITHOUT_POSTPONING = "put-without-postponing"
    """A put that finds its bytes does not postpone their end."""
    DELETE_WITHOUT_AGE = "delete-without-age"
    """Doomed bytes are deleted although they were stored a moment ago, after an earlier deletion that did not end."""
    GC_WITHOUT_CLOCK = "gc-without-clock"
    """The process that deletes does not look at its clock after it has looked for a row."""
