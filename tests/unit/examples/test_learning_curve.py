"""The drawing of a learning curve, read back from its XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from learning_curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve, draw

SVG = "{http://www.w3.org/2000/svg}"


def curve(accuracies: list[float], title: str = "Title") -> Curve:
    return Curve(title, "Subtitle", accuracies, baseline=0.5, baseline_label="alone")


def test_points_lie_where_the_numbers_say():
    root = ET.fromstring(draw(curve([0.0, 0.5, 1.0])))
    line = root.find(f"{SVG}polyline")
    assert line is not None
    points = [tuple(float(v) for v in point.split(",")) for point in line.attrib["points"].split()]
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    assert points == [(left, bottom), ((left + right) / 2, (top + bottom) / 2), (right, top)]
    assert len(root.findall(f"{SVG}circle")) == 3


def test_it_says_the_last_accuracy_and_the_baseline():
    texts = [text.text for text in ET.fromstring(draw(curve([0.1, 0.957]))).iter(f"{SVG}text")]
    assert "95.7%" in texts
    assert "alone: 50.0%" in texts


def test_titles_cannot_break_the_file():
    root = ET.fromstring(draw(curve([0.1, 0.9], title='a <b> & "c"')))
    assert next(root.iter(f"{SVG}text")).text == 'a <b> & "c"'


@pytest.mark.parametrize("accuracies", [[], [0.5], [0.5, 1.2], [float("nan"), 0.5]])
def test_what_is_no_curve_is_refused(accuracies):
    with pytest.raises(ValueError, match="at least two accuracies"):
        draw(curve(accuracies))
