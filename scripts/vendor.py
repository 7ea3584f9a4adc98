"""Fetches vendored browser files with ``npm pack`` and compares their hashes with ``vendored.toml``."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LISTS = (ROOT / "src/pygrid/ui/static/vendor/vendored.toml", ROOT / "tests/vendor/vendored.toml")


def main() -> int:
    update, faults = "--update" in sys.argv[1:], 0
    for listing in LISTS:
        text = listing.read_text()
        for entry in tomllib.loads(text)["file"]:
            data = fetch(entry)
            found = hashlib.sha256(data).hexdigest()
            if found != entry["sha256"] and not update:
                print(f"{entry['name']}: SHA-256 {found}, and {listing.name} has {entry['sha256']}", file=sys.stderr)
                faults += 1
                continue
            (listing.parent / entry["file"]).write_bytes(data)
            text = re.sub(
                rf'(file = "{re.escape(entry["file"])}"\n(?:.*\n)*?bytes = )\d+\nsha256 = "[0-9a-f]*"',
                rf'\g<1>{len(data)}\nsha256 = "{found}"',
                text,
            )
            print(f"{entry['file']}: {entry['name']} {entry['version']}, {len(data):,} bytes")
        listing.write_text(text)
    return 1 if faults else 0


def fetch(entry: dict[str, Any]) -> bytes:
    """Return the member of a package of the npm registry. npm compares the package with the registry's hash."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", f"{entry['name']}@{entry['version']}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            member = package.extractfile(f"package/{entry['member']}")
            assert member is not None
            return member.read()


if __name__ == "__main__":
    sys.exit(main())
