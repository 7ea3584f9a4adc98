"""Answers as tables: noise is shown where there is noise."""

from __future__ import annotations

from pygrid.messages.jobs import StatisticRequest
from pygrid.ui.request_words import answer_tables


def test_an_exact_answer_has_no_column_of_noise() -> None:
    answers = [{"value": 1200, "noise_std": 0}, {"value": 1198, "noise_std": 2.0}]
    exact, noisy = answer_tables(answers, [StatisticRequest("count")] * 2)
    assert (exact.has_error, exact.rows[0].error) == (False, None)
    assert (noisy.has_error, noisy.rows[0].error) == (True, 3.92)
