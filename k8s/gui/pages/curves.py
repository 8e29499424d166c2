"""Live curves of one or several training steps, drawn together; or the same numbers as tables."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nicegui import ui

from k8s.gui.charts import base, draw, palette
from k8s.gui.loglines import LoggedMetrics
from k8s.gui.pages.elements import box, card, segments, table, tag
from k8s.gui.runs import folder_of, in_cluster
from k8s.gui.series import CHARTS, LIBRARY, Chart, MetricsFile

_TABLE_ROWS = 40
_PATIENCE_S = 0.1
_Found = dict[Chart, list[dict[str, Any]]]
_SHORT = "v => v && Math.abs(v) < 0.0001 ? v.toExponential() : v.toLocaleString('en-US', {maximumFractionDigits: 6})"
"""0.000002 would take more room than its diagram has: 2e-6."""


def source_of(run: str, values: dict[str, Any], step: str) -> Source:
    """Return where the numbers of a run's step come from."""
    path = folder_of(values, step) / "metrics.jsonl"
    place = in_cluster(run)
    logged = LoggedMetrics(path, functools.partial(place.log, run, step)) if place else None
    return Source(label=run, path=path, logged=logged)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A metrics.jsonl and what to call it."""

    label: str
    path: Path
    logged: MetricsFile | None = None
    """Where there may be no file, but a log."""

    def open(self) -> MetricsFile:
        """Return its numbers, read so far."""
        return self.logged or LIBRARY.open(self.path)


class Curves:
    """The diagrams of a page."""

    def __init__(self, sources: list[Source], dark: bool) -> None:
        self.sources = sources
        self.dark = dark
        self.axis, self.last, self.form = "step", 0, "curves"
        self._drawn: Any = None
        self._first: asyncio.Task[_Found | None] | None = None
        self._charts: dict[str, Any] = {}

    async def prepare(self) -> None:
        """Read the files, so that `build` can draw them and the browser gets them with the page itself.

        A long file that nobody has looked at yet takes longer than a person should wait for the page: it is read while
        the browser builds the page, and drawn then. So are the logs of a cluster's pods.
        """
        self._first = asyncio.create_task(asyncio.to_thread(self._look))
        await asyncio.wait([self._first], timeout=_PATIENCE_S)

    def build(self) -> Any:
        """Add the card and return its title's row; `update` keeps it fresh."""
        with card("Curves") as top:
            with top:
                segments({"step": "Steps", "time": "Time"}, self.axis, self._set_axis, "Against")
                segments({"0": "All", "1000": "Last 1,000", "100": "Last 100"}, "0", self._set_last, "How many steps")
                segments({"curves": "Curves", "tables": "Tables"}, self.form, self._set_form, "Show as")
            self.empty = tag("p", "No metrics yet: they appear with the first training step.", "empty")
            self.area = box("charts")
            with self.area:
                ui.echart({}).classes("hidden")  # the browser fetches what it draws with while the files are read
        if self._first and self._first.done():
            self._show(self._first.result())
            self._first = None
        return top

    def use(self, sources: list[Source]) -> None:
        """Show other files from now on."""
        if sources != self.sources:
            self.sources, self._drawn = sources, None

    async def _set_axis(self, axis: str) -> None:
        self.axis = axis
        await self.update()

    async def _set_last(self, last: str) -> None:
        self.last = int(last)
        await self.update()

    async def _set_form(self, form: str) -> None:
        self.form = form
        await self.update()

    async def update(self) -> None:
        """Draw what is new; costs a look at the files' sizes where nothing is."""
        first, self._first = self._first, None
        self._show(await (first or asyncio.to_thread(self._look)))

    def _show(self, found: _Found | None) -> None:
        if found is None:
            return
        shown = {chart.key: series for chart, series in found.items() if series}
        self.empty.set_visibility(not shown)
        if self.form == "tables" or set(shown) != set(self._charts):
            self._rebuild({chart: series for chart, series in found.items() if series})
            return
        for chart, series in found.items():
            if series:
                element = self._charts[chart.key]
                element.options["series"] = series
                element.update()

    def _look(self) -> _Found | None:
        """Return the series of each diagram, None where nothing has changed. Runs in a thread."""
        files = [source.open() for source in self.sources]
        state = ([(str(f.path), f.refresh()) for f in files], self.axis, self.last, self.form)
        if state == self._drawn:
            return None
        if self._drawn is not None and self._drawn[3] != self.form:
            self._charts = {}
        self._drawn = state
        return {chart: self._series(chart, files) for chart in CHARTS}

    def _series(self, chart: Chart, files: list[MetricsFile]) -> list[dict[str, Any]]:
        colors, found = palette(self.dark), []
        for number, (source, file) in enumerate(zip(self.sources, files, strict=True)):
            for index, (key, name) in enumerate(chart.series.items()):
                if not file.has(key):
                    continue
                several = len(files) > 1
                color = colors[(number if several else index) % len(colors)]
                points = file.points(key, self.axis, self.last)
                found.append(
                    {
                        "type": "line",
                        "name": f"{source.label} {name}" if several else name,
                        "data": points,
                        "showSymbol": key.startswith("eval_") or len(points) < 3,
                        "symbolSize": 5,
                        "lineStyle": {"width": 1.6, "color": color, "type": "dashed" if several and index else "solid"},
                        "itemStyle": {"color": color},
                    }
                )
        return found

    def _rebuild(self, found: _Found) -> None:
        self.area.clear()
        self._charts = {}
        with self.area:
            for chart, series in found.items():
                with box("rows"):
                    with box("line"):
                        tag("h3", chart.title)
                        only = series[0]["name"] if len(series) == 1 and len(chart.series) > 1 else ""
                        tag("span", ", ".join(word for word in (only, chart.unit) if word), "hint")
                    if self.form == "tables":
                        self._table(chart, series)
                    else:
                        self._charts[chart.key] = draw(self._options(chart, series), self._words(chart, series))

    def _options(self, chart: Chart, series: list[dict[str, Any]]) -> dict[str, Any]:
        options = base(self.dark, self._words(chart, series))
        options["xAxis"] |= {"type": "value", "min": "dataMin", "max": "dataMax"}
        options["yAxis"] |= {"type": "value", "scale": True}
        options["yAxis"]["axisLabel"] = options["yAxis"]["axisLabel"] | {":formatter": _SHORT}
        options["series"] = series
        if len(series) == 1:  # the title says it
            options["legend"]["show"] = False
            options["grid"]["top"] = 12
        options["dataZoom"] = [{"type": "inside", "filterMode": "none", "zoomOnMouseWheel": "ctrl"}]
        return options

    def _words(self, chart: Chart, series: list[dict[str, Any]]) -> str:
        parts = [f"{s['name']} from {s['data'][0][1]:.4g} to {s['data'][-1][1]:.4g}" for s in series if s["data"]]
        return f"{chart.title}: {'; '.join(parts)}"

    def _table(self, chart: Chart, series: list[dict[str, Any]]) -> None:
        """Every so manyth step and the last one; the file itself has all of them."""
        columns = [dict(s["data"]) for s in series]
        steps = sorted(set().union(*columns))
        stride = max(1, -(-len(steps) // _TABLE_ROWS))
        wanted = sorted({*steps[::stride], *steps[-1:]})
        head = "step" if self.axis == "step" else "seconds"
        rows: list[list[Any]] = [
            [f"{step:g}", *(f"{c[step]:.4g}" if step in c else "" for c in columns)] for step in wanted
        ]
        numbers = tuple(range(len(columns) + 1))
        table([head, *(s["name"] for s in series)], rows, right=numbers, label=f"{chart.title} as a table")
