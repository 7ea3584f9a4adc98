"""Colors of chart lines: readable in each theme, and apart from each other for every kind of sight."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import pygrid

CSS = (Path(pygrid.__file__).parent / "ui/static/admin.css").read_text()
BLOCKS = re.findall(r"{([^{}]*--back:.*?)}", CSS, re.DOTALL)
THEMES = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in BLOCKS]
SIGHTS = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "no green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "no blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
"""What people see of linear red, green and blue.

Source: Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency",
IEEE TVCG 2009, severity 1.
"""
MIN_DISTANCE = 15.0
"""In CIELAB; two colors next to each other differ visibly from about 2.3."""
Values = Sequence[float]


def linear(color: str) -> list[float]:
    values = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]


def luminance(rgb: Values) -> float:
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted(luminance(linear(color)) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: Values) -> tuple[float, float, float]:
    x = (0.4124564 * rgb[0] + 0.3575761 * rgb[1] + 0.1804375 * rgb[2]) / 0.95047
    z = (0.0193339 * rgb[0] + 0.1191920 * rgb[1] + 0.9503041 * rgb[2]) / 1.08883
    fx, fy, fz = (
        value ** (1 / 3) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116 for value in (x, luminance(rgb), z)
    )
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def seen(color: str, sight: Sequence[Values]) -> list[float]:
    rgb = linear(color)
    return [min(1.0, max(0.0, sum(a * b for a, b in zip(row, rgb, strict=True)))) for row in sight]


def test_each_theme_has_colors_of_its_own() -> None:
    light, dark, chosen_dark = THEMES
    assert dark == chosen_dark, "the dark theme of the system, and the one that is chosen on the page"
    assert light["chart-1"] != dark["chart-1"]


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", THEMES[:2], ids=("light", "dark"))
def test_lines_can_be_told_apart(theme: dict[str, str], sight: str) -> None:
    colors = [theme[f"chart-{number}"] for number in range(1, 7)]
    for color in colors:
        assert contrast(color, theme["back"]) >= 3, color
    for one, other in itertools.combinations(colors, 2):
        assert math.dist(*(lab(seen(color, SIGHTS[sight])) for color in (one, other))) >= MIN_DISTANCE, (one, other)
