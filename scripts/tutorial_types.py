"""Checks the types of the code in the README and the tutorials, with mypy --strict and pyright.

Each page is checked in a folder of its own, because its files import each other. scripts/check runs this.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIN_PAGES = 4
MYPY = ["mypy", "--strict", "--no-error-summary", "--cache-dir", str(ROOT / ".mypy_cache")]
PYRIGHT = ["basedpyright", "--level", "error", "--pythonpath", sys.executable]


def write_pages(folder: Path) -> list[Path]:
    """Write the files of each page into a folder of its own."""
    folders = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]:
        text = page.read_text()
        files = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
        if len(files) != text.count("```python"):
            sys.exit(f"{page}: a block of Python has no file name: begin it with a comment such as # train.py")
        made = folder / page.stem
        for name, source in files:
            made.mkdir(exist_ok=True)
            (made / name).write_text(source)
        folders += [made] * bool(files)
    return folders


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        pages = write_pages(Path(name))
        if len(pages) < MIN_PAGES:
            sys.exit(f"only {len(pages)} pages have code, and {MIN_PAGES} are expected")
        failed = []
        for page in pages:
            files = sorted(file.name for file in page.glob("*.py"))
            for command in ([*MYPY, *files], [*PYRIGHT, *files]):
                if subprocess.run([sys.executable, "-m", *command], cwd=page, check=False).returncode:
                    failed.append(f"{page.name} ({command[0]})")
    if failed:
        sys.exit(f"wrong types in the code of {', '.join(failed)}")


if __name__ == "__main__":
    main()
