"""Three small plots as SVG text: estimates with intervals, a calibration curve, two histograms.

Written by hand: matplotlib costs two seconds to import and its files are ten times as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH = 640
_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600}.a{stroke:#bbb}.z{stroke:#888;"
    "stroke-dasharray:4 3}.m{stroke:#1f6feb;fill:#1f6feb}.o{stroke:#d1572a;fill:#d1572a}.h{opacity:.5;stroke:none}"
    "</style>"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One estimate with its interval, as shares; `neutral` is where nothing is shown."""

    label: str
    value: float
    low: float
    high: float
    neutral: float


def forest(title: str, bars: Sequence[Bar]) -> str:
    """Draw estimates with their intervals on one axis of percent; a dashed mark shows each one's neutral point."""
    left, row_px, top = 230, 26, 34
    low = min(min(bar.low, bar.neutral) for bar in bars)
    high = max(max(bar.high, bar.neutral) for bar in bars)
    pad = 0.05 * (high - low or 1.0)
    low, high = low - pad, high + pad
    height = top + row_px * len(bars) + 30

    def x(share: float) -> float:
        return round(left + (WIDTH - left - 20) * (share - low) / (high - low), 1)

    parts = [_text(8, 18, title, "t")]
    for i, bar in enumerate(bars):
        y = top + row_px * i + 10
        parts += [
            _text(8, y + 4, bar.label),
            f'<line class="z" x1="{x(bar.neutral)}" y1="{y - 10}" x2="{x(bar.neutral)}" y2="{y + 10}"/>',
            f'<line class="m" stroke-width="2" x1="{x(bar.low)}" y1="{y}" x2="{x(bar.high)}" y2="{y}"/>',
            f'<circle class="m" cx="{x(bar.value)}" cy="{y}" r="4"/>',
        ]
    y = height - 22
    parts.append(f'<line class="a" x1="{left}" y1="{y}" x2="{WIDTH - 20}" y2="{y}"/>')
    parts += [_text(x(tick), y + 16, f"{100 * tick:.0f} %", anchor="middle") for tick in _ticks(low, high)]
    return _svg(height, parts, title)


def calibration_plot(title: str, curve: Sequence[dict[str, float]]) -> str:
    """Draw accuracy against confidence with Wilson's intervals; the diagonal is perfect calibration."""
    side, left, top = 260, 50, 34

    def x(confidence: float) -> float:
        return round(left + side * (confidence - 0.5) / 0.5, 1)

    def y(accuracy: float) -> float:
        return round(top + side * (1 - accuracy), 1)

    parts = [
        _text(8, 18, title, "t"),
        f'<rect class="a" fill="none" x="{left}" y="{top}" width="{side}" height="{side}"/>',
        f'<line class="z" x1="{x(0.5)}" y1="{y(0.5)}" x2="{x(1)}" y2="{y(1)}"/>',
    ]
    for point in curve:
        at = x(point["confidence"])
        parts.append(f'<line class="m" x1="{at}" y1="{y(point["low"])}" x2="{at}" y2="{y(point["high"])}"/>')
        parts.append(f'<circle class="m" cx="{at}" cy="{y(point["accuracy"])}" r="4"/>')
    parts += [_text(x(tick), top + side + 16, f"{tick:.1f}", anchor="middle") for tick in (0.5, 0.75, 1.0)]
    parts += [_text(left - 6, y(tick) + 4, f"{tick:.1f}", anchor="end") for tick in (0, 0.5, 1.0)]
    parts.append(_text(left + side / 2, top + side + 34, "confidence: sigmoid(|margin|)", anchor="middle"))
    parts.append(_text(left + side + 10, top + 12, "accuracy, 95 % interval"))
    return _svg(top + side + 44, parts, title)


def histograms(title: str, series: Sequence[tuple[str, Sequence[float]]], bins: int = 40) -> str:
    """Draw up to two distributions over one axis, each with its name in its colour."""
    left, top, height = 20, 44, 150
    pooled = np.concatenate([np.asarray(values, dtype=np.float64) for _, values in series])
    low, high = np.quantile(pooled, [0.005, 0.995])
    if low == high:
        low, high = low - 1, high + 1
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(np.clip(np.asarray(v, dtype=np.float64), low, high), edges)[0] for _, v in series]
    peak = max(1, max(int(c.max()) for c in counts))
    step = (WIDTH - 2 * left) / bins
    parts = [_text(8, 18, title, "t")]
    for k, ((name, _), numbers) in enumerate(zip(series, counts, strict=True)):
        colour = "mo"[k]
        parts.append(f'<text x="{left + 200 * k}" y="36" class="{colour}" stroke="none">{escape(name)}</text>')
        for i, number in enumerate(numbers):
            tall = round(height * int(number) / peak, 1)
            parts.append(
                f'<rect class="{colour} h" x="{left + step * i:.1f}" y="{top + height - tall:.1f}" '
                f'width="{step - 1:.1f}" height="{tall}"/>'
            )
    if low < 0 < high:
        at = round(left + (WIDTH - 2 * left) * (0 - low) / (high - low), 1)
        parts.append(f'<line class="z" x1="{at}" y1="{top}" x2="{at}" y2="{top + height}"/>')
    for tick in _ticks(low, high):
        at = left + (WIDTH - 2 * left) * (tick - low) / (high - low)
        parts.append(_text(round(at, 1), top + height + 16, f"{tick:g}", anchor="middle"))
    return _svg(top + height + 24, parts, title)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends, about six of them."""
    raw = (high - low) / 6
    magnitude = 10.0 ** np.floor(np.log10(raw))
    step = float(next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw))
    first = int(np.ceil(low / step))
    return [round(step * i, 10) for i in range(first, int(np.floor(high / step)) + 1)]


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f'{_STYLE}<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
