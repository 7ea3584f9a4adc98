"""How many examples a property gets: ``scripts/test --thorough`` tries all of them, a usual run a part."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("PYGRID_THOROUGH") == "1"
USUAL_EXAMPLES = 100 if THOROUGH else 40
"""Of a property that states no number."""


def examples(most: int) -> int:
    """The number of examples, or of repetitions, where ``most`` are tried in a thorough run."""
    return most if THOROUGH else max(most // 4, min(most, 10))
