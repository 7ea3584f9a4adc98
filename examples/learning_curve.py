"""Draws a learning curve as an SVG file, which any browser shows; needs nothing but Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 84, 56
INK, MUTED, GRID, LINE, BASELINE = "#1f2430", "#6b7280", "#e5e7eb", "#2563eb", "#d97706"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


@dataclass(frozen=True)
class Curve:
    """What is drawn.

    Attributes:
        accuracies: share of held-out images read right, 0 to 1, at checkpoint 1 (untrained), 2, ...: one more than
            cycles.
        baseline: an accuracy to compare with, drawn as a dashed line.
    """

    title: str
    subtitle: str
    accuracies: Sequence[float]
    baseline: float
    baseline_label: str


def draw(curve: Curve) -> str:
    """The text of the SVG file.

    Raises:
        ValueError: fewer than two accuracies, or one outside 0 to 1.
    """
    if len(curve.accuracies) < 2 or not all(0.0 <= a <= 1.0 for a in (*curve.accuracies, curve.baseline)):
        raise ValueError("a learning curve needs at least two accuracies, all from 0 to 1")
    last = len(curve.accuracies) - 1
    points = [(_x(i, last), _y(a)) for i, a in enumerate(curve.accuracies)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="{FONT}" role="img" aria-label="{escape(curve.title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>',
        _text(LEFT, 36, curve.title, INK, 19, weight=600),
        _text(LEFT, 59, curve.subtitle, MUTED, 13),
        *_axes(last),
        *_baseline(curve),
        *_line(points),
        _text(points[-1][0], points[-1][1] + 28, f"{curve.accuracies[-1]:.1%}", LINE, 15, anchor="end", weight=600),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(step: int, last: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * step / last, 1)


def _y(accuracy: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - accuracy), 1)


def _text(x: float, y: float, text: str, color: str, size: int, *, anchor: str = "start", weight: int = 400) -> str:
    style = f'fill="{color}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'


def _axes(last: int) -> list[str]:
    parts: list[str] = []
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 10, y + 4, f"{percent} %", MUTED, 12, anchor="end"))
    for step in range(0, last + 1, max(1, math.ceil(last / 10))):
        parts.append(_text(_x(step, last), HEIGHT - BOTTOM + 22, str(step), MUTED, 12, anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "cycles completed", MUTED, 12, anchor="middle"))
    return parts


def _baseline(curve: Curve) -> list[str]:
    y = _y(curve.baseline)
    label = f"{curve.baseline_label}: {curve.baseline:.1%}"
    style = f'stroke="{BASELINE}" stroke-width="1.5" stroke-dasharray="6 5"'
    return [
        f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" {style}/>',
        _text(WIDTH - RIGHT, y + 19, label, BASELINE, 13, anchor="end"),
    ]


def _line(points: list[tuple[float, float]]) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in points)
    floor = HEIGHT - BOTTOM
    style = f'fill="none" stroke="{LINE}" stroke-width="2.5" stroke-linejoin="round" stroke-linecap="round"'
    return [
        f'<polygon points="{points[0][0]},{floor} {path} {points[-1][0]},{floor}" fill="{LINE}" fill-opacity="0.07"/>',
        f'<polyline points="{path}" {style}/>',
        *(f'<circle cx="{x}" cy="{y}" r="3.2" fill="#ffffff" stroke="{LINE}" stroke-width="2"/>' for x, y in points),
    ]
