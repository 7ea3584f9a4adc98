"""What a Domain loads to keep a budget."""

from __future__ import annotations

import subprocess
import sys


def test_keeping_a_budget_loads_no_accounting_library_and_no_statistics():
    program = (
        "import sys\n"
        "import pygrid.privacy.ledger, pygrid.privacy.mechanisms, pygrid.privacy.statistics, pygrid.storage.budgets\n"
        "from pygrid.privacy.events import PoissonSampledGaussian\n"
        "cap = pygrid.privacy.ledger.open_cap(1.0, 1e-6)\n"
        "assert pygrid.privacy.ledger.cost_of([PoissonSampledGaussian(0.01, 1.0, 10)]).at(cap.order).divergence > 0\n"
        "print(sorted({'dp_accounting', 'opendp', 'scipy', 'torch'} & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == "[]\n"


def test_what_is_missing_is_named():
    program = (
        "import sys\n"
        "sys.modules['dp_accounting'] = sys.modules['opendp'] = None  # importing one raises ImportError\n"
        "from pygrid.errors import Unavailable\n"
        "from pygrid.privacy import accountants, statistics\n"
        "for call in (lambda: accountants.display_epsilon([], 1e-6), statistics.load_backend):\n"
        "    try:\n"
        "        call()\n"
        "    except Unavailable as error:\n"
        "        print(error.code, 'pip install' in error.detail)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines() == ["privacy_extra_missing True", "stats_extra_missing True"]
