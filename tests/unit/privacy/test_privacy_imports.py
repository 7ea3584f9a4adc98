"""What a Domain loads to keep a budget."""

from __future__ import annotations

import subprocess
import sys


def test_keeping_a_budget_loads_no_accounting_library():
    program = (
        "import sys\n"
        "import pygrid.privacy.ledger, pygrid.privacy.mechanisms, pygrid.storage.budgets\n"
        "from pygrid.privacy.events import PoissonSampledGaussian\n"
        "cap = pygrid.privacy.ledger.open_cap(1.0, 1e-6)\n"
        "assert pygrid.privacy.ledger.cost_of([PoissonSampledGaussian(0.01, 1.0, 10)]).at(cap.order).divergence > 0\n"
        "print(sorted({'dp_accounting', 'scipy', 'torch'} & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=180)
    assert result.stdout == "[]\n"


def test_what_is_missing_is_named():
    program = (
        "import sys\n"
        "sys.modules['dp_accounting'] = None  # importing it raises ImportError\n"
        "from pygrid.errors import Unavailable\n"
        "from pygrid.privacy import accountants\n"
        "try:\n"
        "    accountants.display_epsilon([], 1e-6)\n"
        "except Unavailable as error:\n"
        "    print(error.code, 'pip install' in error.detail)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=180)
    assert result.stdout == "privacy_extra_missing True\n"
