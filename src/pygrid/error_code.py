"""The type of an error code; `pygrid.codes` has all of them."""

from __future__ import annotations


class Code(str):
    """An error code.

    Attributes:
        statuses: HTTP statuses of the errors that are raised with it; empty for a code that is only a field.
        meaning: one sentence for people.
    """

    statuses: tuple[int, ...]
    meaning: str

    def __new__(cls, code: str, statuses: int | tuple[int, ...], meaning: str) -> Code:
        made = super().__new__(cls, code)
        made.statuses = statuses if isinstance(statuses, tuple) else (statuses,)
        made.meaning = meaning
        return made

    def __reduce__(self) -> tuple[type[Code], tuple[str, tuple[int, ...], str]]:
        return Code, (str(self), self.statuses, self.meaning)
