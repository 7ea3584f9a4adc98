"""Writes all recordings; see ``scripts/snapshots``."""

from support.snapshots import FOLDER, write_all
from support.snapshots.python_names import has_torch

if not has_torch():
    raise SystemExit("the names for authors of plans need PyTorch: run scripts/env dev torch")
changed = write_all()
print("\n".join(f"{FOLDER / name} has changed" for name in changed) or "nothing has changed")
