"""Plots as SVG, which need no library and show in any browser, light or dark."""

import html
import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 30, 60
_INK = "#808080"
_DOT = "#2b7de9"


def scatter(points: Sequence[tuple[str, float, float]], *, x: str, y: str) -> str:
    """Points (label, x, y): x on a scale of powers of two, y from just below the least."""
    first = math.floor(math.log2(min(point[1] for point in points)))
    last = math.ceil(math.log2(max(point[1] for point in points)))
    low = math.floor(min(point[2] for point in points) * 20 - 0.5) / 20
    high = 1.0

    def across(value: float) -> float:
        return _LEFT + (math.log2(value) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    floor = _HEIGHT - _BOTTOM
    parts = [_text(_LEFT, 18, y), _text(_LEFT, _HEIGHT - 12, x)]
    for power in range(first, last + 1):
        at = across(2**power)
        parts += [_line(at, _TOP, at, floor), _text(at, floor + 18, f"{2**power}", "middle")]
    for step in range(5):
        value = low + (high - low) * step / 4
        at = down(value)
        parts += [_line(_LEFT, at, _WIDTH - _RIGHT, at), _text(62, at + 4, f"{value:.3f}", "end")]
    for label, size, share in points:
        parts.append(f'<circle cx="{across(size):.1f}" cy="{down(share):.1f}" r="5"/>')
        parts.append(_text(across(size) + 9, down(share) + 4, label))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' font-family="sans-serif" font-size="12" fill="{_INK}">'
        f"<style>circle{{fill:{_DOT}}}line{{stroke:{_INK};stroke-opacity:.3}}</style>"
        + "".join(parts)
        + "</svg>\n"
    )


def bars(rows: Sequence[tuple[str, float, float, float]], *, x: str) -> str:
    """Rows (label, value, low, high): a bar from 0 for each value, a line for its interval."""
    left, step = 210, 26
    most = max(row[3] for row in rows)
    height = _TOP + len(rows) * step + 36
    parts = [_text(left, 18, x)]
    for place, (label, value, low, high) in enumerate(rows):
        top = _TOP + place * step
        middle = top + step / 2

        def across(value: float) -> float:
            return left + value / most * (_WIDTH - left - 60)

        parts += [
            _text(left - 8, middle + 4, label, "end"),
            f'<rect x="{left}" y="{top + 4}" width="{across(value) - left:.1f}"'
            f' height="{step - 8}"/>',
            _line(across(low), middle, across(high), middle),
            _text(across(high) + 6, middle + 4, f"{value:,.3g}"),
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' font-family="sans-serif" font-size="12" fill="{_INK}">'
        f"<style>rect{{fill:{_DOT};fill-opacity:.6}}line{{stroke:{_INK};stroke-width:3}}</style>"
        + "".join(parts)
        + "</svg>\n"
    )


def curves(series: Mapping[str, Sequence[tuple[float, float]]], *, x: str) -> str:
    """Points (x, y) of each series, joined; both scales begin at 0, and the y is the label's."""
    right = max(point[0] for points in series.values() for point in points)
    high = max(point[1] for points in series.values() for point in points)
    floor, edge = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT - 60

    def across(value: float) -> float:
        return _LEFT + value / right * (edge - _LEFT)

    def down(value: float) -> float:
        return floor - value / high * (floor - _TOP)

    parts = [_text(_LEFT, _HEIGHT - 12, x)]
    for step in range(5):
        at, value = down(high * step / 4), high * step / 4
        parts += [_line(_LEFT, at, edge, at), _text(62, at + 4, f"{value:,.0f}", "end")]
        value = right * step / 4
        parts.append(_text(across(value), floor + 18, f"{value:,.0f}", "middle"))
    for label, points in series.items():
        path = " ".join(f"{across(at):.1f},{down(value):.1f}" for at, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_DOT}" stroke-width="2"/>')
        parts.append(_text(across(points[-1][0]) + 8, down(points[-1][1]) + 4, label))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' font-family="sans-serif" font-size="12" fill="{_INK}">'
        f"<style>line{{stroke:{_INK};stroke-opacity:.3}}</style>" + "".join(parts) + "</svg>\n"
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
