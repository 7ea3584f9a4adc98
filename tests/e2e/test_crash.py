"""A Domain that is killed while devices report.

Should happen: every acknowledged report is in exactly one checkpoint, once; devices carry on after each crash.
Should not: a report counted twice, one lost, one counted that was refused; a cycle that never ends.
"""

from __future__ import annotations

import asyncio

import pytest

import crash


@pytest.mark.slow
def test_no_acknowledged_report_is_lost_or_counted_twice_when_the_server_is_killed(tmp_path):
    result = asyncio.run(crash.run(tmp_path, num_kills=5, seed=1, size=4000))
    assert result.problems == []
    assert result.num_kills == 5
    # The run has tested something: reports came in, several cycles were completed, and kills caught reports on their way.
    assert result.num_acknowledged > 20
    assert result.num_checkpoints > 3
    assert result.num_retried > 0
