"""Answers as rows with intervals, and messages and plans as a notebook shows them.

Should happen: a row for each group and each bin; dates as dates; the columns of a data frame.
Should not happen: text of others as HTML.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest

from pygrid.client import count, histogram, mean, quantile
from pygrid.client.answers import Answers, has_dates
from pygrid.client.display.messages import DRAWN
from pygrid.messages.datasets import Column, DatasetInfo, Schema, UploadTrial
from pygrid.messages.jobs import BudgetInfo, JobCost, PolicyInfo, StatisticRequest
from pygrid.plans.overview import svg
from support.plans.handmade import logistic_plan

SCHEMA = Schema((Column("age", "float32"), Column("born", "date"), Column("seen", "datetime")), 10)
ASKED: list[tuple[StatisticRequest, dict[str, Any]]] = [
    (count(by="sex", keys=["f", "m"]), {"groups": [["f", 4.0], ["m", 6.0]], "interval": [[1, 7], [3, 9]]}),
    (mean("age", lower=0, upper=9), {"value": 5.0, "count": 9.2, "interval": [4.0, 6.0]}),
    (mean("born", lower="1900-01-01", upper="2000-01-01"), {"value": 365.6, "count": 9.0, "interval": [-1e9, 730.0]}),
    (quantile("seen", candidates=["2020-01-01", "2021-01-01"]), {"value": 86_400e6, "interval": [0.0, 172_800e6]}),
    (histogram("age", edges=[0, 5, 10]), {"value": [1.0, 2.0]}),
]
ROWS = [
    ("count", "", "f", 4.0, 1, 7, None),
    ("count", "", "m", 6.0, 3, 9, None),
    ("mean", "age", None, 5.0, 4.0, 6.0, 9.2),
    ("mean", "born", None, dt.date(1971, 1, 1), -1e9, dt.date(1972, 1, 1), 9.0),
    ("quantile 0.5", "seen", None, dt.datetime(1970, 1, 2), dt.datetime(1970, 1, 1), dt.datetime(1970, 1, 3), None),
    ("histogram", "age", "0 to 5", 1.0, 1.0, 1.0, None),
    ("histogram", "age", "5 to 10", 2.0, 2.0, 2.0, None),
]


def answers() -> Answers:
    found: list[Any] = [{"kind": asked.kind, "column": asked.column, **answer} for asked, answer in ASKED]
    return Answers(found, [asked for asked, _ in ASKED], SCHEMA)


def test_answers_are_rows_with_intervals() -> None:
    assert [dataclasses.astuple(row) for row in answers().rows] == ROWS
    assert [has_dates(asked) for asked, _ in ASKED] == [False, False, True, True, False]
    assert answers()[0]["groups"] == [["f", 4.0], ["m", 6.0]]
    assert repr(answers()).splitlines()[0].split() == [
        "statistic",
        "column",
        "group",
        "value",
        "95%",
        "from",
        "to",
        "of",
    ]
    assert "1971-01-01" in answers()._repr_html_()


def test_answers_are_a_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = answers().frame()
    assert list(frame.columns) == ["statistic", "column", "group", "value", "low", "high", "count"]
    assert frame.loc[2, "low"] == 4.0


def test_messages_are_tables_in_a_notebook() -> None:
    policy = PolicyInfo(5.0, 1e-5, 4.0, auto_approve=True, unit="subject")
    now = dt.datetime(2025, 1, 1)
    shared: Any = (1, "<b>", "<i>", ("a",), "listed", 2, 10, 3, 400, now, now, False)
    shown = {
        kind: DRAWN[kind](message)
        for kind, message in {
            Schema: SCHEMA,
            UploadTrial: UploadTrial(SCHEMA, 400, ("<u>",)),
            DatasetInfo: DatasetInfo(*shared, SCHEMA, []),
            PolicyInfo: policy,
            BudgetInfo: BudgetInfo(1, policy, 1.5, 1.0, 4.0, {"<ann>": 1.0}, 3.5, 3.0),
            JobCost: JobCost(2.0, 1e-5, 3.3, 1, price=0.5, cap=5.0, fits=True),
        }.items()
    }
    for html in shown.values():
        assert "<table>" in html
        assert not any(text in html for text in ("<b><", "<i>", "<u>", "<ann>"))
    assert "epsilon 1 of 4 spent, 3 left" in shown[BudgetInfo]
    assert "0.5 of 5" in shown[JobCost]


def test_a_plan_is_a_picture() -> None:
    plan = logistic_plan()
    picture = svg(plan.manifest)
    assert picture.startswith("<svg xmlns=")
    assert picture.count("<rect ") == 3 * len(plan.manifest.graphs)
    assert picture in plan._repr_html_()
