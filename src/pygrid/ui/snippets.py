"""Code that a page shows to be copied: names that others chose are literals in it, and never code."""

from __future__ import annotations


def literal(text: str) -> str:
    """Return a text as a Python literal, in double quotes if it needs no escapes."""
    quoted = repr(text)
    return f'"{text}"' if quoted == f"'{text}'" and '"' not in text else quoted
