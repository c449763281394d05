# SPDX-License-Identifier: GPL-3.0-or-later
"""Two kinds of plots as self-contained SVG: bars, and points on logarithmic axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

_OURS = "#2f6fb3"
_THEIRS = "#9a9a9a"
_WIDTH = 760
_NAME_WIDTH = 260
_ROW = 30


@dataclass(frozen=True)
class Bar:
    """A bar: its value, and how far single rounds were from it."""

    name: str
    value: float
    least: float
    most: float
    is_ours: bool


def bars(title: str, unit: str, rows: list[Bar]) -> str:
    """Horizontal bars from zero, with the range of all rounds as a thin line."""
    top = 60
    scale = (_WIDTH - _NAME_WIDTH - 90) / max(row.most for row in rows)
    body = [_text(20, 28, title, 16, bold=True), _text(20, 46, unit, 12)]
    for number, row in enumerate(rows):
        y = top + number * _ROW
        colour = _OURS if row.is_ours else _THEIRS
        least, most = (_NAME_WIDTH + scale * value for value in (row.least, row.most))
        body += [
            _text(_NAME_WIDTH - 8, y + 15, row.name, 12, anchor="end"),
            f'<rect x="{_NAME_WIDTH}" y="{y + 2}" width="{scale * row.value:.1f}" height="18" fill="{colour}"/>',
            f'<path d="M{least:.1f} {y + 11}H{most:.1f}" stroke="#222" stroke-width="1.5"/>',
            _text(most + 6, y + 15, f"{row.value:.2f}", 12),
        ]
    return _document(title, _WIDTH, top + len(rows) * _ROW + 16, body)


def points(title: str, across: str, up: str, series: dict[str, list[tuple[float, float]]]) -> str:
    """Points joined by lines, both axes logarithmic, one colour for each series."""
    left, top, width, height = 80, 60, 560, 300
    every = [point for line in series.values() for point in line]
    x_axis = _Axis([x for x, _ in every], left, left + width)
    y_axis = _Axis([y for _, y in every], top + height, top)
    body = [_text(20, 28, title, 16, bold=True)]
    for value in x_axis.ticks:
        body += [_line(x_axis(value), top, x_axis(value), top + height)]
        body += [_text(x_axis(value), top + height + 18, f"{value:,.6g}", 11, anchor="middle")]
    for value in y_axis.ticks:
        body += [_line(left, y_axis(value), left + width, y_axis(value))]
        body += [_text(left - 8, y_axis(value) + 4, f"{value:g}", 11, anchor="end")]
    body += [_text(left + width / 2, top + height + 40, across, 12, anchor="middle"), _text(20, 48, up, 12)]
    for colour, (name, line) in zip((_OURS, "#b3762f", "#2f8f5b"), series.items(), strict=False):
        path = "L".join(f"{x_axis(x):.1f} {y_axis(y):.1f}" for x, y in line)
        body.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="4" fill="{colour}"/>' for x, y in line]
        body.append(_text(x_axis(line[-1][0]) + 8, y_axis(line[-1][1]) + 4, name, 12))
    return _document(title, _WIDTH, top + height + 60, body)


class _Axis:
    """A logarithmic axis over whole powers of ten."""

    def __init__(self, values: list[float], begin: float, end: float) -> None:
        first = math.floor(math.log10(min(values)))
        last = max(math.ceil(math.log10(max(values))), first + 1)
        self.ticks = [10.0**power for power in range(first, last + 1)]
        self._first, self._span = first, last - first
        self._begin, self._length = begin, end - begin

    def __call__(self, value: float) -> float:
        return self._begin + self._length * (math.log10(value) - self._first) / self._span


def _text(x: float, y: float, text: str, size: int, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="#ddd"/>'


def _document(title: str, width: int, height: int, body: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" fill="#111" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *body,
            "</svg>",
            "",
        ]
    )
