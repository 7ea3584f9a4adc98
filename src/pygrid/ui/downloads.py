"""Downloads: bytes that somebody uploaded or computed are saved, never shown."""

from __future__ import annotations

BYTES = "application/octet-stream"


def download_headers(name: str) -> dict[str, str]:
    """Return the headers of a download.

    Args:
        name: of the file, made of ids; letters, digits, dots and dashes.
    """
    return {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
