"""What is typed about a job, before anything is sent."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pygrid.cli import app
from pygrid.cli.job_submit import read_metric_bounds, read_statistic
from pygrid.client import statistics
from pygrid.errors import InvalidInput
from pygrid.messages.jobs import StatisticRequest


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("count", statistics.count()),
        ("count,by=sex,keys=f|m", statistics.count(by="sex", keys=["f", "m"])),
        ("count,by=label,keys=0|-1", statistics.count(by="label", keys=[0, -1])),
        ("mean:age,lower=0,upper=120", statistics.mean("age", lower=0, upper=120)),
        ("sum:age,lower=-1.5,upper=2e3", statistics.sum("age", lower=-1.5, upper=2000)),
        ("variance:age,lower=0,upper=1,by=b,keys=x", statistics.variance("age", lower=0, upper=1, by="b", keys=["x"])),
        ("histogram:age,edges=0|10|20", statistics.histogram("age", edges=[0, 10, 20])),
        ("quantile:age,q=0.9,candidates=0|10", statistics.quantile("age", 0.9, candidates=[0, 10])),
    ],
)
def test_questions_are_read(text: str, asked: StatisticRequest) -> None:
    assert read_statistic(text) == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("median:age", "'median' is not valid; use count, sum"),
        ("mean:age", "mean needs lower= and upper="),
        ("mean,lower=0,upper=1", "mean needs a column, as in mean:age"),
        ("mean:age,lower=low,upper=1", "'low' is not a number"),
        ("mean:age,lowest=0,upper=1", "'lowest=0' is not valid; use lower="),
        ("histogram:age,lower=0", "histogram needs edges="),
        ("histogram:age,edges=0|1,lower=0", "histogram has no lower=; it takes edges=, by=, keys=, per="),
        ("__class__", "is not valid"),
    ],
)
def test_questions_that_make_no_sense_are_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_statistic(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "3"], "a job needs --plan and --model"),
        (["--statistic", "count", "--model", "m.safetensors"], "statistics need neither a plan nor a model"),
        (["--plan", "p", "--model", "m", "--bind", "x"], "--bind 'x' is not INPUT=COLUMN"),
        (["--plan", "p", "--model", "m", "--hyper", "lr"], "'lr' is neither key=value nor"),
    ],
)
def test_a_job_that_is_said_by_half_is_refused(arguments: list[str], said: str) -> None:
    base = ["job", "submit", "cells", "--reason", "a study", "--url", "http://127.0.0.1:9"]
    done = CliRunner().invoke(app, [*base, *arguments])
    assert isinstance(done.exception, InvalidInput)
    assert said in done.exception.detail


def test_a_dataset_by_name_and_a_folder_exclude_each_other() -> None:
    done = CliRunner().invoke(app, ["budget", "show", "cells", "--data-dir", "x"])
    assert isinstance(done.exception, InvalidInput)
    assert "leave it out to read a data folder" in done.exception.detail
    done = CliRunner().invoke(app, ["budget", "set", "cells"])
    assert isinstance(done.exception, InvalidInput)
    assert "no option was given" in done.exception.detail


def test_metric_bounds_are_read_from_texts() -> None:
    assert read_metric_bounds(["loss=0:10", "a=b=-1e3:2.5"]) == {"loss": (0.0, 10.0), "a=b": (-1000.0, 2.5)}
    for text in ("loss", "loss=", "loss=3", "loss=a:b", "loss=1:2:3"):
        with pytest.raises(InvalidInput, match="METRIC=LOWER:UPPER"):
            read_metric_bounds([text])
