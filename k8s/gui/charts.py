"""Diagrams with NiceGUI's own ECharts: colours that hold in both schemes, and a table for those who cannot see them."""

from __future__ import annotations

from typing import Any

from nicegui import ui

_LIGHT = ("#0b5cad", "#c2410c", "#0f766e", "#7c3aed", "#a16207", "#be185d", "#475569", "#15803d")
_DARK = ("#78b6f7", "#f0883e", "#3fb8a9", "#b79cf5", "#e3b341", "#f778ba", "#a0aab5", "#6bd58a")


def palette(dark: bool) -> tuple[str, ...]:
    """Return the colours of series, in order."""
    return _DARK if dark else _LIGHT


def base(dark: bool, label: str) -> dict[str, Any]:
    """Return what all diagrams share."""
    text, line = ("#a0aab5", "#333b45") if dark else ("#57606a", "#d5dae1")
    font = {"color": text, "fontFamily": "system-ui, sans-serif", "fontSize": 12}
    axis = {
        "axisLine": {"lineStyle": {"color": line}},
        "axisTick": {"show": False},
        "axisLabel": {"color": text, "hideOverlap": True},
        "splitLine": {"lineStyle": {"color": line, "opacity": 0.6}},
        "nameTextStyle": {"color": text},
    }
    return {
        "animation": False,
        "aria": {"enabled": True, "label": {"description": label}},
        "color": list(palette(dark)),
        "textStyle": font,
        "grid": {"left": 6, "right": 14, "top": 34, "bottom": 4, "containLabel": True},
        "legend": {"top": 0, "left": 0, "itemWidth": 16, "itemHeight": 8, "textStyle": font, "type": "scroll"},
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "backgroundColor": "#1f262e" if dark else "#ffffff",
            "borderColor": line,
            "textStyle": {"color": "#e4e9ef" if dark else "#1b2027", "fontSize": 12},
        },
        "xAxis": axis | {"splitLine": {"show": False}},
        "yAxis": axis | {"axisLine": {"show": False}},
    }


def draw(options: dict[str, Any], label: str) -> Any:
    """Add a diagram; a screen reader is told what it shows."""
    chart = ui.echart(options).classes("chart").props('role="img"')
    chart.props["aria-label"] = label
    return chart


def histogram(parts: dict[str, dict[str, Any]], dark: bool) -> None:
    """Add bars of how many texts are how long. Buckets come with their lower edges."""
    if not parts:
        return
    counts = {name: list(part["counts"]) for name, part in parts.items()}
    edges = list(next(iter(parts.values()))["edges"])
    used = [i for i in range(len(edges)) if any(len(c) > i and c[i] for c in counts.values())]
    if not used:
        return
    window = range(min(used), max(used) + 1)
    options = base(dark, "Histogram of lengths in tokens")
    options["xAxis"] |= {"type": "category", "data": [_bucket(edges, i) for i in window]}
    options["yAxis"] |= {"type": "value", "minInterval": 1}
    options["series"] = [
        {"type": "bar", "name": name, "data": [c[i] for i in window], "barMaxWidth": 18} for name, c in counts.items()
    ]
    draw(options, "Histogram of lengths in tokens")


def _bucket(edges: list[int], index: int) -> str:
    return f"{edges[index]}–{edges[index + 1] - 1}" if index + 1 < len(edges) else f"{edges[index]}+"
