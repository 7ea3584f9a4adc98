"""What ``pygrid plan inspect`` tells an owner: true numbers, in words, and no command to the terminal."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pygrid.cli.plan import app
from pygrid.errors import InvalidInput, InvalidPlan
from pygrid.plans import TestVector, check, selftest_loss
from pygrid.plans.inspect import describe
from pygrid.plans.text import human_bytes, human_count, printable
from support.plans.averaging import PLANS
from support.plans.handmade import logistic_plan

PLAN = logistic_plan()


def invoke(tmp_path, plan, *options: str, command: str = "inspect"):
    plan.save(tmp_path / "a.plan")
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, str(tmp_path / "a.plan"), *options])


def test_a_description_has_true_numbers():
    description = describe(PLAN, check(PLAN.data))
    assert description.num_parameters == 15
    assert description.bytes_out == 60
    assert description.bytes_in_per_example == 4 * 4 + 8
    assert description.operators["LogSoftmax"][0] == 3
    assert "SGD(momentum=0.9)" in description.summary
    assert [column.name for column in description.outputs] == [
        "trained model, or its diff",
        "gradients",
        "metric loss",
        "metric accuracy",
    ]


def test_the_command_tells_it_in_words(tmp_path):
    result = invoke(tmp_path, PLAN)
    assert result.exit_code == 0
    for words in (
        "15 parameters in 2 arrays, 60 bytes",
        "softmax regression",
        PLAN.id,
        "label 0..2",
        "0.1, allowed 0.00001 to 1",
        "Leaves, 60 bytes per run (as much as 2 examples)",
        "LogSoftmax",
        "proven from the graph",
        "def loss(model, x, y)",
    ):
        assert words in result.output


def test_the_command_speaks_json(tmp_path):
    document = json.loads(invoke(tmp_path, PLAN, "--json").output)
    assert document["plan_id"] == PLAN.id
    assert document["costs"]["train"]["num_nodes"] == 29
    assert document["model"]["weight"] == ["float32", [3, 4]]


def test_averaging_plans_are_described_too(tmp_path):
    result = invoke(tmp_path, PLANS["iterative"])
    assert result.exit_code == 0
    assert "one diff after the other" in result.output
    assert "Leaves, 32 bytes per run" in result.output


def test_what_a_stranger_wrote_is_no_command_to_the_terminal(tmp_path):
    evil = logistic_plan(
        name="\x1b[2Jgone", description="[bold red]markup[/]", source="\x1b]0;title\x07def loss(): ..."
    )
    output = invoke(tmp_path, evil).output
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "[bold red]markup[/]" in output
    assert printable("a\x1bb\u202ec\n") == "a\ufffdb\ufffdc\n"


def test_a_plan_that_the_gate_refuses_is_not_described(tmp_path):
    result = invoke(tmp_path, logistic_plan(opset=21))
    assert isinstance(result.exception, InvalidPlan)
    assert "opset 20 is supported" in result.exception.detail


def test_a_file_that_is_not_there_is_told_in_words(tmp_path):
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "none.plan")])
    assert isinstance(result.exception, InvalidInput)
    assert "No such file" in result.exception.detail


def test_the_test_command(tmp_path):
    assert "contains no test" in invoke(tmp_path, PLAN, command="test").output
    vector = TestVector(batch_size=4, loss=selftest_loss(PLAN, 4))
    assert "passed" in invoke(tmp_path, logistic_plan(test_vector=vector), command="test").output


@pytest.mark.parametrize(
    ("number", "words", "in_bytes"),
    [
        (0, "0", "0 bytes"),
        (999, "999", "999 bytes"),
        (1500, "1.5 thousand", "1.5 kB"),
        (2_000_000, "2 million", "2 MB"),
    ],
)
def test_numbers_are_readable(number, words, in_bytes):
    assert human_count(number) == words
    assert human_bytes(number) == in_bytes
